"""Pages of the documentation that are written by hand around a part that a program writes."""

from __future__ import annotations

END = "<!-- End of what is written. -->\n"
"""The mark behind such a part; the one before it says who writes it."""


def rewritten(text: str, begin: str, part: str) -> str:
    """
    *text* of a page with *part* between the mark *begin* and END.

    Raises:
        ValueError: the marks are missing.
    """
    before, found, rest = text.partition(begin)
    _, end, after = rest.partition(END)
    if not found or not end:
        raise ValueError(f"the page has lost the marks around what is written into it: {begin.strip()}")
    return before + begin + part + end + after
