"""Strings that a client chose: wherever they come out they are text, and nothing else."""

import csv
import io
import json
import re
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pika
import pytest
from prometheus_client.parser import text_string_to_metric_families
from xxhash import xxh3_64

from broker_config.node.record import Node
from coordinator_worker.storage import checkpoint
from tests.acceptance.withstood import ESCAPES, Hostile, body
from tests.conftest import Place, new_place
from tests.support.ports import free_port
from tests.support.processes import BIN, DEADLINE_S, KEYS, ROOT, environment_of
from warren_shared.tensors.layout import Layout, Tensor, Weights

FORGED = "20:00:00 version 99 is published"
# What is printable, and acts in a spreadsheet, a page, a table, a series' labels, rich's markup.
ACTIVE = (
    *("=cmd|' /C calc'!A0", "+1+1", "-1+1", "@SUM(1+1)", '=HYPERLINK("http://x","y")'),
    *("<img src=x onerror=alert(1)>", "</script><script>alert(1)</script>"),
    *("a|b](javascript:alert(1))", "![x](http://evil/p.png)", "`code`", "# heading", "* item"),
    *('x"} evil{a="1', "a\\nb", "{{7*7}}", "%s %d {0}", "損失"),
    *("[red]red[/red]", "[link=file:///etc/passwd]x[/link]"),
)
# What would act in a terminal, or turn a line round; nothing of it may come out.
UNPRINTABLE = (
    ESCAPES, "loss\nx", "loss\rx", "\x1b[2J", "\x9b2J", "\u202elanigiro", "\u2066x", "a\0b", "\x7f",
    "a\u2028b", "a\u200bb", "\ufeffloss", "\U000e0001",
)  # fmt: skip


@dataclass
class Outputs:
    """Everything that such a federation says."""

    log: bytes
    watch: bytes
    metrics: str
    commands: dict[str, bytes]
    page: str
    events: list[dict[str, Any]]


def command(place: Place, user: str, *words: str) -> bytes:
    environment = environment_of(ROOT) | {"WARREN_BROKER_URL": place.urls[user]}
    done = subprocess.run(
        [BIN / "coordinator-worker", *words], capture_output=True, env=environment, check=False,
        timeout=DEADLINE_S, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, (words, done.stderr)
    return done.stdout + done.stderr


class Run:
    """A coordinator that logs for people, and what its clients send it."""

    def __init__(self, place: Place, folder: Path) -> None:
        self.place, self.folder, self.port = place, folder, free_port()
        self.log = (folder / "log").open("wb")
        environment = environment_of(ROOT) | KEYS["coordinator-worker"]
        environment |= {"WARREN_BROKER_URL": place.urls["coordinator"]}
        self.process = subprocess.Popen(
            [BIN / "coordinator-worker", "--log-format", "text", "--quorum", "2",
             "--checkpoint-dir", folder / "c", "--metrics-port", str(self.port),
             "--monitor", "=1+1:max"],
            stderr=self.log, env=environment, cwd=ROOT,
        )  # fmt: skip
        self.version = -1

    def wait_for(self, words: str) -> None:
        self.until(lambda: words in (self.folder / "log").read_text(errors="replace"), words)

    def until(self, holds: Callable[[], bool], what: str) -> None:
        patience, deadline = threading.Event(), time.monotonic() + DEADLINE_S
        while not holds():
            assert self.process.poll() is None, "the coordinator has ended"
            assert time.monotonic() < deadline, what
            patience.wait(0.05)

    def begin(self) -> None:
        """Alfa is asked, and its tensors have names of its choice."""
        alfa = Hostile(self.place, "alfa", "ab" * 4, 0, Weights.of([np.zeros(1)]))
        self.wait_for("connected to the broker")
        self.be_asked(alfa)
        alfa.send(body(self.initial(alfa, UNPRINTABLE[:1])[0]))
        self.wait_for("rejected from alfa: malformed")
        self.be_asked(alfa)  # nobody is, once something of it was rejected
        header, data = self.initial(alfa, ACTIVE)
        alfa.send(body(header, data))
        self.wait_for("version 0 is published")
        state = checkpoint.load(self.folder / "c")
        assert state is not None
        self.run, self.weights, self.version = state.run, state.weights, 0

    def be_asked(self, alfa: Hostile) -> None:
        alfa.send(body(alfa.header("join")))
        with alfa.channel() as channel:
            for _method, _properties, content in channel.consume("model.alfa", auto_ack=True):
                if b"send-initial" in content:
                    break

    def initial(self, alfa: Hostile, names: tuple[str, ...]) -> tuple[dict[str, Any], bytes]:
        tensors = [{"name": name, "shape": [2], "dtype": "float64"} for name in names]
        layout = Layout(tuple(Tensor(name, (2,), "float64") for name in names))
        data = bytes(layout.size_bytes)
        told = {"size_bytes": len(data), "digest": xxh3_64(data).intdigest()}
        return alfa.header("initial", tensors=tensors, **told), data

    def client(self, user: str) -> Hostile:
        return Hostile(self.place, user, self.run, self.version, self.weights)

    def update(self, user: str, **claims: Any) -> None:
        client = self.client(user)
        data = bytes(self.weights.layout.size_bytes)
        told = {"digest": xxh3_64(data).intdigest(), "transfer": f"{self.version + 1:08x}"}
        told["transfer"] += {"alfa": "aa", "bravo": "bb"}[user]
        client.send(body(client.header("update", **(told | claims)), data))

    def round(self, **claims: Any) -> None:
        self.update("alfa", **claims)
        self.update("bravo", metrics={"loss": 0.5, "=1+1": 1.0})
        self.wait_for(f"version {self.version + 1} is published")
        self.version += 1


def outputs(place: Place, folder: Path) -> Outputs:
    run = Run(place, folder)
    events: list[dict[str, Any]] = []
    connection = pika.BlockingConnection(pika.URLParameters(place.urls["watcher"]))
    channel = connection.channel()
    mine = channel.queue_declare("", exclusive=True).method.queue
    channel.queue_bind(mine, "event", "#")

    def read_on() -> None:
        while (found := channel.basic_get(mine, auto_ack=True))[0] is not None:
            events.append(json.loads(found[2], parse_constant=refused))

    environment = environment_of(ROOT) | {"WARREN_BROKER_URL": place.urls["watcher"]}
    with (
        (folder / "watch").open("wb") as watch,
        subprocess.Popen(
            [BIN / "coordinator-worker", "watch"],
            stdout=watch, stderr=watch, env=environment, cwd=ROOT,
        ) as watching,
    ):  # fmt: skip
        try:
            run.begin()
            entry = {"num_examples": 9, "means": {f"{name}": 0.5 for name in ACTIVE}}
            run.round(metrics=dict.fromkeys(ACTIVE, 0.5), evaluation=entry)
            alfa = run.client("alfa")
            for words in UNPRINTABLE:
                run.update("alfa", metrics={words: 0.5})
                run.update("alfa", evaluation={"num_examples": 9, "means": {words: 0.5}})
                alfa.send(
                    body(alfa.header("join") | {words: 1}),
                    body(alfa.header(words)),
                    body(alfa.header("join", client=words)),
                    body(alfa.header("join", federation=words)),
                    body(alfa.header("failed", reason=words)),
                    body(alfa.header("join", fixed_state={words: "ab" * 8})),
                )
            for words in ACTIVE:
                alfa.send(
                    body(alfa.header("failed", reason=words)),
                    body(alfa.header("join", fixed_state={words: "ab" * 8}) | {words: 1}),
                    body(alfa.header("join", federation=words)),
                )
            bravo = run.client("bravo")
            bravo.send(body(bravo.header("join", fixed_state={ACTIVE[0]: "cd" * 8})))
            junk = {f"{letter}junk{n}": float(n) for letter in "=<" for n in range(32)}
            run.round(metrics=junk)
            run.round(metrics={f"more{n}": float(n) for n in range(64)})
            text = scraped(run.port)
            made = {}
            for words, where in commands(str(folder / "c")):
                made[" ".join(words)] = command(place, "coordinator", *words, *where)
                read_on()  # a queue of a watcher's that nobody reads is gone after a minute
            command(place, "watcher", "dashboard", "--save", str(folder / "page.html"))
            run.until(lambda: b"round 3:" in (folder / "watch").read_bytes(), "round 3 in watch")
            read_on()
        finally:
            watching.terminate()
            run.process.terminate()
            run.process.wait(DEADLINE_S)
            run.log.close()
            connection.close()
    return Outputs(
        (folder / "log").read_bytes(),
        (folder / "watch").read_bytes(),
        text,
        made,
        (folder / "page.html").read_text(),
        events,
    )


def scraped(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        return str(answer.read().decode())


def commands(folder: str) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    yield ("rejected",), ()
    yield ("rejected", "--json"), ()
    where = ("--checkpoint-dir", folder)
    for words in (
        ("history",), ("history", "--csv", "-"), ("history", "--json"), ("participation",),
        ("participation", "--json"), ("card",), ("audit",), ("audit", "2"), ("audit", "--json"),
        ("versions",), ("versions", "--json"), ("diff", "1", "2"), ("diff", "1", "2", "--json"),
    ):  # fmt: skip
        yield words, where


def refused(word: str) -> NoReturn:
    raise AssertionError(f"{word} is no JSON")


@pytest.fixture(scope="module")
def said(node: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outputs]:
    with new_place(node) as place:
        yield outputs(place, tmp_path_factory.mktemp("strings"))


def texts(said: Outputs) -> dict[str, str]:
    return {
        "log": said.log.decode(),
        "watch": said.watch.decode(),
        "metrics": said.metrics,
        **{name: text.decode() for name, text in said.commands.items()},
    }


def test_no_output_has_a_character_that_acts(said: Outputs) -> None:
    for name, text in texts(said).items():
        bad = {c for line in text.split("\n") for c in line if not c.isprintable()}
        # A sparkline's and a table's spaces are printable; nothing else is let through.
        assert not bad, (name, bad)


def test_no_line_is_a_clients(said: Outputs) -> None:
    for name, text in texts(said).items():
        assert not [line for line in text.splitlines() if line.startswith(FORGED)], name
    for line in said.log.decode().splitlines():
        assert re.match(r"\d\d:\d\d:\d\d |  ", line), line


def test_no_cell_is_a_formula(said: Outputs) -> None:
    rows = list(csv.reader(io.StringIO(said.commands["history --csv -"].decode())))
    assert {len(row) for row in rows} == {len(rows[0])}
    assert any("=cmd" in cell for cell in rows[0]), "the name did come so far"
    for row in rows:
        for cell in row:
            assert not re.match(r"[=+@\t\r-](?![\d.])", cell), cell


def test_what_is_json_is_json(said: Outputs) -> None:
    for name, made in said.commands.items():
        if "--json" in name:
            for line in made.decode().splitlines():
                assert isinstance(json.loads(line, parse_constant=refused), dict)
    assert said.events


def test_no_name_is_markup(said: Outputs) -> None:
    card = said.commands["card"].decode()
    assert "=cmd" in card
    assert not re.search(r"(?<!\\)<(img|/?script)", card)
    assert not re.search(r"(?<!\\)\]\(", card)
    tables = [line for line in card.splitlines() if line.startswith("|")]
    cells = [len(re.findall(r"(?<!\\)\|", line)) for line in tables]
    assert set(cells) <= {3, 5, 6}, "a row of the tensors or metrics has a cell too many"
    for name in ("history", "versions", "diff 1 2", "rejected"):
        text = said.commands[name].decode()
        assert "red[/red]" in text or "[red]" not in text, "rich would have taken it for a colour"
    assert "<img src=x" not in said.page
    assert "</script><script>alert" not in said.page


def test_the_series_of_the_metrics_are_bounded_and_no_label_makes_another(said: Outputs) -> None:
    families = {f.name: f for f in text_string_to_metric_families(said.metrics)}
    assert not [name for name in families if "evil" in name]
    samples = families["warren_metric"].samples
    names = {sample.labels["name"] for sample in samples}
    assert len(names) == len(samples) <= 64
    assert "loss" in names
    assert all(set(sample.labels) == {"federation", "source", "name"} for sample in samples)


def test_what_honest_clients_report_is_not_pushed_out(said: Outputs) -> None:
    last = json.loads(said.commands["history --json"].decode().splitlines()[-1])
    assert {"loss", "=1+1"} <= last["metrics"].keys()
    assert len(last["metrics"]) <= 128
    assert "loss" in json.loads(re.search(r'id="kept">(.*?)</script>', said.page)[1])["metrics"]  # type: ignore[index]
