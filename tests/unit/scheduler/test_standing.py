"""What fires, as every node of a store can say it."""

from __future__ import annotations

from pbus.core.alarm_texts import ACK, ALARM, SILENCE, ack_text, packed, silence_text
from pbus.core.alarms import Ack, Alarm, Board, Policy, Silence
from pbus.scheduler.standing import LATE_S, SHOWN, Standing, counted, told
from tests.unit.scheduler.store import SchedulerStore


def alarm(kind: str, subject: str, fired_s: float = 5.0, over_s: float = 0.0) -> Alarm:
    return Alarm(kind=kind, subject=subject, system="live", limit=3.0, value=7.0, worst=7.0, since_s=4.0,
                 fired_s=fired_s, at_s=fired_s, over_s=over_s)


ALARMS = [
    alarm("backlog", "gift/credit"), alarm("error_back", "gift/credit 1f"), alarm("error_back", "gift/credit 2e"),
    alarm("node", "n2", 9.0), alarm("circuit", "php"), alarm("backlog", "gift/mail", over_s=8.0),
]


def test_newest_come_first_and_what_is_over_does_not_stand() -> None:
    standing = Standing()
    standing.see(Board(Policy(), ALARMS), 10.0)
    said = told([standing, Standing()])

    assert said["total"] == 5
    assert [row["id"] for row in said["rows"]] == [
        "node:n2", "backlog:gift/credit", "circuit:php", "error_back:gift/credit 1f", "error_back:gift/credit 2e",
    ]
    assert counted([standing, Standing()]) == [
        ["backlog", "gift", "credit", 1], ["circuit", "", "", 1], ["error_back", "gift", "credit", 2],
        ["node", "", "", 1],
    ]


def test_only_the_first_of_many_are_said_and_all_are_counted() -> None:
    standings = [Standing(), Standing()]
    for number, standing in enumerate(standings):
        standing.see(Board(Policy(), [alarm("backlog", f"q{number}/t{each}") for each in range(SHOWN)]), 10.0)

    assert (len(told(standings)["rows"]), told(standings)["total"], len(counted(standings))) == (SHOWN, 100, 100)


def test_node_that_does_not_decide_reads_what_was_decided_now_and_then() -> None:
    driver, standing = SchedulerStore(), Standing()
    version = driver.write_document(ALARM, "1", packed(ALARMS[:1], 9_000), 0)
    driver.write_document(ACK, "x", ack_text(Ack("backlog:gift/credit", 5.0, "ann")), 0)
    driver.write_document(SILENCE, "y", silence_text(Silence("n2", 99.0)), 0)
    standing.follow(driver, 0.0, 10.0)
    (row,) = standing.rows()
    assert (row["id"], row["state"], row["by"]) == ("backlog:gift/credit", "acked", "ann")

    driver.write_document(ALARM, "1", packed(ALARMS[3:4], 9_000), version)
    standing.follow(driver, LATE_S - 1.0, 10.0)
    assert standing.rows() == [row]
    standing.follow(driver, LATE_S, 10.0)
    assert [(row["id"], row["state"]) for row in standing.rows()] == [("node:n2", "silenced")]
