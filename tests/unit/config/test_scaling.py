"""What the configuration says to the autoscaler."""

from __future__ import annotations

from pbus.config import schema
from pbus.config.scaling import rules_of
from pbus.core.autoscale_terms import Kind, TopicRules

BACKENDS = {"php": schema.Backend(fastcgi=["unix:/run/php.sock"]), "web": schema.Backend(http=["http://h:8080"])}
SYSTEMS = {"live": schema.System(weight=3)}


def rules(**settings: object) -> TopicRules | None:
    topic = schema.Topic(**settings)  # type: ignore[arg-type]
    queue = schema.Queue(system="live", topic={"t": topic})
    return rules_of({"q": queue}, BACKENDS, SYSTEMS).get("q/t")


def test_processes_have_their_bounds_and_weights() -> None:
    found = rules(python=schema.PythonHandler(call="a:b"), concurrency=schema.Concurrency(min=0, max=7),
                  catch_up_s=5.0, weight=2, rate_per_s=9.0)
    assert found == TopicRules(least=0, most=7, catch_up_s=5.0, kind=Kind.PROCESSES, weight=2, system="live",
                               system_weight=3, rate_per_s=9.0)


def test_a_call_that_is_not_made_costs_nothing_so_one_is_always_allowed() -> None:
    found = rules(fastcgi=schema.FastcgiHandler(backend="php", script="/a.php"),
                  concurrency=schema.Concurrency(min=0, max=7))
    assert found is not None
    assert (found.kind, found.backend, found.least) == (Kind.CALLS, "php", 1)


def test_an_address_of_a_backend_is_that_backend() -> None:
    by_path = rules(fastcgi=schema.FastcgiHandler(address="unix:/run/php.sock", script="/a.php"))
    by_url = rules(http=schema.HttpHandler(url="http://h:8080/jobs"))
    alone = rules(http=schema.HttpHandler(url="http://elsewhere/jobs"))
    assert [found.backend for found in (by_path, by_url, alone) if found] == ["php", "web", ""]


def test_a_topic_that_is_pulled_has_none() -> None:
    assert rules(pull=schema.PullHandler()) is None


def test_commands_are_processes() -> None:
    found = rules(command=schema.CommandHandler(argv=["php", "a.php"]))
    assert found is not None
    assert found.kind is Kind.PROCESSES
