"""Every benchmark in its short form, as a process: what it leaves behind must be measurements."""

import json
import math
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from benchmarks.reporting.curves import Curves
from benchmarks.reporting.draw import draw
from benchmarks.reporting.growth import Growth
from benchmarks.reporting.phrases import against_limit, against_peer
from benchmarks.reporting.readme import BEGIN, END, rewrite
from benchmarks.reporting.report import publish
from benchmarks.reporting.rows import Row, from_json
from coordinator_worker.aggregation.aggregators import AGGREGATORS
from coordinator_worker.aggregation.optimizers import SERVER_OPTIMIZERS
from tests.support.processes import ROOT
from warren_shared.tensors.compression import ENCODINGS
from warren_shared.tensors.model_change import DOWNLINKS

FLAGS = {
    "round": ["--no-peers"],
    "fold": ["--no-peers"],
    "aggregation": [],
    "scale": [],
    "start": ["--no-peers"],
    "straggler": [],
    "recovery": [],
    "endurance": [],
    "joining": [],
    "protection": [],
    "compression": [],
    "privacy": [],
    "flood": ["--kinds", "tiny"],
    "regions": [],
    "capacity": [],
}
AT_ONCE = 4
DEADLINE_S = 240.0

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]  # each waits for those before it


class Benchmarks:
    """Four at a time, for they mostly wait for brokers and processes to start; in their order."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._over = threading.Event()
        self._threads = ThreadPoolExecutor(AT_ONCE)
        self._codes = {name: self._threads.submit(self._run, name) for name in FLAGS}

    def _run(self, name: str) -> int:
        if self._over.is_set():
            return -1
        command = [sys.executable, "-m", f"benchmarks.{name}", "--short", "--out", self.folder]
        with (self.folder / f"{name}.txt").open("w") as output:
            process = subprocess.Popen(
                [*command, *FLAGS[name]],
                cwd=ROOT,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
            )
            try:
                return process.wait(DEADLINE_S)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGINT)  # killed, it would leave its broker behind
                return process.wait(DEADLINE_S)

    def rows(self, name: str) -> list[dict[str, Any]]:
        """The rows that ``name`` wrote, after what holds for every benchmark was checked."""
        code = self._codes[name].result()
        said = (self.folder / f"{name}.txt").read_text()
        assert code == 0, said
        record = json.loads((self.folder / f"{name}.json").read_text())
        rows: list[dict[str, Any]] = record["rows"]
        assert rows, "a benchmark without rows measured nothing"
        for row in rows:
            check(row)
            assert row["case"] in said, "the table lacks a case"
        machine = record["machine"]
        assert machine["cores"] >= 1
        assert machine["memory_bytes"] > 1e8
        assert machine["rabbitmq"].count(".") == 2
        assert {"cpu", "kernel", "python", "numpy", "pika", "date"} <= machine.keys()
        plot = draw(self.folder / f"{name}.json").read_text()
        assert plot.count("<path") > 10, "the plot is empty"
        return rows

    def end(self) -> None:
        """Begin no more, and wait for those that run."""
        self._over.set()
        self._threads.shutdown()


@pytest.fixture(scope="module")
def benchmarks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Benchmarks]:
    """The benchmarks, each in its short form and a process of its own."""
    started = Benchmarks(tmp_path_factory.mktemp("benchmarks"))
    try:
        yield started
    finally:
        started.end()


def check(row: dict[str, Any]) -> None:
    assert row["case"]
    assert row["unit"]
    low, high = row.get("spread") or (row["ours"], row["ours"])
    assert 0 <= low <= row["ours"] <= high < math.inf
    may_be_nothing = row["unit"].startswith("%") or row["unit"] == "kB"
    assert row["ours"] > 0 or may_be_nothing, "nothing takes no time"
    for other in ("peer", "limit"):
        assert other in row
        if row[other] is None:
            assert row[f"ratio_to_{other}"] is None
        else:
            assert 0 < row[other] < math.inf
            assert row[f"{other}_name"], f"nobody knows which {other} this is"
            assert row[f"ratio_to_{other}"] == pytest.approx(row["ours"] / row[other])
    assert ("peak_rss_bytes" in row) <= ("model_bytes" in row)


def test_round_measures_rounds_beside_both_limits_idleness_and_memory(
    benchmarks: Benchmarks,
) -> None:
    rows = benchmarks.rows("round")
    rounds = [row for row in rows if row["unit"] == "s"]
    assert {row["limit_name"] for row in rounds} == {"raw client", "loopback TCP"}
    for row in rounds:
        assert row["more"]["rounds"] >= 3
        assert row["more"]["bytes_a_round"] == 2 * 3 * row["model_bytes"]
        assert 1e7 < row["peak_rss_bytes"] < 100e6 + 3 * row["model_bytes"]
        assert row["more"]["coordinator_cpu_s_per_gb"] >= 0
        assert row["limit"] < 10
    units = {row["unit"]: row for row in rows}
    assert units["ms"]["ours"] < 10_000, "the latency of a small model"
    assert units["% of a core"]["ours"] < 100, "the idle coordinator"
    assert units["MB"]["ours"] * 1e6 == pytest.approx(units["MB"]["peak_rss_bytes"], rel=0.01)


def test_fold_says_how_fast_and_in_how_much_memory_updates_become_a_sum(
    benchmarks: Benchmarks,
) -> None:
    rows = benchmarks.rows("fold")
    assert len(rows) == 8  # two sizes, two ways, two limits
    for row in rows:
        assert row["unit"] == "GB/s"
        assert 0.01 < row["ours"] < 1000
        assert row["limit"] is not None
        assert 1e7 < row["peak_rss_bytes"] < 100e6 + 3 * row["model_bytes"]


def test_start_waits_for_the_node_for_both_workers_and_for_a_round(benchmarks: Benchmarks) -> None:
    node, coordinator, client, first_round = benchmarks.rows("start")
    assert node["case"].startswith("broker-config up")
    assert coordinator["case"].startswith("coordinator-worker")
    assert client["case"].startswith("client-worker")
    for row in (node, coordinator, client, first_round):
        assert row["unit"] == "s"
        assert 0.02 < row["ours"] < 60, "no Python starts faster"
    for row in (coordinator, client):  # which is larger is a matter of the machine's other load
        assert 0.02 < row["limit"] < 60


def test_scale_runs_rounds_of_ever_more_clients(benchmarks: Benchmarks) -> None:
    rows = benchmarks.rows("scale")
    assert len(rows) >= 2
    clients = [int(row["case"].split()[0]) for row in rows]
    assert clients == sorted(set(clients))
    for row, count in zip(rows, clients, strict=True):
        assert row["unit"] == "s"
        assert 0.001 < row["ours"] < 30
        assert row["more"]["rounds"] >= 2
        assert row["more"]["ms_per_client"] == pytest.approx(1000 * row["ours"] / count)
        assert 1e7 < row["peak_rss_bytes"] < 100e6 + 3 * row["model_bytes"]


def test_regions_measures_the_same_clients_under_one_folder_and_under_two(
    benchmarks: Benchmarks,
) -> None:
    one, two = benchmarks.rows("regions")
    assert one["limit"] is None
    assert two["limit"] == one["ours"]
    for row in (one, two):
        assert row["more"]["updates_a_second"] == pytest.approx(8 / row["ours"])
        assert row["more"]["coordinators_cpu_s_per_round"] > 0
        assert row["more"]["rounds"] == 3


def test_capacity_tells_mailboxes_from_connections(benchmarks: Benchmarks) -> None:
    for row in benchmarks.rows("capacity"):
        assert row["unit"] == "kB"
        assert row["more"]["erlang_counts_kb"] != 0


def test_every_algorithm_is_measured_and_none_holds_all_updates_in_memory(
    benchmarks: Benchmarks,
) -> None:
    rows = {row["case"]: row for row in benchmarks.rows("aggregation")}
    known = {*AGGREGATORS, *SERVER_OPTIMIZERS} - {"sgd", "uniform"}  # as fast as "mean"
    assert {name.partition(":")[0] for name in rows} == known
    for row in rows.values():
        assert row["ours"] > 0
        assert row["peak_rss_bytes"] < 90e6 + 5 * row["model_bytes"], "ten are there"


def test_a_straggler_holds_up_only_those_who_wait_for_it(benchmarks: Benchmarks) -> None:
    well, well_with_less, slow, dead, slow_and_waited_for = benchmarks.rows("straggler")
    training_s = well["more"]["training_s"]
    slow_s = slow["more"]["straggler_training_s"]
    assert slow_s == 10 * training_s
    for row in (well, well_with_less, slow, dead):
        assert row["ours"] < slow_s, "somebody waited for the straggler"
        assert row["more"]["stragglers_updates_too_late"] == 0
    assert well["ours"] > training_s
    assert dead["ours"] > training_s, "three updates are a round's, so three clients train for each"
    assert slow_and_waited_for["ours"] > slow_s
    assert slow["more"]["stragglers_updates_counted"] >= 1, "it is late, not lost"
    assert dead["more"]["stragglers_updates_counted"] == 0, "it is not dead"
    assert well["more"]["stragglers_updates_counted"] == well["more"]["rounds_each"]
    assert slow["limit"] == dead["limit"] == well["ours"]
    assert slow["peer"] == dead["peer"] == well_with_less["ours"]


def test_a_killed_coordinator_is_back_soon_and_has_nobodys_work_done_again(
    benchmarks: Benchmarks,
) -> None:
    (row,) = benchmarks.rows("recovery")
    assert 0 < row["ours"] <= row["more"]["updates_folded_again_s"] < row["more"]["round_closed_s"]
    assert row["ours"] < 10 * row["limit"], "on a machine that runs all benchmarks at once"


def test_joining_tells_when_who_was_ready_joined_and_when_places_are_free_again(
    benchmarks: Benchmarks,
) -> None:
    singly, together, killed, successor, vanished = benchmarks.rows("joining")
    for row in (singly, together):
        assert row["more"]["measured"] == 6
        assert 0.001 < row["ours"] < 10, "on a machine that runs all benchmarks at once"
        assert row["more"]["first_update_s"] > row["ours"]
    assert killed["more"]["measured"] == successor["more"]["measured"] == 4
    assert killed["ours"] < vanished["ours"], "the end of a connection is heard at once"
    assert vanished["ours"] > 1, "without a word only the heartbeat tells"


def test_endurance_looks_at_every_process_and_finds_that_no_worker_grows(
    benchmarks: Benchmarks,
) -> None:
    rows = {row["case"]: row for row in benchmarks.rows("endurance")}
    workers = ["coordinator", *(f"client c{number}" for number in range(4))]
    for name in workers:
        memory, descriptors = rows.pop(f"{name}: memory"), rows.pop(f"{name}: descriptors")
        assert 10 < memory["ours"] < 200, "MB of a Python"
        assert descriptors["ours"] == descriptors["limit"] > 3
        assert memory["more"]["flat"] == descriptors["more"]["flat"] == "yes"
    assert rows.pop("broker: memory")["ours"] > 50, "MB of an Erlang"
    assert rows.pop("broker: descriptors")["ours"] > 5, "one for each who is connected"
    assert rows.pop("a round")["more"]["tolerance"] > 0
    assert not rows
    curves = Curves(**json.loads((benchmarks.folder / "endurance.json").read_text())["curves"])
    assert len(curves.x) == 20
    for lines in curves.panels.values():
        assert {len(values) for values in lines.values()} == {20}


def test_protection_is_measured_beside_the_same_round_without(benchmarks: Benchmarks) -> None:
    plain, signed, sealed, tls, everything = benchmarks.rows("protection")
    for row in (plain, signed, sealed, tls, everything):
        assert row["limit"] == plain["ours"]
        assert row["ours"] / row["ratio_to_limit"] == pytest.approx(plain["ours"])
    spent = [row["more"]["clients_cpu_s_per_gb"] for row in (plain, everything)]
    assert 0 < spent[0] < spent[1], "nothing was encrypted"


def test_compression_is_measured_beside_raw_updates(benchmarks: Benchmarks) -> None:
    raw, *encoded = benchmarks.rows("compression")
    both_ways = [f"{name} both ways" for name in DOWNLINKS]
    assert [row["case"].rpartition(", ")[2] for row in encoded] == [*ENCODINGS, *both_ways]
    assert all(row["limit"] == raw["ours"] for row in encoded)


def test_privacy_is_measured_beside_the_same_round_without(benchmarks: Benchmarks) -> None:
    without, *private = benchmarks.rows("privacy")
    assert [row["case"].rpartition(", ")[2] for row in private] == ["correlated", "gaussian"]
    assert all(row["limit"] == without["ours"] for row in private)


def test_a_flood_is_measured_beside_none_and_beside_one_that_reaches_no_queue(
    benchmarks: Benchmarks,
) -> None:
    quiet, tiny, nowhere = benchmarks.rows("flood")
    assert quiet["more"]["hostile_messages_a_second"] == 0
    for row in (tiny, nowhere):
        assert row["limit"] == quiet["ours"]
        assert row["more"]["hostile_messages_a_second"] > 100, "that is no flood"


def test_what_grows_is_not_flat() -> None:
    growing = Growth(range(200, 2001, 100), [50 + 0.01 * n for n in range(19)], 0.1)
    assert growing.total == pytest.approx(0.18)
    assert growing.per_1000_rounds == pytest.approx(0.1)
    assert not growing.is_flat
    still = Growth([200, 300, 400], [7, 7, 7], 0)
    assert (still.total, still.per_1000_rounds, still.is_flat) == (0, 0, True)


def test_nothing_measured_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing"):
        publish("none", "None", [], folder=tmp_path)
    assert not list(tmp_path.iterdir())


SECONDS = Row("2 × 4 MB", "s", 0.05, 10.0, 0.02, "Flower", "raw client", (0.04, 0.06), 90, 30)
RATE = Row("10 × 4 MB", "GB/s", 6.0, 2.0, 8.0, "Flower", "numpy")
WITHOUT_PEER = Row("2 × 4 MB", "s", 0.05, peer_name="Flower")


def test_ratios_are_said_in_words_that_know_what_is_better() -> None:
    assert against_peer(SECONDS) == "200 × faster than Flower"
    assert against_limit(SECONDS) == "2.50 × raw client"
    assert against_peer(RATE) == "3.00 × faster than Flower"
    assert against_limit(RATE) == "75.0 % of numpy"
    assert against_peer(WITHOUT_PEER) == "Flower did not run"


def test_a_result_can_be_read_back_and_drawn_alike_and_told_in_the_readme(tmp_path: Path) -> None:
    rows = [SECONDS, RATE, WITHOUT_PEER]
    publish("round", "A round", rows, folder=tmp_path)
    drawn = draw(tmp_path / "round.json").read_bytes()
    publish("round", "A round", rows, folder=tmp_path)
    assert draw(tmp_path / "round.json").read_bytes() == drawn
    found = json.loads((tmp_path / "round.json").read_text())["rows"]
    assert [from_json(row) for row in found] == rows

    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    for _ in range(2):
        rewrite(readme, tmp_path)
    text = readme.read_text()
    assert text.startswith("before\n")
    assert text.endswith(f"{END}\nafter\n")
    assert "old" not in text
    assert text.count("200 × faster than Flower") == 1


def test_the_readme_has_the_place_for_the_results() -> None:
    text = (ROOT / "benchmarks" / "README.md").read_text()
    assert text.count(BEGIN) == 1
    assert text.count(END) == 1
