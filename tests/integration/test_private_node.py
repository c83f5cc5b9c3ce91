"""A private node, its declared state, and the command that keeps it: a real RabbitMQ."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pika
import pytest
from pika import exceptions

from broker_config.broker import revocation
from broker_config.broker.management_api import Management
from broker_config.broker.upgrade_hazards import hazards
from broker_config.cli import main
from broker_config.declaration.topology import Federation, Fleet
from broker_config.node import lifecycle as private
from broker_config.node.install import ensure_server
from broker_config.node.ports import is_free
from broker_config.node.processes import is_ours, wait_for
from broker_config.node.record import Node
from broker_config.secrets.bundles import load_passwords
from broker_config.secrets.keys import ensure_keys
from coordinator_worker.trust.enrolment import EnrolmentReader
from tests.support.inside import evaluate
from tests.support.pace import allow
from warren_shared.amqp.address import diagnose
from warren_shared.errors import BrokerConfigError
from warren_shared.naming import ENROLLED_QUEUE
from warren_shared.tls import Broker

FEDERATION = Federation(fleets=(Fleet("client", 3),), model_bytes=1 << 20)
IPV6_LOOPBACK = f"{1 << 24:032X}"  # epmd takes it beside the one it is told


@pytest.fixture(autouse=True)
def no_broker_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("WARREN_")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, seen: Callable[[Node], Node]) -> Iterator[Node]:
    home = tmp_path_factory.mktemp("a home with spaces")
    try:
        yield seen(private.up(home, FEDERATION))
    finally:
        private.down(home)


@pytest.fixture
def management(node: Node) -> Iterator[Management]:
    with Management(node.management_url()) as connection:
        yield connection


@pytest.fixture
def run(node: Node, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    def command(*words: str) -> tuple[int, str]:
        capsys.readouterr()
        code = main([words[0], "--home", str(node.home), *words[1:]])
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return command


def test_up_twice_is_the_same_node(node: Node) -> None:
    assert private.up(node.home, FEDERATION) == node
    assert private.pid(node.home) == node.pid


def test_check_names_the_feature_flags_that_are_off_until_they_are_on(tmp_path: Path) -> None:
    """As on a broker that was upgraded and left at that."""
    (tmp_path / "node").mkdir()
    forced = "[{rabbit, [{forced_feature_flags_on_init, [quorum_queue, user_limits]}]}]."
    (tmp_path / "node" / "advanced.config").write_text(forced)
    try:
        started = private.up(tmp_path, FEDERATION)
        with started.manage() as management:
            (said,) = hazards(FEDERATION.name, management)
            assert said.kind == "feature flag"
            assert main(["check", "--home", str(tmp_path)]) == 1
            for flag in said.name.split(", "):
                management.put("feature-flags", flag, "enable", body={"name": flag})
            assert not hazards(FEDERATION.name, management)
        assert main(["check", "--home", str(tmp_path)]) == 0
    finally:
        private.down(tmp_path)


def test_status_is_a_table_of_where_the_node_answers(
    node: Node, run: Callable[..., tuple[int, str]]
) -> None:
    code, table = run("status")
    assert code == 0
    assert f"127.0.0.1:{node.ports.amqp}" in table
    assert f"127.0.0.1:{node.ports.management}" in table
    assert "credentials.json" in table
    code, line = run("status", "--json")
    told = json.loads(line)
    assert (code, told["running"], told["broker"]) == (0, True, node.address.amqp)
    assert [each["pid"] for each in told["nodes"]] == [node.pid]


def test_a_node_that_has_just_booted_is_as_declared(run: Callable[..., tuple[int, str]]) -> None:
    assert run("check") == (0, "")


def listened_on(*ports: int) -> set[str]:
    """Addresses, as the kernel writes them, on which somebody listens at ``ports``."""
    hosts = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            host, _, port = local.rpartition(":")
            if state == "0A" and int(port, 16) in ports:
                hosts.add(host)
    return hosts


def test_only_the_loopback_address_is_listened_on(node: Node) -> None:
    ports = node.ports
    assert listened_on(ports.amqp, ports.management, ports.distribution) == {"0100007F"}
    assert listened_on(ports.epmd) <= {"0100007F", IPV6_LOOPBACK}


def test_a_host_lets_other_machines_in_by_amqp_alone(tmp_path: Path) -> None:
    try:
        node = private.up(tmp_path, FEDERATION, tls="tls", host="broker.example")
        ports = node.ports
        everywhere = listened_on(ports.amqp)
        assert everywhere  # of IPv4, IPv6 or both
        assert everywhere <= {"00000000", "0" * 32}
        assert listened_on(ports.management, ports.distribution) == {"0100007F"}
        assert listened_on(ports.epmd) <= {"0100007F", IPV6_LOOPBACK}
        bundle = (tmp_path / "bundles" / "client.env").read_text()
        assert f"@broker.example:{ports.amqp}/warren" in bundle
        assert main(["check", "--home", str(tmp_path)]) == 0
        with pytest.raises(BrokerConfigError, match="is running as broker"):
            private.up(tmp_path, FEDERATION, host="elsewhere.example")
        private.down(tmp_path)
        assert private.up(tmp_path, FEDERATION).address == node.address  # remembered
        private.down(tmp_path)
        node = private.up(tmp_path, FEDERATION, host="")
        assert listened_on(node.ports.amqp) == {"0100007F"}
        assert "@127.0.0.1:" in (tmp_path / "bundles" / "client.env").read_text()
    finally:
        private.down(tmp_path)


def test_a_host_without_encryption_has_to_be_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["up", "--home", str(tmp_path), "--host", "broker.example"]) == 1
    assert "add --tls or --mutual-tls (or --no-tls" in capsys.readouterr().err
    assert not (tmp_path / "node.json").exists()


@pytest.mark.parametrize("host", ["broker.example:5671", "amqps://broker.example", "two words", ""])
def test_a_host_that_is_none_is_refused(host: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["up", "--host", host]) == 2
    assert "no host name or address" in capsys.readouterr().err


def test_a_deleted_binding_is_named_and_mended(
    management: Management, run: Callable[..., tuple[int, str]]
) -> None:
    management.delete("bindings", "warren", "e", "model", "q", "model.client.1", "~")
    assert run("check") == (1, "binding model -> model.client.1: missing\n")
    code, line = run("check", "--json")
    difference = {"kind": "binding", "name": "model -> model.client.1", "detail": "missing"}
    assert (code, json.loads(line)) == (1, difference)
    assert run("apply")[0] == 0
    assert run("check") == (0, "")
    assert run("check", "--json") == (0, "")


def test_a_changed_policy_is_named_and_mended(
    management: Management, run: Callable[..., tuple[int, str]]
) -> None:
    body = {"pattern": "^model\\.", "definition": {"max-length": 1}, "apply-to": "queues"}
    management.put("policies", "warren", "mailbox", body=body)
    code, told = run("check")
    assert code == 1
    assert "policy mailbox: max-length is 1, declared 9" in told
    assert run("apply")[0] == 0
    assert run("check") == (0, "")


def test_lost_permissions_and_users_are_named_and_mended(
    management: Management, run: Callable[..., tuple[int, str]]
) -> None:
    management.delete("permissions", "warren", "watcher")
    management.delete("users", "client")
    assert run("check") == (1, "permission watcher: missing\nuser client: missing\n")
    assert run("apply")[0] == 0
    assert run("check") == (0, "")


def test_a_queue_with_other_arguments_stops_apply_before_it_changes_anything(
    management: Management, run: Callable[..., tuple[int, str]]
) -> None:
    management.delete("queues", "warren", "update.rejected")
    management.put("queues", "warren", "update.rejected", body={"arguments": {"x-max-length": 5}})
    management.delete("policies", "warren", "rejected")
    code, told = run("apply")
    assert code == 1
    assert "queue update.rejected: x-max-length is 5, declared None" in told
    assert "delete that queue" in told
    assert management.get("policies", "warren", "rejected") is None
    management.delete("queues", "warren", "update.rejected")
    assert run("apply")[0] == 0
    assert run("check") == (0, "")


def test_another_password_on_the_broker_is_only_replaced_when_told(
    management: Management, run: Callable[..., tuple[int, str]]
) -> None:
    management.put("users", "client", body={"password": "another", "tags": ""})
    code, told = run("apply")
    assert code == 1
    assert "another password for client" in told
    assert run("apply", "--reset-passwords")[0] == 0
    assert run("apply")[0] == 0


def test_enrolling_adds_a_client_that_is_remembered(
    node: Node, management: Management, run: Callable[..., tuple[int, str]]
) -> None:
    code, told = run("enrol", "hospital-a")
    bundle = node.home / "bundles" / "hospital-a.env"
    assert code == 0
    assert str(bundle) in told
    assert bundle.read_text().splitlines() == [
        f"WARREN_BROKER_URL={node.broker_url('hospital-a')}",
        "WARREN_CLIENT=hospital-a",
        f"WARREN_VERIFY_KEYS={','.join(ensure_keys(node.home).verify)}",
    ]
    assert management.get("queues", "warren", "model.hospital-a") is not None
    assert run("up")[0] == 0
    assert management.get("users", "hospital-a") is not None
    assert run("check") == (0, "")


def test_the_coordinator_finds_who_is_enrolled_and_a_reader_takes_nothing_away(
    node: Node, management: Management, run: Callable[..., tuple[int, str]]
) -> None:
    assert run("enrol", "hospital-z", "--fleet", "phone:2")[0] == 0
    broker = Broker(node.broker_url("coordinator"))
    for _ in range(2):
        found = EnrolmentReader(broker, "test").look()
        assert found is not None
        assert found.has("hospital-z")
        assert found.fleets["phone"] == 2
    assert run("revoke", "hospital-z", "phone")[0] == 0
    after = EnrolmentReader(broker, "test").look()
    assert after is not None
    assert not after.has("hospital-z")
    assert not after.has("phone.0")
    management.delete("queues", "warren", ENROLLED_QUEUE)
    assert EnrolmentReader(broker, "test").look() is None, "as on a broker of an older version"
    assert run("apply")[0] == 0
    assert EnrolmentReader(broker, "test").look() == after


def opened(url: str) -> pika.BlockingConnection:
    return pika.BlockingConnection(pika.URLParameters(url))


def test_revoking_ends_what_is_open_and_leaves_nothing_on_the_broker(
    node: Node, management: Management, run: Callable[..., tuple[int, str]]
) -> None:
    assert run("enrol", "thief", "honest")[0] == 0
    stolen, other = opened(node.broker_url("thief")), opened(node.broker_url("honest"))
    url = node.broker_url("thief")
    assert run("revoke", "thief")[0] == 0
    with pytest.raises(exceptions.ConnectionClosedByBroker):
        stolen.process_data_events(time_limit=5)
    with pytest.raises(exceptions.ProbableAuthenticationError):
        opened(url)
    other.process_data_events(time_limit=0.1)
    other.close()
    assert management.get("users", "thief") is None
    assert management.get("queues", "warren", "model.thief") is None
    assert management.get("queues", "warren", "model.honest") is not None
    assert "thief" not in load_passwords(node.home)
    assert not (node.home / "bundles" / "thief.env").exists()
    assert run("check") == (0, "")
    assert run("revoke", "honest")[0] == 0


class Racing(Management):
    """Answers as RabbitMQ does when a connection ends by itself just before it is to be closed."""

    failures = 1

    def delete(self, *path: str) -> None:
        if path[0] == "connections" and self.failures:
            self.failures -= 1
            raise BrokerConfigError("answered DELETE connections with 500: Internal Server Error")
        super().delete(*path)


def test_a_connection_that_ends_while_it_is_closed_stops_no_revocation(
    node: Node, management: Management, run: Callable[..., tuple[int, str]]
) -> None:
    assert run("enrol", "thief")[0] == 0
    stolen = opened(node.broker_url("thief"))
    with Racing(node.management_url()) as racing:
        revocation.revoke("warren", "thief", racing)
        assert not racing.failures
    with pytest.raises(exceptions.ConnectionClosedByBroker):
        stolen.process_data_events(time_limit=5)
    assert management.get("queues", "warren", "model.thief") is None
    assert run("revoke", "thief")[0] == 0  # what was interrupted can be done again


def test_revoking_a_fleet_deletes_all_its_mailboxes_and_no_others(
    management: Management, run: Callable[..., tuple[int, str]]
) -> None:
    assert run("enrol", "phone-2", "--fleet", "phone:2")[0] == 0
    assert run("revoke", "phone")[0] == 0
    queues = {row["name"] for row in management.get("queues", "warren")}
    assert "model.phone-2" in queues
    assert not [queue for queue in queues if queue.startswith("model.phone.")]
    assert run("revoke", "phone-2")[0] == 0


def test_who_is_not_enrolled_cannot_be_revoked(run: Callable[..., tuple[int, str]]) -> None:
    code, told = run("revoke", "nobody")
    assert code == 1
    assert "'nobody' is not enrolled" in told
    assert run("revoke", "coordinator")[0] == 1


def test_a_rotated_password_ends_what_the_old_one_opened(
    node: Node, run: Callable[..., tuple[int, str]]
) -> None:
    old = node.broker_url("client")
    connection = opened(old)
    assert run("rotate", "client")[0] == 0
    with pytest.raises(exceptions.ConnectionClosedByBroker):
        connection.process_data_events(time_limit=5)
    with pytest.raises(exceptions.ProbableAuthenticationError):
        opened(old)
    new = node.broker_url("client")
    assert new in (node.home / "bundles" / "client.env").read_text()
    opened(new).close()
    assert run("check") == (0, "")


def test_rotated_keys_leave_the_last_ones_good_once(
    node: Node, run: Callable[..., tuple[int, str]]
) -> None:
    first = ensure_keys(node.home)
    assert run("rotate", "--keys")[0] == 0
    second = ensure_keys(node.home)
    assert second.signing[1:] == first.signing[:1]
    assert second.decrypt[1:] == first.decrypt[:1]
    assert second.signing[0] in (node.home / "bundles" / "coordinator.env").read_text()
    assert ",".join(second.verify) in (node.home / "bundles" / "client.env").read_text()
    assert run("rotate", "--keys")[0] == 0
    assert first.signing[0] not in ensure_keys(node.home).signing


def test_a_user_has_no_more_connections_than_its_limit(
    node: Node, run: Callable[..., tuple[int, str]]
) -> None:
    assert run("enrol", "greedy")[0] == 0
    url = node.broker_url("greedy")
    held = [opened(url) for _ in range(8)]
    with pytest.raises(exceptions.ProbableAccessDeniedError, match="limit") as refused:
        opened(url)
    error, final = diagnose(refused.value, "it")
    assert "too many connections" in str(error)
    assert not final  # those of a line that broke are given up in a minute or two
    for connection in held:
        connection.close()


def test_only_the_owner_can_read_bundles_and_credentials(node: Node) -> None:
    secret = [
        node.home / "credentials.json",
        node.home / "keys.json",
        *(node.home / "bundles").iterdir(),
    ]
    assert len(secret) >= 5
    assert {stat.S_IMODE(path.stat().st_mode) for path in secret} == {0o600}


def test_no_password_is_in_a_log_or_the_process_list(node: Node) -> None:
    logs = [path for path in (node.folder / "log").iterdir() if path.is_file()]
    text = "".join(path.read_text(errors="replace") for path in logs)
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text += process.read_bytes().decode(errors="replace")
        except OSError:
            continue  # It ended meanwhile.
    cookie = (node.folder / ".erlang.cookie").read_text()
    keys = ensure_keys(node.home)
    secrets = [*load_passwords(node.home).values(), cookie, *keys.signing, *keys.decrypt]
    assert len(secrets) >= 7
    assert not [secret for secret in secrets if secret in text]


def test_a_running_node_does_not_move_to_another_port(
    node: Node, run: Callable[..., tuple[int, str]]
) -> None:
    code, told = run("up", "--port", str(node.ports.management))
    assert code == 1
    assert "broker-config down" in told


def test_a_password_on_the_command_line_is_refused(run: Callable[..., tuple[int, str]]) -> None:
    code, told = run("check", "--management-url", "http://admin:secret@127.0.0.1:15672")
    assert code == 1
    assert "WARREN_MANAGEMENT_PASSWORD" in told
    assert "secret@" not in told


def test_a_wrong_login_is_one_clear_line(
    node: Node, monkeypatch: pytest.MonkeyPatch, run: Callable[..., tuple[int, str]]
) -> None:
    url = f"http://admin:wrong@127.0.0.1:{node.ports.management}"
    monkeypatch.setenv("WARREN_MANAGEMENT_URL", url)
    code, told = run("check")
    assert code == 1
    assert told.count("\n") == 1
    assert "refuses user 'admin'" in told
    assert "wrong" not in told


def test_an_operators_own_broker_is_brought_to_the_declared_state(
    node: Node,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    home = str(tmp_path / "home")
    monkeypatch.setenv("WARREN_MANAGEMENT_URL", node.management_url())
    words = ["--home", home, "--federation", "other", "--client", "clinic"]
    # Its coordinator is a user of the same broker, of which this home does not know the password.
    assert main(["apply", *words]) == 1
    assert "another password for coordinator" in capsys.readouterr().err
    credentials = {"coordinator": load_passwords(node.home)["coordinator"]}
    credentials["watcher"] = load_passwords(node.home)["watcher"]
    (tmp_path / "home" / "credentials.json").write_text(json.dumps(credentials))
    assert main(["apply", *words, "--amqp-address", "amqps://broker.example:5671"]) == 0
    assert main(["check", "--home", home]) == 0
    bundle = (tmp_path / "home" / "bundles" / "clinic.env").read_text()
    assert "@broker.example:5671/other\n" in bundle
    assert not (tmp_path / "home" / "bundles" / "admin.env").exists()


def test_a_requested_port_in_use_is_one_clear_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        code = main(["up", "--home", str(tmp_path), "--port", str(port)])
    told = capsys.readouterr().err
    assert code == 1
    assert told.count("\n") == 1
    assert f"amqp port {port} is in use" in told
    assert private.pid(tmp_path) is None
    assert not (tmp_path / "node").exists()


def test_a_node_that_cannot_start_says_why_and_leaves_nothing_running(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "rabbitmq-server"
    script.write_text("#!/bin/sh\necho 'Error: no such luck'\nexit 1\n")
    script.chmod(0o755)
    home = tmp_path / "home"
    code = main(["up", "--home", str(home), "--server", str(script)])
    private.down(home)
    assert code == 1
    assert "Error: no such luck" in capsys.readouterr().err
    remembered = json.loads((home / "node.json").read_text())
    assert remembered["pid"] == remembered["epmd_pid"] == 0
    assert is_free(remembered["ports"]["epmd"])


def test_a_node_whose_data_another_version_made_says_so(tmp_path: Path) -> None:
    """What RabbitMQ 4.0 says over data of 3.10; both are more than a test run has."""
    script = tmp_path / "rabbitmq-server"
    script.write_text(
        "#!/bin/sh\n"
        "echo ' Starting RabbitMQ 3.10.8 on Erlang 25.2.3' >>$RABBITMQ_LOGS\n"
        "echo '   [x] classic_mirrored_queue_version'\n"
        "echo 'Error during startup: {error,failed_to_initialize_feature_flags_registry}'\n"
    )
    script.chmod(0o755)
    with pytest.raises(BrokerConfigError) as refused:
        private.up(tmp_path / "home", FEDERATION, server=script)
    told = str(refused.value)
    assert told.startswith("RabbitMQ did not start: Error during startup")
    assert f"are of RabbitMQ 3.10.8: end the training with that, then move {tmp_path}" in told


# What the RabbitMQ 3.10.8 of a cluster says when two of its nodes boot at the same moment.
_DISTURBED = """BOOT FAILED
===========
Error during startup: {error,
                       {incompatible_feature_flags,
                        {badrpc,
                         {'EXIT',
                          {{badmap,undefined},
"""


@pytest.mark.parametrize("failures", [2, 3])
def test_a_node_that_another_one_disturbed_is_started_again(tmp_path: Path, failures: int) -> None:
    script, starts = tmp_path / "rabbitmq-server", tmp_path / "starts"
    real = ensure_server(tmp_path / "install.log", None)
    script.write_text(
        f"#!/bin/sh\necho >> {starts}\n[ $(wc -l < {starts}) -gt {failures} ] && exec {real}\n"
        f"cat <<'END'\n{_DISTURBED}END\nexit 1\n"
    )
    script.chmod(0o755)
    home = tmp_path / "home"
    try:
        if failures == 2:
            assert private.up(home, FEDERATION, server=script).pid == private.pid(home)
        else:
            with pytest.raises(BrokerConfigError, match=r"\{error, \{incompatible_feature_flags"):
                private.up(home, FEDERATION, server=script)
        assert len(starts.read_text().splitlines()) == 3
    finally:
        private.down(home)
    assert not private.status(home).running


def test_commands_without_a_node_say_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("apply", "check"):
        assert main([command, "--home", str(tmp_path)]) == 1
        assert "broker-config up" in capsys.readouterr().err
    assert main(["status", "--home", str(tmp_path)]) == 1
    assert main(["down", "--home", str(tmp_path)]) == 0


def test_a_killed_node_comes_back_where_it_was_and_down_ends_all_of_it(node: Node) -> None:
    os.kill(node.pid, signal.SIGKILL)
    assert wait_for(lambda: private.pid(node.home) is None, 10.0)
    again = private.up(node.home, FEDERATION.enrolling(["hospital-a"]))
    assert (again.name, again.ports) == (node.name, node.ports)
    assert private.down(node.home)
    assert not private.down(node.home)
    assert not private.status(node.home).running
    assert is_free(node.ports.amqp)
    assert is_free(node.ports.epmd)
    listed = subprocess.run(["ps", "-eo", "stat,args"], capture_output=True, text=True, check=True)
    alive = [line for line in listed.stdout.splitlines() if not line.startswith("Z")]
    assert not [line for line in alive if node.name in line or str(node.home) in line]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_while_a_node_is_stopped_leaves_nothing_of_it(
    tmp_path: Path, number: signal.Signals
) -> None:
    started = private.up(tmp_path, Federation(fleets=()))
    program = textwrap.dedent(
        f"""
        import os
        from pathlib import Path
        from broker_config.node import boot, lifecycle
        stop = boot.ask_to_stop

        def interrupted(running):
            os.kill(os.getpid(), {int(number)})
            stop(running)

        boot.ask_to_stop = interrupted
        lifecycle.down(Path({str(tmp_path)!r}))
        print("went on")
        """
    )
    try:
        ended = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True)
        assert ended.returncode == -number, ended.stderr.decode()
        assert b"went on" not in ended.stdout
        assert not started.running
        assert not is_ours(started.epmd_pid, str(started.folder))
    finally:
        private.down(tmp_path)


def test_a_report_about_a_large_message_is_cut_short(node: Node) -> None:
    """RabbitMQ would write out the whole message, and do nothing else for minutes."""
    report = "[[binary:copy(<<X>>,1000000)||X<-lists:seq(1,50)]]"
    running = private.up(node.home, FEDERATION)  # another process than at the beginning, perhaps
    begin = time.monotonic()
    evaluate(running, f'error_logger:error_msg("** Channel ~tp terminating", {report})')
    assert time.monotonic() - begin < allow(10)
    assert wait_for(lambda: "** Channel" in node.log.read_text(), 10.0)
    assert len(node.log.read_text()) < 1_000_000
