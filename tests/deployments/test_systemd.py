"""The units of `install`, run by systemd itself against a broker of the same machine."""

import json
from collections.abc import Iterator

import pytest

from tests.deployments.systemd import SystemdMachine, systemd_machine

HOME = "/var/lib/warren-broker"
ENVIRONMENT = "/opt/warren/.venv/bin"
TASK = "warren_examples.breast_cancer.task:clinic"
SETTINGS = f"""
[coordinator]
quorum = 2
metrics-port = 9464
evaluate = "{ENVIRONMENT}/client-worker evaluate --task {TASK} --model"

[client.task]
task = "{TASK}"
"""
UNITS = ("client-worker@1", "client-worker@2")


@pytest.fixture(scope="module")
def machine() -> Iterator[SystemdMachine]:
    with systemd_machine() as found:
        sites = ("--fleet", "client:4", "--client", "hospital-a")
        found.run("broker-config", "up", "--home", HOME, *sites)
        for name in ("coordinator", "client"):
            bundle = f"{HOME}/bundles/{name}.env"
            found.run("install", "-D", "-m", "600", bundle, f"/etc/warren/{name}.env")
        bundle = f"{HOME}/bundles/hospital-a.env"
        found.run("install", "-m", "600", bundle, "/etc/warren/client-hospital-a.env")
        found.write("/etc/warren/warren.toml", SETTINGS)
        for program in ("coordinator-worker", "client-worker"):
            found.run(program, "install")
        found.run("systemctl", "daemon-reload")
        found.run("systemctl", "start", "coordinator-worker", *UNITS)
        yield found


def test_the_coordinators_unit_starts_at_once_and_goes_on(machine: SystemdMachine) -> None:
    told = machine.shows("coordinator-worker", "ActiveState", "NRestarts", "Result")
    assert told == {"ActiveState": "active", "NRestarts": "0", "Result": "success"}
    machine.wait_for("coordinator-worker", "version 2 is published")


def test_what_the_evaluating_program_finds_is_in_the_history(machine: SystemdMachine) -> None:
    machine.wait_for("coordinator-worker", "version 3 is published")
    folder = "/var/lib/private/warren-coordinator"
    for _ in range(60):
        told = machine.run("coordinator-worker", "history", "--json", "--checkpoint-dir", folder)
        if "evaluated" in told:
            break
        machine.run("sleep", "1")
    assert "not_evaluated" not in machine.journal("coordinator-worker")
    found = [record["evaluated"] for record in map(json.loads, told.splitlines())
             if record.get("evaluated")]  # fmt: skip
    assert found
    assert 0 < found[0]["loss"] < 10


def test_the_memory_panel_has_its_figures(machine: SystemdMachine) -> None:
    told = machine.run("curl", "-sS", "http://127.0.0.1:9464/metrics")
    lines = dict(line.rsplit(" ", 1) for line in told.splitlines() if not line.startswith("#"))
    assert float(lines["process_resident_memory_bytes"]) > 20 << 20
    assert float(lines["process_start_time_seconds"]) > 1e9


def test_a_fleet_and_a_site_run_on_one_machine(machine: SystemdMachine) -> None:
    machine.run("systemctl", "start", "client-worker@hospital-a")
    said = machine.wait_for("client-worker@hospital-a", "connected to the broker")
    assert "as 'hospital-a'" in said
    assert "as 'client'" in machine.journal(UNITS[0])
    machine.run("systemctl", "stop", "client-worker@hospital-a")


def test_what_debian_enables_is_taken_out_of_the_next_boot(machine: SystemdMachine) -> None:
    units = ("rabbitmq-server.service", "epmd.socket")
    for unit in units:
        machine.run("systemctl", "enable", unit)
    check = ("broker-config", "check", "--home", HOME)
    assert "Debian's rabbitmq-server is enabled" in machine.run(*check)
    program = (
        "import sys\n"
        "from broker_config.node.install import keep_from_booting\n"
        "keep_from_booting([], sys.stdout.buffer)\n"
    )
    machine.run("/opt/warren/.venv/bin/python", "-c", program)
    for unit in units:
        assert machine.run("systemctl", "is-enabled", unit, check=False).strip() == "disabled"
    assert machine.run(*check) == ""


def test_the_journal_knows_what_is_a_warning(machine: SystemdMachine) -> None:
    words = ("journalctl", "--no-pager", "--output=json", "--unit", "coordinator-worker")
    lines = [json.loads(line) for line in machine.run(*words).splitlines()]
    ours = [line for line in lines if line.get("_TRANSPORT") == "stdout"]
    assert {line["PRIORITY"] for line in ours if "connected to" in line["MESSAGE"]} == {"6"}
    assert not [line for line in ours if line["MESSAGE"].startswith("<")]


def test_nothing_that_a_worker_does_is_forbidden_to_it(machine: SystemdMachine) -> None:
    for unit in ("coordinator-worker", *UNITS):
        said = machine.journal(unit)
        assert "SYS" not in said
        assert "Operation not permitted" not in said


def test_who_is_stopped_in_an_unfinished_run_has_not_failed(machine: SystemdMachine) -> None:
    machine.run("systemctl", "stop", "coordinator-worker", *UNITS)
    for unit in ("coordinator-worker", *UNITS):
        said = machine.journal(unit)  # a unit that has ended is unloaded, and its properties go
        assert f"{unit}.service: Deactivated successfully" in said
        assert "Failed with result" not in said
