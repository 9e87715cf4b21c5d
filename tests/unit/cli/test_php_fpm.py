"""The configuration of php-fpm as doctor reads it: sections, includes, units."""

from __future__ import annotations

from pathlib import Path

import pytest

from pbus.cli import php_fpm
from pbus.cli.php_fpm import is_here, seconds_of, sections_of, size_of
from pbus.config.values import address


def test_sections_of_included_files_are_read_where_they_stand(tmp_path: Path) -> None:
    (tmp_path / "pool.d").mkdir()
    main = tmp_path / "php-fpm.conf"
    main.write_text(
        "; a comment = 1\npid = /run/fpm.pid\n[global]\nprocess_control_timeout = 10s ; behind\n"
        f"include={tmp_path}/pool.d/*.conf\nemergency_restart_threshold = 3\n"
    )
    (tmp_path / "pool.d/b.conf").write_text("[b]\nlisten = /run/$pool.sock\n")
    (tmp_path / "pool.d/a.conf").write_text(
        '[a]\n;listen = 9001\nlisten = "127.0.0.1:9000"\nphp_admin_value[post_max_size] = 8M\ninclude = more\n'
    )
    (tmp_path / "pool.d/more").write_text("pm.max_children = 5\n")

    assert sections_of(str(main)) == {
        "global": {
            "": str(main), "pid": "/run/fpm.pid", "process_control_timeout": "10s", "emergency_restart_threshold": "3",
        },
        "a": {
            "": f"{tmp_path}/pool.d/a.conf", "listen": "127.0.0.1:9000", "php_admin_value[post_max_size]": "8M",
            "pm.max_children": "5",
        },
        "b": {"": f"{tmp_path}/pool.d/b.conf", "listen": "/run/$pool.sock"},
    }


def test_file_that_includes_itself_is_read_once(tmp_path: Path) -> None:
    main = tmp_path / "php-fpm.conf"
    main.write_text(f"[a]\ninclude = {tmp_path}/*.conf\nlisten = 9000\n")

    assert sections_of(str(main))["a"]["listen"] == "9000"


def test_files_below_another_root_are_read_there(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/php-fpm.conf").write_text("include = /etc/*.pool\n")
    (tmp_path / "etc/www.pool").write_text("[www]\nlisten = 9000\n")

    assert sections_of("/etc/php-fpm.conf", str(tmp_path)) == {"www": {"": "/etc/www.pool", "listen": "9000"}}


@pytest.mark.parametrize(("listen", "where", "accepts"), [
    ("9000", "127.0.0.1:9000", True),
    ("0.0.0.0:9000", "127.0.0.1:9000", True),
    ("[::]:9000", "localhost:9000", True),
    ("127.0.0.1:9000", "127.0.0.1:9000", True),
    ("127.0.0.1:9001", "127.0.0.1:9000", False),
    ("127.0.0.2:9000", "127.0.0.1:9000", False),
    ("9000", "192.0.2.7:9000", False),
    ("/run/php.sock", "unix:/run/php.sock", True),
    ("/run/../run/php.sock", "unix:/run/php.sock", True),
    ("/run/other.sock", "unix:/run/php.sock", False),
    ("", "127.0.0.1:9000", False),
])
def test_pool_is_the_one_that_accepts_at_the_address(listen: str, where: str, accepts: bool) -> None:
    assert php_fpm._accepts(listen, address(where)) is accepts


def test_calls_of_other_scripts_do_not_count_and_a_static_pool_tells_its_size() -> None:
    calls = [("/web/index.php", 9_000_000), ("/srv/credit.php", 1_500_000), ("/srv/credit.php", 200_000)]

    static = php_fpm._measured(php_fpm.Pool(), "static", calls, {"/srv/credit.php"})
    assert (static.slowest_s, static.max_children) == (1.5, 3)
    dynamic = php_fpm._measured(static, "dynamic", calls[2:], {"/srv/credit.php"})
    assert (dynamic.slowest_s, dynamic.max_children) == (1.5, 3)
    assert php_fpm._measured(php_fpm.Pool(), "dynamic", calls[:1], {"/srv/credit.php"}) == php_fpm.Pool()


def test_addresses_of_this_machine_are_known() -> None:
    here = [is_here(address(text)) for text in ("unix:/x", "localhost:1", "127.9.0.1:1", "[::1]:1")]

    assert here == [True] * 4
    assert not is_here(address("192.0.2.7:9000"))
    assert not is_here(address("php.example.com:9000"))


@pytest.mark.parametrize(("text", "value"), [
    ("0", 0), ("30", 30), ("30s", 30), ("5m", 300), ("2h", 7200), ("1d", 86_400), ("5 m", 300), ("soon", None),
    ("-1", None), ("5y", None),
])
def test_seconds_are_read_as_php_fpm_does(text: str, value: float | None) -> None:
    assert seconds_of(text) == value


@pytest.mark.parametrize(("text", "value"), [
    ("0", 0), ("8388608", 8_388_608), ("8M", 8 * 1024**2), ("512k", 512 * 1024), ("1G", 1024**3), ("", None),
    ("8 MiB", None),
])
def test_sizes_are_read_as_php_does(text: str, value: int | None) -> None:
    assert size_of(text) == value
