"""How Sphinx makes a site of the Markdown documents of this repository; ``make site`` runs it.

Pages are where the documents are, so links between documents are links between pages. What
documents link to and is no page, such as an example's code, is copied beside them.
"""

import posixpath
import re
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

sys.path.insert(0, str(Path(__file__).parent))

from bilingual_search import SearchEnglishAndChinese

ROOT: Final = Path(__file__).parents[2]
CONTENTS: Final = "docs/README"  # its sections and links are the navigation
REFERENCE: Final = "docs/reference"
# Pages below another in the navigation, which docs/README.md does not list one by one.
BELOW: Final = {
    "CONTRIBUTING": ["CODE_OF_CONDUCT", "SECURITY"],
    "examples/README": ["examples/*/README"],
    "experiments/README": ["experiments/results/*"],
}
_CHINESE: Final = re.compile(r"[\u3000-\u9fff\uff00-\uffef]")  # characters and punctuation

project = "Warren"
author = "the authors of Warren"
extensions = ["myst_parser"]
root_doc = "README"
include_patterns = [
    "*.md",
    "docs/**.md",
    "benchmarks/README.md",
    "examples/**.md",
    "experiments/**.md",
]
exclude_patterns = [".*", "*.egg-info", "build", "node_modules", "runs", "site", "tests"]

myst_heading_anchors = 6  # of all levels, and with the names that GitHub gives them

html_theme = "furo"
html_title = "Warren"
html_favicon = "favicon.svg"
html_copy_source = False
html_show_sourcelink = False
html_show_copyright = False


def navigation(contents: str) -> str:
    """A table of contents for each section of docs/README.md, in its order and with its names."""
    trees = []
    for section in contents.split("\n## ")[1:]:
        caption, _, text = section.partition("\n")
        links = re.findall(r"^- \[(.+?)\]\((.+?)\.md\)", text, re.MULTILINE)
        entries = [f"{name} </{posixpath.normpath(f'docs/{path}')}>" for name, path in links]
        trees.append(tree(entries, f":caption: {caption}"))
    return "".join(trees)


def tree(entries: Iterable[str], *options: str) -> str:
    """One that adds to the navigation, and nothing to the page."""
    return "\n".join(["\n\n```{toctree}", ":hidden:", *options, "", *entries, "```\n"])


def add_navigation(_: Sphinx, docname: str, source: list[str]) -> None:
    """Write the tables of contents into the front page, and into pages that have others below."""
    if docname == root_doc:
        source[0] += navigation((ROOT / f"{CONTENTS}.md").read_text())
    elif docname == CONTENTS:  # is the navigation, so it is not in it
        source[0] = f"---\norphan: true\n---\n{source[0]}"
    elif docname in BELOW:
        source[0] += tree([f"/{page}" for page in BELOW[docname]], ":glob:")


def join_chinese_lines(_: Sphinx, doctree: nodes.document) -> None:
    """A browser shows the end of a line as a space, which Chinese does not have between words."""
    for element in list(doctree.findall(nodes.TextElement)):
        kept: list[nodes.Node] = []
        parts = list(element.children)
        for at, part in enumerate(parts):
            beside = [other.astext() for other in (*parts[at - 1 : at], *parts[at + 1 : at + 2])]
            if part.astext() == "\n" and len(beside) == 2 and _is_chinese(*beside):
                continue
            # One text again, so that the search finds a word that two lines share.
            if kept and isinstance(part, nodes.Text) and isinstance(kept[-1], nodes.Text):
                part = nodes.Text(kept.pop().astext() + part.astext())
            kept.append(part)
        if len(kept) < len(parts):
            element.children = []
            element.extend(kept)


def _is_chinese(before: str, after: str) -> bool:
    return bool(_CHINESE.match(before[-1:]) and _CHINESE.match(after[:1]))


def shorten_signatures(_: Sphinx, environment: BuildEnvironment) -> None:
    """Beside the page of the reference: names, without what is in the brackets after them."""
    for text in list(environment.tocs[REFERENCE].findall(nodes.Text)):
        text.parent.replace(text, nodes.Text(text.astext().partition("(")[0]))


def set_language(_: Sphinx, pagename: str, *rest: Any) -> None:
    """What a page says it is in, from which browsers choose fonts and screen readers a voice."""
    if pagename.startswith("docs/zh/") or pagename.endswith(".zh"):
        _template, context, _doctree = rest
        context["language"] = "zh-CN"


def add_front_page(app: Sphinx, failure: Exception | None) -> None:
    """A site begins at index.html."""
    if not failure:
        shutil.copy(app.outdir / f"{root_doc}.html", app.outdir / "index.html")


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.add_search_language(SearchEnglishAndChinese)
    app.connect("source-read", add_navigation)
    app.connect("doctree-read", join_chinese_lines)
    app.connect("env-updated", shorten_signatures)
    app.connect("html-page-context", set_language)
    app.connect("build-finished", add_front_page)
