"""What each client said, as a row for each update."""

import json
from pathlib import Path

from coordinator_worker.state.round_record import ClientFigures, RoundRecord
from coordinator_worker.storage.client_history import ClientRound
from coordinator_worker.versions import client_rows, history

CLEAR = ClientFigures("alfa", 0, 30, 0.0, {"loss": 2.0})
HIDDEN = ClientFigures("bravo", 0, 0, None, {})


def test_what_masks_hide_is_no_zero(tmp_path: Path) -> None:
    closed = ClientRound.of("aa", 1, [CLEAR, HIDDEN])
    assert ClientRound.from_dict(json.loads(json.dumps(closed.to_dict()))) == closed
    clear, hidden = client_rows.rows([closed])
    assert (clear["norm"], clear["examples"]) == (0.0, 30)
    assert hidden.keys() == clear.keys() - {"norm", "examples", "metric/loss"}
    client_rows.to_csv([closed], tmp_path / "clients.csv")
    _heading, *lines = (tmp_path / "clients.csv").read_text().splitlines()
    assert [line.split(",")[4:6] for line in lines] == [["30", "0.0"], ["", ""]]


def test_a_round_whose_norms_are_hidden_has_none() -> None:
    record = RoundRecord(3, updates=2, absent=frozenset({"norm"}))
    assert "norm" not in history.row(record)
    assert "norm" not in RoundRecord.from_dict(record.to_dict()).to_dict()
