"""The page, whole: its parts lie beside this file, and nothing is loaded from anywhere else."""

import base64
import hashlib
from collections.abc import Mapping
from importlib import resources
from typing import Any, Final

from warren_shared import strict_json

SCRIPTS: Final = ("draw.js", "charts.js", "tables.js", "page.js")


def page(view: Mapping[str, Any] | None = None) -> tuple[bytes, str]:
    """The HTML and the policy that it is to be served with.

    With ``view`` it is a page to keep, which shows that and asks for no more.
    """
    style = _part("page.css")
    script = "\n".join(map(_part, SCRIPTS))
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}';"
        " connect-src 'self'; base-uri 'none'; form-action 'none'"
    )
    kept = ""
    if view is not None:
        # An own line of data, never a script; "<" could end it, and is written otherwise.
        data = strict_json.dumps(view).replace("<", "\\u003c")
        kept = f'<script type="application/json" id="kept">{data}</script>'
    html = _part("page.html")
    for name, text in (("POLICY", policy), ("STYLE", style), ("KEPT", kept), ("SCRIPT", script)):
        html = html.replace(f"<!--{name}-->", text)
    return html.encode(), f"{policy}; frame-ancestors 'none'"


def _part(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text("utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
