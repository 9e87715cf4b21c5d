"""What ran last and is not in the files any more: what of it goes on, and until when."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from pbus.config import orphans
from pbus.config.load import Loaded, load_with_origins

NODE = '[node]\nname = "bus-1"\ndata_dir = "var"\n'
PHP = '[backend.php]\nfastcgi = ["127.0.0.1:9000"]\n'
CREDIT = '[queue.gift.topic.credit]\nfastcgi = { backend = "php", script = "/x.php" }\n'
NOTIFY = "[queue.gift.topic.notify]\npull = {}\n"
MAIL = '[queue.mail]\nalias = ["post"]\npassword = "secret"\n[queue.mail.topic.send]\npull = {}\n'


class Files:
    """A folder of configuration and the data folder beside it."""

    def __init__(self, folder: Path) -> None:
        self.conf, self.data = folder / "conf.d", folder / "var"
        self.conf.mkdir()
        self.data.mkdir()

    def ran(self, text: str) -> None:
        """A bus ran with *text*, and with what it had adopted."""
        loaded = self.now(text)
        orphans.keep(str(self.data), orphans.to_keep(loaded))

    def now(self, text: str) -> Loaded:
        (self.conf / "bus.toml").write_text(NODE + text)
        return orphans.adopted(load_with_origins(str(self.conf)))


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def topics(loaded: Loaded) -> list[str]:
    return [f"{queue}/{topic}" for queue, section in loaded.settings.queue.items() for topic in section.topic]


def test_without_a_past_nothing_is_adopted(files: Files) -> None:
    loaded = files.now(NOTIFY)
    assert (topics(loaded), loaded.orphans, loaded.over) == (["gift/notify"], (), ())


def test_topic_that_is_gone_goes_on_with_its_backend(files: Files) -> None:
    files.ran(PHP + CREDIT + NOTIFY)
    loaded = files.now(NOTIFY)
    assert loaded.orphans == (("gift", "credit"),)
    assert loaded.settings.queue["gift"].topic["credit"].fastcgi.backend == "php"
    assert loaded.settings.backend["php"].fastcgi == ["127.0.0.1:9000"]
    assert orphans.gone(loaded) == frozenset()


def test_queue_that_is_gone_goes_on_without_its_aliases(files: Files) -> None:
    files.ran(NOTIFY + MAIL)
    loaded = files.now(NOTIFY)
    assert orphans.gone(loaded) == {"mail"}
    assert loaded.settings.queue["mail"].passwords == ("secret",)
    assert loaded.settings.queue["mail"].alias == []


def test_it_goes_on_over_several_readings_until_it_is_forgotten(files: Files) -> None:
    files.ran(NOTIFY + MAIL)
    files.ran(NOTIFY)
    assert files.now(NOTIFY).orphans == (("mail", "send"),)
    assert orphans.forget(str(files.data), [("mail", "send")])
    loaded = files.now(NOTIFY)
    assert (loaded.orphans, loaded.over, topics(loaded)) == ((), (("mail", "send"),), ["gift/notify"])
    files.ran(NOTIFY)
    assert files.now(NOTIFY).over == ()
    assert not orphans.forget(str(files.data), [("mail", "send")])


def test_topic_that_is_back_in_the_files_is_no_orphan_and_not_over(files: Files) -> None:
    files.ran(NOTIFY + MAIL)
    orphans.forget(str(files.data), [("mail", "send")])
    loaded = files.now(NOTIFY + MAIL)
    assert (loaded.orphans, loaded.over) == ((), ())


def test_what_the_files_say_wins(files: Files) -> None:
    files.ran(PHP + CREDIT + NOTIFY)
    loaded = files.now(PHP.replace("9000", "9001") + NOTIFY)
    assert loaded.settings.backend["php"].fastcgi == ["127.0.0.1:9001"]


def test_orphan_that_cannot_be_had_is_left_out_and_the_others_go_on(files: Files) -> None:
    other = '[storage.main]\nurl = "sqlite:pbus.db"\n[storage.other]\nurl = "sqlite:other.db"\n'
    files.ran(other + NOTIFY + MAIL + '[queue.log]\nstorage = "other"\n[queue.log.topic.keep]\npull = {}\n')
    assert files.now(NOTIFY).orphans == (("mail", "send"),)


def test_difference_to_the_files_is_told_without_orphans(files: Files) -> None:
    files.ran(PHP + CREDIT + NOTIFY + MAIL)
    said = orphans.said(files.now(NOTIFY))
    assert said.settings == load_with_origins(str(files.conf)).settings


def test_file_is_for_its_owner_only_because_passwords_are_in_it(files: Files) -> None:
    files.ran(NOTIFY + MAIL)
    assert stat.S_IMODE((files.data / orphans.FILE_NAME).stat().st_mode) == 0o600


@pytest.mark.parametrize("text", ["", "{", "[]", '{"v": 1}', '{"v": 2, "queue": {}, "backend": {}, "over": []}'])
def test_file_that_makes_no_sense_is_no_past(files: Files, text: str) -> None:
    (files.data / orphans.FILE_NAME).write_text(text)
    assert topics(files.now(NOTIFY)) == ["gift/notify"]
