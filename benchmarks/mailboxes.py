"""``python -m benchmarks.mailboxes``: what a mailbox costs on a cluster of three, by its kind.

Each model goes to every mailbox. ``classic`` mailboxes are on one node each, spread over all of
them; ``quorum`` mailboxes have a copy on each node.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import pika
import psutil

KINDS: Final = ("classic", "quorum")
MODELS: Final = 6
CHUNK: Final = 1 << 20


def fill(urls: list[str], kind: str, count: int, model_bytes: int) -> dict[str, Any]:
    """Declare the mailboxes and publish models to them; seconds for each step."""
    links = [pika.BlockingConnection(pika.URLParameters(url)) for url in urls]
    channels = [link.channel() for link in links]
    channels[0].exchange_declare("bench", "fanout", durable=True)
    began = time.monotonic()
    arguments = {"x-queue-type": kind, "x-max-length": 2 * -(-model_bytes // CHUNK)}
    for number in range(count):
        channel = channels[number % len(channels)]
        channel.queue_declare(f"box.{number}", durable=True, arguments=arguments)
        channel.queue_bind(f"box.{number}", "bench")
    declared = time.monotonic() - began
    channel = channels[0]
    channel.confirm_delivery()
    seconds = []
    for _ in range(MODELS):
        began, left = time.monotonic(), model_bytes
        while left > 0:
            channel.basic_publish("bench", "", bytes(min(left, CHUNK)))
            left -= CHUNK
        seconds.append(time.monotonic() - began)
    for link in links:
        link.close()
    seconds.sort()
    return {"declare_s": declared, "model_s": seconds[MODELS // 2], "model_s_all": seconds}


def measure(kind: str, count: int, model_bytes: int) -> dict[str, Any]:
    """One cluster, one kind of mailbox."""
    from tests.cluster.nodes import ADMIN, NODES, cluster

    with tempfile.TemporaryDirectory(prefix="warren-bench-") as root:
        with cluster(Path(root), "pause_minority") as nodes:
            before = _memory_mb(nodes)
            urls = [f"amqp://{ADMIN}:{nodes.password}@{nodes.amqp(node)}/%2F" for node in NODES]
            words = [kind, str(count), str(model_bytes), *urls]
            done = subprocess.run(
                [*nodes.inside, sys.executable, "-m", "benchmarks.mailboxes", "--inside", *words],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.returncode:
                raise RuntimeError(done.stderr[-800:])
            found = json.loads(done.stdout)
            found["memory_mb"] = [
                after - first for after, first in zip(_memory_mb(nodes), before, strict=True)
            ]
            folders = [nodes.machines[node].folder / "data" for node in NODES]
        found["disk_mb"] = [
            sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
            for folder in folders
        ]
        return {"kind": kind, "mailboxes": count, "model_bytes": model_bytes, **found}


def _memory_mb(nodes: Any) -> list[float]:
    """Resident memory of each node, in MiB."""
    from tests.cluster.nodes import NODES

    found = []
    for name in NODES:
        process = psutil.Process(nodes.processes[name].pid)
        family = [process, *process.children(recursive=True)]
        found.append(max(each.memory_info().rss for each in family) / (1 << 20))
    return found


def main() -> None:
    """Print a line of JSON for each measurement."""
    parser = argparse.ArgumentParser(prog="mailboxes", description=__doc__)
    parser.add_argument("--inside", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--kind", choices=KINDS, action="append")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--model-bytes", type=int, default=4 << 20)
    given = parser.parse_args()
    if given.inside:
        kind, count, size, *urls = given.inside
        print(json.dumps(fill(urls, kind, int(count), int(size))))  # noqa: T201
        return
    for kind in given.kind or KINDS:
        print(json.dumps(measure(kind, given.count, given.model_bytes)), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
