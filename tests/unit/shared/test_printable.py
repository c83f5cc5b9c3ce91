"""What others have written is shown, and does nothing."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from warren_shared.errors import Rejected
from warren_shared.observability.log import Log, Readable
from warren_shared.printable import printable
from warren_shared.protocol.messages import MAX_FIGURE, EvaluationEntry, Figures
from warren_shared.tensors.evaluation import MAX_CLASSES

ESC = "\x1b]0;owned\x07\x1b[2J\x1b[31mFAKE\n20:00:00 version 99 is published\r\u202edne"


@given(st.text())
def test_it_is_one_printable_line_and_what_was_one_is_as_it_was(text: str) -> None:
    assert printable(text).isprintable()
    assert not text.isprintable() or printable(text) == text


def test_a_refusal_quotes_its_sender_without_obeying_it() -> None:
    assert Rejected("malformed", ESC).detail.isprintable()
    assert str(Rejected("malformed", ESC)).isprintable()
    assert len(Rejected("malformed", "\U000e0001" * 300).detail) <= 600


def test_no_line_of_the_log_is_a_clients(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    log = Log("test")
    log.info("said", "%s said %s", "alfa", ESC)
    log.exception("unforeseen", "it failed", error=ValueError(ESC))
    logging.getLogger("another").warning(ESC)
    lines = [line for record in caplog.records for line in Readable().format(record).split("\n")]
    assert all(line.isprintable() for line in lines)
    assert not [line for line in lines if line.startswith("20:00:00 version 99")]
    assert len(lines) == 1 + 3 + 2


METRICS = TypeAdapter(Figures)


@pytest.mark.parametrize("name", ["", "x" * 129, "loss\n", "a\tb", ESC, "\u202elanigiro", "\u2028"])
def test_a_metrics_name_is_short_and_printable(name: str) -> None:
    with pytest.raises(ValidationError):
        METRICS.validate_python({name: 1.0})


@pytest.mark.parametrize("name", ["loss", "top-5 accuracy", "val/f1@0.5", "précision", "損失"])
def test_metrics_may_have_names_of_any_language(name: str) -> None:
    assert METRICS.validate_python({name: 1.0})


@pytest.mark.parametrize("value", [1.7e308, -1.7e308, 2 * MAX_FIGURE, float("inf"), float("nan")])
def test_a_figure_whose_sum_would_overflow_is_refused(value: float) -> None:
    with pytest.raises(ValidationError):
        METRICS.validate_python({"loss": value})
    assert METRICS.validate_python({"loss": MAX_FIGURE})


@pytest.mark.parametrize(
    "tables",
    [
        {"confusion": [[1 << 40, 0], [0, 1]]},
        {"scores": [[1 << 40] + [0] * 511, [0] * 512]},
        {"confusion": [[1] * MAX_CLASSES] * MAX_CLASSES},
    ],
)
def test_an_evaluation_counts_no_more_than_its_examples(tables: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="more counts than examples"):
        EvaluationEntry(num_examples=2, **tables)
