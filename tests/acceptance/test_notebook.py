"""The notebook of the examples, in a kernel of its own as a person's front end runs it."""

import json
import re
import time
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.support.leftovers import processes_of
from tests.support.pace import DEADLINE_S
from tests.support.processes import ROOT

NOTEBOOK = ROOT / "examples" / "notebook.ipynb"

pytestmark = pytest.mark.slow


def executed(cells: list[str]) -> Any:
    """A notebook of these cells, run in a new kernel in an empty folder."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    client = NotebookClient(notebook, timeout=300, kernel_name="python3")
    return client.execute()


def shown(cell: Any, kind: str) -> str:
    return "".join(
        "".join(output["data"].get(kind, ""))
        for output in cell["outputs"]
        if output["output_type"] in ("display_data", "execute_result")
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_notebook_runs_and_shows_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    first, report, own = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert "<polyline" in shown(first, "image/svg+xml")
    live = shown(first, "text/html")
    assert "<progress" in live
    assert "round 20 of 20" in live
    assert "<polyline" in live
    told = "".join(output.get("text", "") for output in report["outputs"])
    assert re.search(r"20 rounds, 80 updates, .* It ended: --rounds 20 are made", told)
    assert "sequential" in told + shown(report, "text/html")
    lines = "".join(
        output.get("text", "") for output in own["outputs"] if output.get("name") == "stdout"
    ).splitlines()
    assert [line.split()[0] for line in lines] == [str(n) for n in range(1, 11)]
    losses = [float(line.split()[1]) for line in lines]
    assert losses[-1] < losses[0]


def test_the_notebook_has_no_outputs_and_needs_ten_lines_to_a_curve() -> None:
    notebook = json.loads(NOTEBOOK.read_text())
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    assert len([line for line in cells[0]["source"] if line.strip()]) <= 10


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("is_interrupted", [True, False])
def test_a_kernel_that_is_interrupted_or_shut_down_leaves_nothing(
    is_interrupted: bool, tmp_path: Path
) -> None:
    folder = tmp_path / "all"
    begin = f"""
from warren_fl import Federation
federation = Federation("tests.tasks:line", clients=2, folder={str(folder)!r})
federation.__enter__()
run = federation.start(rounds=100_000_000)
next(run)
"""
    if not is_interrupted:
        executed([begin])
        until = time.monotonic() + DEADLINE_S
        while processes_of(folder) and time.monotonic() < until:
            time.sleep(0.1)
        assert processes_of(folder) == []
        return
    interrupt = """
import _thread, threading
threading.Timer(1, _thread.interrupt_main).start()
try:
    with federation:
        run.result()
except KeyboardInterrupt:
    print("interrupted")
"""
    notebook = executed([begin, interrupt])
    told = "".join(output.get("text", "") for output in notebook.cells[1]["outputs"])
    assert "interrupted" in told
    assert processes_of(folder) == []
