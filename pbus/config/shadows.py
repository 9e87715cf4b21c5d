"""What must hold of topics that shadow another one. Rule: as check.py's: every problem, each once."""

from __future__ import annotations

from typing import Final

from pbus.config.build import closest
from pbus.config.schema import Queue, Topic
from pbus.config.tree import KeyPath, Tree
from pbus.core.shadow import IGNORE

LEAST: Final = 0.0001
_PLAIN: Final = Topic()
_NEVER: Final = {
    "retry": ("retry", "a shadow makes one attempt"),
    "dead": ("dead", "a shadow has no dead letters"),
    "alarm": ("alarm", "a shadow alarms nobody"),
    "brake": ("brake", "a shadow is not braked"),
    "on_unknown": ("on_unknown", "a shadow makes one attempt"),
    "busy_limit": ("busy_limit_s", "a shadow makes one attempt"),
    "crash_limit": ("crash_limit", "a shadow makes one attempt"),
    "from": ("start", "a shadow begins now: what the topic answered before is not known any more"),
    "password": ("password", "nobody pulls from a shadow"),
}
"""Keys that mean nothing on a shadow: their attributes, and why. With their defaults they do no harm."""


def check_shadows(tree: Tree, name: str, queue: Queue) -> None:
    """Every topic of the queue *name*: what shadows, what is shadowed, and keys that belong to neither."""
    for topic_name, topic in queue.topic.items():
        path: KeyPath = ("queue", name, "topic", topic_name)
        if not topic.shadow_of:
            _not_a_shadow(tree, path, topic)
            continue
        if tree.is_sound((*path, "shadow_of")):
            _of(tree, (*path, "shadow_of"), name, topic_name, queue)
        if topic.sample < LEAST and tree.is_sound((*path, "sample")):
            tree.add((*path, "sample"), 'is below "0.01%", the smallest sample that can be drawn')
        if kind := _unfit(topic):
            tree.add((*path, "shadow_of"), f"a shadow has to answer: {kind}")
        for ignored in topic.shadow.ignore:
            if not IGNORE.match(ignored):
                text = f"{ignored!r} is no place in an answer; write $.name, $.name.name or $.rows[*].name"
                tree.add((*path, "shadow", "ignore"), text, of_an_item=True)
        for key, (attribute, why) in _NEVER.items():
            if getattr(topic, attribute) != getattr(_PLAIN, attribute):
                tree.add((*path, key), f"has no effect beside shadow_of, take it out: {why}")


def _not_a_shadow(tree: Tree, path: KeyPath, topic: Topic) -> None:
    for key in ("sample", "shadow"):
        if getattr(topic, key) != getattr(_PLAIN, key) and tree.is_sound((*path, key)):
            tree.add((*path, key), 'is for a shadow only: say which topic it shadows, as shadow_of = "NAME"')


def _of(tree: Tree, path: KeyPath, queue_name: str, name: str, queue: Queue) -> None:
    wanted = queue.topic[name].shadow_of
    of = queue.topic.get(wanted)
    others = [each for each, topic in queue.topic.items() if each != name and not topic.shadow_of]
    if "/" in wanted:
        tree.add(path, f'names a topic of the same queue, without the queue: "{wanted.rpartition("/")[2]}"')
    elif wanted == name:
        tree.add(path, "is the topic itself; name the one that it is compared with")
    elif of is None:
        if tree.complete:
            tree.add(path, f"queue {queue_name!r} has no topic {wanted!r}{closest(wanted, others)}")
    elif of.shadow_of:
        tree.add(path, f"{wanted!r} is a shadow itself; name the topic that does the work")
    elif kind := _unfit(of):
        tree.add(path, f"{wanted!r} cannot be compared with: {kind}")


def _unfit(topic: Topic) -> str:
    """Why nobody here knows what its handler answers; empty: somebody does."""
    if topic.pull is not None:
        return "what clients pull has no answer"
    if topic.command is not None and topic.command.protocol == "pepper":
        return 'programs with protocol = "pepper" take and settle their jobs themselves'
    return ""
