"""README.zh.md says what README.md says: the same sections, blocks, links, flags."""

import re

from tests.support import documents

ENGLISH, CHINESE = "README.md", "README.zh.md"


def found(pattern: str, document: str) -> list[str]:
    text = re.sub(r"^```.*?^```$", "", documents.text_of(document), flags=re.DOTALL | re.MULTILINE)
    return re.findall(pattern, text, re.MULTILINE)


def test_it_has_the_same_sections() -> None:
    assert found(r"^#+", CHINESE) == found(r"^#+", ENGLISH)


def test_its_blocks_are_those_that_are_run() -> None:
    ours, theirs = (
        [(block.language, block.words, block.text) for block in documents.blocks(name)]
        for name in (ENGLISH, CHINESE)
    )
    assert theirs == ours


def test_it_links_to_the_same_documents_and_to_the_english_one() -> None:
    ours, theirs = (set(found(r"\]\(([\w./-]+)\)", name)) for name in (ENGLISH, CHINESE))
    assert ours - {CHINESE} == theirs - {ENGLISH}
    assert CHINESE in ours
    assert ENGLISH in theirs


def test_it_names_the_same_commands_and_flags() -> None:
    ours, theirs = (
        {" ".join(words.split()) for words in found(r"`([^`]+)`", name)}
        for name in (ENGLISH, CHINESE)
    )
    assert theirs == ours
