"""Alarms and notifiers in the configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from pbus.errors import ConfigError
from tests.unit.config.files import PYTHON_TOPIC, load

HOOK = '[notify.team]\nwebhook = "https://chat/x"\n'


def test_bounds_of_a_topic_are_in_the_units_of_their_attributes(tmp_path: Path) -> None:
    bounds = 'alarm = { oldest_wait = "1m", backlog = 10000, failed_percent = 10, gone_in = "10m" }\n'
    found = load(tmp_path, f"{PYTHON_TOPIC}{bounds}").settings.queue["gift"].topic["credit"].alarm

    assert (found.oldest_wait_s, found.backlog, found.failed_percent, found.gone_in_s) == (60.0, 10000, 10.0, 600.0)
    assert (found.latency_p90_s, found.dead_growth) == (0.0, 0)


def test_notifiers_are_of_one_kind_and_who_is_on_call_is_one(tmp_path: Path) -> None:
    settings = load(tmp_path, f'{PYTHON_TOPIC}{HOOK}[notify.boss]\nmail = ["a@b"]\n[alarm]\noncall = ["team"]\n'
                    'escalate_to = ["boss"]\n[system.live]\noncall = ["boss"]\n').settings

    assert settings.notify["team"].webhook == "https://chat/x"
    assert (settings.alarm.oncall, settings.system["live"].oncall) == (["team"], ["boss"])


@pytest.mark.parametrize(("text", "problem"), [
    ("[notify.team]\n", "notify.team: needs exactly one of webhook, mail and command, not none"),
    (HOOK + 'command = ["true"]\n', "notify.team: needs exactly one of webhook, mail and command, not 2"),
    ('[notify.team]\nwebhook = "ftp://x/"\n', "notify.team.webhook: expected a URL"),
    ('[notify.team]\nmail = ["nobody"]\n', "notify.team.mail: expected addresses"),
    ('[notify.team]\ncommand = ["x"]\nshape = "slack"\n', "notify.team.shape: is for a webhook only"),
    (HOOK + '[alarm]\noncall = ["teem"]\n', "alarm.oncall: there is no [notify.teem]; did you mean 'team'?"),
    ('[system.s]\noncall = ["x"]\n', "system.s.oncall: there is no [notify.x]"),
    ("[alarm]\nfill_percent = 101\n", "alarm.fill_percent: is 101.0, at most 100.0 is possible"),
])
def test_what_is_wrong_is_said(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(tmp_path, PYTHON_TOPIC + text)

    assert problem in str(error.value)
