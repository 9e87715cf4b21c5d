"""What docs/clients.md shows works as it stands there: every producer, every consumer, in every language."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conformance.clients.foreign import snippets
from tests.conformance.clients.foreign.builds import PROGRAMS
from tests.conformance.clients.foreign.shown import NAMES, Shown, credited, run_all

pytestmark = pytest.mark.timeout(240)

EVERY_LANGUAGE = pytest.mark.parametrize("name", NAMES)
PUSHED = [1, 1, 2, 2, 3, 3, 4]
"""By two runs of a producer. The first ended when the reply to its three jobs was lost."""


@pytest.fixture(scope="module")
def all_shown(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Shown]:
    chosen = {
        item.callspec.params.get("name") for item in request.session.items
        if isinstance(item, pytest.Function) and item.path == request.path and hasattr(item, "callspec")
    }
    return run_all([name for name in NAMES if name in chosen], tmp_path_factory.mktemp("shown") / "all")


@pytest.fixture
def shown(all_shown: dict[str, Shown], name: str) -> Shown:
    missing = all_shown[name].missing
    if missing is not None:
        raise missing
    return all_shown[name]


@EVERY_LANGUAGE
def test_producer_does_not_repeat_what_has_no_dedupe_key(shown: Shown) -> None:
    first, second = shown.said

    assert shown.status[0] not in (0, None), first
    assert re.search(r"^(?:waiting: )?6$", second, re.MULTILINE), (first, second)


@EVERY_LANGUAGE
def test_producer_repeats_a_job_with_a_dedupe_key_until_it_has_its_id(shown: Shown) -> None:
    assert shown.status[1] == 0, shown.said
    assert len(re.findall(r"\d{13}-\d+$", shown.said[1], re.MULTILINE)) == 1, shown.said


@EVERY_LANGUAGE
def test_consumer_runs_every_job_and_goes_on_after_restarts_of_store_and_bus(shown: Shown) -> None:
    assert credited(shown.did) == [*PUSHED, 99], shown.did
    assert shown.done == 8, shown.did


@pytest.mark.parametrize("name", [name for name in NAMES if name != "cli"])
def test_consumer_tells_why_a_job_failed(shown: Shown) -> None:
    assert any("uid" in text for text in shown.failures), (shown.failures, shown.did)


def test_both_pages_show_the_same_programs() -> None:
    assert snippets.read(snippets.TRANSLATED) == snippets.read()
    assert [name.split()[0] for name in snippets.read() if name.endswith("producer")] == [
        "python", "php", "node", "go", "jedis", "lettuce", "rust", "cli"
    ]


@pytest.mark.parametrize("page", [snippets.PAGE, snippets.TRANSLATED], ids=["en", "zh"])
def test_page_names_the_versions_that_were_run(page: Path) -> None:
    text = page.read_text("utf-8")
    pinned = {
        "go/go.mod": r"(github.com/redis/go-redis/v9) (v[\d.]+)",
        "rust/Cargo.toml": r'(redis) = \{ version = "=([\d.]+)"',
        "java/pom.xml": r"<artifactId>(jedis|lettuce-core)</artifactId>\s*<version>(.+)</version>",
        "node/package.json": r'"npm:(redis)@(6[\d.]+)"',
    }
    for file, pattern in pinned.items():
        for package, version in re.findall(pattern, (PROGRAMS / file).read_text()):
            assert re.search(rf"{re.escape(package)}(@|:| = \"=){re.escape(version)}", text), f"{package} {version}"
