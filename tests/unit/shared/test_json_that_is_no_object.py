"""Every reader of JSON takes what is no object, too deep or too large: without a traceback."""

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client_worker.runtime.update_store import UpdateStore
from coordinator_worker.cli import main
from coordinator_worker.monitoring.events import NOTHING
from coordinator_worker.monitoring.follower import _read, _written
from coordinator_worker.runtime.evaluator import Evaluator
from coordinator_worker.storage.audit_files import NAME
from coordinator_worker.storage.audit_log import Audit
from tests.unit.coordinator_worker.storage.test_audit_log import STALE, entry, manifest, state
from warren_shared.amqp.delivery import Delivery
from warren_shared.errors import ConfigError
from warren_shared.tensors.layout import Weights

NO_OBJECTS = {
    "a number": b"5", "null": b"null", "a list": b"[]", "a list of lists": b"[[1],[2]]",
    "text": b'"x"', "true": b"true", "NaN": b"NaN", "no UTF-8": b"\xff\xfe", "nothing": b"",
    "lists 100,000 deep": b"[" * 100_000, "objects 100,000 deep": b'{"a":' * 100_000,
    "a number of 5,000 digits": b"1" * 5_000,
}  # fmt: skip
HUGE = 10**400
WRONG: dict[str, Any] = {
    "version": [1], "run": {"a": 1}, "event": ["aggregated"], "contributions": "all",
    "previous": 5, "rejected_unlisted": [3], "to": 7, "time": None,
}  # fmt: skip


@pytest.fixture
def log(tmp_path: Path) -> Path:
    audit = Audit(tmp_path)
    audit.take_over(state(0))
    audit.accepted(manifest(), 1)
    audit.rejected("phone", "phone.3", STALE)
    audit.aggregated(1, [entry("phone.3")], None)
    audit.published(1, 255, "12" * 32)
    audit.give_back()
    return tmp_path


def all_readers(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What `audit --verify` says; every other reader, and the writer that resumes, goes through."""
    for words in (["audit"], ["audit", "1"], ["audit", "--json"], ["audit", "1", "--json"]):
        assert main([*words, "--checkpoint-dir", str(folder)]) in (0, 2)
    capsys.readouterr()
    main(["audit", "--verify", "--checkpoint-dir", str(folder)])
    said = capsys.readouterr()
    for known in (state(1), state(0), None):
        audit = Audit(folder)
        audit.take_over(known)
        audit.give_back()
    return said.out + said.err


@pytest.mark.parametrize("text", NO_OBJECTS.values(), ids=NO_OBJECTS)
@pytest.mark.parametrize("at", [0, 2, 5])
def test_a_line_of_the_audit_log(
    log: Path, text: bytes, at: int, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (log / NAME).read_bytes().splitlines()
    lines.insert(at, text)
    (log / NAME).write_bytes(b"\n".join(lines) + b"\n")
    assert f"line {at + 1} is no line of the log" in (said := all_readers(log, capsys)) or (
        not text and f"line {at + 1} " in said
    )


@pytest.mark.parametrize("name", WRONG)
def test_a_line_of_the_audit_log_whose_parts_are_others(
    log: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [json.loads(line) for line in (log / NAME).read_bytes().splitlines()]
    for line in lines:
        line[name] = WRONG[name]
    (log / NAME).write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "is not as it was written" in all_readers(log, capsys)


@pytest.mark.parametrize("name", ["weight", "num_examples", "base_version"])
def test_a_number_in_the_audit_log_that_no_float_holds(
    log: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [json.loads(line) for line in (log / NAME).read_bytes().splitlines()]
    lines[3]["contributions"][0][name] = HUGE
    (log / NAME).write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "is not as it was written" in all_readers(log, capsys)


@pytest.mark.parametrize("text", NO_OBJECTS.values(), ids=NO_OBJECTS)
def test_a_clients_note_of_what_was_confirmed(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "alfa.confirmed").write_bytes(text)
    assert UpdateStore(tmp_path).last_confirmed("alfa") is None


@pytest.mark.parametrize("text", NO_OBJECTS.values(), ids=NO_OBJECTS)
def test_an_event(text: bytes) -> None:
    assert _read(Delivery(memoryview(text), 1, 0, "coordinator", redelivered=False)) == NOTHING


@pytest.mark.parametrize("text", NO_OBJECTS.values(), ids=NO_OBJECTS)
def test_the_last_word(text: bytes) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        _written(text)


@pytest.mark.parametrize("printed", [*NO_OBJECTS.values(), b'{"a": 1%s}' % (b"0" * 400)])
def test_what_an_evaluation_prints(
    tmp_path: Path, printed: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "said").write_bytes(printed)
    judged: list[Any] = []
    evaluator = Evaluator(
        f"sh -c 'cat {tmp_path}/said'", tmp_path, lambda *told: judged.append(told)
    )
    never = threading.Event()
    evaluator.finish(1, Weights.of([np.zeros(1, np.float32)]), lambda: not never.wait(0.01))
    evaluator.close()
    assert judged == []
    assert "version 1 was not evaluated" in caplog.text
