"""Words of the site's search, in English and Chinese pages.

Chinese is written without spaces. Each two neighbouring characters are a term of the index, and a
query is cut in the same way (``bilingual_search.js``), so that every word of two or more characters
is found without a dictionary of words. Single characters are terms as well, for queries of one.
"""

import re
from pathlib import Path
from typing import Final

from sphinx.search.en import SearchEnglish

_TERM: Final = re.compile(r"[\u3400-\u9fff]+|[^\W\u3400-\u9fff]+")


def terms(text: str) -> list[str]:
    """Those of the index: words, and of Chinese text each character and each pair of them."""
    found: list[str] = []
    for run in _TERM.findall(text):
        if "\u3400" <= run[0] <= "\u9fff":
            found += [*run, *(run[at : at + 2] for at in range(len(run) - 1))]
        else:
            found.append(run)
    return found


class SearchEnglishAndChinese(SearchEnglish):
    """English as Sphinx indexes it; Chinese in pairs of characters."""

    js_splitter_code = Path(__file__).with_suffix(".js").read_text()

    def split(self, input: str) -> list[str]:  # noqa: A002 (Sphinx's name)
        """See ``terms``."""
        return terms(input)
