"""``python -m pbus``: the same as the ``pbus`` command."""

from __future__ import annotations

import sys

from pbus.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
