"""The audit log: what it says after crashes, floods, full disks, and when somebody changed it."""

import gzip
import json
import os
import re
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator_worker.cli import main
from coordinator_worker.state.round_record import ClientReport, Entry, RoundRecord
from coordinator_worker.state.training_state import State
from coordinator_worker.storage import checkpoint
from coordinator_worker.storage.audit_files import NAME, read
from coordinator_worker.storage.audit_log import MAX_LISTED, Audit
from coordinator_worker.versions.audit_report import faults, versions
from warren_shared.errors import Rejected
from warren_shared.protocol.messages import UpdateManifest
from warren_shared.tensors.layout import Weights

RUN = "ab" * 4
WEIGHTS = Weights.of([np.zeros(4, np.float32)])
STALE = Rejected("stale", "too old")


def state(version: int, run: str = RUN) -> State:
    history = (RoundRecord(version, clients={"alfa": ClientReport(7, {})}),)
    return State("f", run, version, WEIGHTS, applied={}, history=history)


def manifest(client: str = "phone.3", base_version: int = 0) -> UpdateManifest:
    return UpdateManifest(
        federation="f", run=RUN, client=client, base_version=base_version, num_examples=9,
        layout="cd" * 8, transfer="ef" * 8, size_bytes=16, digest=255, metrics={"loss": 0.12345},
    )  # fmt: skip


def entry(client: str = "alfa", base_version: int = 0) -> Entry:
    return Entry(client, base_version, 9, 9.0, "ef" * 8, "00" * 8)


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / NAME).read_text().splitlines()]


@pytest.fixture
def audit(tmp_path: Path) -> Audit:
    audit = Audit(tmp_path)
    audit.take_over(state(0))
    return audit


def test_what_is_written_is_who_what_and_why_and_nothing_of_the_data(
    audit: Audit, tmp_path: Path
) -> None:
    audit.accepted(manifest(), 1)
    audit.rejected("phone", "phone.3", STALE)
    audit.aggregated(1, [entry("phone.3")], None)
    audit.published(1, 255, "12" * 32)
    resumed, accepted, rejected, aggregated, published = lines(tmp_path)
    assert (resumed["event"], resumed["version"]) == ("resumed", 0)
    assert (accepted["client"], accepted["user"], accepted["base_version"]) == (
        "phone.3",
        "phone",
        0,
    )
    assert (accepted["digest"], accepted["num_examples"]) == ("00000000000000ff", 9)
    assert (rejected["reason"], rejected["detail"]) == ("stale", "too old")
    assert aggregated["contributions"][0]["client"] == "phone.3"
    assert published["content"] == "12" * 32
    assert all(line["run"] == RUN and line["time"].endswith("Z") for line in lines(tmp_path))
    text = (tmp_path / NAME).read_text()
    assert "0.12345" not in text
    assert "metrics" not in text
    assert stat.S_IMODE((tmp_path / NAME).stat().st_mode) == 0o600


def test_another_coordinator_goes_on_behind_the_first(audit: Audit, tmp_path: Path) -> None:
    audit.aggregated(1, [entry()], None)
    audit.give_back()
    second = Audit(tmp_path)
    second.take_over(state(1))
    second.aggregated(2, [entry("bravo", 1)], None)
    found = versions(read(tmp_path))
    assert list(found) == [(RUN, 1), (RUN, 2)]
    assert list(faults(read(tmp_path))) == []


def test_what_was_aggregated_and_never_checkpointed_is_no_version(
    audit: Audit, tmp_path: Path
) -> None:
    audit.rejected("bravo", "bravo", STALE)
    audit.aggregated(1, [entry("alfa")], None)
    audit.take_over(state(0))  # the crash came before the checkpoint
    audit.aggregated(1, [entry("charlie")], None)
    (made,) = versions(read(tmp_path)).values()
    assert [each["client"] for each in made.line["contributions"]] == ["charlie"]
    assert [line["client"] for line in made.rejected] == ["bravo"], "that stays rejected"


def test_a_line_that_a_power_cut_took_is_made_from_the_checkpoint(
    audit: Audit, tmp_path: Path
) -> None:
    audit.aggregated(1, [entry()], None)
    audit.take_over(state(2))
    audit.take_over(state(2))
    found = versions(read(tmp_path))
    assert found[RUN, 2].line["recovered"]
    assert found[RUN, 2].line["contributions"] == [{"client": "alfa", "num_examples": 7}]
    assert [line["event"] for line in lines(tmp_path)].count("aggregated") == 2, "once is enough"


def test_a_torn_line_is_passed_over_and_told(audit: Audit, tmp_path: Path) -> None:
    audit.aggregated(1, [entry()], None)
    audit.give_back()
    with (tmp_path / NAME).open("ab") as file:
        file.write(b'{"time":"2026-')
    audit.take_over(state(1))
    audit.aggregated(2, [entry()], None)
    assert list(versions(read(tmp_path))) == [(RUN, 1), (RUN, 2)]
    (fault,) = faults(read(tmp_path))
    assert "torn" in fault


@pytest.mark.parametrize("at", range(1, 5))
def test_a_line_that_was_changed_or_taken_out_shows(
    audit: Audit, tmp_path: Path, at: int, capsys: pytest.CaptureFixture[str]
) -> None:
    for version in range(1, 6):
        audit.aggregated(version, [entry()], None)
    path = tmp_path / NAME
    whole = path.read_text().splitlines(keepends=True)
    changed = [*whole[:at], whole[at].replace("alfa", "mike"), *whole[at + 1 :]]
    for wrong in (changed, [*whole[:at], *whole[at + 1 :]], whole[at:]):
        path.write_text("".join(wrong))
        assert len(list(faults(read(tmp_path)))) == 1
        assert main(["audit", "--verify", "--checkpoint-dir", str(tmp_path)]) == 1
        assert "not as it was written" in capsys.readouterr().err
    path.write_text("".join(whole))
    assert main(["audit", "--checkpoint-dir", str(tmp_path), "--verify"]) == 0


def test_who_floods_the_coordinator_does_not_fill_its_disk(audit: Audit, tmp_path: Path) -> None:
    for _ in range(MAX_LISTED + 7):
        audit.rejected("mallory", "mallory", STALE)
    audit.rejected("alfa", "alfa", STALE)
    audit.aggregated(1, [entry()], None)
    written = lines(tmp_path)
    assert len([line for line in written if line.get("user") == "mallory"]) == MAX_LISTED
    assert len([line for line in written if line.get("user") == "alfa"]) == 1
    assert written[-1]["rejected_unlisted"] == {"mallory": 7}
    audit.rejected("mallory", "mallory", STALE)
    assert lines(tmp_path)[-1]["user"] == "mallory", "it begins anew with each round"


def test_a_flood_is_a_number_however_many_rounds_it_lasts(audit: Audit, tmp_path: Path) -> None:
    for version in range(1, 6):
        for _ in range(1000):
            audit.flooded("mallory")
        audit.aggregated(version, [entry()], None)
    written = lines(tmp_path)
    assert len(written) == 1 + 5
    assert written[-1]["rejected_unlisted"] == {"mallory": 1000}


def test_hostile_words_are_bounded_and_stay_on_their_line(audit: Audit, tmp_path: Path) -> None:
    audit.rejected('x"\n{', "\x1b[2J" * 50, Rejected("r" * 999, "d\n" * 999))
    (line,) = lines(tmp_path)[1:]
    assert len(line["reason"]) + len(line["detail"]) < 400
    assert (tmp_path / NAME).read_bytes().count(b"\n") == 2
    assert b"\x1b" not in (tmp_path / NAME).read_bytes()


def fill_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, bytes], int]:
    """Have the disk take ten bytes more and then none; return what writes as before."""
    write = os.write
    room = [10]

    def short(file: int, data: bytes) -> int:
        if not room[0]:
            raise OSError(28, "No space left on device")
        taken, room[0] = data[: room[0]], 0
        return write(file, taken)

    monkeypatch.setattr(os, "write", short)
    return write


def test_what_a_full_disk_does_not_take_is_written_when_there_is_room(
    audit: Audit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = fill_disk(monkeypatch)
    audit.accepted(manifest(), 1)
    audit.aggregated(1, [entry()], None)
    with pytest.raises(OSError, match="No space"):
        audit.write()
    monkeypatch.setattr(os, "write", write)
    audit.write()
    assert [line["event"] for line in lines(tmp_path)] == ["resumed", "accepted", "aggregated"]
    assert list(faults(read(tmp_path))) == []


def test_the_command_says_whose_updates_made_a_version(
    audit: Audit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    audit.aggregated(1, [entry("alfa"), entry("bravo")], None)
    audit.aggregated(2, [entry("alfa", 1)], "not finite")
    folder = ("--checkpoint-dir", str(tmp_path))
    assert main(["audit", *folder, "1"]) == 0
    told = capsys.readouterr().out
    assert "version 1" in told
    assert "bravo" in told
    assert "50.0%" in told
    assert main(["audit", "2", *folder]) == 0
    assert "the weights stayed" in capsys.readouterr().out
    assert main(["audit", "1", "--json", *folder]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [each["client"] for each in found["contributions"]] == ["alfa", "bravo"]
    assert main(["audit", *folder]) == 0
    assert "2 versions" in capsys.readouterr().out
    assert main(["audit", "3", *folder]) == 2
    assert "no version 3" in capsys.readouterr().err


def test_no_log_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", "--checkpoint-dir", str(tmp_path)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_newest_run_is_meant_unless_another_is_named(
    audit: Audit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    audit.aggregated(1, [entry("alfa")], None)
    audit.take_over(state(0, run="cd" * 4))
    audit.aggregated(1, [entry("bravo")], None)
    folder = ("--checkpoint-dir", str(tmp_path))
    assert main(["audit", "1", *folder]) == 0
    assert "bravo" in capsys.readouterr().out
    assert main(["audit", "1", "--run", RUN, *folder]) == 0
    assert "alfa" in capsys.readouterr().out


def verify(folder: Path) -> int:
    return main(["audit", "--verify", "--checkpoint-dir", str(folder)])


@pytest.mark.parametrize(
    "garbage", [b"garbage\n", b"garbage", b"{}\n", b"[1]\n", b"\xff\xfe\n", b'{"x":', b"null\n"]
)
def test_a_last_line_that_is_none_of_ours_shows(
    audit: Audit, tmp_path: Path, garbage: bytes
) -> None:
    audit.aggregated(1, [entry()], None)
    assert verify(tmp_path) == 0
    with (tmp_path / NAME).open("ab") as file:
        file.write(garbage)
    assert verify(tmp_path) == 1


def test_a_log_whose_end_was_cut_off_shows_and_goes_on_to_show(tmp_path: Path) -> None:
    """Each line that is left follows the one before it; only the checkpoint knows of more."""
    audit = Audit(tmp_path)
    audit.take_over(state(0))
    for version in (1, 2, 3):
        audit.aggregated(version, [entry()], None)
    checkpoint.save(tmp_path, replace(state(3), audit_head=audit.head))
    audit.published(3, 1, None)
    audit.give_back()
    path = tmp_path / NAME
    assert verify(tmp_path) == 0
    whole = path.read_bytes().splitlines(keepends=True)
    for left in (whole[:3], [*whole[:3], whole[3][:30]], []):
        path.write_bytes(b"".join(left))
        assert verify(tmp_path) == 1
    path.write_bytes(b"".join(whole[:2]))
    known = checkpoint.load(tmp_path)
    assert known is not None
    audit.take_over(known)
    audit.aggregated(4, [entry()], None)
    checkpoint.save(tmp_path, replace(state(4), audit_head=audit.head))
    assert verify(tmp_path) == 1, "going on must not hide it"


ODD = ['"x"', "null", "[]", "{}", "-1", "1e400", "[[1]]", '{"a":1}', "true"]


@pytest.mark.parametrize("value", ODD)
@pytest.mark.parametrize(
    "name",
    ["version", "run", "event", "time", "previous", "contributions", "rejected_unlisted", "to",
     "refused", "client", "num_examples", "weight", "base_version", "digest"],
)  # fmt: skip
def test_odd_types_in_a_tampered_log_end_in_no_traceback(
    audit: Audit, tmp_path: Path, name: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    audit.aggregated(1, [entry()], None)
    audit.rejected("bravo", "bravo", STALE)
    audit.published(1, 255, "12" * 32)
    audit.aggregated(2, [entry()], None)
    audit.give_back()
    path = tmp_path / NAME
    text = re.sub(rf'"{name}":("[^"]*"|[^,"\[{{]+|\[.*?\])', rf'"{name}":{value}', path.read_text())
    path.write_text(text)
    for words in ([], ["--json"], ["1"], ["--verify"], ["1", "--json"]):
        assert main(["audit", *words, "--checkpoint-dir", str(tmp_path)]) in (0, 1, 2)
        assert "Traceback" not in capsys.readouterr().err
    audit.take_over(state(2))


def test_a_checkpoint_from_before_the_first_line_misses_none(tmp_path: Path) -> None:
    """The first checkpoint of a run is written before its first line."""
    first = Audit(tmp_path)
    first.take_over(None)
    begun = State("f", "ab" * 4, 0, Weights.of([np.zeros(1)]), {}, audit_head=first.head)
    assert begun.audit_head == ""
    first.resumed(begun)
    again = Audit(tmp_path)
    again.take_over(begun)
    assert "lost" not in (tmp_path / NAME).read_text()


def grown(audit: Audit, first: int, last: int) -> None:
    """Have ``audit`` tell how versions ``first`` to ``last`` were made."""
    for version in range(first, last + 1):
        audit.aggregated(version, [entry(base_version=version - 1)], None)


def made_in(folder: Path) -> list[int]:
    return [version for _, version in versions(read(folder))]


def test_a_log_that_is_renamed_goes_on_in_a_new_file(audit: Audit, tmp_path: Path) -> None:
    """As logrotate does it: by two names, the older ones compressed, and no signal to anybody."""
    path, older = tmp_path / NAME, tmp_path / f"{NAME}.1"
    grown(audit, 1, 2)
    path.rename(older)
    grown(audit, 3, 4)
    (tmp_path / f"{NAME}.2.gz").write_bytes(gzip.compress(older.read_bytes()))
    path.rename(older)
    grown(audit, 5, 6)
    audit.write()
    audit.sync()
    checkpoint.save(tmp_path, replace(state(6), audit_head=audit.head))
    assert made_in(tmp_path) == [1, 2, 3, 4, 5, 6]
    assert (lines(tmp_path)[0]["event"], lines(tmp_path)[0]["file"]) == ("continued", 3)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert verify(tmp_path) == 0
    for name in (f"{NAME}.2.gz", f"{NAME}.1", NAME):
        away = tmp_path / "away"
        (tmp_path / name).rename(away)
        assert verify(tmp_path) == 1, f"without {name}"
        away.rename(tmp_path / name)
    whole = older.read_bytes()
    older.write_bytes(whole.replace(b'"version":3', b'"version":7'))
    assert verify(tmp_path) == 1
    older.write_bytes(whole[: whole.rindex(b"{")])
    assert verify(tmp_path) == 1, "the end of an older file is missing"


@pytest.mark.parametrize("is_created", [False, True], ids=["nocreate", "create"])
def test_who_takes_over_after_a_rename_goes_on_behind_the_old_file(
    audit: Audit, tmp_path: Path, is_created: bool
) -> None:
    grown(audit, 1, 3)
    audit.give_back()
    checkpoint.save(tmp_path, replace(state(3), audit_head=audit.head))
    (tmp_path / NAME).rename(tmp_path / f"{NAME}-20261129")
    if is_created:
        (tmp_path / NAME).touch()
    assert verify(tmp_path) == 0, "before anybody has taken over"
    known = checkpoint.load(tmp_path)
    audit.take_over(known)
    grown(audit, 4, 4)
    written = lines(tmp_path)
    assert [line["event"] for line in written] == ["continued", "resumed", "aggregated"]
    assert "lost" not in written[1]
    assert made_in(tmp_path) == [1, 2, 3, 4]
    assert verify(tmp_path) == 0
    audit.give_back()
    audit.take_over(known)  # what the checkpoint knows is in the older file
    assert "lost" not in lines(tmp_path)[-1]
    assert verify(tmp_path) == 0


def test_a_log_is_rotated_at_its_size_and_by_a_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    audit = Audit(tmp_path, rotate_bytes=4000)
    audit.take_over(state(0))
    grown(audit, 1, 40)
    older = sorted(path.name for path in tmp_path.glob(f"{NAME}-*"))
    assert older[:2] == [f"{NAME}-000001", f"{NAME}-000002"]
    assert all((tmp_path / name).stat().st_size < 5000 for name in older)
    rotate = ["audit", "--rotate", "--checkpoint-dir", str(tmp_path)]
    assert main(rotate) == 0
    assert f"{NAME}-{len(older) + 1:06d}" in capsys.readouterr().out
    assert main(rotate) == 2
    assert "nothing to rotate" in capsys.readouterr().err
    grown(audit, 41, 41)
    assert made_in(tmp_path) == list(range(1, 42))
    assert verify(tmp_path) == 0


def test_a_rename_while_the_disk_is_full_tears_no_line(
    audit: Audit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = fill_disk(monkeypatch)
    grown(audit, 1, 1)
    (tmp_path / NAME).rename(tmp_path / f"{NAME}.1")
    grown(audit, 2, 2)
    monkeypatch.setattr(os, "write", write)
    audit.write()
    grown(audit, 3, 3)
    assert made_in(tmp_path) == [1, 2, 3]
    assert verify(tmp_path) == 0


def test_a_log_that_is_copied_and_emptied_is_whole_with_its_copy(
    audit: Audit, tmp_path: Path
) -> None:
    grown(audit, 1, 2)
    (tmp_path / f"{NAME}.1").write_bytes((tmp_path / NAME).read_bytes())
    os.truncate(tmp_path / NAME, 0)
    grown(audit, 3, 3)
    assert made_in(tmp_path) == [1, 2, 3]
    assert verify(tmp_path) == 0
    (tmp_path / f"{NAME}.1").unlink()
    assert verify(tmp_path) == 1


def test_a_log_that_is_cut_while_it_is_written_shows(audit: Audit, tmp_path: Path) -> None:
    grown(audit, 1, 3)
    os.truncate(tmp_path / NAME, (tmp_path / NAME).stat().st_size - 20)
    grown(audit, 4, 4)
    assert made_in(tmp_path) == [1, 2, 4], "the line after the cut can be read"
    assert verify(tmp_path) == 1


def test_a_log_that_cannot_be_followed_goes_on_where_it_was_and_says_so_once(
    audit: Audit, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    grown(audit, 1, 1)
    (tmp_path / NAME).rename(tmp_path / f"{NAME}.1")
    (tmp_path / NAME).symlink_to(tmp_path / "nowhere" / NAME)
    grown(audit, 2, 3)
    assert [record.action for record in caplog.records] == ["audit_not_rotated"]  # type: ignore[attr-defined]
    (tmp_path / NAME).unlink()
    grown(audit, 4, 4)
    assert made_in(tmp_path) == [1, 2, 3, 4]
    assert verify(tmp_path) == 0


def test_a_damaged_older_file_is_one_line(
    audit: Audit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grown(audit, 1, 1)
    (tmp_path / f"{NAME}.1.gz").write_bytes(b"\x1f\x8b\x08 no more")
    for words in ([], ["--verify"]):
        assert main(["audit", *words, "--checkpoint-dir", str(tmp_path)]) == 2
        (said,) = capsys.readouterr().err.splitlines()
        assert f"{NAME}.1.gz cannot be read" in said
