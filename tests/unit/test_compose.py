"""docker-compose.yml agrees with the declaration."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from broker_config.cli import main
from broker_config.credentials import Address, bundle_path, write_bundles
from broker_config.keys import ensure_keys
from broker_config.options import fleet
from broker_config.topology import Federation, topology

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())["services"]
    return found


@pytest.fixture(scope="module")
def federation(services: dict[str, Any]) -> Federation:
    command = services["setup"]["command"]
    return Federation(fleets=(fleet(command[command.index("--fleet") + 1]),))


def option(service: dict[str, Any], name: str) -> str:
    (value,) = [
        word.partition("=")[2] for word in service["command"] if word.startswith(f"--{name}=")
    ]
    return str(value)


def test_the_file_is_valid_compose() -> None:
    # The schema that check-jsonschema carries: there need be no Docker, and no network.
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*command, str(COMPOSE)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_setup_is_a_command_that_broker_config_knows(
    services: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    program, subcommand, *options = services["setup"]["command"]
    assert program == "broker-config"
    with pytest.raises(SystemExit) as ended:
        main([subcommand, *options, "--help"])
    assert ended.value.code == 0
    assert "--fleet" in capsys.readouterr().out


@pytest.mark.parametrize("worker", ["coordinator", "client"])
def test_workers_read_the_bundles_that_setup_writes(
    worker: str, services: dict[str, Any], federation: Federation
) -> None:
    home = Path(services["setup"]["environment"]["WARREN_HOME"])
    assert option(services[worker], "env-file") == str(bundle_path(home, worker))
    assert worker in {user.name for user in topology(federation).users}
    assert f"bundles:{home}" in services["setup"]["volumes"]
    assert f"bundles:{home}:ro" in services[worker]["volumes"]


def test_bundles_name_the_broker_service_and_its_port(
    services: dict[str, Any],
    federation: Federation,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    environment = services["setup"]["environment"]
    address = Address(environment["WARREN_AMQP_ADDRESS"], environment["WARREN_MANAGEMENT_URL"])
    home = tmp_path_factory.mktemp("home")
    (written,) = write_bundles(home, federation, address, {"client": "p/w"})
    assert written.read_text() == (
        "WARREN_BROKER_URL=amqp://client:p%2Fw@broker:5672/warren\nWARREN_FLEET=client\n"
        f"WARREN_VERIFY_KEYS={','.join(ensure_keys(home).verify)}\n"
    )
    assert {entry.rpartition(":")[2] for entry in services["broker"]["ports"]} == {"5672", "15672"}
    assert environment["WARREN_MANAGEMENT_URL"].endswith("@broker:15672")
    assert services["broker"]["environment"]["RABBITMQ_DEFAULT_USER"] == "admin"


def test_the_broker_listens_to_this_machine_only(services: dict[str, Any]) -> None:
    assert all(entry.startswith("127.0.0.1:") for entry in services["broker"]["ports"])
    assert not [name for name in services if name != "broker" and "ports" in services[name]]


def test_clients_can_be_scaled_and_at_once_reach_the_quorum(
    services: dict[str, Any], federation: Federation
) -> None:
    assert "container_name" not in services["client"]
    replicas = services["client"]["deploy"]["replicas"]
    quorum = int(option(services["coordinator"], "quorum"))
    assert quorum <= replicas <= federation.fleets[0].size


def test_every_service_has_a_healthcheck_and_workers_tell_when_they_are_ready(
    services: dict[str, Any], tmp_path: Path
) -> None:
    assert [name for name in services if "healthcheck" not in services[name]] == []
    for worker in ("coordinator", "client"):
        kind, command = services[worker]["healthcheck"]["test"]
        assert kind == "CMD-SHELL"
        file = tmp_path / "ready"
        check = command.replace("$$", "$").replace(
            option(services[worker], "ready-file"), str(file)
        )
        assert (
            subprocess.run(["sh", "-c", check], check=False, stderr=subprocess.DEVNULL).returncode
            == 1
        )
        file.touch()
        assert subprocess.run(["sh", "-c", check], check=False).returncode == 0
        os.utime(file, (0, time.time() - 300))  # a worker that hangs does not touch it
        assert subprocess.run(["sh", "-c", check], check=False).returncode == 1


def test_every_build_target_is_a_stage_that_does_not_run_as_root(services: dict[str, Any]) -> None:
    stages = re.split(r"^FROM ", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)[1:]
    named = {stage.split("\n")[0].rpartition(" AS ")[2]: stage for stage in stages}
    for service in services.values():
        if "build" in service:
            assert "USER warren" in named[service["build"]["target"]]
