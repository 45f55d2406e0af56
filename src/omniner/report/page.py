"""Render HTML pages: each is one file that needs no network, no server and no Chinese font.

The templates are in `pages/` (jinja2, autoescaped). The data for a page's scripts is one JSON block in which `<` is
escaped, and the scripts insert it only as text (`page.js`). A content security policy allows only these scripts, by
their digest, and no network address. The Chinese letters of the page are embedded (`font_face`), which is most of its
cost: about 1 s.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, partial
from importlib import resources
from typing import TYPE_CHECKING, Any

from omniner.records import Entity, storable
from omniner.report.figures import font_face
from omniner.report.tables import Table
from omniner.scoring.error_types import ERROR_TYPES
from omniner.version import __version__
from omniner.wording import TAGS, Wording, translated

if TYPE_CHECKING:
    from jinja2 import Environment

_SPOKEN = re.compile(r'\bsay\(("(?:[^"\\]|\\.)*")')  # a translatable text in a script


def render_page(
    template: str,
    kind: str,
    name: str,
    created: str,
    values: Mapping[str, Any],
    data: Any = None,
    scripts: Sequence[str] = (),
    language: str = "en",
) -> str:
    """Write a page.

    Args:
        template: name of the template of the sections, which is put into `page.html`.
        kind: report, comparison, statistics or guidance; the class of the page in its style sheet.
        name: the heading.
        created: formatted time.
        values: values for the template, which escapes them.
        data: data for the scripts: an object of plain values, wordings and tables.
        scripts: file names of the scripts, in the order in which they run; empty for a page without scripts.
        language: zh | en; language of the wordings in values and data, and of the texts in templates and scripts.
    """
    from markupsafe import Markup

    script = "".join(map(_asset, scripts))
    if data is not None:
        data = _plain({**data, "words": _words(script, language)}, language)
    # Without `<` in the block, neither `</script` nor `<!--` can end it early.
    block = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    nav: list[tuple[str, str]] = []  # filled by the sections of the template
    environment = _environment(language)
    main = environment.get_template(template).render({**values, "nav": nav})
    page = partial(
        environment.get_template("page.html").render,
        kind=kind,
        title=Wording(kind),
        tag=TAGS[language],
        name=name,
        created=created,
        nav=nav,
        main=Markup(main),
        data=Markup(block),
        script=Markup(script),
        policy=Markup(_policy(script)),
        css=Markup(_asset("page.css")),
        version=__version__,
    )
    # The font must cover the whole page, because the frame around the sections contains text, too.
    font = font_face(page(font=""))
    return storable(page(font=Markup(font)))


def render_summary_page(
    kind: str,
    name: str,
    lines: Sequence[str],
    tables: Mapping[str, Table],
    texts: Sequence[tuple[str, str]],
    language: str = "en",
) -> str:
    """Write a page with a few lines, tables and texts, for results that have no page of their own kind.

    Args:
        kind: kind of results.
        name: name of the run.
        lines: a summary of the results.
        tables: tables by name.
        texts: title and content of texts that are shown unchanged.
        language: zh | en.
    """
    titles = [(key, Wording(key.replace("_", " ").capitalize())) for key in tables]
    values = {"lines": lines, "titles": titles, "texts": texts}
    created = time.strftime("%Y-%m-%d %H:%M:%S")
    scripts = ("page.js", "summary.js")
    return render_page("summary.html", kind, name, created, values, {"tables": tables}, scripts, language)


@cache
def _environment(language: str) -> Environment:
    """Return the environment of templates that show wordings in this language; `{{ say("...") }}` marks their texts."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("omniner.report", "pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=partial(translated, language=language),
    )
    environment.globals["say"] = Wording
    return environment


def _plain(data: Any, language: str) -> Any:
    """Convert data to plain values for the scripts of a page in this language."""
    match data:
        case Table():
            return data.to_json(language)
        case dict():
            return {translated(key, language): _plain(value, language) for key, value in data.items()}
        case list() | tuple():
            return [_plain(value, language) for value in data]
    return translated(data, language)


def _words(script: str, language: str) -> dict[str, str]:
    """Return translations of the scripts' texts, `say("...")`, and the names of error types in this language."""
    texts = [json.loads(text) for text in _SPOKEN.findall(script)]
    words = {text: Wording(text).of(language) for text in texts if language != "en"}
    return words | {name: entry.label.of(language) for name, entry in ERROR_TYPES.items()}


def _asset(name: str) -> str:
    return resources.files("omniner.report").joinpath("pages", name).read_text(encoding="utf-8")


def _policy(script: str) -> str:
    """Return a content security policy that allows only this inline script and no network access."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    allowed = f"'sha256-{digest}'" if script else ""
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; font-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def marked_pieces(text: str, entities: Iterable[Entity]) -> list[tuple[str, bool, list[str]]]:
    """Cut a sentence at the bounds of its entities, for pages without scripts.

    Returns:
        Each piece, whether an entity covers it, and the categories of the entities that end with it. A surface without
        offsets is marked where it first occurs; one that does not occur is added after the sentence.
    """
    placed, nowhere = [], []
    for one in entities:
        start = one.start if one.start is not None else text.find(one.text)
        end = one.end if one.end is not None else start + len(one.text)
        placed.append((start, end, one.category)) if start >= 0 else nowhere.append((one.text, True, [one.category]))
    borders = sorted({0, len(text), *(place for start, end, _ in placed for place in (start, end))})
    pieces = []
    for start, end in itertools.pairwise(borders):
        covered = any(first < end and last > start for first, last, _ in placed)
        pieces.append((text[start:end], covered, [category for _, last, category in placed if last == end]))
    return [*pieces, *nowhere]


def entity_values(found: Entity) -> list[Any]:
    """Return an entity in the form that the scripts use."""
    return list(found) if found.start is not None else [found.text, found.category]


def entity_places(wrong: Iterable[Entity], entities: list[Any]) -> list[int]:
    """Return the indexes of these entities in the list; one that the scorer changed or repaired is added to it."""
    found = []
    for item in map(entity_values, wrong):
        if item not in entities:
            entities.append(item)
        found.append(entities.index(item))
    return found
