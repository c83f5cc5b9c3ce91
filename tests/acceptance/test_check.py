"""``check`` before work: a line for each thing that is wrong, on a broker where it is wrong."""

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pika
import pytest

from client_worker.cli import main as client_main
from coordinator_worker.cli import main as coordinator_main
from coordinator_worker.state.training_state import State
from coordinator_worker.storage import checkpoint
from tests.conftest import FLEET, Place
from tests.support.processes import KEYS, Worker, workers
from tests.tasks import line
from warren_shared.folder_lock import FolderLock
from warren_shared.naming import mailbox
from warren_shared.protocol.codec import encode, tensor_entries
from warren_shared.protocol.messages import PROTOCOL, ModelManifest
from warren_shared.protocol.signing import Signer, content_digest
from warren_shared.protocol.transfer import Outgoing, transfer_fields
from warren_shared.service.health_check import GIB, room
from warren_shared.tensors.layout import Layout, Weights

RUN = "ab" * 4
LINE = line().client().weights()


class Said:
    """What a check printed, and its exit code."""

    def __init__(self, code: int, printed: str) -> None:
        self.code, self.lines = code, printed.splitlines()

    def about(self, about: str) -> list[str]:
        return [entry for entry in self.lines if f" {about}: " in entry]

    def fails(self) -> list[str]:
        return [entry for entry in self.lines if entry.startswith("FAIL")]


@pytest.fixture
def look(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """Runs a check in this process, which must not be told more than what is written here."""
    for program in KEYS.values():
        for name, value in program.items():
            monkeypatch.setenv(name, value)

    def run(main: object, url: str, *arguments: str) -> Said:
        code = main(["check", "--broker-url", url, *arguments])
        return Said(code, capsys.readouterr().out)

    return run


@pytest.fixture
def client(place: Place, look) -> object:
    def run(*arguments: str, url: str = place.urls["alfa"], task: str = "tests.tasks:line") -> Said:
        return look(client_main, url, "--task", task, *arguments)

    return run


@pytest.fixture
def coordinator(place: Place, look, tmp_path: Path) -> object:
    def run(*arguments: str, url: str = place.urls["coordinator"]) -> Said:
        return look(coordinator_main, url, "--checkpoint-dir", str(tmp_path), *arguments)

    return run


@contextmanager
def administrator(place: Place) -> Iterator[pika.channel.Channel]:
    with pika.BlockingConnection(pika.URLParameters(place.urls["admin"])) as connection:
        yield connection.channel()


def put_model(place: Place, weights: Weights, key: str | None = None, **properties: int) -> None:
    """A coordinator's model in alfa's mailbox."""
    key = key or KEYS["coordinator-worker"]["WARREN_SIGNING_KEYS"]
    signer = Signer.of(key)
    assert signer is not None
    manifest = signer.sign(
        ModelManifest(
            federation=place.name,
            run=RUN,
            version=3,
            tensors=tensor_entries(weights.layout),
            content=content_digest(weights.buffer),
            **transfer_fields(weights.buffer),
        )
    )
    with administrator(place) as channel:
        for body in Outgoing(manifest, weights.buffer):
            channel.basic_publish(
                "", mailbox("alfa"), b"".join(body), pika.BasicProperties(**properties)
            )


def waiting(place: Place, queue: str) -> int:
    with administrator(place) as channel:
        return int(channel.queue_declare(queue, passive=True).method.message_count)


# --- all is well ----------------------------------------------------------------------------------


def test_a_client_that_can_work_is_told_so_and_nothing_is_changed(place, client, tmp_path) -> None:
    put_model(place, LINE, timestamp=int(time.time()))
    said = client("--state-dir", str(tmp_path))
    assert said.code == 0, said.lines
    assert [entry[:4] for entry in said.lines if not entry.startswith("ok")] == ["warn"]
    assert "no coordinator runs" in said.about("update")[0]
    assert "version 3 of run" in said.about("model")[0]
    assert "3 tensors" in said.about("layout")[0] or "2 tensors" in said.about("layout")[0]
    assert "RabbitMQ" in said.about("version")[0]
    assert f"protocol {PROTOCOL}" in said.about("version")[0]
    assert said.about("training")
    assert waiting(place, mailbox("alfa")) == 1
    assert waiting(place, "update") == 0
    assert not list(tmp_path.iterdir())


def test_a_coordinator_that_can_work_is_told_so_and_nothing_is_changed(place, coordinator) -> None:
    with administrator(place) as channel:
        channel.basic_publish("update", "update", b"x", pika.BasicProperties(delivery_mode=2))
        channel.basic_publish("update.rejected", "", b"x")
    said = coordinator()
    assert (said.code, said.fails()) == (0, []), said.lines
    assert said.about("permissions") == ["ok    permissions: as they should be"]
    assert "1 messages wait" in said.about("queue update")[0]
    assert said.about("lease") == ["ok    lease: not taken"]
    assert [waiting(place, name) for name in ("update", "update.rejected", "model.alfa")] == [
        1,
        1,
        0,
    ]


def test_the_command_ends_with_one_if_something_fails(place: Place) -> None:
    from tests.support.processes import BIN, ROOT

    done = subprocess.run(
        [BIN / "client-worker", "check", "--broker-url", "amqp://a:b@127.0.0.1:1/f"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == "FAIL  settings: --task (or WARREN_TASK) is needed; see --help\n"
    assert done.stderr == "client-worker check: 1 finding FAIL: see above\n"


# --- the way to the broker ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "about", "what"),
    [
        (("127.0.0.1", "no-such-host.invalid"), "name", "has no address"),
        ((":{port}/", ":1/"), "port", "cannot be reached (Connection refused)"),
        (("amqp://", "amqps://"), "TLS", "no TLS there"),
        (("/{vhost}", "/nowhere"), "vhost", "no such vhost"),
        (("alfa:", "alfa:wrong"), "login", "refused the password"),
    ],
)
def test_each_step_of_the_way_is_told_apart(place, client, change, about, what) -> None:
    url = place.urls["alfa"]
    port, vhost = url.rpartition(":")[2].split("/")
    old, new = (word.format(port=port, vhost=vhost) for word in change)
    said = client(url=url.replace(old, new))
    assert said.code == 1
    (failed,) = said.fails()
    assert failed.startswith(f"FAIL  {about}: ")
    assert what in failed
    assert said.about("task"), "what needs no broker is looked at all the same"


# --- what is on it --------------------------------------------------------------------------------


def test_a_client_that_may_not_publish_or_read_is_told_so(place, client) -> None:
    rights = {"configure": "^$", "write": "^$", "read": "^$"}
    place.management.put("permissions", place.name, "alfa", body=rights)
    said = client()
    assert said.code == 1
    assert "may not publish to `update`" in said.about("permissions")[0]
    assert said.about("mailbox")[-1].startswith("FAIL")
    assert "refused" in said.about("mailbox")[-1]


@pytest.mark.parametrize(
    ("write", "configure", "what"),
    [("^(update|model)$", "^$", "publish to model"), ("^update$", ".*", "make queues")],
)
def test_a_client_that_may_do_more_than_it_needs_is_warned(
    place, client, write, configure, what
) -> None:
    rights = {"configure": configure, "write": write, "read": "^model\\.alfa$"}
    place.management.put("permissions", place.name, "alfa", body=rights)
    said = client()
    assert said.code == 0
    assert said.about("permissions")[0].startswith(f"warn  permissions: this user may {what}, too")
    assert [waiting(place, name) for name in ("model.alfa", "model.bravo")] == [0, 0]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"read": "^update$"}, "read update.rejected"),
        ({"read": "^update.rejected$"}, "read update"),
        ({"write": "^(event|update.rejected|amq.default)$"}, "publish to model"),
        ({"write": "^(event|update.rejected|model)$"}, "publish to amq.default"),
    ],
)
def test_a_coordinator_that_lacks_a_right_is_told_which(place, coordinator, change, what) -> None:
    rights = {"configure": "^$", "write": ".*", "read": ".*"} | change
    place.management.put("permissions", place.name, "coordinator", body=rights)
    said = coordinator()
    assert said.code == 1
    assert said.about("permissions")[0].startswith(f"FAIL  permissions: this user may not {what}: ")


@pytest.mark.parametrize("queue", ["update", "update.rejected"])
def test_a_queue_that_is_missing_is_named(place, coordinator, queue) -> None:
    place.management.delete("queues", place.name, queue)
    said = coordinator()
    assert said.code == 1
    assert f"FAIL  queue {queue}: there is none: run `broker-config apply`" in said.lines


def test_an_exchange_that_is_missing_is_named(place, coordinator, client) -> None:
    place.management.delete("exchanges", place.name, "update")
    assert "there is no update: run" in coordinator().about("exchanges")[0]
    said = client()
    assert said.about("update")[0].startswith("FAIL")
    assert said.code == 1


@pytest.mark.parametrize(
    "arguments", [{}, {"x-queue-type": "quorum"}, {"x-single-active-consumer": True}]
)
def test_a_queue_that_would_lose_or_share_out_updates_is_named(
    place, coordinator, arguments
) -> None:
    place.management.delete("queues", place.name, "update")
    with administrator(place) as channel:
        channel.queue_declare("update", durable=True, arguments=arguments)
        channel.basic_publish("", "update", b"x")
    said = coordinator()
    assert said.code == 1
    assert "no quorum queue with a single active consumer" in said.fails()[0]
    assert waiting(place, "update") == 1


def test_a_client_that_was_not_enrolled_is_told_so(place, client) -> None:
    place.management.delete("queues", place.name, "model.alfa")
    assert "there is no model.alfa: enrol this client" in client().fails()[0]
    said = client("--client", "nobody")
    assert "--client nobody: this bundle is that of alfa" in said.fails()[0]


def test_a_client_that_runs_already_is_no_failure_but_worth_a_word(place, client) -> None:
    with workers() as started:
        started.append(Worker("client-worker", place.urls["alfa"], "--task", "tests.tasks:line"))
        started[0].wait_for("connected")
        said = client()
        assert started[0].process.poll() is None
    assert (said.code, said.fails()) == (0, [])
    assert said.about("lease")[0].startswith("warn  lease: it is taken")


def test_a_replica_is_told_of_the_place_it_would_take(place, look) -> None:
    arguments = ("--fleet", FLEET.name, "--task", "tests.tasks:line")
    url = place.urls[FLEET.name]
    with workers() as started:
        started.append(Worker("client-worker", url, *arguments))
        started[0].wait_for("connected")
        said = look(client_main, url, *arguments)
    assert "model.fleet.1 is free" in said.about("mailbox")[0]
    assert "140 examples" not in said.about("task")[0]
    assert "120 examples" in said.about("task")[0], "of the shard that goes with that place"


# --- the model in the mailbox ---------------------------------------------------------------------


def test_a_task_of_another_model_is_told_the_difference(place, client) -> None:
    put_model(place, LINE)
    said = client("--features", "5")
    assert said.code == 1
    assert "this task's model is not the federation's" in said.about("layout")[0]


def test_a_model_that_a_stranger_signed_is_not_believed(place, client) -> None:
    put_model(place, LINE, key="A" * 43 + "=")
    said = client()
    assert said.code == 1
    assert "keys that are not in this client's bundle" in said.about("model")[0]


def test_rubbish_in_the_mailbox_is_told(place, client) -> None:
    with administrator(place) as channel:
        channel.basic_publish("", mailbox("alfa"), b"rubbish")
    said = client()
    assert "holds what cannot be read" in said.fails()[0]
    assert waiting(place, mailbox("alfa")) == 1


def test_a_model_from_the_future_says_that_a_clock_is_wrong(place, client) -> None:
    put_model(place, LINE, timestamp=int(time.time()) + 3600)
    said = client()
    assert said.about("clock")[0].startswith("warn  clock: the newest model is 3")
    assert said.code == 0


# --- the task -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "arguments", "what"),
    [
        ("tests.tusks:line", (), "there is no module tests.tusks"),
        ("tests.tasks:line", ("--shrad", "1"), "did you mean --shard?"),
        ("tests.tasks:missing_data", ("--data", "none.csv"), "none.csv"),
    ],
)
def test_a_task_that_cannot_be_made_is_told(client, task, arguments, what) -> None:
    said = client(*arguments, task=task)
    assert said.code == 1
    assert what in said.about("task")[0]


def test_a_task_that_cannot_train_is_told_what_it_raised(client) -> None:
    said = client(task="tests.tasks:untrainable")
    [line] = said.about("training")
    assert line.startswith("FAIL  training: ZeroDivisionError: no batches (tasks.py:")
    assert client("--no-train", task="tests.tasks:untrainable").code == 0


def test_a_model_that_can_count_trains_one_step_only(client) -> None:
    said = client(task="tests.tasks:descent")
    assert said.about("training")[0].startswith("ok    training: a step took")
    assert "fit takes no guide" in client().about("training")[0]


def test_what_a_site_has_promised_its_records_is_told_and_not_spent(client, tmp_path: Path) -> None:
    terms = ("--record-privacy", "epsilon=1,delta=1e-5,steps=4,examples=100")
    told = (*terms, "--state-dir", str(tmp_path))
    for _ in range(6):
        said = client(*told, task="tests.tasks:descent")
        assert said.about("privacy")[0] == (
            "ok    privacy: no run has claimed anything, of 1 at delta=1e-05"
        )
        assert said.about("training")[0].startswith("ok    training: a step took")
    assert "no per_example_gradients" in client(*told).fails()[0]
    assert "need --state-dir" in client(*terms).fails()[0]
    (tmp_path / "privacy.json").write_text("{")
    assert "must not be forgotten" in client(*told, task="tests.tasks:descent").fails()[0]


# --- disk and lease -------------------------------------------------------------------------------


def test_a_folder_that_takes_no_files_is_named(client, coordinator, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    assert "--state-dir" in client("--state-dir", str(file / "x")).fails()[0]
    said = coordinator("--checkpoint-dir", str(file / "x"))
    assert "cannot be written" in said.about("--checkpoint-dir")[0]
    # /proc/self/task lets root in, and takes no files of anybody.
    assert "takes no files" in client("--state-dir", "/proc/self/task").fails()[0]


def test_room_is_counted_in_what_is_going_to_be_written() -> None:
    here = Path()
    assert room(here, 9 * GIB, 2 * GIB).status == "ok"
    assert room(here, 5 * GIB, 2 * GIB).status == "warn"
    assert room(here, GIB // 2, 0).status == "warn"
    assert room(here, GIB, 2 * GIB).status == "FAIL"


def test_a_coordinator_that_runs_has_the_lease(coordinator, tmp_path: Path) -> None:
    lease = FolderLock(tmp_path)
    assert lease.take()
    assert coordinator().about("lease")[0].startswith("warn  lease: a coordinator that runs has it")
    lease.give_back()
    assert coordinator().about("lease") == ["ok    lease: not taken"]


def test_a_checkpoint_of_another_federation_or_of_none_is_told(
    place, coordinator, tmp_path: Path
) -> None:
    weights = Weights.empty(Layout.of([np.zeros(2, np.float32)]))
    checkpoint.save(tmp_path, State("other", RUN, 7, weights, applied={}))
    assert "it is of federation 'other'" in coordinator().fails()[0]
    (tmp_path / "a.checkpoint").write_bytes(b"rubbish")
    assert coordinator().about("checkpoint")[0].startswith("FAIL")


def test_a_run_that_goes_on_is_told_its_version(place, coordinator, tmp_path: Path) -> None:
    weights = Weights.empty(Layout.of([np.zeros(2, np.float32)]))
    checkpoint.save(tmp_path, State(place.name, RUN, 7, weights, applied={}))
    assert f"run {RUN} is at version 7" in coordinator().about("checkpoint")[0]


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("--quorum", "0"), "--quorum 0: "),
        (("--qorum", "2"), "did you mean --quorum?"),
        (("--aggregator", "krum:f=3"), "--quorum 2: "),
        (("--target", "loss"), "write NAME>=VALUE"),
    ],
)
def test_settings_that_no_coordinator_would_start_with_are_told(
    coordinator, arguments, what
) -> None:
    said = coordinator(*arguments)
    assert said.code == 1
    assert what in said.about("settings")[0]


def test_what_is_not_signed_or_not_checked_is_worth_a_word(place, client, monkeypatch) -> None:
    monkeypatch.delenv("WARREN_VERIFY_KEYS")
    assert client().about("keys")[0].startswith("warn")


def test_messages_look_as_the_protocol_says() -> None:
    """What the tests put into mailboxes is what a coordinator would."""
    assert encode


@pytest.mark.parametrize("worker", ["client", "coordinator"])
def test_findings_for_programs_are_those_for_people(
    worker: str, request: pytest.FixtureRequest
) -> None:
    check = request.getfixturevalue(worker)
    for_people, for_programs = check(), check("--json")
    assert for_programs.code == for_people.code
    found = [json.loads(line) for line in for_programs.lines]
    assert all(each.keys() == {"status", "about", "message"} for each in found)
    lines = [f"{each['status']:<5} {each['about']}" for each in found]
    assert lines == [line.partition(": ")[0] for line in for_people.lines]
