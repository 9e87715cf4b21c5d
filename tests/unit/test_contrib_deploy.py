"""
What is shipped for service managers and containers names commands, options, keys, paths and ports that exist, and
waits as long as pbus needs. The tools themselves judge where they are installed.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from pbus.cli.main import pbus, with_config_option
from pbus.config.load import SYSTEM_WIDE, load_with_origins
from pbus.config.schema import Node, Settings
from pbus.config.values import address
from pbus.errors import Exit
from pbus.supervisor.activation import _KINDS as SOCKET_NAMES
from pbus.supervisor.lock import PID_FILE

ROOT = Path(__file__).parents[2]
CONTRIB = ROOT / "contrib"
GRACE_S = Node().grace_s
IMAGES = re.compile(r"redis:7|php:[0-9.]+-fpm|python:3\.11-slim|registry\.example\.com/pbus:[0-9.]+")
HEALTH = (ROOT / "pbus/dashboard/main.py").read_text("utf-8")

Unit = dict[str, dict[str, list[str]]]


def unit(name: str) -> Unit:
    """A systemd unit: section -> key -> values."""
    found: Unit = {}
    section: dict[str, list[str]] = {}
    for line in (CONTRIB / "systemd" / name).read_text("utf-8").splitlines():
        if line.startswith("["):
            section = found.setdefault(line.strip("[]"), {})
        elif line and not line.startswith("#"):
            key, _, value = line.partition("=")
            section.setdefault(key, []).append(value)
    return found


def understood(line: list[str]) -> None:
    """Fails unless ``pbus LINE`` is a command with these options."""
    command: click.Command = with_config_option(pbus)
    words = list(line)
    while isinstance(command, click.Group):
        context = click.Context(command)
        found = command.get_command(context, words.pop(0))
        assert found is not None, line
        command = found
    # What it takes is looked at, nothing is run; a folder that is not there is no matter of this.
    command.make_context("pbus", words, resilient_parsing=False)


def configuration(folder: Path, environment: dict[str, str]) -> Settings:
    return load_with_origins(str(folder), environment).settings


def document(kind: str, name: str = "pbus") -> dict[str, Any]:
    """One of the manifests."""
    (found,) = [each for each in MANIFESTS if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return dict(found)


MANIFESTS = list(yaml.safe_load_all((CONTRIB / "kubernetes/pbus.yaml").read_text("utf-8")))
COMPOSE = yaml.safe_load((CONTRIB / "docker/compose.yaml").read_text("utf-8"))
POD = document("StatefulSet")["spec"]["template"]["spec"]


# -- systemd ----------------------------------------------------------------------------------


def test_service_runs_commands_that_exist() -> None:
    service = unit("pbus.service")["Service"]
    for key in ("ExecStart", "ExecReload"):
        program, *words = shlex.split(service[key][0])
        assert program == "/opt/pbus/bin/pbus"
        understood(words)


def test_service_waits_as_long_as_pbus_needs() -> None:
    service = {key: values[0] for key, values in unit("pbus.service")["Service"].items()}
    assert service["Type"] == "notify"
    assert float(service["TimeoutStopSec"]) > GRACE_S + 5
    assert float(service["TimeoutStartSec"]) > GRACE_S + 5, "processes of an earlier life may finish first"
    assert service["RestartPreventExitStatus"] == str(int(Exit.CONFIG))
    assert service["KillMode"] == "mixed", "TERM is for the master; the drain is its business"
    assert service["OOMPolicy"] == "continue"
    assert {f"/run/{service['RuntimeDirectory']}", f"/var/lib/{service['StateDirectory']}",
            f"/var/log/{service['LogsDirectory']}"} == set(SYSTEM_WIDE.values())


@pytest.mark.parametrize(("name", "key"), [("pbus.socket", "ingest"), ("pbus-dashboard.socket", "dashboard")])
def test_sockets_are_those_of_the_configuration_that_comes_with_pbus(name: str, key: str) -> None:
    socket = unit(name)["Socket"]
    settings = configuration(ROOT / "conf.d", {})
    listen = settings.ingest.listen[0] if key == "ingest" else settings.dashboard.listen
    assert socket["ListenStream"] == [listen]
    assert socket["FileDescriptorName"] == [key]
    assert key in SOCKET_NAMES
    assert socket["Service"] == ["pbus.service"]


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze")
def test_systemd_understands_the_units(tmp_path: Path) -> None:
    names = ["pbus.service", "pbus.socket", "pbus-dashboard.socket"]
    for name in names:
        text = (CONTRIB / "systemd" / name).read_text("utf-8").replace("/opt/pbus/bin/pbus", "/bin/true")
        (tmp_path / name).write_text(text)
    answer = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *(str(tmp_path / name) for name in names)],
        capture_output=True, text=True, timeout=15,
    )
    assert [line for line in answer.stderr.splitlines() if "pbus" in line] == []


# -- logrotate --------------------------------------------------------------------------------


def test_logrotate_reopens_and_never_truncates() -> None:
    text = (CONTRIB / "logrotate/pbus").read_text("utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert f'kill -USR1 "$(cat {SYSTEM_WIDE["run_dir"]}/{PID_FILE})"' in "\n".join(lines)
    assert not any("copytruncate" in line for line in lines)
    assert f"{SYSTEM_WIDE['log_dir']}/*.log {SYSTEM_WIDE['log_dir']}/topic/*.log {{" in lines


@pytest.mark.skipif(not shutil.which("logrotate", path="/usr/sbin:/usr/bin"), reason="no logrotate")
def test_logrotate_understands_the_file(tmp_path: Path) -> None:
    copy = tmp_path / "pbus"
    copy.write_text((CONTRIB / "logrotate/pbus").read_text("utf-8").replace("su pbus pbus", "su root root"))
    copy.chmod(0o644)
    answer = subprocess.run(
        ["/usr/sbin/logrotate", "-d", "-s", str(tmp_path / "state"), str(copy)],
        capture_output=True, text=True, timeout=15,
    )
    assert answer.returncode == 0
    assert "error" not in answer.stderr


# -- containers -------------------------------------------------------------------------------


def instructions() -> list[tuple[str, str]]:
    """Of the Dockerfile: word, rest."""
    text = (CONTRIB / "docker/Dockerfile").read_text("utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.partition(" ")[0], line.partition(" ")[2].strip()) for line in lines]


def test_dockerfile_copies_what_exists_from_official_images() -> None:
    for word, rest in instructions():
        if word == "FROM":
            assert IMAGES.fullmatch(rest.partition(" AS ")[0])
        if word == "COPY" and not rest.startswith("--from="):
            *sources, _ = rest.split()
            assert [source for source in sources if not (ROOT / source).exists()] == []
    sources = {path for word, rest in instructions() if word == "COPY" for path in rest.split()}
    assert {"setup.py", "pyproject.toml", "pbus", "man"} <= sources, "what an installation is made of"


def test_container_runs_pbus_itself_as_nobody_special() -> None:
    said = dict(instructions())
    understood(json.loads(said["CMD"]))
    assert json.loads(said["ENTRYPOINT"]) == ["pbus"], "exec form: process 1 is pbus, no shell before it"
    assert said["USER"].partition(":")[0] not in ("root", "0", "")
    assert said["STOPSIGNAL"] == "SIGTERM"
    check = json.loads(said["HEALTHCHECK"].partition("CMD ")[2])
    understood([check[-1].split()[1]])
    assert str(int(Exit.DEGRADED)) in check[-1]
    assert {str(port) for port in ports(configuration(CONTRIB / "docker/conf.d", {"GIFT_PASSWORD": "x"}))} == set(
        said["EXPOSE"].split()
    )


def ports(settings: Settings) -> set[int]:
    return {address(text).port for text in (*settings.ingest.listen, settings.dashboard.listen)}


def test_compose_wires_services_files_and_ports_that_exist() -> None:
    services = COMPOSE["services"]
    settings = configuration(CONTRIB / "docker/conf.d", {"GIFT_PASSWORD": "x"})
    for service in services.values():
        assert "build" in service or IMAGES.fullmatch(service["image"])
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            assert (CONTRIB / "docker" / source).exists() if source.startswith(".") else source in COMPOSE["volumes"]
    assert (CONTRIB / "docker" / services["bus"]["build"]["context"]).resolve() == ROOT
    assert (ROOT / services["bus"]["build"]["dockerfile"]).exists()
    assert {int(port.rpartition(":")[2]) for port in services["bus"]["ports"]} == ports(settings)
    assert float(services["bus"]["stop_grace_period"].rstrip("s")) > settings.node.grace_s + 5
    assert set(services["bus"]["environment"]) == {"GIFT_PASSWORD"}
    hosts = {where.partition(":")[0] for backend in settings.backend.values() for where in backend.fastcgi}
    assert hosts <= set(services)
    assert "redis://redis:" in settings.storage["main"].url
    assert "noeviction" in services["redis"]["command"]
    script = settings.queue["gift"].topic["credit"].fastcgi
    assert script is not None
    assert script.script.startswith("/srv/gift/")
    assert (CONTRIB / "docker/php" / Path(script.script).name).exists()


def test_kubernetes_configuration_is_valid_in_its_pod(tmp_path: Path) -> None:
    mounts = {mount["name"]: mount["mountPath"] for mount in POD["containers"][0]["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in POD["volumes"]}
    assert set(mounts) | {"php"} == set(volumes)
    text = document("ConfigMap")["data"]["pbus.toml"]
    secrets = document("Secret")["stringData"]
    for name, value in secrets.items():
        (tmp_path / name).write_text(value)
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d/pbus.toml").write_text(text.replace(mounts["secrets"], str(tmp_path)))
    settings = configuration(tmp_path / "conf.d", {})
    assert settings.queue["gift"].password == secrets["gift"]
    assert settings.node.run_dir.startswith(mounts["run"] + "/"), "pbus makes it itself: an emptyDir is somebody else's"
    assert volumes["conf"]["configMap"]["name"] == volumes["secrets"]["secret"]["secretName"] == "pbus"
    assert "log_dir" in tomllib.loads(text)["node"]
    script = settings.queue["gift"].topic["credit"].fastcgi
    assert script is not None
    php = document("ConfigMap", volumes["php"]["configMap"]["name"])
    mount = POD["initContainers"][0]["volumeMounts"][0]["mountPath"]
    assert script.script.removeprefix(mount + "/") in php["data"]


def test_kubernetes_asks_health_endpoints_that_exist_and_waits_for_the_drain() -> None:
    (bus,) = POD["containers"]
    named = {port["name"]: port["containerPort"] for port in bus["ports"]}
    assert named == {port["name"]: port["port"] for port in document("Service")["spec"]["ports"]}
    probes = {kind: bus[f"{kind}Probe"] for kind in ("startup", "liveness", "readiness")}
    for kind, path in (("startup", "livez"), ("liveness", "livez"), ("readiness", "readyz")):
        assert probes[kind]["httpGet"] == {"path": f"/-/{path}", "port": "dashboard"}
        assert f'"/-/{path}"' in HEALTH
        assert probes[kind]["timeoutSeconds"] > 5, "a question about stores waits for 5 s"
    assert named["dashboard"] == 19840
    pause_s = float(bus["lifecycle"]["preStop"]["exec"]["command"][1])
    assert POD["terminationGracePeriodSeconds"] > pause_s + GRACE_S + 5
    labels = document("StatefulSet")["spec"]["template"]["metadata"]["labels"]
    assert document("Service")["spec"]["selector"] == labels
    assert document("PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == labels
    assert POD["initContainers"][0]["restartPolicy"] == "Always", "php-fpm ends after pbus"
    assert all(IMAGES.fullmatch(each["image"]) for each in (bus, *POD["initContainers"]))
    assert str(POD["securityContext"]["runAsUser"]) == dict(instructions())["USER"].partition(":")[0]
