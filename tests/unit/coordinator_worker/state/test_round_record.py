"""A round's record: what older versions wrote comes back as it was, and newer ones lose nothing."""

import json
from math import isnan
from typing import Any

import msgpack
import pytest

from coordinator_worker.state.round_record import (
    ALWAYS,
    OPTIONAL,
    PrivacySpent,
    Rollback,
    RoundRecord,
)
from tests.support.processes import ROOT
from warren_shared import strict_json
from warren_shared.errors import ConfigError

HISTORY = (ROOT / "tests" / "golden" / "federation" / "history.jsonl").read_text().splitlines()
SINCE = {
    "raw_bytes_up",
    "bytes_down",
    "raw_bytes_down",
    "privacy",
    "ended",
    "sites",
}  # fields that were added after the golden files were written


@pytest.mark.parametrize("line", HISTORY)
def test_a_record_is_written_as_it_was_read(line: str) -> None:
    record = RoundRecord.from_dict(json.loads(line))
    assert strict_json.dumps(record.to_dict()) == line
    packed = msgpack.packb(record.to_dict())
    assert msgpack.packb(RoundRecord.from_dict(msgpack.unpackb(packed)).to_dict()) == packed


def test_the_golden_records_have_every_field() -> None:
    there = {name for line in HISTORY for name in json.loads(line)}
    assert there == {*ALWAYS, *OPTIONAL} - SINCE


def test_what_encoded_updates_would_have_been_is_kept() -> None:
    record = RoundRecord(
        1, bytes_up=10, raw_bytes_up=320, bytes_down=7, raw_bytes_down=224,
        privacy=PrivacySpent(0.5, 2.0, 1e-5), ended="--rounds 20 are made",
    )  # fmt: skip
    assert RoundRecord.from_dict(record.to_dict()) == record
    assert not SINCE & RoundRecord(version=1, bytes_up=10).to_dict().keys()


def test_what_was_nan_is_nan_again() -> None:
    record = RoundRecord.from_dict(json.loads(HISTORY[1]))
    assert record.judged is not None
    assert record.evaluated is not None
    assert isnan(record.judged["eval_auc"].low)
    assert isnan(record.evaluated["auc"])


def test_an_older_record_does_not_claim_what_its_writer_did_not_know() -> None:
    record = RoundRecord.from_dict(json.loads(HISTORY[0]))
    assert not record.knows("time")
    assert not record.knows("judged")
    assert record.knows("seconds")
    assert record.knows("evaluation"), "that nobody evaluated is known"
    assert (record.time, record.judged) == (0.0, None)


def test_a_field_of_a_newer_version_is_passed_on() -> None:
    newer = RoundRecord(4).to_dict() | {"carbon_g": {"alfa": 0.5}}
    assert RoundRecord.from_dict(newer).to_dict() == newer


def test_a_record_of_a_newer_format_is_refused() -> None:
    with pytest.raises(ConfigError, match="format 2, and this Warren reads 1"):
        RoundRecord.from_dict(RoundRecord(4).to_dict() | {"format": 2})


@pytest.mark.parametrize(
    "odd",
    [{"version": "four"}, {"metrics": 3}, {"clients": ["alfa"]}, {"judged": {"auc": {}}}],
)  # fmt: skip
def test_what_is_no_record_is_a_value_error(odd: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"no record of a round|invalid literal"):
        RoundRecord.from_dict(RoundRecord(4).to_dict() | odd)


def test_only_the_newest_record_says_who_sent_what() -> None:
    record = RoundRecord.from_dict(json.loads(HISTORY[-1]))
    assert {"clients", "above"} <= record.to_dict().keys()
    short = record.shortened()
    assert not {"clients", "above"} & short.to_dict().keys()
    assert short.shortened() is short


@pytest.mark.parametrize("version", [None, "30", 1.5])
def test_a_rollback_to_what_is_no_version_is_one_to_a_file(version: Any) -> None:
    assert Rollback.from_dict({"version": version, "source": "x"}).version is None
