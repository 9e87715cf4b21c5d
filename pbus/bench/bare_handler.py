"""
A Python handler called in a loop, without a bus: what its own work costs.

    python -m pbus.bench.bare_handler FUNCTION        of pbus.bench.handlers

A line of standard input is a number of calls; the answer is the seconds they took.
"""

from __future__ import annotations

import sys
import time

from pbus.bench import handlers


def main() -> None:
    """Until standard input ends."""
    function = getattr(handlers, sys.argv[1])
    function(None)
    for line in sys.stdin:
        begin_s = time.perf_counter()
        for _ in range(int(line)):
            function(None)
        print(time.perf_counter() - begin_s, flush=True)


if __name__ == "__main__":
    main()
