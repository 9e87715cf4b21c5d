"""Shadow topics in the configuration: what they may shadow, and what means nothing on them."""

from __future__ import annotations

from pathlib import Path

import pytest

from pbus.core.outcome import Rules
from pbus.core.sample import residues
from pbus.errors import ConfigError
from pbus.storage.open import queue_specs
from tests.unit.config.files import PYTHON_TOPIC, load

SHADOW = f'{PYTHON_TOPIC}[queue.gift.topic.new]\nhttp = {{ url = "http://127.0.0.1:1/" }}\nshadow_of = "credit"\n'


def test_shadow_is_told_to_the_store_by_its_sample(tmp_path: Path) -> None:
    settings = load(tmp_path, SHADOW + 'sample = "1%"\nshadow = { ignore = ["$.time", "$.rows[*].at"] }\n').settings
    topic = settings.queue["gift"].topic["new"]
    (spec,) = queue_specs(settings.queue, "main")

    assert (topic.shadow_of, topic.sample, topic.shadow.ignore) == ("credit", 0.01, ["$.time", "$.rows[*].at"])
    assert {each.name: each.sample for each in spec.topics} == {"credit": 0, "new": residues(0.01)}
    assert (topic.rules.shadow, settings.queue["gift"].topic["credit"].rules.shadow) == (True, False)
    assert Rules().shadow is False


def test_smallest_and_largest_sample(tmp_path: Path) -> None:
    for text in ("0.01%", "100%", "33.3%"):
        assert load(tmp_path, f'{SHADOW}sample = "{text}"\n').settings.queue["gift"].topic["new"].sample > 0


@pytest.mark.parametrize(("text", "problem"), [
    ('sample = "0%"', 'new.sample: is below "0.01%"'),
    ('sample = "0.001%"', 'new.sample: is below "0.01%"'),
    ('sample = "101%"', "new.sample: expected a percentage such as"),
    ('sample = "half"', "new.sample: expected a percentage such as"),
    ("sample = 0.5", "new.sample: expected a percentage such as"),
    ("retry = { attempts = 3 }", "new.retry: has no effect beside shadow_of, take it out: a shadow makes one attempt"),
    ("dead = { max = 3 }", "new.dead: has no effect beside shadow_of, take it out: a shadow has no dead letters"),
    ("alarm = { backlog = 3 }", "new.alarm: has no effect beside shadow_of, take it out: a shadow alarms nobody"),
    ("brake = { min_jobs = 3 }", "new.brake: has no effect"),
    ('on_unknown = "hold"', "new.on_unknown: has no effect"),
    ('from = "history"', "new.from: has no effect beside shadow_of, take it out: a shadow begins now"),
    ('shadow = { ignore = ["time"] }', "new.shadow.ignore: 'time' is no place in an answer; write $.name"),
    ('shadow = { ignor = ["time"] }', "did you mean"),
    ('[queue.gift.topic.twice]\npython = { call = "a:b" }\nshadow_of = "new"',
     "twice.shadow_of: 'new' is a shadow itself; name the topic that does the work"),
    ('[queue.gift.topic.own]\npython = { call = "a:b" }\nshadow_of = "own"', "own.shadow_of: is the topic itself"),
    ('[queue.gift.topic.far]\npython = { call = "a:b" }\nshadow_of = "gift/credit"',
     'far.shadow_of: names a topic of the same queue, without the queue: "credit"'),
    ('[queue.gift.topic.typo]\npython = { call = "a:b" }\nshadow_of = "credi"',
     "typo.shadow_of: queue 'gift' has no topic 'credi'; did you mean 'credit'?"),
    ('[queue.gift.topic.take]\npull = {}\nshadow_of = "credit"',
     "take.shadow_of: a shadow has to answer: what clients pull has no answer"),
    ('[queue.gift.topic.p]\ncommand = { argv = ["true"], protocol = "pepper" }\nshadow_of = "credit"',
     'p.shadow_of: a shadow has to answer: programs with protocol = "pepper"'),
    ('[queue.gift.topic.x]\npull = {}\n[queue.gift.topic.y]\npython = { call = "a:b" }\nshadow_of = "x"',
     "y.shadow_of: 'x' cannot be compared with: what clients pull has no answer"),
    ('[queue.gift.topic.z]\npython = { call = "a:b" }\nsample = "1%"',
     'z.sample: is for a shadow only: say which topic it shadows, as shadow_of = "NAME"'),
    ('[queue.gift.topic.z]\npython = { call = "a:b" }\nshadow = { ignore = ["$.a"] }',
     "z.shadow: is for a shadow only"),
])
def test_what_is_wrong_is_said(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(tmp_path, f"{SHADOW}{text}\n")

    assert problem in str(error.value)
    assert len(error.value.problems) == 1
