"""A Python handler: the function that conf.d/20-example.toml names runs once per job."""

from __future__ import annotations

import json
from typing import Any


def greet(job: Any) -> None:
    """
    Say hello to whom the job names; its log is the topic's (``pbus tail greetings/hello``).

    Returning is "done"; an exception is a failure and the job is tried again.
    """
    try:
        who = json.loads(job.body)["name"]
    except (ValueError, KeyError, TypeError):
        who = job.body.decode("utf-8", "replace")
    print(f"hello, {who}")
