"""
A Python handler called in a loop, without a bus: what its own work costs.

    python -m tests.bench.bare_handler FUNCTION        of tests.support.handlers.bench_jobs

A line of standard input is a number of calls; the answer is the seconds they took.
"""

from __future__ import annotations

import sys
import time

from tests.support.handlers import bench_jobs


def main() -> None:
    function = getattr(bench_jobs, sys.argv[1])
    function(None)
    for line in sys.stdin:
        begin_s = time.monotonic()
        for _ in range(int(line)):
            function(None)
        print(time.monotonic() - begin_s, flush=True)


if __name__ == "__main__":
    main()
