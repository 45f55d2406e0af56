"""What the HTML pages have in common: one file that needs no network, no server and no Chinese font.

In go a template of this package, the values of its `{{names}}`, the data and the scripts that show it; out comes the
page. Everything from a corpus or a model travels as one JSON block in which `<` is escaped, and reaches the page as
text only (`page.js`); a content security policy admits our own scripts by their digest and no address at all. The
Chinese letters of the page come with it (`fonts`), which is most of its cost: about 1 s.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import html as markup
import json
import re
from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Any

import omniner
from omniner.records import Entity, storable
from omniner.report import figures


def render_page(
    template: str, parts: Mapping[str, str], data: Any, scripts: Mapping[str, str], libraries: Mapping[str, str]
) -> str:
    """The page.

    Args:
        template: name of the file with the sections, which `page.html` surrounds.
        parts: markup for its places and for `name`, `kind` (report, comparison, ...), `created` and `nav`; whatever
            comes from outside is escaped already.
        data: what the scripts work on, as plain values.
        scripts: text of each script by its name, in the order in which they run; empty for a page without any.
        libraries: text of scripts that wait, packed, until `page.library(name)` asks for them.
    """
    # `<` never stands in the block, so neither `</script` nor `<!--` can end it early.
    block = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    values = {
        "created": "",
        **parts,
        "scripts": _scripts(block, scripts, libraries),
        "noscript": _NOSCRIPT if scripts else "",
        "policy": _policy([*scripts.values(), *libraries.values()]),
        "font": figures.font_face((*parts.values(), block), "OmniNER Han"),
        "css": asset("report.css"),
        "footer": f"OmniNER {omniner.__version__}; this file is complete: it loads nothing from anywhere.",
    }
    page = asset("page.html").replace("{{main}}", asset(template).strip())
    return storable(re.sub(r"\{\{(\w+)\}\}", lambda found: values[found[1]], page))


_NOSCRIPT = (
    '<noscript><p class="notice">Charts, tables and sentences need JavaScript; plain text does not.</p></noscript>'
)


def _scripts(block: str, scripts: Mapping[str, str], libraries: Mapping[str, str]) -> str:
    """The data and the scripts that show it, which stand at the end of the page."""
    if not scripts:
        return ""
    lines = [f'<script type="application/json" id="data">{block}</script>']
    for name, script in libraries.items():
        packed = base64.b64encode(gzip.compress(script.encode(), mtime=0)).decode()
        lines.append(f'<script type="application/gzip" id="library-{name}">{packed}</script>')
    return "\n".join([*lines, *(f"<script>{script}</script>" for script in scripts.values())])


def plotly() -> str:
    """The chart library as one script; importing `plotly` itself would cost a second and give no more."""
    return resources.files("plotly").joinpath("package_data", "plotly.min.js").read_text(encoding="utf-8")


def asset(name: str) -> str:
    """The text of a file of this package."""
    return resources.files("omniner.report").joinpath(name).read_text(encoding="utf-8")


def nav(sections: Mapping[str, str]) -> str:
    """Links to the sections of the page: place -> title."""
    return "".join(f'<a href="#{place}">{markup.escape(title)}</a>' for place, title in sections.items())


def cards(items: Iterable[tuple[str, str, str]]) -> str:
    """Key numbers: (title, value, note), plain text."""
    rows = (tuple(map(markup.escape, item)) for item in items)
    return "".join(
        f'<div class="card"><span>{title}</span><b>{value}</b><span>{note}</span></div>' for title, value, note in rows
    )


def details(items: Mapping[str, str]) -> str:
    """Terms and what they are, in this order."""
    return "".join(f"<dt>{markup.escape(term)}</dt><dd>{markup.escape(text)}</dd>" for term, text in items.items())


def entity_values(found: Entity) -> list[Any]:
    """An entity as the scripts take it."""
    return list(found) if found.start is not None else [found.text, found.category]


def entity_places(wrong: Iterable[Entity], entities: list[Any]) -> list[int]:
    """Where these entities stand in the list; one that the scorer changed or repaired is added to it."""
    found = []
    for item in map(entity_values, wrong):
        if item not in entities:
            entities.append(item)
        found.append(entities.index(item))
    return found


def _policy(scripts: Iterable[str]) -> str:
    """Only these inline scripts may run, and nothing may be fetched."""
    digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    sources = " ".join(f"'sha256-{digest}'" for digest in digests)
    rules = f"default-src 'none'; script-src {sources}; style-src 'unsafe-inline'; img-src data: blob:; font-src data:"
    return f"{rules}; base-uri 'none'; form-action 'none'"
