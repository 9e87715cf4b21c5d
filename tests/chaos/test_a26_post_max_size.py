"""
A26: jobs larger than php's ``post_max_size``. php drops such a form whole and runs the script all the same, so a
handler that sees nothing to do may well say that it is done.

``max_post`` of the backend at php's value: such a job is never sent. Above it: php's own message about the request,
on STDERR, outweighs what the handler says. A pool whose messages go to a file leaves no trace in its answer: there
``max_post`` is the only guard.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.ledger import OK
from tests.support.ledger_handlers import PHP_SCRIPT
from tests.support.scenario import QUEUE, Scenario

LIMIT = 16 * 1024
PRODUCTION = {"post_max_size": str(LIMIT), "display_errors": "0", "display_startup_errors": "0", "log_errors": "1"}
"""As php.ini-production has it: shown, the warning would spoil the headers, and the handler could not say 200."""
FORM = 391
"""A form is about so much larger than a body that needs no escaping."""


def _start(scenario: Scenario, max_post: str, error_log: Path | None) -> None:
    fpm = scenario.fpm(ini=PRODUCTION | ({"error_log": str(error_log)} if error_log else {}))
    fpm.start()
    backend = f'[backend.php]\nfastcgi = ["{fpm.address}"]\nmax_post = "{max_post}"'
    params = f'params = {{ LEDGER_DIR = "{scenario.ledger.ran_dir}" }}'
    handler = f'{{ backend = "php", script = "{PHP_SCRIPT}", {params} }}'
    scenario.start({"credit": f"fastcgi = {handler}\nconcurrency = 4", "mail": scenario.python()}, backend)


def _bodies() -> Iterator[str]:
    for size in (100, LIMIT // 2, *range(LIMIT - FORM - 50, LIMIT - FORM + 50), LIMIT, 5 * LIMIT, 1024 * 1024):
        yield f"size-{size} ".ljust(size, "x")
    for size in (LIMIT // 6, LIMIT // 2):  # an ampersand is three bytes in a form
        yield f"escaped-{size} ".ljust(size, "&")


def _judge(scenario: Scenario) -> dict[str, str]:
    """Push every body, and hold what ran against what did not; errors of the dead, by id."""
    bodies = list(_bodies())
    ids = [each.decode() for each in _pushed(scenario, bodies)]
    told = scenario.ledger.producer("test")
    for body, job in zip(bodies, ids, strict=True):
        told.record(body.split()[0], 0.0, 0.0, OK, job)
    told.close()
    scenario.settled()
    scenario.expect(dup=0)
    with scenario.driver() as driver:
        dead = {letter.id: letter.error for letter in driver.dead_letters(QUEUE, "credit", len(ids))}
    ran = {run.id for run in scenario.ledger.runs(QUEUE, "credit")}
    print(f"{len(ids)} jobs: {len(ran)} ran, {len(dead)} are dead, {len(ids) - len(ran) - len(dead)} false acks")
    assert (ran | set(dead), ran & set(dead)) == (set(ids), set())
    assert min(len(ran), len(dead)) > len(ids) / 3, "sizes on both sides of the limit were tried"
    return dead


def _pushed(scenario: Scenario, bodies: list[str]) -> list[bytes]:
    with scenario.client().pipeline(transaction=False) as pushes:
        for body in bodies:
            pushes.xadd(QUEUE, {"body": body})
        return pushes.execute()


@pytest.mark.parametrize("log", ["stderr", "file"])
def test_what_php_would_drop_is_never_sent(scenario: Scenario, tmp_path: Path, log: str) -> None:
    _start(scenario, f"{LIMIT}B", tmp_path / "php.log" if log == "file" else None)
    dead = _judge(scenario)
    assert {error.partition(" bytes, ")[2] for error in dead.values()} == {
        f"max_post of the backend is {LIMIT}: never sent"
    }


def test_what_php_dropped_and_said_so_is_not_done_whatever_the_handler_says(scenario: Scenario) -> None:
    _start(scenario, "8MiB", None)
    dead = _judge(scenario)
    assert all(f"is above php's post_max_size of {LIMIT}" in error for error in dead.values()), dead
