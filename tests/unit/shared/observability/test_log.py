"""Log lines: each names its action, for people as text and for programs as JSON."""

import io
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from warren_shared.observability.log import Log, configure


@pytest.fixture(autouse=True)
def root_logger_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers, root.level = handlers, level


def test_a_json_line_has_the_action_the_message_and_the_fields() -> None:
    stream = io.StringIO()
    configure("json", stream=stream)
    Log("warren.test").info("model_published", "version %d is out", 3, version=3, client="alfa")
    line = json.loads(stream.getvalue())
    assert line.pop("time") > 0
    assert line == {
        "level": "INFO", "message": "version 3 is out", "action": "model_published",
        "version": 3, "client": "alfa",
    }  # fmt: skip


def test_what_json_has_no_word_for_is_told_in_words() -> None:
    stream = io.StringIO()
    configure("json", stream=stream)
    Log("warren.test").error("odd", "two\nlines", what={1, 2}.__class__)
    assert stream.getvalue().count("\n") == 1
    assert json.loads(stream.getvalue())["what"] == "<class 'set'>"


def test_a_line_for_people_is_time_and_message_and_a_warning_says_so() -> None:
    stream = io.StringIO()
    configure("text", stream=stream)
    log = Log("warren.test")
    log.info("connected", "connected to %s", "rabbit")
    log.warning("connection_lost", "lost")
    first, second = stream.getvalue().splitlines()
    assert first[8:] == " connected to rabbit"
    assert second[8:] == " WARNING: lost"


@pytest.mark.parametrize("style", ["text", "json"])
def test_a_traceback_is_part_of_the_record(style: str) -> None:
    stream = io.StringIO()
    configure(style, stream=stream)  # type: ignore[arg-type]
    try:
        raise ValueError("broken")
    except ValueError:
        logging.getLogger("warren.test").exception("it broke")
    assert "Traceback" in stream.getvalue()
    assert "ValueError: broken" in stream.getvalue()


def test_what_is_below_the_level_is_not_said() -> None:
    stream = io.StringIO()
    configure("text", level="WARNING", stream=stream)
    Log("warren.test").info("connected", "connected")
    logging.getLogger("urllib3").info("GET /api")
    assert not stream.getvalue()


@pytest.mark.parametrize("style", ["text", "json"])
@pytest.mark.parametrize("name", ["name", "args", "time", "level", "lineno", "traceback"])
def test_a_field_of_any_name_neither_fails_nor_replaces_what_a_line_says(
    name: str, style: str
) -> None:
    """``name`` and its like raise KeyError in `logging`; ``time`` was the line's own."""
    stream = io.StringIO()
    configure(style, stream=stream)  # type: ignore[arg-type]
    Log("warren.test").info("evaluated", "version %d", 3, **{name: 0.5})
    said = stream.getvalue()
    assert "version 3" in said
    if style == "json":
        line = json.loads(said)
        assert line[f"{name}_"] == 0.5
        assert line["time"] > 1e9


def test_a_json_line_has_null_for_what_is_not_finite() -> None:
    stream = io.StringIO()
    configure("json", stream=stream)
    Log("warren.test").info("evaluated", "version 3", metrics={"loss": float("nan"), "auc": 0.5})
    assert "NaN" not in stream.getvalue()
    assert json.loads(stream.getvalue())["metrics"] == {"loss": None, "auc": 0.5}


@pytest.mark.parametrize("style", ["text", "json"])
def test_the_journal_is_told_a_lines_priority_and_nobody_else_is(
    style: Literal["text", "json"], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "log").open("w+") as stream:
        told = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{told.st_dev}:{told.st_ino}")
        configure(style, stream=stream)
        Log("warren.test").info("a", "fine")
        Log("warren.test").exception("b", "bad", error=ValueError("x"))
        monkeypatch.setenv("JOURNAL_STREAM", "1:1")
        configure(style, stream=stream)
        Log("warren.test").warning("c", "elsewhere")
        stream.seek(0)
        first, *rest, last = stream.read().splitlines()
    assert first.startswith("<6>")
    assert rest
    assert all(line.startswith("<3>") for line in rest)
    assert not last.startswith("<")
