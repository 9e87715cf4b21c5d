"""
The programs that docs/clients.md shows, as the page has them.

    <!-- snippet: go producer -->
    ```go
    ...
    ```

Rule: they run as they stand there, but for the port and the name of the queue: several run at the same time, the
port of the page may be taken, and what producers say passes through a proxy that loses replies.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

PAGE: Final = Path(__file__).parents[4] / "docs/clients.md"
TRANSLATED: Final = PAGE.with_name("clients.zh-CN.md")
_BLOCK: Final = re.compile(r"^<!-- snippet: ([\w -]+) -->\n```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def read(page: Path = PAGE) -> Mapping[str, str]:
    """Text by name, in the order of the page."""
    return {name: text for name, _, text in _BLOCK.findall(page.read_text("utf-8"))}


def queue(name: str) -> str:
    """The queue that a snippet uses in a test instead of ``gift``: one a client, the first word of its name."""
    return f"gift-{name.split()[0]}"


def adapted(name: str, text: str, port: int) -> str:
    """*text* with a queue of its own, and for the bus at the port behind that, which is the proxy of producers."""
    place = port if name.endswith("producer") else port + 1
    return re.sub(r"\bgift\b", queue(name), text.replace("12018", str(place)))
