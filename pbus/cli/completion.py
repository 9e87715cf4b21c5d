"""
``pbus completion bash|zsh|fish``: what a shell needs to complete commands, options and names; and the names.

    eval "$(pbus completion bash)"

Rule: whoever presses Tab waits for us and did not ask for our worries. Names come from the files of the configuration,
even if these have problems; no bus and no store is asked; what is not known in time is not known.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import signal
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import click
from click.shell_completion import CompletionItem, get_completion_class

from pbus.cli.context import Context

LIMIT_S: Final = 0.1
"""For finding names; the interpreter's start comes before it, and both stay below what a person notices."""

SHELLS: Final = ("bash", "zsh", "fish")

_HOW: Final = {
    "bash": "# In ~/.bashrc:  eval \"$(pbus completion bash)\"\n"
            "# For everybody: pbus completion bash > /etc/bash_completion.d/pbus\n",
    "zsh": "# In ~/.zshrc, after compinit:  eval \"$(pbus completion zsh)\"\n"
           "# For everybody: pbus completion zsh > /usr/local/share/zsh/site-functions/_pbus\n",
    "fish": "# pbus completion fish > ~/.config/fish/completions/pbus.fish\n",
}

Names = Callable[[Mapping[str, Any]], list[str]]
"""The merged tables of the configuration -> names."""


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print what bash, zsh or fish needs to complete pbus: commands, options, your queues and topics."""
    from pbus.cli.main import COMPLETING, pbus

    kind = get_completion_class(shell)
    assert kind is not None
    source = kind(pbus, {}, "pbus", COMPLETING).source()
    head, tail = ("#compdef pbus\n", source.removeprefix("#compdef pbus")) if shell == "zsh" else ("", source)
    click.echo(f"{head}{_HOW[shell]}{tail}")


# -- names ------------------------------------------------------------------------------------


def _table(tree: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = tree.get(name)
    return found if isinstance(found, Mapping) else {}


def _keys(name: str) -> Names:
    return lambda tree: list(_table(tree, name))


def _topics(tree: Mapping[str, Any]) -> list[str]:
    queues = _table(tree, "queue")
    return [f"{queue}/{topic}" for queue in queues for topic in _table(_table(queues, queue), "topic")]


def _either(tree: Mapping[str, Any]) -> list[str]:
    return [*_table(tree, "queue"), *_topics(tree)]


def _systems(tree: Mapping[str, Any]) -> list[str]:
    named = [queue.get("system", "") for queue in _table(tree, "queue").values() if isinstance(queue, Mapping)]
    return [*_table(tree, "system"), *filter(None, named)]


def _streams(tree: Mapping[str, Any]) -> list[str]:
    return ["events", "jobs", "errors", "log", *_topics(tree)]


_QUEUES: Final = _keys("queue")

NAMES: Final[dict[tuple[str, str], Names]] = {
    ("alarm", "glob"): _topics, ("alarm", "notifier"): _keys("notify"), ("autoscale", "glob"): _topics,
    ("backend", "name"): _keys("backend"), ("dead", "path"): _either, ("deploy", "backend"): _keys("backend"),
    ("deploy", "glob"): _topics, ("job", "queue"): _QUEUES, ("job", "words"): _either,
    ("program", "glob"): _keys("program"), ("push", "queue"): _QUEUES, ("queue", "name"): _QUEUES,
    ("queue", "names"): _QUEUES, ("queue", "path"): _either, ("queue", "pattern"): _QUEUES, ("replay", "glob"): _topics,
    ("system", "name"): _systems, ("tail", "topic"): _topics, ("tail", "what"): _streams, ("topic", "glob"): _topics,
    ("topic", "path"): _topics, ("topic", "paths"): _topics, ("topic", "pattern"): _either,
}
"""(first word of the command, name of the argument or option) -> what stands there."""


def completing(command: click.Command, noun: str) -> click.Command:
    """*command*, and what is below it, as copies that know the names; *noun* is the first word of the line."""
    twin = copy.copy(command)
    twin.params = [_knowing(param, noun) for param in command.params]
    if isinstance(twin, click.Group):
        twin.commands = {name: completing(child, noun) for name, child in twin.commands.items()}
    return twin


def _knowing(param: click.Parameter, noun: str) -> click.Parameter:
    names = NAMES.get((noun, param.name or ""))
    if names is None:
        return param
    twin = copy.copy(param)
    setattr(twin, "shell_complete", functools.partial(_complete, names))  # noqa: B010 - a method of click's class
    return twin


def _complete(names: Names, click_context: click.Context, incomplete: str) -> list[CompletionItem]:
    """Those of the names that go on as *incomplete* begins; none where anything is wrong."""
    context = click_context.find_object(Context)
    try:
        with _limit(LIMIT_S):
            from pbus.config.tree import read

            tree = read(context.config_dir, {}).values if context is not None else {}
            return [CompletionItem(name) for name in sorted(set(names(tree))) if name.startswith(incomplete)]
    except Exception:  # noqa: BLE001 - the person is typing: a text here would stand in the middle of the line
        return []


@contextlib.contextmanager
def _limit(seconds: float) -> Iterator[None]:
    """
    The ``with`` for *seconds* at most, even in the middle of a file of a disk that does not answer.

    Raises:
        TimeoutError: it took longer.
    """

    def ring(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
