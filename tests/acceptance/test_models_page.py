"""docs/models.md, followed from top to bottom: its commands, in its order, and its Python."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import documents
from tests.support.processes import ROOT

DOCUMENT = "docs/models.md"
PAGE = documents.text_of(DOCUMENT)


def blocks(language: str) -> list[str]:
    return [block.text for block in documents.blocks(DOCUMENT, language)]


@pytest.mark.long
def test_the_page_about_models_does_what_it_says(tmp_path: Path) -> None:
    documents.save(documents.blocks("README.md", "python"), tmp_path)
    (use,) = blocks("python")
    (tmp_path / "use_model.py").write_text(use)
    script = "set -e\ntrap 'broker-config down' EXIT\n" + "\n".join(blocks("sh"))
    back = "coordinator-worker rollback 4"
    script = script.replace(back, f"{sys.executable} use_model.py\n{back}", 1)
    ours = documents.environment(tmp_path)
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=ours, capture_output=True, text=True,
        timeout=570, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "version 7 has the weights of version 4" in done.stdout
    assert "rolled back to version 4" in done.stdout
    assert "audit.jsonl is as it was written" in done.stdout
    assert done.stderr.count("version 9 is final") == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "next: 4 tensors" in done.stdout
    card = (tmp_path / "CARD.md").read_text()
    assert "# Model card: warren, version 9" in card
    assert "| rounds | 6 |" in card, "four before what was rolled back, and two after it"
    listed = subprocess.check_output(
        ["coordinator-worker", "versions", "--json"],
        cwd=tmp_path,
        env=documents.environment(tmp_path),
        text=True,
    )
    there = {line["version"]: line for line in map(json.loads, listed.splitlines())}
    assert {4, 8, 9} <= set(there), "a milestone, and the newest"
    assert [v for v, line in there.items() if line["current"]] == [9]


def test_every_file_that_the_page_links_to_exists() -> None:
    linked = re.findall(r"\]\(([\w./-]+)\)", PAGE)
    assert linked
    for path in linked:
        assert os.path.exists(ROOT / "docs" / path)
