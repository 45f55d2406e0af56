"""Draw the figures of measured corpora, and write their page, the same in Markdown, and the text for the terminal.

The figures show mentions by category, and lengths of sentences. The page (`pages/corpus.html`, `pages/corpus.js`) shows
Table 3 and the checks of all corpora, and everything else for the selected corpus.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from omniner.corpus.stats.checks import CHECKS, FAILED, STATUSES, WARNED, SurveyedCorpus
from omniner.corpus.stats.flat import Floats, Ints
from omniner.corpus.stats.mentions import CategoryStats
from omniner.records import storable
from omniner.report import page
from omniner.report.corpus_tables import Verdicts
from omniner.report.figures import LABEL_WIDTH, MOST_ROWS, SERIES, Chart, drawable_names, drawable_text
from omniner.report.tables import Table, escape_markdown, tables_markdown
from omniner.scoring.error_types import BLUE
from omniner.wording import Wording

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_corpus_figures(surveyed: Sequence[SurveyedCorpus], language: str = "en") -> dict[str, Chart]:
    """Return the figures by name; a corpus without mentions has no figure of categories."""
    made: dict[str, Chart] = {}
    for one in surveyed:
        name, statistics = one.statistics.name, one.statistics
        rows = sorted(statistics.categories, key=lambda row: (-row.mentions, row.name))[:MOST_ROWS]
        if rows:
            title = Wording(
                "{corpus}: {mentions:mention} of {categories:category}",
                corpus=drawable_text(name), mentions=len(statistics.flat.owner), categories=len(statistics.categories),
            )  # fmt: skip
            draw = partial(_categories, rows=rows[::-1], language=language)
            made[f"stats_{name}_categories"] = Chart(title.of(language), (8, 1.5 + 0.19 * len(rows)), draw)
        made[f"stats_{name}_lengths"] = _lengths_chart(one, language)
    return made


def _categories(figure: Figure, rows: Sequence[CategoryStats], language: str) -> None:
    """Draw bars on a logarithmic axis, because counts differ by powers of ten."""
    from matplotlib.ticker import NullLocator

    ax = figure.subplots()
    ax.barh(np.arange(len(rows)), [row.mentions for row in rows], color=BLUE)
    for place, row in enumerate(rows):
        ax.text(row.mentions, place, f" {row.mentions:,}", va="center", fontsize=7.5)
    ax.set_yticks(np.arange(len(rows)), drawable_names([row.name for row in rows], LABEL_WIDTH + 12))
    ax.set_ylim(-0.7, len(rows) - 0.3)
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlim(0.8, 2.5 * max(row.mentions for row in rows))
    ax.grid(visible=False, axis="y")
    ax.set_xlabel(Wording("mentions").of(language))


def _lengths_chart(surveyed: SurveyedCorpus, language: str) -> Chart:
    title = Wording("{corpus}: length of sentences", corpus=drawable_text(surveyed.statistics.name))
    return Chart(title.of(language), (8, 3.2), partial(_lengths, surveyed=surveyed, language=language))


def shares_by_length(surveyed: SurveyedCorpus, bins: int) -> tuple[Ints, dict[str, Floats]]:
    """Return the edges of at most `bins` length classes, in characters, and each split's share of sentences per class.

    A class includes its first edge, but not the next one. All classes contain equally many whole numbers; otherwise
    some would have one more than others. The last class also contains all sentences beyond the 99th percentile.
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


def _lengths(figure: Figure, surveyed: SurveyedCorpus, language: str) -> None:
    ax = figure.subplots()
    edges, shares = shares_by_length(surveyed, 50)
    for number, (split, values) in enumerate(shares.items()):
        ax.stairs(100 * values, edges, color=SERIES[number % len(SERIES)], label=drawable_text(split))
    ax.set_xlabel(Wording("characters of a sentence; the last class holds all longer ones").of(language))
    ax.set_ylabel(Wording("% of sentences").of(language))
    ax.legend(loc="best")


def render_corpus_page(
    name: str,
    created: str,
    surveyed: Sequence[SurveyedCorpus],
    verdicts: Verdicts,
    tables: Mapping[str, Table],
    language: str = "en",
) -> str:
    """Write the page of the run `name`, created at the time `created`; the language is zh or en."""
    values = {
        "key_numbers": _key_numbers(surveyed, verdicts),
        "about": {one.statistics.name: one.about for one in surveyed},
        "lengths": {one.statistics.name: _lengths_chart(one, language) for one in surveyed},
        "method": _method(surveyed),
    }
    data = {
        "corpora": [one.statistics.name for one in surveyed],
        "statuses": {status: Wording(status) for status in STATUSES},
        "checks": {name: check.label for name, check in CHECKS.items()},
        "verdicts": {
            corpus: [[*one[:3], one.limit if math.isfinite(one.limit) else None, *one[4:]] for one in found]
            for corpus, found in verdicts.items()
        },
        "tables": {key: table for key, table in tables.items() if key != "verdicts"},
    }
    scripts = ("page.js", "corpus.js")
    return page.render_page("corpus.html", "statistics", name, created, values, data, scripts, language)


def _key_numbers(surveyed: Sequence[SurveyedCorpus], verdicts: Verdicts) -> list[tuple[str, str, str]]:
    cards: list[tuple[str, str, str]] = []
    for one in surveyed:
        flat = one.statistics.flat
        statuses = Counter(verdict.status for verdict in verdicts[one.statistics.name])
        bad = [
            Wording("{count} {status}", count=statuses[status], status=Wording(status))
            for status in (FAILED, WARNED)
            if statuses[status]
        ]
        note = Wording(
            "sentences, {entities:entity} of {categories:category}; {said}",
            entities=len(flat.owner), categories=len(flat.categories),
            said=Wording.joined(", ", bad) if bad else Wording("all checks passed"),
        )  # fmt: skip
        cards.append((one.statistics.name, f"{len(flat.sentences):,}", note))
    return cards


def _method(surveyed: Sequence[SurveyedCorpus]) -> list[str]:
    settings = surveyed[0].settings
    return [
        Wording(
            "Characters are Unicode code points, words the pieces between white space. A document is a post; a "
            "sentence that names none is a document of its own. Splits are those that are published, not those that a "
            "run cuts from them.",
        ),
        Wording(
            "Leaks and repeats compare texts letter for letter. Near duplicates share at least the Jaccard similarity "
            "{near:g} of their character {ngram}-grams; all pairs that do are found, none is estimated.",
            near=settings.near, ngram=settings.ngram,
        ),
        Wording(
            "Entropy is that of the category given the surface, in bits; exclusive is the share of mentions whose "
            "surface occurs in no other category.",
        ),
        Wording(
            "Span distinctiveness is the Kullback-Leibler divergence, in nats, of the tokens inside a category's "
            "spans from those of the labelled texts, boundary distinctiveness that of the tokens right before and "
            "after them (Papay et al. 2020); the tokens are characters, or words where the writing has blanks.",
        ),
        Wording(
            "Outliers lie beyond the third quartile and three interquartile ranges of their split. Percentiles are "
            "interpolated. One emoji is what people see as one: a flag, a keycap, pictures joined to one.",
        ),
        Wording(
            "Figures of labels leave out sentences whose file gives no labels. A check warns above stats.warn and "
            "fails above stats.fail.",
        ),
    ]  # fmt: skip


def corpus_markdown(
    name: str, surveyed: Sequence[SurveyedCorpus], verdicts: Verdicts, tables: Mapping[str, Table]
) -> str:
    """Return the content of the page as Markdown, without the charts, for reading and for version control."""
    parts = [f"# {escape_markdown(name)}"]
    for one in surveyed:
        corpus = one.statistics.name
        lines = [f"- {escape_markdown(verdict.line())}" for verdict in verdicts[corpus]]
        parts += [f"## Checks: {escape_markdown(corpus)}", escape_markdown(one.about), "\n".join(lines)]
    others = {key: table for key, table in tables.items() if key != "verdicts"}
    parts += [tables_markdown(others), "## How it was measured", *map(escape_markdown, _method(surveyed))]
    return storable("\n\n".join(parts) + "\n")


def corpus_text(surveyed: Sequence[SurveyedCorpus], verdicts: Verdicts, tables: Mapping[str, Table]) -> str:
    """Return Table 3 and a line for each check of each corpus, for the terminal."""
    lines = tables["table3"].aligned()
    for one in surveyed:
        lines += ["", f"{one.statistics.name}: {one.about}"]
        lines += [f"  {verdict.line()}" for verdict in verdicts[one.statistics.name]]
    return storable("\n".join(lines))
