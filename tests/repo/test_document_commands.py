"""What documents show without running it: commands, files, links."""

import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.support import documents
from tests.support.command_lines import PROGRAMS, commands, complaint, flags_complaint
from tests.support.documents import Block, blocks
from tests.support.processes import ROOT

DOCUMENTS = documents.documents()
HISTORY = {"CHANGELOG.md"}  # says what was
_INLINE = re.compile(rf"(?<!`)`((?:{'|'.join([*PROGRAMS, 'make'])}) [^`]+)`(?!`)")
_LINK = re.compile(r"\]\(([\w./-]*)(#[\w-]+)?\)")


def every(language: str) -> list[Block]:
    return [block for document in DOCUMENTS for block in blocks(document, language)]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_block_says_what_it_is(document: str) -> None:
    unknown = [str(b) for b in blocks(document) if b.language not in documents.LANGUAGES]
    assert not unknown
    assert documents.text_of(document).count("```") == 2 * len(blocks(document))


@pytest.mark.parametrize("block", every("console"), ids=str)
def test_every_command_that_is_shown_exists(block: Block) -> None:
    found = list(commands(block.text))
    assert found
    assert [said for words in found if (said := complaint(words))] == []


@pytest.mark.parametrize("block", every("sh"), ids=str)
def test_every_command_that_is_run_is_one_that_the_parsers_take(block: Block) -> None:
    ours = [words for words in commands(block.text) if words[0] in PROGRAMS]
    assert [said for words in ours if (said := complaint(words))] == []


@pytest.mark.parametrize("document", [name for name in DOCUMENTS if name not in HISTORY])
def test_every_command_within_a_sentence_has_flags_that_exist(document: str) -> None:
    text = re.sub(r"^```.*?^```$", "", documents.text_of(document), flags=re.DOTALL | re.MULTILINE)
    complaints = []
    for command in _INLINE.findall(text):
        words = re.sub(r"[\[\]…]", " ", command).split()
        if words[0] == "make":
            complaints.append(complaint([words[0], *words[1:2]]))
        else:
            complaints.append(flags_complaint(words[0], words[1:]))
    assert [said for said in complaints if said] == []


@pytest.mark.parametrize("block", every("python"), ids=str)
def test_every_python_block_is_python(block: Block) -> None:
    compile(block.text, str(block), "exec")


def test_every_settings_file_can_be_read() -> None:
    for block in every("toml"):
        tomllib.loads(block.text)
    for block in every("json"):
        json.loads(block.text)
    for block in every("yaml"):
        list(yaml.safe_load_all(block.text))


@pytest.mark.parametrize("block", [*every(""), *every("text")], ids=str)
def test_no_command_hides_in_a_picture(block: Block) -> None:
    assert not re.search(rf"^\$? ?({'|'.join(PROGRAMS)}|make) \S", block.text, re.MULTILINE)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_leads_to_a_file_and_a_heading(document: str) -> None:
    missing = []
    for path, anchor in _LINK.findall(documents.text_of(document)):
        target = (ROOT / document).parent / path if path else ROOT / document
        if not target.exists() or (anchor and anchor[1:] not in anchors(target)):
            missing.append(f"{path}{anchor}")
    assert not missing


def anchors(path: Path) -> set[str]:
    """The headings of a document as GitHub names them."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    words = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {word.strip().replace(" ", "-") for word in words}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("client-worker --task a:b --shard 3 &", ""),
        ("client-worker --task a:b --fleets phone", "did you mean --fleet?"),
        ("coordinator-worker --quorum 0", "the least is 1"),
        ("coordinator-worker --server-optimizer adma", "adma"),
        ("coordinator-worker wacth", "no command wacth"),
        ("coordinator-worker watch --quorum 2", "no --quorum"),
        ("sudo -u warren broker-config up --hots b.example", "no --hots"),
        ("X=1 broker-config enrol", "NAME"),
        ("cd /tmp && broker-config up --tls --no-tls", "not allowed with"),
        ("make dmeo", "no `make dmeo`"),
        ("make demo TSL=1", "reads no TSL"),
        ("pip install '.[clients]'", "no extra clients"),
        ("python -m benchmarks.flod", "no module benchmarks.flod"),
        ("brokerconfig up", "what is brokerconfig?"),
    ],
)
def test_a_command_that_there_is_not_is_found(line: str, said: str) -> None:
    found = [complaint(words) for words in commands(line)]
    assert said in found[-1]
    assert bool(said) == bool(found[-1])


def test_what_is_printed_below_a_prompt_is_no_command() -> None:
    shown = "$ broker-config down  # once\nstopped\n$ make demo | tail\n"
    assert list(commands(shown)) == [["broker-config", "down"], ["make", "demo"], ["tail"]]
