"""The figures of surveyed corpora as PNG bytes: mentions by category, and lengths of sentences.

Same style, colours and letters as the figures of a run (`pages.figures`); the same corpus gives the same bytes.

The texts of a survey of corpora: a single HTML page, the same in Markdown, and what the terminal shows.

In go surveyed corpora, their verdicts and sheets. The page is the sections of `stats.html`, filled by `stats.js` from
one JSON block (see `pages.page`): Table 3 and the checks of all corpora, and everything else of the corpus that is
chosen.
"""

from __future__ import annotations

import html as markup
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from omniner.corpus.stats.checks import FAILED, STATUSES, WARNED, SurveyedCorpus
from omniner.corpus.stats.flat import Floats, Ints
from omniner.records import storable
from omniner.report import page
from omniner.report.corpus_tables import Verdicts
from omniner.report.figures import LABEL_LENGTH, MOST_ROWS, drawable_text, png
from omniner.report.tables import Table, escape_markdown, tables_markdown
from omniner.scoring.error_types import AMBER, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, AMBER, SKY, GREY)  # of the splits


def draw_corpus_figures(surveyed: Sequence[SurveyedCorpus]) -> dict[str, bytes]:
    """The figures by name; a corpus without mentions has none of categories."""
    made: dict[str, bytes] = {}
    for one in surveyed:
        rows = one.statistics.categories[:MOST_ROWS]
        if rows:
            height = 1.5 + 0.19 * len(rows)
            made[f"stats_{one.statistics.name}_categories"] = png((8, height), partial(_categories, surveyed=one))
        made[f"stats_{one.statistics.name}_lengths"] = png((8, 3.2), partial(_lengths, surveyed=one))
    return made


def _categories(figure: Figure, surveyed: SurveyedCorpus) -> None:
    """Bars on a logarithmic axis, since counts differ by powers of ten."""
    from matplotlib.ticker import NullLocator

    ax = figure.subplots()
    statistics = surveyed.statistics
    rows = sorted(statistics.categories, key=lambda row: (-row.mentions, row.name))[:MOST_ROWS][::-1]
    ax.barh(np.arange(len(rows)), [row.mentions for row in rows], color=BLUE)
    for place, row in enumerate(rows):
        ax.text(row.mentions, place, f" {row.mentions:,}", va="center", fontsize=7.5)
    ax.set_yticks(np.arange(len(rows)), [drawable_text(row.name, LABEL_LENGTH + 6) for row in rows])
    ax.set_ylim(-0.7, len(rows) - 0.3)
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlim(0.8, 2.5 * max(row.mentions for row in rows))
    ax.grid(visible=False, axis="y")
    ax.set_xlabel("mentions")
    mentions, categories = len(statistics.flat.owner), len(statistics.categories)
    ax.set_title(f"{drawable_text(statistics.name)}: {mentions:,} mentions of {categories:,} categories")


def shares_by_length(surveyed: SurveyedCorpus, bins: int) -> tuple[Ints, dict[str, Floats]]:
    """Edges of at most `bins` length classes in characters, and each split's share of sentences in each class.

    A class holds the lengths from its first edge up to the one before the next; each has as many whole numbers, or
    some would hold one more than their neighbours. The last class takes in all sentences beyond the 99th percentile.
    """
    statistics = surveyed.statistics
    length = statistics.flat.length
    lengths = int(np.ceil(np.percentile(length, 99))) + 1 if len(length) else 1  # from 0 to the 99th percentile
    width = math.ceil(lengths / bins)
    edges = np.arange(0, lengths + width, width)
    shares = {}
    for number, split in enumerate(statistics.flat.splits):
        here = np.minimum(length[statistics.flat.split == number], edges[-1])
        shares[split] = np.histogram(here, edges)[0] / max(len(here), 1)
    return edges, shares


def _lengths(figure: Figure, surveyed: SurveyedCorpus) -> None:
    ax = figure.subplots()
    edges, shares = shares_by_length(surveyed, 50)
    for number, (split, values) in enumerate(shares.items()):
        ax.stairs(100 * values, edges, color=_COLOURS[number % len(_COLOURS)], label=drawable_text(split))
    ax.set_xlabel("characters of a sentence; the last class holds all longer ones")
    ax.set_ylabel("% of sentences")
    ax.legend(loc="best")
    ax.set_title(f"{drawable_text(surveyed.statistics.name)}: length of sentences")


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


def render_corpus_page(
    name: str, created: str, surveyed: Sequence[SurveyedCorpus], verdicts: Verdicts, tables: Mapping[str, Table]
) -> str:
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
        "sheets": {key: table.to_json() for key, table in tables.items() if key != "verdicts"},
        "charts": {one.statistics.name: _charts(one) for one in surveyed},
    }
    return page.render_page("stats.html", parts, data, {"js": page.asset("page.js") + page.asset("stats.js")}, {})


def _charts(surveyed: SurveyedCorpus) -> dict[str, Any]:
    """Mentions by category, most first, and the lengths of sentences by split."""
    rows = sorted(surveyed.statistics.categories, key=lambda row: (-row.mentions, row.name))
    edges, shares = shares_by_length(surveyed, _BINS)
    return {
        "categories": [[row.name, row.mentions] for row in rows],
        "edges": edges.tolist(),
        "lengths": {split: values.tolist() for split, values in shares.items()},
    }


def _cards(surveyed: Sequence[SurveyedCorpus], verdicts: Verdicts) -> list[tuple[str, str, str]]:
    cards = []
    for one in surveyed:
        flat = one.statistics.flat
        statuses = Counter(verdict.status for verdict in verdicts[one.statistics.name])
        said = ", ".join(f"{statuses[status]} {status}" for status in (FAILED, WARNED) if statuses[status])
        note = f"sentences, {len(flat.owner):,} entities of {len(flat.categories):,} categories; "
        note += said or "all checks passed"
        cards.append((one.statistics.name, f"{len(flat.sentences):,}", note))
    return cards


def _method(surveyed: Sequence[SurveyedCorpus]) -> list[str]:
    settings = surveyed[0].settings
    return [line.format(near=settings.near, ngram=settings.ngram) for line in _METHOD]


def corpus_markdown(
    name: str, surveyed: Sequence[SurveyedCorpus], verdicts: Verdicts, tables: Mapping[str, Table]
) -> str:
    """The same for reading and for version control, without the charts."""
    parts = [f"# {escape_markdown(name)}"]
    for one in surveyed:
        corpus = one.statistics.name
        lines = [f"- {escape_markdown(verdict.line())}" for verdict in verdicts[corpus]]
        parts += [f"## Checks: {escape_markdown(corpus)}", escape_markdown(one.about), "\n".join(lines)]
    others = {key: table for key, table in tables.items() if key != "verdicts"}
    parts += [tables_markdown(others), "## How it was measured", *map(escape_markdown, _method(surveyed))]
    return storable("\n\n".join(parts) + "\n")


def corpus_text(surveyed: Sequence[SurveyedCorpus], verdicts: Verdicts, tables: Mapping[str, Table]) -> str:
    """Table 3 and a line for each check of each corpus."""
    lines = tables["table3"].aligned()
    for one in surveyed:
        lines += ["", f"{one.statistics.name}: {one.about}"]
        lines += [f"  {verdict.line()}" for verdict in verdicts[one.statistics.name]]
    return storable("\n".join(lines))
