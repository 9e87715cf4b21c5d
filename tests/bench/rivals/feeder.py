"""
Puts jobs into the queue of a rival.

    python -m tests.bench.rivals.feeder MODULE        of this folder

A line of standard input is a number of jobs; the answer is an empty line when they are stored.
"""

from __future__ import annotations

import importlib
import sys

BODY = "x" * 200


def main() -> None:
    module = importlib.import_module(f"tests.bench.rivals.{sys.argv[1]}")
    for line in sys.stdin:
        module.enqueue(BODY, int(line))
        print(flush=True)


if __name__ == "__main__":
    main()
