"""docs/deploy.md and docs/maintenance.md, followed word by word on machines of one network.

The tests go down the pages; each leaves the machines as the next one needs them.
"""

import json
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator_worker.storage import checkpoint
from tests.support import documents
from tests.support.documents import Block, blocks
from tests.support.machines import network
from tests.support.processes import ROOT
from tests.support.reader import Deployment, install, wait_for

PAGE = "docs/deploy.md"
PAGES = (PAGE, "docs/maintenance.md")
SITES = ("hospital-a", "hospital-b")
HOSTS = {
    "broker": "broker.example",
    "coordinator": "coordinator.example",
    "hospital-a": "a.example",
    "hospital-b": "b.example",
    "watcher": "watcher.example",
}
AMQPS = 5671


def steps(*words: str) -> list[Block]:
    """The blocks of both pages whose words are these."""
    found = [block for page in PAGES for block in blocks(page) if block.words == words]
    assert found, f"no page has a block for {' '.join(words)}"
    return found


@pytest.fixture(scope="module")
def deployment() -> Iterator[Deployment]:
    """Steps 1 to 3, and the firewalls."""
    root = Path(tempfile.mkdtemp(prefix="warren-tests-"))
    try:
        (step,) = steps("everywhere")
        checkout, told = install(step.text, root)
        with network(root, HOSTS) as machines:
            for machine in machines.values():
                (machine.folder / ".venv").symlink_to(checkout / ".venv")
            machines["broker"].allow_in(port=AMQPS)
            for name in (*SITES, "coordinator", "watcher"):
                machines[name].allow_in(answers_from=AMQPS)
            made = Deployment(machines, told, root)
            try:
                for step in steps("broker"):
                    made.run("broker", step.text)
                hand_over(made)
                yield made
            finally:
                made.close()
                made.run("broker", "broker-config down")
    finally:
        shutil.rmtree(root, ignore_errors=True)


def hand_over(made: Deployment) -> None:
    """Carry each bundle to where the page's table says."""
    rows = re.findall(r"^\| `(\.warren/bundles/.+)` \| (.+) \|$", documents.text_of(PAGE), re.M)
    assert len(rows) == 4
    for path, where in rows:
        (name,) = [
            name
            for name in made.machines
            if name in where or (name == "watcher" and where == "your own machine")
        ]
        shutil.copy(made.machines["broker"].folder / path, made.machines[name].folder)


def at(site_name: str, text: str) -> str:
    """What the page says for hospital-a, as it says it for ``site_name``."""
    if site_name == "hospital-a":
        return text
    return text.replace("hospital-a", site_name).replace("--seed 1", "--seed 2")


def begin(made: Deployment, *, coordinator: Callable[[str], str] = str) -> None:
    """Steps 4 to 6: start everything that the page starts."""
    (watch,) = steps("watcher", "runs-on")
    made.start("watcher", watch.text)
    (start,) = steps("coordinator", "runs-on")
    made.start("coordinator", coordinator(start.text))
    for name in SITES:
        (start,) = steps("site", "runs-on")
        made.start(name, at(name, start.text))


def api(made: Deployment, path: str) -> Any:
    """An answer of the management API, asked for on the broker's machine."""
    password = json.loads((made.machines["broker"].folder / ".warren/credentials.json").read_text())
    url = f"https://127.0.0.1:15671/api/{path}"
    asked = f"curl -sS --cacert .warren/tls/ca.pem -u admin:{password['admin']} {url}"
    return json.loads(made.run("broker", asked))


def test_step_one_installs_every_file_of_the_packages(deployment: Deployment) -> None:
    """Run from a checkout, a package or a page that pyproject.toml forgets would not be missed."""
    packages = ("broker_config", "client_worker", "coordinator_worker", "shared", "warren_fl")
    tracked = subprocess.check_output(["git", "ls-files", *packages], cwd=ROOT, text=True)
    (installed,) = (deployment.machines["broker"].folder / ".venv").glob(
        "lib/python*/site-packages"
    )
    names = [f"warren_{name}" if name.startswith("shared/") else name for name in tracked.split()]
    missing = [name for name in names if not (installed / name).exists()]
    assert not missing


def test_everything_is_in_place_before_it_starts(deployment: Deployment) -> None:
    assert deployment.run("broker", "broker-config check") == ""
    before = deployment.run("coordinator", steps("coordinator")[0].text)
    for name in SITES:
        documents.save(steps("site"), deployment.machines[name].folder)
        (check,) = [step for step in steps("site") if step.language == "sh"]
        found = deployment.run(name, at(name, check.text))
        assert "FAIL" not in found + before
        for told in (found, before):
            assert "TLS: TLSv1.3, and the certificate is believed" in told


def test_the_broker_lets_others_in_by_one_port_and_encrypted_only(deployment: Deployment) -> None:
    listens = deployment.machines["broker"].listens()
    public = [row for row in listens if not row.startswith(("127.0.0.1:", "[::1]:"))]
    assert {row.rpartition(":")[2] for row in public} == {str(AMQPS)}
    assert "127.0.0.1:15671" in listens
    deployment.fail("watcher", "curl -sSk --max-time 2 https://broker.example:15671")
    plain = (
        "sed s/amqps:/amqp:/ watcher.env > plain.env; coordinator-worker watch --env-file plain.env"
    )
    assert "begin WARREN_BROKER_URL with amqps://" in deployment.fail("watcher", plain)


def test_both_sites_and_the_coordinator_come_to_the_final_model(deployment: Deployment) -> None:
    begin(deployment)
    ends = {name: deployment.end(name) for name in (*SITES, "coordinator", "watcher")}
    for name in SITES:
        assert "version 20 is final" in ends[name]
    assert "version 20" in ends["watcher"]
    state = checkpoint.load(deployment.machines["coordinator"].folder / "checkpoint")
    assert state is not None
    assert state.version == 20
    kernel = state.weights[0].ravel()  # the invented patients are ill by the first two measurements
    assert kernel[0] > 0.5 > np.abs(kernel[2:]).max()
    assert kernel[1] < -0.5
    (_, report) = steps("coordinator")
    told = deployment.run("coordinator", report.text)
    assert all(name in told for name in SITES)


def test_a_site_reads_its_own_records(deployment: Deployment) -> None:
    draw = np.random.default_rng(0)
    table = np.column_stack([draw.normal(size=(50, 8)), draw.integers(0, 2, 50)])
    np.savetxt(deployment.machines["hospital-a"].folder / "records.csv", table, delimiter=",")
    (check,) = [step for step in steps("site") if step.language == "sh"]
    found = deployment.run("hospital-a", check.text.replace("--seed 1", "--data records.csv"))
    assert "with 40 examples" in found


def test_the_command_that_adds_keras_names_what_there_is(deployment: Deployment) -> None:
    (text,) = [step.text for step in blocks(PAGE, "console") if "[client]" in step.text]
    checkout = (deployment.machines["broker"].folder / ".venv").resolve().parent
    deployment.run("broker", f"cd {checkout}; {text.strip()} --dry-run")


@pytest.fixture(scope="module")
def endless(deployment: Deployment) -> Deployment:
    """The same federation in a new run, one that has no end."""
    deployment.run("coordinator", "rm -r checkpoint")
    begin(deployment, coordinator=lambda text: text.replace("--rounds 20", ""))
    deployment.goes_on()
    return deployment


def test_sites_listen_on_nothing_while_they_work(endless: Deployment) -> None:
    for name in (*SITES, "watcher"):
        assert endless.machines[name].listens() == []
    metrics = endless.machines["coordinator"].listens()
    assert all(row.startswith("127.0.0.1:") for row in metrics)
    peers = {HOSTS[name]: machine.address for name, machine in endless.machines.items()}
    wanted = {peers[HOSTS[name]] for name in (*SITES, "coordinator", "watcher")}

    def seen() -> set[str]:
        return {row["peer_host"].removeprefix("::ffff:") for row in api(endless, "connections")}

    wait_for(lambda: seen() == wanted, lambda: f"{seen()} are connected")  # told every five seconds
    rows = api(endless, "connections")
    assert {row["ssl_protocol"] for row in rows if row["ssl"]} <= {"tlsv1.2", "tlsv1.3"}
    assert all(row["ssl"] for row in rows)


def test_nobody_can_reach_a_site(endless: Deployment) -> None:
    """Even where somebody listens, the firewall lets nobody in, and nothing of ours minds."""
    site_ = endless.machines["hospital-a"]
    words = ("python3", "-m", "http.server", "8080")
    with site_.start(*words, log=endless.logs / "server.log") as server:
        wait_for(lambda: "0.0.0.0:8080" in site_.listens(), lambda: "no server")
        told = endless.fail("broker", "curl -sS --max-time 2 http://a.example:8080")
        server.kill()
    assert "timed out" in told
    endless.goes_on()


def test_the_broker_comes_back_after_a_reboot_by_its_line_in_crontab(endless: Deployment) -> None:
    line = re.search(r"`@reboot (.*)`", (ROOT / PAGE).read_text())
    assert line is not None
    endless.kill_broker()
    broker = endless.machines["broker"]
    command = line[1].replace("FOLDER", str(broker.folder))
    bare = {name: endless.environment[name] for name in ("HOME", "PYTHONPATH")}
    bare["PATH"] = "/usr/bin:/bin"  # cron gives no more
    done = broker.run("/bin/sh", "-c", command, env=bare, cwd="/")
    assert done.returncode == 0, done.stdout
    endless.goes_on()


def test_a_site_is_added_and_one_is_taken_away_while_all_runs(endless: Deployment) -> None:
    enrol, revoke = steps("broker", "later")
    endless.run("broker", enrol.text)
    endless.bundle_to("watcher", "hospital-c")  # a fifth machine would be no other
    documents.save(steps("site"), endless.machines["watcher"].folder)
    (start,) = steps("site", "runs-on")
    endless.start("watcher", start.text.replace("hospital-a", "hospital-c"))
    endless.said("watcher", "update to version .* is confirmed")
    endless.run("broker", revoke.text)
    endless.said("hospital-b", "refused the password")
    (check,) = [step for step in steps("site") if step.language == "sh"]
    assert "FAIL  login" in endless.fail("hospital-b", at("hospital-b", check.text))
    endless.goes_on()  # with a and c


def test_a_bundle_that_was_lost_is_replaced(endless: Deployment) -> None:
    endless.run("broker", "broker-config rotate hospital-a")
    endless.said("hospital-a", "refused the password")
    endless.bundle_to("hospital-a", "hospital-a")
    (start,) = steps("site", "runs-on")
    endless.start("hospital-a", start.text)
    endless.said("hospital-a", "update to version .* is confirmed")
    endless.goes_on()


def test_a_copy_of_the_checkpoint_is_gone_on_from(endless: Deployment) -> None:
    (start,) = steps("coordinator", "runs-on")
    text = start.text.replace("--rounds 20", "")
    endless.stop("coordinator")
    endless.run("coordinator", "cp -r checkpoint backup")
    copied = endless.version()
    endless.start("coordinator", text)
    endless.goes_on()
    endless.stop("coordinator")
    assert endless.version() > copied
    endless.run("coordinator", "rm -r checkpoint && mv backup checkpoint")
    endless.start("coordinator", text)
    refused = endless.said("coordinator", r"is out, and .* holds version")
    hint = re.search(r"`(coordinator-worker rollback current --after (\d+))`", refused)
    assert hint is not None, refused
    endless.run("coordinator", hint[1])
    endless.start("coordinator", text)
    first = re.search(r"version (\d+) is published", endless.said("coordinator", "is published"))
    assert first is not None
    assert int(first[1]) == int(hint[2]) + 1 > copied + 1
    endless.goes_on()


def test_a_broker_that_was_lost_is_put_back_from_the_backup(endless: Deployment) -> None:
    """At the worst moment: one of two updates is in the queue that is lost."""
    (backup,), (restore,) = steps("broker", "backup"), steps("broker", "restore")
    endless.run("broker", backup.text)
    _, other = endless._last("watcher")
    other.send_signal(signal.SIGSTOP)
    # It waits for the one that halts; that the model before is out may be said after the update.
    said = endless.at_rest("coordinator").splitlines()
    assert [line for line in said if "contributed" in line][-1].endswith("(1 of 2)")
    endless.kill_broker()
    endless.run("broker", "rm -r .warren")
    other.send_signal(signal.SIGCONT)
    endless.run("broker", restore.text)
    assert endless.run("broker", "broker-config check") == ""
    endless.said("hospital-a", "has lost it since; training from it again")
    endless.goes_on()
