"""
A24: a FastCGI application whose answers are cut at every byte, lie in every field, or never end.

Done is only what is whole: its STDOUT says ``Code: 200`` and its END_REQUEST has come to the last byte.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from tests.support import fastcgi_stub as stub
from tests.support.fastcgi_stub import DONE, FastcgiRequest, FastcgiStub, answering
from tests.support.scenario import QUEUE, Scenario
from tests.support.talker import CLOSE, HANG, RESET, Plan

HEAD = b"Code: 200\r\nContent-type: text/html\r\n\r\n"
BETWEEN = (
    stub.stderr(b"PHP message: PHP Notice: one") + stub.stdout(b"X-Powered-By: PHP/8.2\r\nCode: 2") + stub.stderr(b"")
    + stub.stdout(b"00\r\nContent-type: text/html\r\n\r\n") + stub.stderr(b"two") + stub.stdout(b"done") + stub.end()
)
FAILED = stub.answer("Code: 500", b"no")
FILLER = b"X-Filler: " + b"y" * 990 + b"\r\n"


@dataclass(frozen=True)
class Case:
    """One answer, and whether it says that the job is done."""

    name: str
    plan: Plan
    done: bool = False


def cuts() -> Iterator[Case]:
    for name, wire in (("plain", DONE), ("STDERR between", BETWEEN)):
        for size in range(len(wire)):
            for ending in (CLOSE, RESET):
                yield Case(f"{name}, {ending} after {size} of {len(wire)}", (wire[:size], ending))
        yield from (Case(f"{name}, silent after {size}", (wire[:size], HANG)) for size in (0, 1, 40, len(wire) - 1))


def lies() -> Iterator[Case]:
    """A false field in the first record, in the middle, and in the one that would end it."""
    wrong = [{"version": n} for n in (0, 2, 255)] + [{"request_id": n} for n in (2, 256, 65_535)]
    for lie in wrong:
        yield Case(f"STDOUT with {lie}", (stub.record(6, HEAD, **lie), stub.end(), CLOSE))
        yield Case(f"STDERR with {lie}", (stub.stdout(HEAD), stub.record(7, b"x", **lie), stub.end(), CLOSE))
        yield Case(f"END_REQUEST with {lie}", (stub.stdout(HEAD), stub.record(3, bytes(8), **lie), CLOSE))
    for kind in (0, 1, 2, 4, 5, 8, 9, 10, 11, 128, 255):
        yield Case(f"STDOUT as type {kind}", (stub.record(kind, HEAD), stub.end(), CLOSE))
        yield Case(f"END_REQUEST as type {kind}", (stub.stdout(HEAD), stub.record(kind, bytes(8)), CLOSE))
    for length in (0, 4, 7, 9, 65_535):
        end = stub.record(3, bytes(min(length, 9)), length=length)
        yield Case(f"END_REQUEST of {length}", (stub.stdout(HEAD), end, CLOSE))
    yield Case("END_REQUEST of no request", (stub.stdout(HEAD), stub.record(3, bytes(8), request_id=0), CLOSE))
    yield Case("END_REQUEST with a status nobody knows", (stub.stdout(HEAD) + stub.end(protocol_status=9),))
    yield Case("success on STDERR", (stub.stderr(HEAD) + stub.end(),))
    yield Case("success below the headers", (stub.answer("Content-type: text/html", HEAD),))
    yield Case("success of another answer behind a failure", (FAILED + DONE,))
    yield Case("an HTTP server", (b"HTTP/1.1 200 OK\r\nCode: 200\r\n\r\n", CLOSE))
    for pollution in (b"<br />\n", b"PHP Warning:  oops in a.php:3\r\n", b"\r\n"):
        yield Case(f"{pollution!r} before the headers", (stub.stdout(pollution + HEAD), stub.end()))


def sizes() -> Iterator[Case]:
    two_mb = [stub.stdout(FILLER * 60)] * 35
    code = stub.stdout(b"Code: 200\r\n")
    yield Case("2 MB of headers behind the code", (code, *two_mb, stub.stdout(b"\r\n"), stub.end()))
    yield Case("2 MB of headers before the code", (*two_mb, stub.stdout(HEAD), stub.end()))
    yield Case("2 MB of headers without an end", (code, *two_mb, stub.end()))
    yield Case("10 MB of headers", (code, *two_mb * 5, CLOSE))
    yield Case("2 MB of STDERR", (*[stub.stderr(b"e" * 65_000)] * 31, DONE), done=True)
    yield Case("2 MB of body", (stub.stdout(HEAD), *[stub.stdout(b"b" * 65_000)] * 31, stub.end()), done=True)


def whole() -> Iterator[Case]:
    yield Case("plain", (DONE,), done=True)
    yield Case("STDERR between", (BETWEEN,), done=True)
    yield Case("byte by byte", (b"".join(stub.stdout(bytes((each,))) for each in HEAD) + stub.end(),), done=True)


def test_no_answer_but_a_whole_one_acknowledges_a_job(scenario: Scenario) -> None:
    cases = [each for case in (*cuts(), *lies(), *sizes()) for each in (case, *whole())]
    application = FastcgiStub(answering(lambda request, _: cases[_number(request)].plan))
    try:
        topic = f'fastcgi = {{ address = "{application.address}", script = "/srv/credit.php" }}\nconcurrency = 16'
        bus = scenario.start({"credit": topic + '\ntimeout = "3s"\nretry = { attempts = 1 }'})
        with scenario.client().pipeline(transaction=False) as pushes:
            for number in range(len(cases)):
                pushes.xadd(QUEUE, {"body": str(number)})
            ids = [each.decode() for each in pushes.execute()]
        scenario.settled()
    finally:
        application.close()
    with scenario.driver() as driver:
        letters = {letter.id: letter.error for letter in driver.dead_letters(QUEUE, "credit", len(cases))}
    done = scenario.numbers()["credit"].done_total
    false = [case.name for case, job in zip(cases, ids, strict=True) if not case.done and job not in letters]
    refused = [(case.name, letters[job]) for case, job in zip(cases, ids, strict=True) if case.done and job in letters]
    print(f"{len(cases)} answers, {done} acknowledged, {len(letters)} dead, {len(false)} false acks")
    assert not false
    assert not refused
    assert done + len(letters) == len(cases)
    assert not [error for error in letters.values() if "pbus itself" in error]
    assert not [event for event in bus.events() if event["level"] in ("error", "critical")], bus.tail()
    assert not bus.events("child.exited")
    assert "Traceback" not in bus.out.read_text()


def _number(request: FastcgiRequest) -> int:
    return int(json.loads(request.form["jobs"])[0]["content"])
