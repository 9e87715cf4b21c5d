"""``pbus replay`` while the bus is stopped: what is refused and what is told, on SQLite and on Redis."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.test_cli_stores import World, url, world  # noqa: F401 - fixtures, found by name

ASKED = ("replay", "start", "--from", "dead", "--topic", "gift/credit")


@pytest.mark.parametrize(("words", "said"), [
    (("--filter", "atempts > 1"), "there is no field 'atempts'"),
    (("--filter", "attempts >"), "expected a value\n  attempts >\n            ^"),
    (("--canary", "5,2"), "'2' is less than a stage before it"),
    (("--canary", "x"), "'x' is no stage"),
    (("--guard", "failed<2"), "'failed<2' is no rule; rules are failed<2%"),
    (("--rate", "fast"), "takes a rate such as"),
    (("--since", "soon"), "'soon' is neither a duration such as 2h nor a time"),
    (("--since", "2999-01-01T00:00Z"), "is in the future, by "),
    (("--until", "2999-01-01"), "is in the future, by "),
    (("--since", "1h", "--until", "2h"), "nothing is between them"),
    (("--name", "a b"), "'a b' is no name"),
    (("--from", "nothing"), "'nothing' is none of dead, history, and no file"),
    (("--from", "history", "--group", "00"), "only dead letters have errors"),
    (("--filter", "error ~ 'away"), "character 9: this text has no end\n  error ~ 'away\n          ^"),
    (("--filter", "(attempts > 1 and key"), "expected ')' for the '(' of character 1"),
    (("--filter", "$.uid in (1, 2"), "expected ',' or ')'"),
    (("--guard", "p90<2%"), "'p90<2%' is no rule"),
    (("--canary", "1.5"), "jobs are counted whole"),
    (("--canary", "10%,200%"), "'200%' is no stage"),
])
def test_what_cannot_be_is_said(world: World, words: tuple[str, ...], said: str) -> None:  # noqa: F811
    world.kill(b"a")
    answer = world.pbus(*ASKED, *words)

    assert (answer.status, said in answer.err) == (2, True), answer.err


def test_topics_that_are_none_are_not_found(world: World) -> None:  # noqa: F811
    for glob in ("gift/cred", "gift/x*", "gift"):
        assert world.pbus("replay", "start", "--from", "dead", "--topic", glob).status == 5
    assert world.pbus("replay", "show", "r1").status == 5
    assert world.pbus("replay", "pause", "r1").status == 5


@pytest.mark.parametrize(("text", "said"), [
    ('{"queue": "gift", "body": "x"}\n{"queue": "gift"}\n', "line 2: it is no job"),
    ("uid,amount\n1,2\n", "line 1: it is no JSON"),
    ('\n{"queue": "gift", "body": "=", "encoding": "base64"}', "line 2: its body is no base64"),
])
def test_a_file_that_is_no_export_is_refused(world: World, tmp_path: Path, text: str, said: str) -> None:  # noqa: F811
    file = tmp_path / "jobs.jsonl"
    file.write_text(text)
    answer = world.pbus("replay", "start", "--from", str(file), "--topic", "gift/credit")

    assert (answer.status, f"{file}, {said}" in answer.err) == (2, True), answer.err


def test_a_group_that_nobody_died_of_is_not_found(world: World) -> None:  # noqa: F811
    world.kill(b"a")
    for topic, said in (("gift/credit", "gift/credit has no dead"), ("gift/*", "no topic of these has dead")):
        answer = world.pbus("replay", "start", "--from", "dead", "--topic", topic, "--group", "beef")
        assert (answer.status, f"{said} letters of group 'beef'; 'pbus dead ls' lists" in answer.err) == (5, True)


def test_a_dry_run_counts_and_starts_nothing(world: World) -> None:  # noqa: F811
    world.kill(*[b'{"uid": %d}' % (number % 3) for number in range(9)])
    answer = world.pbus(*ASKED, "--filter", "$.uid = 1 and error ~ 'no such user'", "--canary", "1,50%", "--dry-run")

    assert (answer.status, answer.err) == (0, (
        "gift/credit: 3\nwould replay 3 at 100/s, 0 s; stages end at 1, 2, 3\n"))
    assert world.pbus("replay", "ls").err == "nothing was ever replayed\n"


def test_a_replay_is_listed_shown_paused_resumed_and_cancelled(world: World) -> None:  # noqa: F811
    world.kill(b"a", b"b")
    assert world.pbus(*ASKED, "--name", "r1", "--group", "00ff").status == 0
    listed = world.pbus("replay", "ls", "-o", "json").rows("replays")
    assert [(row["name"], row["state"], row["total"], row["topics"]) for row in listed] == [
        ("r1", "running", 2, ["gift/credit"])]
    assert "0 of 2" in world.pbus("replay", "show", "r1").out
    again = world.pbus(*ASKED, "--name", "r2")
    assert (again.status, "r1 is running over the dead letters of gift/credit" in again.err) == (2, True)
    statuses = [world.pbus("replay", word, "r1").status for word in
                ("resume", "pause", "pause", "resume", "cancel", "cancel", "resume", "pause")]
    assert statuses == [0, 0, 0, 0, 0, 0, 1, 1]
    assert world.pbus(*ASKED, "--name", "r1").err.endswith("say another --name\n")
    assert world.pbus(*ASKED, "--name", "r2").status == 0


def test_nothing_meant_is_no_replay(world: World) -> None:  # noqa: F811
    answer = world.pbus(*ASKED)

    assert (answer.status, answer.err) == (0, "gift/credit: 0\nnothing is meant: no replay\n")
