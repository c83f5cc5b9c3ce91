"""Documents that would lie if the code moved on without them."""

import re
import runpy
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path

import pytest

from broker_config.declaration.federation import Federation
from broker_config.declaration.topology import topology
from client_worker.settings import ClientSettings
from coordinator_worker.aggregation.aggregators import AGGREGATORS
from coordinator_worker.aggregation.optimizers import SERVER_OPTIMIZERS
from coordinator_worker.aggregation.schedules import SCHEDULES
from coordinator_worker.settings import CoordinatorSettings
from warren_shared.config.command_line import OTHERS
from warren_shared.config.settings import load
from warren_shared.protocol import messages

ROOT = Path(__file__).parents[2]
ARCHITECTURE = (ROOT / "docs/architecture.md").read_text()


def test_the_architecture_lists_every_object_on_the_broker() -> None:
    declared = topology(Federation(clients=("alfa",), fleets=()))
    for exchange in declared.exchanges:
        assert f"`{exchange.name}`" in ARCHITECTURE
    for queue in declared.queues:
        assert f"`{queue.name.replace('alfa', '<client>')}`" in ARCHITECTURE
    for policy in declared.policies:
        assert f"{policy.kind} `{policy.name}`" in ARCHITECTURE


def test_the_architecture_lists_every_kind_of_message() -> None:
    headers = [found for found in vars(messages).values() if hasattr(found, "model_fields")]
    kinds = {h.model_fields["kind"].default for h in headers if "kind" in h.model_fields}
    assert len(kinds) == 15
    for kind in kinds:
        assert re.search(rf"^\| `{kind}` \|", ARCHITECTURE, re.MULTILINE)


def pinned(path: Path) -> set[str]:
    lines = path.read_text().splitlines()
    names = (re.fullmatch(r"([A-Za-z0-9_.-]+)==[\w.+!]+", line)[1] for line in lines)
    return {name.lower().replace("_", "-") for name in names}


def depended_on(entries: Iterable[str]) -> set[str]:
    names = (re.match(r"[\w-]+", entry)[0] for entry in entries)
    return {name.lower().replace("_", "-") for name in names} - {"warren-fl"}


def test_the_constraints_name_versions_only_and_all_that_is_depended_on() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = project["dependency-groups"]
    peers = groups.pop("bench-peers")  # in an environment of their own
    extras = project["project"]["optional-dependencies"]
    all_ = chain(project["project"]["dependencies"], *extras.values(), *groups.values())
    wanted = [entry for entry in all_ if isinstance(entry, str)]
    assert depended_on(wanted) <= pinned(ROOT / "constraints.txt")
    assert depended_on(peers) <= pinned(ROOT / "benchmarks" / "peers" / "flower-constraints.txt")


@pytest.mark.parametrize("known", [AGGREGATORS, SERVER_OPTIMIZERS, SCHEDULES])
def test_every_algorithm_is_in_the_table(known: Mapping[str, object]) -> None:
    text = (ROOT / "docs" / "algorithms.md").read_text()
    missing = [name for name in known if not re.search(rf"`{name}[:`]", text)]
    assert not missing


def test_the_reference_of_settings_is_current_and_every_setting_has_a_heading() -> None:
    script = ROOT / "tools" / "settings_reference.py"
    written = subprocess.check_output([sys.executable, str(script)], text=True)
    assert written == (ROOT / "docs" / "settings.md").read_text(), "run `make settings`"
    assert f"### {OTHERS.capitalize()}" not in written


def test_the_reference_of_docstrings_and_commands_is_current() -> None:
    script = runpy.run_path(str(ROOT / "tools" / "api_reference.py"))
    text = script["reference"]()
    assert text == (ROOT / "docs" / "reference.md").read_text(), "run `make settings`"
    assert "<function" not in text
    assert "object at 0x" not in text


def test_what_documents_link_to_is_there() -> None:
    for document in (ROOT / "docs").glob("*.md"):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_the_pictures_are_small_and_all_are_shown() -> None:
    shown = (ROOT / "docs" / "monitoring.md").read_text()
    pictures = list((ROOT / "docs" / "images").glob("*.png"))
    assert pictures
    for picture in pictures:
        assert picture.stat().st_size <= 150_000, picture.name
        assert f"images/{picture.name}" in shown


def test_the_settings_file_of_the_reference_is_one(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "settings.md").read_text()
    (example,) = re.findall(r"^```toml\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    file = tmp_path / "warren.toml"
    file.write_text(example)
    words = ["--settings", str(file), "--broker-url", "amqp://a:b@127.0.0.1/f"]
    assert load(CoordinatorSettings, description="", argv=words)[0].config == ("seed=7",)
    found, rest = load(ClientSettings, description="", argv=words, keep_unknown=True)
    assert (found.task, rest) == ("my_task:site", ["--seed=7"])


def test_the_reference_of_metrics_is_current() -> None:
    script = ROOT / "tools" / "metrics_reference.py"
    tables = subprocess.check_output([sys.executable, str(script)], text=True).strip().split("\n\n")
    text = (ROOT / "docs" / "monitoring.md").read_text()
    assert len(tables) == 3
    for table in tables:
        assert table in text, "run `python tools/metrics_reference.py --write`"


def test_every_alert_is_in_the_table() -> None:
    text = (ROOT / "docs" / "monitoring.md").read_text()
    rules = (ROOT / "deploy" / "grafana" / "alerts.yml").read_text()
    names = re.findall(r"- alert: (\w+)", rules)
    assert set(names) == set(re.findall(r"`(Warren\w+)`", text))
