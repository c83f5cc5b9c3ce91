"""docker-compose.yml agrees with the declaration."""

import os
import re
import shlex
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from broker_config.cli import main
from broker_config.declaration.topology import Federation, topology
from broker_config.options import fleet
from broker_config.secrets.bundles import Address, bundle_path, write_bundles
from broker_config.secrets.keys import ensure_keys
from coordinator_worker.settings import CoordinatorSettings
from tests.support.keeper import KEEPER

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())["services"]
    return found


def applied(services: dict[str, Any]) -> list[str]:
    """The `broker-config` command of setup's script."""
    script = services["setup"]["command"][-1]
    (line,) = [line for line in script.splitlines() if line.startswith("broker-config ")]
    return shlex.split(line)


@pytest.fixture(scope="module")
def federation(services: dict[str, Any]) -> Federation:
    command = applied(services)
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
    program, subcommand, *options = applied(services)
    assert program == "broker-config"
    with pytest.raises(SystemExit) as ended:
        main([subcommand, *options, "--help"])
    assert ended.value.code == 0
    assert "--fleet" in capsys.readouterr().out


@pytest.mark.parametrize("worker", ["coordinator", "client", "keeper"])
def test_workers_read_the_bundles_that_setup_writes(
    worker: str, services: dict[str, Any], federation: Federation
) -> None:
    home = Path(services["setup"]["environment"]["WARREN_HOME"])
    declared = topology(replace(federation, keeper=KEEPER if worker == "keeper" else ""))
    assert worker in {user.name for user in declared.users}
    assert f"bundles:{home}" in services["setup"]["volumes"]
    script = services["setup"]["command"][-1]
    assert bundle_path(Path(), worker).as_posix() in script
    (mount,) = [m for m in services[worker]["volumes"] if isinstance(m, dict)]
    assert (mount["source"], mount["read_only"]) == ("bundles", True)
    assert mount["volume"]["subpath"] == f"for/{worker}.env"
    assert option(services[worker], "env-file") == mount["target"]


def test_no_worker_sees_the_whole_volume_of_bundles_and_each_has_a_user_of_its_own(
    services: dict[str, Any],
) -> None:
    for worker in ("coordinator", "client", "keeper"):
        plain = [m for m in services[worker]["volumes"] if isinstance(m, str)]
        assert not [m for m in plain if m.startswith("bundles:")]
    script = services["setup"]["command"][-1]
    users = dict(re.findall(r"-o (\d+) bundles/(\w+)\.env", script))
    assert sorted(users.values()) == ["client", "coordinator", "keeper"]
    for number, worker in users.items():
        stage = stages()[services[worker].get("build", {"target": worker})["target"]]
        user = re.findall(r"^USER (\w+)$", stage, re.MULTILINE)[-1]
        assert f"--uid {number} {user}" in (ROOT / "Dockerfile").read_text()


def test_ending_it_needs_no_password_and_starting_it_does() -> None:
    assert ":?" not in "".join(re.findall(r"\$\{[^}]*\}", COMPOSE.read_text()))
    entry = yaml.safe_load(COMPOSE.read_text())["services"]["broker"]["entrypoint"]
    words = [word.replace("$$", "$") for word in entry]
    environment = {"PATH": os.environ["PATH"], "RABBITMQ_DEFAULT_PASS": ""}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "set WARREN_ADMIN_PASSWORD first\n")


def test_every_log_is_rotated(services: dict[str, Any]) -> None:
    for service in services.values():
        assert int(service["logging"]["options"]["max-file"]) > 1


def test_the_coordinators_metrics_can_be_reached_from_its_network(services: dict[str, Any]) -> None:
    assert services["coordinator"]["environment"]["WARREN_METRICS_ADDRESS"] == "0.0.0.0"  # noqa: S104
    port = CoordinatorSettings.model_fields["metrics_port"].default
    assert services["coordinator"]["expose"] == [str(port or 9464)]


def test_a_change_of_source_leaves_the_layer_of_tensorflow_as_it_is() -> None:
    layers = stages()["client-packages"]
    assert "pip install" in layers
    assert not re.search(r"^COPY .*(shared|client_worker|examples)", layers, re.MULTILINE)
    assert "pip install --no-deps ." in stages()["client"]
    command = [sys.executable, "deploy/requirements.py", "demo"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {"tensorflow", "scikit-learn", "pika"} <= {re.split("[>=<]", x)[0] for x in told.split()}


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
    for worker in ("coordinator", "client", "keeper"):
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


def stages() -> dict[str, str]:
    """The Dockerfile's stages by name."""
    found = re.split(r"^FROM ", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)[1:]
    return {stage.split("\n")[0].rpartition(" AS ")[2]: stage for stage in found}


def test_every_build_target_is_a_stage_that_does_not_run_as_root(services: dict[str, Any]) -> None:
    for service in services.values():
        if "build" in service:
            users = re.findall(r"^USER (\w+)$", stages()[service["build"]["target"]], re.M)
            assert users[-1] in ("warren", "client", "keeper")


def test_only_who_asks_for_a_keeper_gets_one(services: dict[str, Any]) -> None:
    profiles = {name: service.get("profiles") for name, service in services.items()}
    assert {name: each for name, each in profiles.items() if each} == {
        "keeper": ["keeper"],
        "keeper-keys": ["keeper-keys"],
    }
    keys, keeper = services["keeper-keys"], services["keeper"]
    assert keys["command"][:2] == ["keeper-worker", "keys"]
    assert option(keys, "state-dir") == option(keeper, "state-dir")
    assert f"keeper:{option(keeper, 'state-dir')}" in keeper["volumes"]
    assert keys["volumes"] == [f"keeper:{option(keeper, 'state-dir')}"]
    assert f"-m 0700 {option(keeper, 'state-dir')}\n" in stages()["keeper"]
