"""What a valid configuration means: defaults, paths, the environment, passwords, systems, origins."""

from __future__ import annotations

import dataclasses
import socket
from pathlib import Path
from typing import Any

import pytest

from pbus.config import load as loading
from pbus.config.build import key_of
from pbus.config.effective import rows
from pbus.config.load import load_with_origins, node_name
from pbus.config.schema import (
    CommandHandler, Concurrency, FastcgiHandler, HttpHandler, PullHandler, PythonHandler, Settings, Topic,
)
from pbus.config.tree import Tree, dotted, read
from pbus.core.names import is_name
from tests.unit.config.files import PYTHON_TOPIC, load, write

ROOT = Path(__file__).parents[3]


def test_defaults_make_a_whole_bus(tmp_path: Path) -> None:
    settings = load(tmp_path, PYTHON_TOPIC).settings
    assert settings.node.name == node_name(socket.gethostname())
    assert settings.node.run_dir == str(tmp_path / "var")
    assert settings.node.log_dir == str(tmp_path / "var/log")
    assert settings.storage["main"].url == f"sqlite:{tmp_path}/var/pbus.db"
    assert settings.queue["gift"].storage == "main"
    assert settings.queue["gift"].topic["credit"].concurrency == Concurrency(min=1, max=1)
    assert settings.ingest.listen == ["127.0.0.1:12018"]


def test_every_default_of_the_schema_passes_its_own_check(tmp_path: Path) -> None:
    load(tmp_path, '[queue.q]\n[queue.q.topic.t]\npull = {}\n[backend.b]\nfastcgi = ["x:1"]\n[system.s]\n')


def test_values_are_in_the_units_of_their_attributes(tmp_path: Path) -> None:
    settings = load(tmp_path, f'{PYTHON_TOPIC}timeout = "250ms"\n[ingest]\nmax_body = "2MiB"\n').settings
    assert settings.queue["gift"].topic["credit"].timeout_s == 0.25
    assert settings.ingest.max_body_bytes == 2 * 1024 * 1024


@pytest.mark.parametrize(("written", "least", "most"), [
    ("8", 8, 8), ("{ min = 4 }", 4, 4), ("{ max = 4 }", 1, 4), ("{ min = 2, max = 4 }", 2, 4),
])
def test_concurrency_may_be_one_number(tmp_path: Path, written: str, least: int, most: int) -> None:
    topic = load(tmp_path, f"{PYTHON_TOPIC}concurrency = {written}\n").settings.queue["gift"].topic["credit"]
    assert topic.concurrency == Concurrency(min=least, max=most)


def test_relative_paths_are_relative_to_the_parent_of_the_folder(tmp_path: Path) -> None:
    settings = load(tmp_path, """
        [node]
        run_dir = "run"
        data_dir = "/data"
        log_dir = "-"
        [ingest]
        listen = ["unix:run/ingest.sock", "127.0.0.1:12018"]
        [storage.main]
        url = "sqlite:jobs.db"
        [queue.gift.topic.py]
        python = { call = "a:b", path = "src/../lib" }
        [queue.gift.topic.php]
        fastcgi = { address = "unix:php.sock", script = "credit.php" }
    """).settings
    topics = settings.queue["gift"].topic
    assert (settings.node.run_dir, settings.node.log_dir) == (str(tmp_path / "run"), "-")
    assert settings.ingest.listen == [f"unix:{tmp_path}/run/ingest.sock", "127.0.0.1:12018"]
    assert settings.storage["main"].url == "sqlite:/data/jobs.db"
    assert topics["py"].python is not None
    assert topics["py"].python.path == str(tmp_path / "lib")
    assert topics["php"].fastcgi is not None
    assert topics["php"].fastcgi.script == str(tmp_path / "credit.php")
    assert topics["php"].fastcgi.address == f"unix:{tmp_path}/php.sock"


def test_folder_below_etc_belongs_to_the_machine() -> None:
    node = {"data_dir": "jobs"}
    tree = Tree("/etc/pbus/conf.d", {"node": node}, dict.fromkeys([("node",), ("node", "data_dir")], "a.toml"))
    settings = loading.settings_of(tree)
    assert tree.problems == []
    assert (settings.node.run_dir, settings.node.log_dir) == ("/run/pbus", "/var/log/pbus")
    assert settings.storage["main"].url == "sqlite:/etc/pbus/jobs/pbus.db"  # as it was set
    assert loading.settings_of(Tree("/etc/pbus")).storage["main"].url == "sqlite:/var/lib/pbus/pbus.db"
    assert not loading.is_below_etc("/etcetera/conf.d")


@pytest.mark.parametrize("host", ["bus 1.example.com", "-x", "", "日本", "a" * 100, "..", "_ok"])
def test_node_name_is_valid_whatever_the_host_is_called(host: str) -> None:
    assert is_name(node_name(host))


def test_environment_is_expanded_in_every_text(tmp_path: Path) -> None:
    loaded = load(
        tmp_path, '[queue.gift]\ndescription = "$${A} of ${A}"\nalias = ["${A}:list"]\npassword = "${EMPTY}"\n',
        A="b", EMPTY="",
    )
    queue = loaded.settings.queue["gift"]
    assert (queue.description, queue.alias, queue.password) == ("${A} of b", ["b:list"], "")


def test_expanded_text_is_not_expanded_again(tmp_path: Path) -> None:
    queue = load(tmp_path, '[queue.gift]\npassword = "${A}"\n', A="${B}").settings.queue["gift"]
    assert queue.password == "${B}"


def test_password_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("top secret\n")
    (tmp_path / "two").write_text("old\r\nnew\r\n")
    settings = load(tmp_path, '[queue.gift]\npassword_file = "one"\n[system.live]\npassword_file = "two"\n').settings
    assert settings.queue["gift"].password == "top secret"
    assert settings.system["live"].passwords == ("old", "new")


def test_password_file_of_a_queue_or_topic_may_hold_two(tmp_path: Path) -> None:
    (tmp_path / "two").write_text("old\nnew\n")
    text = '[queue.gift]\npassword_file = "two"\n[queue.gift.topic.t]\npull = {}\npassword_file = "two"\n'
    queue = load(tmp_path, text).settings.queue["gift"]

    assert queue.passwords == queue.topic["t"].passwords == ("old", "new")


def test_password_of_a_redis_leaves_its_url(tmp_path: Path) -> None:
    settings = load(tmp_path, """
        [storage.main]
        url = "redis://:p%40ss@[::1]:7000/1"
        [storage.user]
        url = "redis://me:secret@host"
        [storage.socket]
        url = "redis+unix:///run/redis.sock?db=2"
    """).settings.storage
    assert (settings["main"].url, settings["main"].password) == ("redis://[::1]:7000/1", "p@ss")
    assert (settings["user"].url, settings["user"].password) == ("redis://me@host", "secret")
    assert (settings["socket"].url, settings["socket"].password) == ("redis+unix:///run/redis.sock?db=2", "")


def test_files_are_one_tree_in_name_order(tmp_path: Path) -> None:
    files = {
        "b.toml": '[queue.b]\n[node]\nname = "n"\n', "a.toml": "[queue.a]\n", "s/a.toml": "[queue.c]\n",
        ".x.toml": "x", "..data/a.toml": "[queue.a]",
    }
    loaded = load_with_origins(str(write(tmp_path, files)))
    assert list(loaded.settings.queue) == ["a", "b", "c"]


def test_linked_folder_is_read_once(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "q.toml").write_text("[queue.gift]\npepper = true\n")
    directory = write(tmp_path, {"a.toml": ""})
    (directory / "live").symlink_to(elsewhere)
    (elsewhere / "loop").symlink_to(elsewhere)
    assert load_with_origins(str(directory)).settings.queue["gift"].system == "live"


def test_system_folder_gives_its_queues_their_system(tmp_path: Path) -> None:
    files = {
        "a.toml": '[queue.split]\nsystem = "live"\n[queue.own]\n',
        "live/q.toml": f"[queue.split]\npepper = true\n{PYTHON_TOPIC}",
    }
    settings = load_with_origins(str(write(tmp_path, files))).settings
    systems = {name: queue.system for name, queue in settings.queue.items()}
    assert systems == {"split": "live", "own": "default", "gift": "live"}
    assert "live" in settings.system


def test_later_keys_may_be_written_with_their_defaults(tmp_path: Path) -> None:
    later = 'batch = 1\nbrake = { min_jobs = 50 }\non_unknown = "retry"\nrate = ""\nsample = "100%"\n'
    load(tmp_path, PYTHON_TOPIC + later)


def test_schema_documents_every_key() -> None:
    def sections(section: type) -> set[type]:
        nested = [field.metadata["of"] for field in dataclasses.fields(section) if field.metadata["of"]]
        return {section}.union(*(sections(of) for of in nested))

    for section in sections(Settings):
        keys = [key_of(field) for field in dataclasses.fields(section)]
        assert len(set(keys)) == len(keys)
        for field in dataclasses.fields(section):
            assert field.metadata["help"], f"{section.__name__}.{field.name}"


def test_shipped_folder_works_as_it_is() -> None:
    settings = load_with_origins(str(ROOT / "conf.d")).settings
    (topic,) = settings.queue["greetings"].topic.values()
    assert topic.python is not None
    assert (Path(topic.python.path) / "hello.py").is_file()


def test_effective_rows_tell_where_each_value_is_from_and_hide_secrets(tmp_path: Path) -> None:
    loaded = load(tmp_path, """
        [node]
        grace = "90s"
        [queue.gift]
        password = "secret1"
        [storage.main]
        url = "redis://:secret2@host/0"
        [queue.gift.topic.web]
        http = { url = "http://x/", headers = { Authorization = "secret3", X-Plain = "plain", X-Env = "${E}" } }
    """, E="secret4")
    found = {row.key: (row.value, row.origin) for row in rows(loaded)}
    file = str(tmp_path / "conf.d/a.toml")
    assert found["node.grace"] == ("90s", file)
    assert found["node.heartbeat"] == ("5s", "default")
    assert found["queue.gift.password"] == ("***", file)
    assert found["storage.main.password"] == ("***", file)
    assert found["storage.main.url"] == ("redis://host/0", file)
    assert found["queue.gift.topic.web.http.headers.X-Plain"] == ("plain", file)
    assert "secret" not in str(found)


def test_table_written_as_one_value_is_from_where_that_stands(tmp_path: Path) -> None:
    found = {row.key: row.origin for row in rows(load(tmp_path, f"{PYTHON_TOPIC}concurrency = 4\n"))}
    assert found["queue.gift.topic.credit.concurrency.min"] == str(tmp_path / "conf.d/a.toml")


def test_key_paths_are_written_as_toml_writes_them(tmp_path: Path) -> None:
    tree = read(str(write(tmp_path, {"a.toml": '[queue."a.b"]\npepper = true\n'})), {})
    assert [dotted(path) for path in tree.origin] == ["queue", 'queue."a.b"', 'queue."a.b".pepper']


def test_a_program_is_started_beside_the_configuration_unless_it_says_where(tmp_path: Path) -> None:
    loaded = load(tmp_path, f"""
        [queue.gift.topic.credit]
        command = {{ argv = ["sh"] }}
        [queue.gift.topic.mail]
        command = {{ argv = ["sh"], cwd = "{tmp_path}/conf.d" }}
        [program.feed]
        argv = ["sh"]
    """)
    topics = loaded.settings.queue["gift"].topic
    assert topics["credit"].command is not None
    assert topics["mail"].command is not None
    assert topics["credit"].command.cwd == loaded.settings.program["feed"].cwd == str(tmp_path)
    assert topics["mail"].command.cwd == str(tmp_path / "conf.d")


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ('protocol = "lines"', "TERM"), ('protocol = "pepper"', "INT"),
        ('protocol = "pepper", stop_signal = "TERM"', "TERM"),
    ],
)
def test_programs_of_the_old_contract_are_asked_to_finish_by_int(tmp_path: Path, keys: str, expected: str) -> None:
    loaded = load(tmp_path, f'[queue.gift.topic.credit]\ncommand = {{ argv = ["sh"], {keys} }}\n')
    command = loaded.settings.queue["gift"].topic["credit"].command
    assert command is not None
    assert command.stop_signal == expected


def test_a_program_in_a_systems_folder_belongs_to_that_system(tmp_path: Path) -> None:
    directory = write(tmp_path, {"live/a.toml": '[program.feed]\nargv = ["sh"]\n', "b.toml": ""})
    assert load_with_origins(str(directory)).settings.program["feed"].system == "live"


def test_secrets_in_the_environment_of_a_program_are_not_shown(tmp_path: Path) -> None:
    loaded = load(tmp_path, """
        [program.feed]
        argv = ["sh"]
        env = { MYSQL_PWD = "hidden1", DB_PASS = "hidden2", URL = "mysql://u:hidden3@h/db", E = "${E}", LEVEL = "info" }
    """, E="hidden4")
    found = {row.key: row.value for row in rows(loaded)}
    assert "hidden" not in str(found)
    assert found["program.feed.env.LEVEL"] == "info"


@pytest.mark.parametrize(
    ("handler", "killable"),
    [
        ({"python": PythonHandler(call="a:b")}, True),
        ({"command": CommandHandler(argv=["php", "a.php"])}, True),
        ({"http": HttpHandler(url="http://h/jobs")}, False),
        ({"fastcgi": FastcgiHandler(address="unix:/p", script="/a.php")}, False),
        ({"pull": PullHandler()}, False),
    ],
)
def test_only_processes_of_ours_end_what_runs_too_long(handler: dict[str, Any], killable: bool) -> None:
    assert Topic(**handler).rules.killable is killable
