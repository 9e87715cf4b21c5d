"""COMMAND: the table as clients ask for it."""

from __future__ import annotations

import pytest

from tests.unit.ingest.door import Client


def test_subcommand_is_found_by_both_names(client: Client) -> None:
    (info,) = client.ask("COMMAND", "INFO", "XINFO|Stream")
    (container,) = client.ask("COMMAND", "INFO", "xinfo")

    assert info[:2] == ["xinfo|stream", -3]
    assert [sub[0] for sub in container[9]] == ["xinfo|stream", "xinfo|groups", "xinfo|consumers"]
    assert client.ask("COMMAND", "DOCS", "xinfo|stream", "nope")[0::2] == ["xinfo|stream"]


def test_documentation_of_a_command_is_that_of_its_row(client: Client) -> None:
    name, doc = client.ask("COMMAND", "DOCS", "rpush")

    said = dict(zip(doc[::2], doc[1::2], strict=True))
    assert (name, said["group"], said["complexity"]) == ("rpush", "push", "one write")
    assert said["summary"] == "Store one job a body, for every topic of the queue: all or none"
    assert said["arguments"] == [
        ["name", "queue", "type", "key", "display_text", "queue", "key_spec_index", 0],
        ["name", "body", "type", "string", "display_text", "body", "flags", ["multiple"]],
    ]


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("XREADGROUP GROUP t c COUNT 1 STREAMS one two > >", ["one", "two"]),
        ("BRPOP one two 0", ["one", "two"]),
        ("XINFO GROUPS one", ["one"]),
        ("XINFO nonsense", "ERR The command has no key arguments"),
        ("LPUSH one body", ["one"]),
        ("PING x", "ERR The command has no key arguments"),
        ("LPUSH one", "ERR Invalid number of arguments specified for command"),
        ("LLEN one two", "ERR Invalid number of arguments specified for command"),
        ("nope one", "ERR Invalid command specified"),
        ("", "ERR wrong number of arguments for 'command|getkeys' command"),
    ],
)
def test_keys_of_a_command(client: Client, words: str, wanted: object) -> None:
    assert client.ask("COMMAND", "GETKEYS", *words.split()) == wanted


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("FILTERBY PATTERN XINFO*", ["xinfo", "xinfo|stream", "xinfo|groups", "xinfo|consumers"]),
        ("FILTERBY ACLCAT blocking", ["brpop", "blpop", "xreadgroup"]),
        ("FILTERBY MODULE x", []),
        ("FILTERBY NONE x", "ERR syntax error"),
        ("NONE", "ERR syntax error"),
    ],
)
def test_list_of_a_part(client: Client, words: str, wanted: list[str] | str) -> None:
    names = client.ask("COMMAND", "LIST", *words.split())

    assert names == wanted if isinstance(wanted, str) else sorted(names) == sorted(wanted)


def test_help_says_what_there_is(client: Client) -> None:
    assert client.ask("COMMAND", "HELP")[0].startswith("COMMAND <subcommand>")
    assert client.ask("COMMAND", "COUNT", "x") == "ERR wrong number of arguments for 'command|count' command"


def test_subcommands_that_their_command_answers_are_documented_too(client: Client) -> None:
    _, doc = client.ask("COMMAND", "DOCS", "client")
    said = dict(zip(doc[::2], doc[1::2], strict=True))

    assert "client|setname" in said["subcommands"]
    assert client.ask("CLIENT", "SETNAME", "a", "b") == "ERR wrong number of arguments for 'client|setname' command"
    assert client.ask("CLIENT", "NO-EVICT", "ON") == "OK"
    assert client.ask("CONFIG", "GET", "save") == ["save", ""]
