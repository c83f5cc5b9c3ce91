"""The Chinese documents agree with the English ones: sections, blocks, figures, commands, links."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import PurePosixPath
from typing import Final

import pytest

from tests.support import documents

PAIRS: Final = {
    "README.md": "README.zh.md",
    "docs/bring-your-own.md": "docs/zh/bring-your-own.md",
    "docs/deploy.md": "docs/zh/deploy.md",
    "docs/tutorial.md": "docs/zh/tutorial.md",
}
_BLOCK: Final = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
_CODE: Final = re.compile(r"`([^`]+)`")
_LINK: Final = re.compile(r"\]\(([\w./-]*)(#[\w-]+)?\)")
_NUMBER: Final = re.compile(r"\d+(?:[.,]\d+)*")
_URL: Final = re.compile(r"<https?://[^>]+>|\]\([^)]*\)")

each_pair = pytest.mark.parametrize(("english", "chinese"), PAIRS.items(), ids=PAIRS)


def sections(document: str) -> list[str]:
    """What is written between the headings, without blocks; a section begins with its heading."""
    return re.split(r"^(?=#)", _BLOCK.sub("", documents.text_of(document)), flags=re.MULTILINE)


def levels(document: str) -> list[int]:
    return [len(section) - len(section.lstrip("#")) for section in sections(document)]


def code(text: str) -> set[str]:
    return {" ".join(words.split()) for words in _CODE.findall(text)}


def numbers(text: str) -> Counter[str]:
    """How often each number is written in digits, outside of commands and addresses."""
    return Counter(_NUMBER.findall(_URL.sub("", _CODE.sub("", text))))


def links(document: str) -> set[str]:
    """The files that it links to; those that have a Chinese version count as the English one."""
    folder = PurePosixPath(document).parent
    paths = (path for path, _ in _LINK.findall(documents.text_of(document)) if path)
    found = (os.path.normpath(folder / path) for path in paths)
    return {next((e for e, c in PAIRS.items() if c == path), path) for path in found}


def differences(
    english: str, chinese: str, of: Callable[[str], Iterable[str]]
) -> list[tuple[str, object]]:
    """By section, what only one of the two has."""
    found: list[tuple[str, object]] = []
    for ours, theirs in zip(sections(english), sections(chinese), strict=True):
        a, b = Counter(of(ours)), Counter(of(theirs))
        if a != b:
            found.append((theirs.partition("\n")[0], {"missing": a - b, "added": b - a}))
    return found


def test_every_chinese_document_is_held_against_an_english_one() -> None:
    text = {path: documents.text_of(path) for path in documents.documents()}
    chinese = {path for path in text if len(re.findall("[\u4e00-\u9fff]", text[path])) > 500}
    assert chinese == set(PAIRS.values())


@each_pair
def test_the_sections_are_the_same(english: str, chinese: str) -> None:
    assert levels(chinese) == levels(english)


@each_pair
def test_the_blocks_are_those_that_are_run(english: str, chinese: str) -> None:
    ours, theirs = (
        [(block.language, block.words, block.text) for block in documents.blocks(name)]
        for name in (english, chinese)
    )
    assert theirs == ours


@each_pair
def test_the_links_lead_to_the_same_documents_and_to_each_other(english: str, chinese: str) -> None:
    assert links(chinese) | {english} == links(english) | {english}
    to_chinese = os.path.relpath(chinese, PurePosixPath(english).parent)
    to_english = os.path.relpath(english, PurePosixPath(chinese).parent)
    assert f"[中文]({to_chinese})" in documents.text_of(english)
    assert f"[English]({to_english})" in documents.text_of(chinese)


@each_pair
def test_commands_and_flags_within_sentences_are_the_same(english: str, chinese: str) -> None:
    assert differences(english, chinese, code) == []


@each_pair
def test_the_figures_are_the_same(english: str, chinese: str) -> None:
    assert differences(english, chinese, lambda text: numbers(text).elements()) == []
