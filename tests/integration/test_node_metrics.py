"""A private node's own metrics for Prometheus: only if asked for, and remembered."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import urllib3

from broker_config.cli import main
from broker_config.declaration.federation import Federation
from broker_config.node import lifecycle as private
from broker_config.node.ports import NO_PORT, Ports, settle
from broker_config.node.record import Node
from tests.support.ports import free_port
from warren_shared.errors import BrokerConfigError

FEDERATION = Federation(clients=("alfa",), fleets=())


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.delenv("WARREN_MANAGEMENT_URL", raising=False)
    folder = Path(tempfile.mkdtemp(prefix="warren-tests-"))
    yield folder
    private.down(folder)
    shutil.rmtree(folder)


def up(home: Path, seen: Callable[[Node], Node], port: int = 0) -> Node:
    return seen(private.up(home, FEDERATION, Ports(prometheus=port)))


def test_metrics_are_there_if_asked_for_again_after_a_restart_and_until_told_off(
    home: Path, seen: Callable[[Node], Node], capsys: pytest.CaptureFixture[str]
) -> None:
    node = up(home, seen)
    assert node.metrics_url is None
    port = free_port()
    with pytest.raises(BrokerConfigError, match=f"prometheus port none.*move it to {port}"):
        up(home, seen, port)
    private.down(home)

    node = up(home, seen, port)
    assert node.metrics_url == f"http://127.0.0.1:{port}/metrics"
    metrics = urllib3.request("GET", node.metrics_url).data.decode()
    assert "rabbitmq_alarms_memory_used_watermark 0" in metrics
    assert main(["status", "--home", str(home)]) == 0
    assert f"metrics        {node.metrics_url}\n" in capsys.readouterr().out
    assert up(home, seen).metrics_url == node.metrics_url
    with pytest.raises(BrokerConfigError, match=f"prometheus port {port}.*move it to none"):
        up(home, seen, NO_PORT)
    private.down(home)

    assert up(home, seen).metrics_url == node.metrics_url
    private.down(home)
    assert main(["up", "--home", str(home), "--prometheus-port", "off"]) == 0
    assert "metrics" not in capsys.readouterr().out
    assert up(home, seen).metrics_url is None


def test_no_port_is_chosen_for_metrics_that_nobody_asked_for() -> None:
    assert settle(Ports(), Ports()).prometheus == 0
    remembered = Ports(prometheus=free_port())
    assert settle(Ports(), remembered).prometheus == remembered.prometheus
    assert settle(Ports(prometheus=NO_PORT), remembered).prometheus == 0


def test_one_port_for_two_purposes_is_refused() -> None:
    port = free_port()
    with pytest.raises(BrokerConfigError, match="two purposes"):
        settle(Ports(amqp=port, prometheus=port), Ports())


def test_a_word_that_is_no_port_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main(["up", "--home", str(tmp_path), "--prometheus-port", "some"])
    except SystemExit as ended:
        code = int(str(ended.code))
    assert code
    assert "'some' is no port: 1 to 65535" in capsys.readouterr().err
