"""What client libraries say by themselves, and who may do what."""

from __future__ import annotations

import pytest

from pbus.config.schema import Ingest, Limits, PullHandler, Queue, System, Topic
from pbus.ingest.access import Directory
from pbus.ingest.commands import ROWS
from tests.unit.ingest.door import Client, Door, encode


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (("PING",), "PONG"),
        (("ping", "hello"), "hello"),
        (("PING", "a", "b"), "ERR wrong number of arguments for 'ping' command"),
        (("ECHO", "x"), "x"),
        (("ECHO",), "ERR wrong number of arguments for 'echo' command"),
        (("SELECT", "0"), "OK"),
        (("SELECT", "1"), "ERR DB index is out of range"),
        (("SELECT", "-1"), "ERR DB index is out of range"),
        (("SELECT", "x"), "ERR invalid DB index"),
        (("FLUSHALL",), "ERR unknown command 'FLUSHALL', with args beginning with: "),
        (("WATCH", "a"), "ERR unknown command 'WATCH', with args beginning with: 'a' "),
        (("SET", "a", "b"), "ERR unknown command 'SET', with args beginning with: 'a' 'b' "),
        (("CONFIG", "GET", "save"), ["save", ""]),
        (("CONFIG", "GET", "appendonly"), ["appendonly", "yes"]),
        (("CONFIG", "GET", "nonsense"), []),
        (("CONFIG", "SET", "a", "b"), "ERR unknown subcommand 'SET'. Try CONFIG HELP."),
        (("CONFIG", "GET"), "ERR wrong number of arguments for 'config|get' command"),
        (("COMMAND", "COUNT"), len(ROWS)),
        (("COMMAND", "NONSENSE"), "ERR unknown subcommand 'NONSENSE'. Try COMMAND HELP."),
        (("COMMAND", "INFO", "nonsense"), [None]),
        (("CLIENT", "ID"), 1),
        (("CLIENT", "GETNAME"), None),
        (("CLIENT", "SETNAME", "a b"), "ERR Client names cannot contain spaces, newlines or special characters."),
        (("CLIENT", "SETINFO", "LIB-NAME", "redis-py"), "OK"),
        (("CLIENT", "SETINFO", "LIB-VER", "1 2"), "ERR lib-ver cannot contain spaces, newlines or special characters."),
        (("CLIENT", "SETINFO", "colour", "red"), "ERR Unrecognized option 'colour'"),
        (("CLIENT", "NO-EVICT", "ON"), "OK"),
        (("CLIENT", "NO-TOUCH", "maybe"), "ERR syntax error"),
        (("CLIENT", "REPLY", "ON"), "OK"),
        (("CLIENT", "TRACKING", "OFF"), "OK"),
        (("CLIENT", "TRACKING", "ON"), "ERR client tracking is not supported: there are no keys to track"),
        (("CLIENT", "NONSENSE"), "ERR unknown subcommand 'NONSENSE'. Try CLIENT HELP."),
        (("CLIENT", "SETNAME"), "ERR wrong number of arguments for 'client|setname' command"),
        (("CLIENT",), "ERR wrong number of arguments for 'client' command"),
        (("HELLO", "4"), "NOPROTO unsupported protocol version"),
        (("HELLO", "x"), "ERR Protocol version is not an integer or out of range"),
        (("HELLO", "3", "NONSENSE"), "ERR Syntax error in HELLO option 'NONSENSE'"),
        (("RESET",), "RESET"),
    ],
)
def test_answer_is_redis_own(client: Client, words: tuple[str, ...], wanted: object) -> None:
    assert client.ask(*words) == wanted
    assert client.ask("PING") == "PONG", "the connection lives"


def test_client_list_is_bounded_and_not_for_strangers() -> None:
    door = Door(queues={"safe": Queue(topic={"credit": Topic(pull=PullHandler())}, password="pw")})
    clients = [door.client() for _ in range(140)]

    assert clients[0].ask("CLIENT", "LIST") == "NOAUTH Authentication required."
    for client in clients:
        client.ask("AUTH", "safe", "pw")
    assert len(clients[-1].ask("CLIENT", "LIST").splitlines()) == 128
    door.close()


def test_hello_3_answers_a_map_and_switches(client: Client) -> None:
    answer = client.ask("HELLO", "3", "SETNAME", "me")

    assert isinstance(answer, dict)
    assert answer["proto"] == 3
    assert client.ask("CLIENT", "GETNAME") == "me"
    assert client.ask("CONFIG", "GET", "save") == {"save": ""}


def test_hello_2_answers_a_list(client: Client) -> None:
    assert client.ask("HELLO", "2")[:2] == ["server", "pbus"]


def test_hello_that_fails_changes_nothing(client: Client) -> None:
    assert client.ask("HELLO", "3", "AUTH", "default", "safe:wrong").startswith("WRONGPASS")

    assert client.ask("CONFIG", "GET", "save") == ["save", ""]


def test_reset_forgets_identity_protocol_and_name(client: Client) -> None:
    client.ask("HELLO", "3", "AUTH", "safe", "pw", "SETNAME", "me")

    assert client.ask("RESET") == "RESET"
    assert client.ask("CLIENT", "GETNAME") is None
    assert client.ask("LPUSH", "safe", "a").startswith("NOAUTH")


def test_quit_answers_and_closes(client: Client) -> None:
    client.send(encode("QUIT") + encode("PING"))

    assert client.read() == "OK"
    with pytest.raises(EOFError):
        client.read()


def test_command_table_lists_every_row(client: Client) -> None:
    table = client.ask("COMMAND")

    assert [row[0] for row in table] == [row.name for row in ROWS]
    assert [row[1] for row in table] == [row.arity for row in ROWS]
    assert set(client.ask("COMMAND", "LIST")) == {row.name for row in ROWS}
    assert client.ask("COMMAND", "DOCS", "lpush")[0] == "lpush"


def test_info_has_what_libraries_read(client: Client) -> None:
    text = client.ask("INFO")

    assert "redis_version:7.2.0\r\n" in text
    assert "connected_clients:1\r\n" in text
    assert "redis_version" not in client.ask("INFO", "clients")


def test_info_has_what_redis_cli_shows_by_stat(door: Door, client: Client) -> None:
    door.client().command("BRPOP", "gift/credit", "0")
    door.until(lambda: door.store.puller._waiting)
    client.ask("LPUSH", "mail", "a", "b")
    client.ask("LPUSH", "nope", "a")
    fields = dict(line.split(":") for line in client.ask("INFO").splitlines() if ":" in line)

    assert int(fields["used_memory"]) > 1_000_000
    assert fields["total_commands_processed"] == "3"
    assert fields["blocked_clients"] == "1"


def test_client_info_and_list_show_the_own_identity_only(door: Door, client: Client) -> None:
    other = door.client()
    other.ask("AUTH", "safe", "pw")
    client.ask("CLIENT", "SETNAME", "me")

    assert "name=me" in client.ask("CLIENT", "INFO")
    assert len(client.ask("CLIENT", "LIST").splitlines()) == 1


def test_client_info_has_the_numbers_that_clients_insist_on(client: Client) -> None:
    fields = dict(field.split("=") for field in client.ask("CLIENT", "INFO").split())

    # redis-py 4 and 5: parse_client_info
    for name in ("id", "age", "idle", "db", "sub", "psub", "multi", "qbuf", "qbuf-free", "obl", "argv-mem", "oll",
                 "omem", "tot-mem"):
        int(fields[name])


def test_time_is_the_clock(door: Door, client: Client) -> None:
    seconds, micros = client.ask("TIME")

    assert abs(int(seconds) - door.clock.wall_s()) <= 2
    assert 0 <= int(micros) < 1_000_000


# -- identity -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ("AUTH", "safe", "pw"), ("AUTH", "safe:pw"), ("AUTH", "default", "safe:pw"), ("AUTH", "", "safe:pw"),
        ("AUTH", "live", "live-pw"), ("HELLO", "3", "AUTH", "default", "safe:pw"), ("HELLO", "2", "AUTH", "safe", "pw"),
    ],
)
@pytest.mark.parametrize("local", [True, False])
def test_identity_may_push(door: Door, words: tuple[str, ...], local: bool) -> None:
    client = door.client(local)
    client.ask(*words)

    assert client.ask("LPUSH", "safe", "a") == 1
    assert client.ask("LLEN", "safe") == 1


@pytest.mark.parametrize(
    "words",
    [
        ("AUTH", "safe", "no"), ("AUTH", "safe", ""), ("AUTH", "nobody", "pw"), ("AUTH", "pw"), ("AUTH", "safe:pw:"),
        ("AUTH", "live", ""), ("AUTH", "gift", "x"), ("AUTH", "", ""),
    ],
)
def test_wrong_password_is_refused(door: Door, words: tuple[str, ...]) -> None:
    client = door.client(local=False)

    said = client.ask(*words)
    assert said.startswith("WRONGPASS invalid username-password pair or user is disabled: nothing is stored")
    assert client.ask("LPUSH", "safe", "a").startswith("NOAUTH")


def test_empty_password_enters_an_open_queue_from_this_machine_only(door: Door) -> None:
    assert door.client().ask("AUTH", "gift", "") == "OK"
    assert door.client(local=False).ask("AUTH", "gift", "").startswith("WRONGPASS")


def test_stranger_from_elsewhere_hears_noauth_before_noqueue(door: Door) -> None:
    stranger = door.client(local=False)

    for words in (("LPUSH", "gift", "a"), ("LPUSH", "nope", "a"), ("LPUSH", "safe", "a"), ("PUBLISH", "nope", "a")):
        assert stranger.ask(*words).startswith("NOAUTH ")
        assert ": not stored" in stranger.ask(*words)
    for words in (("LLEN", "gift"), ("RPOP", "gift/credit"), ("INFO",), ("COMMAND",), ("CONFIG", "GET", "*")):
        assert stranger.ask(*words) == "NOAUTH Authentication required."
    assert stranger.ask("PING") == "PONG"
    assert door.driver.appends == []


def test_identity_may_not_do_what_is_not_its_own(door: Door) -> None:
    queue, topic, system = (door.client(local=False) for _ in range(3))
    queue.ask("AUTH", "safe", "pw")
    topic.ask("AUTH", "safe/own", "topic-pw")
    system.ask("AUTH", "live", "live-pw")

    assert queue.ask("LPUSH", "gift", "a") == "NOPERM safe may not push to gift: not stored"
    assert queue.ask("RPOP", "safe/own") == "NOPERM safe may not take from safe/own: nothing taken"
    assert topic.ask("LPUSH", "safe", "a") == "NOPERM safe/own is a topic and only takes; AUTH safe pushes: not stored"
    assert topic.ask("RPOP", "safe/credit").startswith("NOPERM")
    assert topic.ask("LLEN", "safe").startswith("NOPERM")
    assert system.ask("LPUSH", "gift", "a").startswith("NOPERM")
    assert topic.ask("LLEN", "safe/own") == 0
    assert topic.ask("RPOP", "safe/own") is None


def test_topic_without_a_password_takes_its_queues(door: Door) -> None:
    client = door.client(local=False)

    assert client.ask("AUTH", "safe/credit", "pw") == "OK"
    assert client.ask("RPOP", "safe/credit") is None
    assert door.client().ask("AUTH", "safe/own", "pw").startswith("WRONGPASS")


def test_identity_keeps_what_is_open_to_everybody_here(client: Client) -> None:
    client.ask("AUTH", "safe", "pw")

    assert client.ask("LPUSH", "gift", "a") == 1


def test_auth_replaces_the_identity(client: Client) -> None:
    client.ask("AUTH", "safe", "pw")
    client.ask("AUTH", "safe/own", "topic-pw")

    assert client.ask("LPUSH", "safe", "a").startswith("NOPERM")


def test_two_passwords_are_valid_while_one_replaces_the_other() -> None:
    directory = Directory({"safe": Queue(password="old\nnew", system="live")}, {"live": System(password="a\nb")})

    for name, password in (("safe", b"old"), ("safe", b"new"), ("live", b"a"), ("live", b"b")):
        assert directory.authenticate(name, password, False) is not None
    assert directory.authenticate("safe", b"old\nnew", False) is None


def test_connections_of_one_identity_share_what_is_known_about_it(door: Door) -> None:
    for _ in range(3):
        door.client().ask("LPUSH", "gift", "a")

    assert len({id(connection.access) for connection in door.server.connections}) == 1


# -- limits before AUTH ---------------------------------------------------------------------------


def test_arguments_before_auth_are_small_and_the_connection_lives(door: Door) -> None:
    stranger = door.client(local=False)

    assert stranger.ask("LPUSH", "safe", "x" * 20_000) == (
        "NOAUTH an argument has 20000 bytes, 16384 is the most before AUTH: not stored"
    )
    many = stranger.ask("LPUSH", "safe", *["x"] * 2000)
    assert many.startswith("NOAUTH the command has 2002 elements, 1024 is the most")
    assert stranger.ask("AUTH", "safe", "pw") == "OK"
    assert stranger.ask("LPUSH", "safe", "x" * 20_000) == 1


def test_auth_and_a_large_push_may_come_in_one_chunk(door: Door) -> None:
    client = door.client(local=False)
    client.send(encode("AUTH", "safe", "pw") + encode("LPUSH", "safe", "x" * 20_000))

    assert [client.read(), client.read()] == ["OK", 1]


def test_full_limits_hold_from_this_machine_while_something_is_open(door: Door) -> None:
    assert door.client().ask("LPUSH", "gift", "x" * 100_000) == 1


def test_small_limits_hold_from_this_machine_when_nothing_is_open() -> None:
    door = Door(queues={"safe": Queue(password="pw", topic={"t": Topic(pull=PullHandler())})})

    assert door.client().ask("LPUSH", "safe", "x" * 100_000).startswith("NOAUTH")
    door.close()


def test_connections_limit_answers_and_closes() -> None:
    door = Door(Ingest(limits=Limits(connections=2)))
    first, second, third = door.client(), door.client(), door.client()

    assert first.ask("PING") == second.ask("PING") == "PONG"
    assert third.read() == "ERR max number of clients reached"
    with pytest.raises(EOFError):
        third.read()
    first.close()
    door.until(lambda: len(door.server.connections) == 1)
    assert door.client().ask("PING") == "PONG"
    door.close()


@pytest.mark.parametrize(
    "words", [("LPUSH", "safe/credit", "b"), ("LPUSH", "safe/no", "b"), ("RPOP", "safe/no"), ("LLEN", "safe/no")]
)
def test_topics_of_a_protected_queue_are_not_told_to_strangers(door: Door, words: tuple[str, ...]) -> None:
    said = door.client().ask(*words)
    assert said.startswith("NOAUTH ")
    assert "topic" not in said
