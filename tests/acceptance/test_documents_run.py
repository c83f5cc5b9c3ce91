"""Every document with commands, run from its first block to its last, over a broker of its own."""

from pathlib import Path

import pytest

from tests import documents

RUN: dict[str, list[str]] = {
    "docs/scaling.md": ["version 5 here is version 5 of root", "version 5 is final"],
}
"""Documents that are run as they stand, and what must have been printed in the end."""

BY_THEMSELVES = {
    "README.md": "test_readme.py",
    "docs/deploy.md": "test_deploy.py",
}
"""Documents that have tests of their own."""


@pytest.mark.parametrize("document", RUN)
def test_its_commands_do_what_it_says(document: str, tmp_path: Path) -> None:
    said = documents.run(documents.blocks(document), tmp_path)
    missing = [words for words in RUN[document] if words not in said]
    assert not missing, said


def test_no_document_has_a_command_that_no_test_runs() -> None:
    tested = {*RUN, *BY_THEMSELVES}
    untested = [
        str(block)
        for document in documents.documents()
        for block in documents.blocks(document)
        if block.needs_test and document not in tested
    ]
    assert not untested, (
        "add the document to RUN, or make it `console` (only shown), `python shown`"
    )
    here = Path(__file__).parent
    for document, test in BY_THEMSELVES.items():
        assert document in (here / test).read_text(), f"{test} does not run {document}"
