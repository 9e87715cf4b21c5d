"""
The trip to a storage thread and back: a call of a greenlet, run on the one thread of its store.

    greenlet --put--> SimpleQueue --> thread: the call --> done --async--> loop: the greenlet goes on

Rule: one call at a time, in the order they were made; what a call raises is raised where it was made.
gevent's ThreadPool does the same with a watcher, a semaphore and two greenlets a call.
"""

from __future__ import annotations

import _queue  # the interpreter's own: its lock is no greenlet's
import collections
from collections.abc import Callable
from typing import Any, Final

import gevent
import gevent.hub
import gevent.monkey

_start_thread: Final[Callable[..., int]] = gevent.monkey.get_original("_thread", "start_new_thread")


class Hop:
    """The thread of one store. One owner: who made it, in the process and thread of its loop."""

    def __init__(self) -> None:
        self._calls: Any = _queue.SimpleQueue()
        self._done: collections.deque[tuple[Any, Any, BaseException | None]] = collections.deque()
        self._back = gevent.get_hub().loop.async_()
        self._back.start(self._returned)
        self._begun = False

    def apply(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """What *function* answers or raises, on the thread. Other greenlets run meanwhile."""
        if not self._begun:
            self._begun = True
            _start_thread(self._run, ())
        waiter = gevent.hub.Waiter()
        self._calls.put((waiter, function, arguments))
        return waiter.get()

    def _run(self) -> None:
        get, done, send = self._calls.get, self._done, self._back.send
        while True:
            waiter, function, arguments = get()
            try:
                done.append((waiter, function(*arguments), None))
            except BaseException as error:  # noqa: BLE001 - it belongs to whoever made the call
                done.append((waiter, None, error))
            del waiter, function, arguments  # what was answered is not kept until the next call
            send()

    def _returned(self) -> None:
        done = self._done
        while done:
            waiter, answer, error = done.popleft()
            if error is None:
                waiter.switch(answer)
            else:
                waiter.throw(error)
