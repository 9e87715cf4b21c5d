"""What errors of a Redis mean."""

from __future__ import annotations

import pytest
import redis

from pbus.storage.redis_errors import REFUSALS, lost, refusal


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (redis.exceptions.OutOfMemoryError("command not allowed when used memory", status_code="OOM"), "OOM"),
        (redis.exceptions.BusyLoadingError("Redis is loading the dataset in memory", status_code="LOADING"), "LOADING"),
        (redis.exceptions.AuthenticationError("Authentication required.", status_code="NOAUTH"), "NOAUTH"),
        (redis.exceptions.ResponseError("MISCONF Redis is configured to save RDB snapshots"), "MISCONF"),
        (redis.exceptions.ResponseError("NOREPLICAS Not enough good replicas to write."), "NOREPLICAS"),
        # 6.2 hides the word in the text of the script's error
        (redis.exceptions.ResponseError(
            "Error running script (call to f_0a): @user_script:3: @user_script: 3: -OOM command not allowed",
            status_code="ERR"), "OOM"),
        (redis.exceptions.AuthenticationError("AUTH <password> called without any password", status_code="ERR"),
         "WRONGPASS"),
    ],
)
def test_known_refusals_say_what_to_do(error: Exception, word: str) -> None:
    found = refusal(error)

    assert found is not None
    assert found.word == word
    assert word != "OOM" or REFUSALS["OOM"] in found.text


@pytest.mark.parametrize(
    "error",
    [
        redis.exceptions.ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value"),
        redis.exceptions.ResponseError("unknown command 'BUSYBODY'", status_code="ERR"),
        redis.exceptions.ConnectionError("Connection closed by server."),
        redis.exceptions.TimeoutError("Timeout reading from socket"),
    ],
)
def test_other_errors_are_no_refusal(error: Exception) -> None:
    assert refusal(error) is None


def test_time_that_ran_out_is_told_apart_from_a_closed_connection() -> None:
    late = lost(redis.exceptions.TimeoutError("Timeout"), sent=True, stale=True)
    closed = lost(redis.exceptions.ConnectionError("Connection closed by server."), sent=False, stale=True)

    assert (late.sent, late.stale) == (True, False)
    assert (closed.sent, closed.stale, closed.text) == (False, True, "Connection closed by server")
