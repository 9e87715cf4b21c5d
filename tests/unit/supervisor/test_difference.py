"""What a new plan touches: the children that are always new, and of topics and programs only what differs."""

from __future__ import annotations

import dataclasses
from typing import Any

from pbus.config.values import Address
from pbus.supervisor.difference import between
from pbus.supervisor.plan import Plan
from pbus.supervisor.roles import RoleSpec

INGEST = RoleSpec(role="ingest", module="i")
WEB = RoleSpec(role="dashboard", module="d", needed=False)
CREDIT = RoleSpec(
    role="consumer", path="gift/credit", module="c", own_group=True, count=2, most=4, args={"call": "a:b"}
)
RANK = RoleSpec(role="consumer", path="gift/rank", module="c", own_group=True, args={"call": "a:b"})
DAEMON = RoleSpec(role="program", path="daemon", module="p", own_group=True)


def plan(*roles: RoleSpec, **fields: Any) -> Plan:
    return Plan(
        node="n", run_dir="r", data_dir="d", log_dir="l", grace_s=1.0, roles=roles, doors={"ingest.0": Address(port=1)},
        **fields,
    )


def test_nothing_that_runs_user_code_is_touched_by_a_plan_that_is_the_same() -> None:
    found = between(plan(INGEST, CREDIT, DAEMON), plan(INGEST, CREDIT, DAEMON))
    assert found.renewed == (INGEST,)
    assert (found.changed, found.resized, found.added, found.removed, found.touched) == ((), (), (), (), ())


def test_only_the_topic_whose_handler_changed_is_replaced() -> None:
    other = dataclasses.replace(CREDIT, args={"call": "a:c"})
    found = between(plan(INGEST, CREDIT, RANK), plan(INGEST, other, RANK))
    assert found.changed == (other,)
    assert found.touched == ("gift/credit",)


def test_more_processes_of_a_topic_are_no_reason_to_replace_one() -> None:
    more = dataclasses.replace(CREDIT, count=3, most=9)
    found = between(plan(INGEST, CREDIT), plan(INGEST, more))
    assert (found.changed, found.resized) == ((), (more,))


def test_how_many_deliver_is_told_to_consumers_except_to_those_of_other_users() -> None:
    one, two = (dataclasses.replace(CREDIT, args={"call": "a:b", "deliveries": count}) for count in (1, 2))
    assert between(plan(one), plan(two)).resized == (two,)
    one, two = (dataclasses.replace(spec, user="nobody") for spec in (one, two))
    assert between(plan(one), plan(two)).changed == (two,)


def test_topics_and_programs_come_and_go() -> None:
    found = between(plan(INGEST, CREDIT, DAEMON), plan(INGEST, RANK))
    assert (found.added, found.removed) == ((RANK,), (CREDIT.key, DAEMON.key))
    assert found.touched == ("daemon", "gift/credit", "gift/rank")


def test_a_role_that_is_turned_off_ends() -> None:
    found = between(plan(INGEST, WEB), plan(INGEST))
    assert (found.renewed, found.ended) == ((INGEST,), (WEB.key,))
