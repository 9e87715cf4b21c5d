"""What errors of a Redis mean."""

from __future__ import annotations

import pytest
import redis

from pbus.storage.redis_errors import REFUSALS, Kind, lost, refusal


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
    assert word != "OOM" or REFUSALS["OOM"].text in found.text


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (redis.exceptions.ReadOnlyError("You can't write against a replica.", status_code="READONLY"), Kind.RECONNECT),
        (redis.exceptions.ConnectionError("max number of clients reached"), Kind.RECONNECT),
        (redis.exceptions.ResponseError("MASTERDOWN Link with MASTER is down"), Kind.RECONNECT),
        (redis.exceptions.ResponseError("CLUSTERDOWN Hash slot not served"), Kind.RECONNECT),
        (redis.exceptions.ResponseError("BUSY Redis is busy running a script."), Kind.BUSY),
        (redis.exceptions.ResponseError("WRONGPASS invalid username-password pair"), Kind.AUTH),
        (redis.exceptions.ResponseError("OOM command not allowed when used memory > 'maxmemory'."), Kind.FULL),
        (redis.exceptions.ResponseError("MISCONF Redis is configured to save RDB snapshots"), Kind.WRITES),
    ],
)
def test_refusals_are_of_a_kind_that_says_what_to_do_next(error: Exception, kind: Kind) -> None:
    found = refusal(error)

    assert found is not None
    assert found.kind is kind


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
