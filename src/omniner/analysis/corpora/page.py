"""The texts of a survey of corpora: a single HTML page, the same in Markdown, and what the terminal shows.

In go surveyed corpora, their verdicts and sheets. The page is the sections of `stats.html`, filled by `stats.js` from
one JSON block (see `pages.page`): Table 3 and the checks of all corpora, and everything else of the corpus that is
chosen.
"""

from __future__ import annotations

import html as markup
import math
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from omniner.analysis.corpora.checks import FAILED, STATUSES, WARNED, Surveyed
from omniner.analysis.corpora.figures import shares_by_length
from omniner.analysis.corpora.tables import Verdicts
from omniner.analysis.pages import page
from omniner.analysis.pages import sheets as printing
from omniner.analysis.pages.sheets import TEXT, Sheet, plain
from omniner.analysis.scores.tables import storable

_SECTIONS = {
    "corpora": "Corpora",
    "checks": "Checks",
    "categories": "Categories",
    "surfaces": "Surfaces",
    "leaks": "Leaks",
    "repeats": "Repeats",
    "spans": "Spans",
    "texts": "Texts",
    "issues": "Issues",
    "method": "Method",
}
_BINS = 40  # classes of the chart of lengths
_METHOD = [
    "Characters are Unicode code points, words the pieces between white space. A document is a post; a sentence that "
    "names none is a document of its own. Splits are those that are published, not those that a run cuts from them.",
    "Leaks and repeats compare texts letter for letter. Near duplicates share at least the Jaccard similarity "
    "{near:g} of their character {ngram}-grams; all pairs that do are found, none is estimated.",
    "Entropy is that of the category given the surface, in bits; exclusive is the share of mentions whose surface "
    "occurs in no other category.",
    "Span distinctiveness is the Kullback-Leibler divergence, in nats, of the tokens inside a category's spans from "
    "those of the labelled texts, boundary distinctiveness that of the tokens right before and after them (Papay et "
    "al. 2020); the tokens are characters, or words where the writing has blanks.",
    "Outliers lie beyond the third quartile and three interquartile ranges of their split. Percentiles are "
    "interpolated. One emoji is what people see as one: a flag, a keycap, pictures joined to one.",
    "Figures of labels leave out sentences whose file gives no labels. A check warns above stats.warn and fails above "
    "stats.fail.",
]


def html(name: str, created: str, surveyed: Sequence[Surveyed], verdicts: Verdicts, sheets: Mapping[str, Sheet]) -> str:
    """The page of the run `name`, made at the time `created`."""
    parts = {
        "name": markup.escape(name),
        "kind": "statistics",
        "created": markup.escape(created),
        "nav": page.nav(_SECTIONS),
        "cards": page.cards(_cards(surveyed, verdicts)),
        "details": page.details({one.statistics.name: one.about for one in surveyed}),
        "method": "".join(f"<p>{markup.escape(line)}</p>" for line in _method(surveyed)),
    }
    data = {
        "corpora": [one.statistics.name for one in surveyed],
        "statuses": STATUSES,
        "verdicts": {
            corpus: [[*one[:3], one.limit if math.isfinite(one.limit) else None, *one[4:]] for one in found]
            for corpus, found in verdicts.items()
        },
        "sheets": {
            key: {"title": sheet.title, "columns": sheet.table.columns, "kinds": sheet.kinds, "rows": sheet.table.rows}
            for key, sheet in sheets.items()
            if key != "verdicts"
        },
        "charts": {one.statistics.name: _charts(one) for one in surveyed},
    }
    return page.render("stats.html", parts, data, {"js": page.asset("page.js") + page.asset("stats.js")}, {})


def _charts(surveyed: Surveyed) -> dict[str, Any]:
    """Mentions by category, most first, and the lengths of sentences by split."""
    rows = sorted(surveyed.statistics.categories, key=lambda row: (-row.mentions, row.name))
    edges, shares = shares_by_length(surveyed, _BINS)
    return {
        "categories": [[row.name, row.mentions] for row in rows],
        "edges": edges.tolist(),
        "lengths": {split: values.tolist() for split, values in shares.items()},
    }


def _cards(surveyed: Sequence[Surveyed], verdicts: Verdicts) -> list[tuple[str, str, str]]:
    cards = []
    for one in surveyed:
        flat = one.statistics.flat
        statuses = Counter(verdict.status for verdict in verdicts[one.statistics.name])
        said = ", ".join(f"{statuses[status]} {status}" for status in (FAILED, WARNED) if statuses[status])
        note = f"sentences, {len(flat.owner):,} entities of {len(flat.categories):,} categories; "
        note += said or "all checks passed"
        cards.append((one.statistics.name, f"{len(flat.sentences):,}", note))
    return cards


def _method(surveyed: Sequence[Surveyed]) -> list[str]:
    settings = surveyed[0].settings
    return [line.format(near=settings.near, ngram=settings.ngram) for line in _METHOD]


def markdown(name: str, surveyed: Sequence[Surveyed], verdicts: Verdicts, sheets: Mapping[str, Sheet]) -> str:
    """The same for reading and for version control, without the charts."""
    parts = [f"# {plain(name)}"]
    for one in surveyed:
        corpus = one.statistics.name
        lines = [f"- {plain(verdict.line())}" for verdict in verdicts[corpus]]
        parts += [f"## Checks: {plain(corpus)}", plain(one.about), "\n".join(lines)]
    tables = {key: sheet for key, sheet in sheets.items() if key != "verdicts"}
    parts += [printing.markdown(tables), "## How it was measured", *map(plain, _method(surveyed))]
    return storable("\n\n".join(parts) + "\n")


def terminal(surveyed: Sequence[Surveyed], verdicts: Verdicts, sheets: Mapping[str, Sheet]) -> str:
    """Table 3 and a line for each check of each corpus."""
    lines = aligned(sheets["table3"])
    for one in surveyed:
        lines += ["", f"{one.statistics.name}: {one.about}"]
        lines += [f"  {verdict.line()}" for verdict in verdicts[one.statistics.name]]
    return storable("\n".join(lines))


def aligned(sheet: Sheet) -> list[str]:
    """A table in columns of letters: text to the left, numbers to the right; a Chinese letter takes two places."""
    rows = [sheet.table.columns, *sheet.printed()]
    widths = [max(map(_width, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = []
        for cell, width, kind in zip(row, widths, sheet.kinds, strict=True):
            blanks = " " * (width - _width(cell))
            cells.append(cell + blanks if kind == TEXT else blanks + cell)
        lines.append("  ".join(cells).rstrip())
    return lines


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)
