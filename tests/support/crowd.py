"""
All kinds of clients at once, in one process: what they saw is one line of JSON at the end.

``python -m tests.support.crowd --port P`` begins at once, prints ``ready`` when everybody has been served once, begins
to measure anew at each line it reads, and ends (when all jobs are taken) at the end of its input.

    200 producers that keep their connection    LPUSH long
    200 that connect for each job               LPUSH short
     20 readers, each with claims open          XREADGROUP .. BLOCK, XACK a moment later
     10 that are blocked                        BRPOP short/t 0
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import hiredis

from tests.support.guests import command

_ROOT = Path(__file__).parents[2]
HOLD_S = 0.05
"""How long a reader works on what it has read."""
REST_S = 1.2
LAST_S = 20.0


class Crowd:
    """The process, as a test sees it."""

    def __init__(self, port: int) -> None:
        argv = [sys.executable, "-m", "tests.support.crowd", "--port", str(port)]
        self._process = subprocess.Popen(argv, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def mark(self) -> float:
        """The longest round trip since the last mark, ms."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def end(self) -> dict[str, Any]:
        """``failures``, ``pushed``, ``lost``, ``twice``, ``strange``: after all jobs were taken."""
        out, _ = self._process.communicate(timeout=LAST_S + 20)
        answer: dict[str, Any] = json.loads(out)
        return answer

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


class _Client:
    """One connection."""

    def __init__(self, crowd: _Everybody) -> None:
        self._crowd = crowd
        self._reader = hiredis.Reader()

    async def open(self) -> _Client:
        self._in, self._out = await asyncio.open_connection("127.0.0.1", self._crowd.port)
        return self

    async def ask(self, *words: str | bytes | int, timed: bool = True) -> Any:
        began = time.monotonic()
        self._out.write(command(*words))
        while (reply := self._reader.gets()) is False:
            data = await self._in.read(1 << 18)
            if not data:
                raise ConnectionError("closed")
            self._reader.feed(data)
        if timed:
            self._crowd.took(time.monotonic() - began)
        if isinstance(reply, hiredis.HiredisError):
            raise RuntimeError(str(reply))
        return reply

    async def close(self) -> None:
        self._out.close()
        await self._out.wait_closed()


class _Everybody:
    """The clients, and what they saw."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.stopping = False
        self.longest_s = 0.0
        self.failures: list[str] = []
        self.pushed: list[bytes] = []
        self.taken: collections.Counter[bytes] = collections.Counter()
        self.served: set[str] = set()

    def took(self, seconds: float) -> None:
        self.longest_s = max(self.longest_s, seconds)

    async def life(self, kind: str, number: int) -> None:
        try:
            await getattr(self, kind)(f"{kind}{number}")
        except Exception as error:  # noqa: BLE001 - whatever a client sees is what the test is about
            self.failures.append(f"{kind}: {error!r}")

    async def stays(self, name: str) -> None:
        client = await _Client(self).open()
        number = 0
        while not self.stopping:
            number += 1
            await self._push(client, "long", f"{name}-{number}")
            self.served.add(name)
            await asyncio.sleep(0.3)
        await client.close()

    async def visits(self, name: str) -> None:
        number = 0
        while not self.stopping:
            number += 1
            began = time.monotonic()
            client = await _Client(self).open()
            await self._push(client, "short", f"{name}-{number}")
            self.took(time.monotonic() - began)
            await client.close()
            self.served.add(name)
            await asyncio.sleep(1.0)

    async def _push(self, client: _Client, queue: str, body: str) -> None:
        if not isinstance(await client.ask("LPUSH", queue, body), int):
            self.failures.append(f"{queue}: no number")
        self.pushed.append(body.encode())

    async def reads(self, name: str) -> None:
        client = await _Client(self).open()
        words = ("XREADGROUP", "GROUP", "t", name, "COUNT", 8, "BLOCK", 500, "STREAMS", "long", ">")
        while True:
            reply = await client.ask(*words, timed=False)
            self.served.add(name)
            for job_id, fields in reply[0][1] if reply else ():
                self.taken[fields[1]] += 1
                await asyncio.sleep(HOLD_S / 8)
                if await client.ask("XACK", "long", "t", job_id) != 1:
                    self.failures.append(f"reads: the ack of {job_id} took no effect")

    async def pops(self, name: str) -> None:
        client = await _Client(self).open()
        self.served.add(name)
        while True:
            _, body = await client.ask("BRPOP", "short/t", 0, timed=False)
            self.taken[body] += 1

    async def run(self) -> None:
        kinds = {"reads": 20, "pops": 10, "stays": 200, "visits": 200}
        tasks = [asyncio.create_task(self.life(kind, one)) for kind, count in kinds.items() for one in range(count)]
        while len(self.served) < len(tasks) and not self.failures:
            await asyncio.sleep(0.01)
        print("ready", flush=True)
        while await asyncio.to_thread(sys.stdin.readline):
            print(self.longest_s * 1000, flush=True)
            self.longest_s = 0.0
        self.stopping = True
        await asyncio.sleep(REST_S)                   # who is in the middle of a push finishes it
        deadline = time.monotonic() + LAST_S
        while len(self.taken) < len(self.pushed) and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        for task in tasks:
            task.cancel()
        pushed = set(self.pushed)
        print(json.dumps({
            "failures": self.failures, "pushed": len(pushed), "lost": len(pushed - self.taken.keys()),
            "twice": sum(count - 1 for count in self.taken.values()), "strange": len(self.taken.keys() - pushed),
        }))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    asyncio.run(_Everybody(parser.parse_args().port).run())
