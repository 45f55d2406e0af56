"""What the statistics of corpora show: Table 3 of the paper, and a sheet for each thing that was measured.

In go surveyed corpora with their verdicts, out come sheets by name, each with a first column `corpus` and the rows of
`rows`. Tokens are characters, as in the paper; words are the pieces between white space, the tokens of spaced writing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from omniner.analysis.corpora import rows
from omniner.analysis.corpora.checks import Surveyed, Verdict
from omniner.analysis.corpora.rows import Rows
from omniner.analysis.pages.sheets import COUNT, TEXT, Sheet
from omniner.analysis.scores.tables import Table
from omniner.schema import StatsConfig

Verdicts = Mapping[str, Sequence[Verdict]]  # by corpus

_FIRST = ("train", "dev", "test")


class _Asked(NamedTuple):
    """What the rows depend on beside their corpus: the splits of all corpora, which are columns, and limits."""

    splits: Sequence[str]
    verdicts: Verdicts
    settings: StatsConfig


class _Plan(NamedTuple):
    """A sheet to make.

    Attributes:
        title: with the setting `rare`.
        columns: after that of the corpus, with their kinds; counts are not marked, and * stands for one by split.
        rows: of one corpus.
    """

    title: str
    columns: str
    rows: Callable[[Surveyed, _Asked], Rows]


def build(corpora: Sequence[Surveyed], verdicts: Verdicts, settings: StatsConfig) -> dict[str, Sheet]:
    """All sheets by name; those without a row are there, too."""
    asked = _Asked(split_names(corpora), verdicts, settings)
    return {name: _sheet(corpora, plan, asked) for name, plan in _SHEETS.items()}


def _sheet(corpora: Sequence[Surveyed], plan: _Plan, asked: _Asked) -> Sheet:
    names, kinds = ["corpus"], [TEXT]
    for column in plan.columns.split():
        name, _, kind = column.partition(":")
        columns = asked.splits if name == "*" else [name]
        names += columns
        kinds += [kind or COUNT] * len(columns)
    cells = [[surveyed.statistics.name, *row] for surveyed in corpora for row in plan.rows(surveyed, asked)]
    return Sheet(plan.title.format(rare=asked.settings.rare), Table(names, cells), kinds)


def split_names(corpora: Sequence[Surveyed]) -> list[str]:
    """The splits of any corpus: train, dev and test first."""
    met = dict.fromkeys(split for one in corpora for split in one.statistics.flat.splits)
    return [*(name for name in _FIRST if name in met), *(name for name in met if name not in _FIRST)]


_OF_ROWS = (
    "count * share:share mean median p95 longest surfaces exclusive:share entropy span_distinct boundary_distinct"
)
_SHEETS = {
    "table3": _Plan(
        "Corpora (Table 3); tokens are characters, words where the writing has blanks; splits in sentences",
        "documents sentences tokens:text characters words entities categories primaries *",
        lambda one, asked: rows.table3(one, asked.splits),
    ),
    "verdicts": _Plan(
        "Checks; shares and limits x 100",
        "check:text status:text share:share limit:share found:text advice:text",
        lambda one, asked: rows.verdicts(asked.verdicts[one.statistics.name]),
    ),
    "splits": _Plan(
        "Splits; placed: share of the entities whose place is known; lengths in characters",
        "split:text documents sentences characters words entities placed:share categories entities_per_sentence "
        "no_entity:share mean median p95 longest emoji with_emoji:share beyond_plane",
        lambda one, asked: rows.splits(one),
    ),
    "categories": _Plan(
        "Categories; lengths in characters, entropy in bits, distinctiveness in nats (Papay et al. 2020)",
        f"category:text primary:text {_OF_ROWS}",
        lambda one, asked: rows.categories(one.statistics.categories, one, asked.splits, True),
    ),
    "primaries": _Plan(
        "Primaries",
        f"primary:text {_OF_ROWS}",
        lambda one, asked: rows.categories(one.statistics.primaries, one, asked.splits, False),
    ),
    "surfaces": _Plan(
        "Most ambiguous surfaces: entropy of the category in bits, times mentions",
        "surface:text mentions entropy categories:text",
        lambda one, asked: rows.surfaces(one),
    ),
    "seen": _Plan(
        "Mentions whose surface, and surface with category, train has",
        "split:text mentions seen seen_share:share same_category same_category_share:share unseen_share:share",
        lambda one, asked: rows.seen(one),
    ),
    "leaks": _Plan(
        "Sentences of a split that stand in another one, letter for letter, and nearly so or letter for letter",
        "split:text stands_in:text sentences share:share texts near_sentences near_share:share",
        lambda one, asked: rows.leaks(one),
    ),
    "near": _Plan(
        "Most similar texts, those in different splits first",
        "jaccard:share one_split:text one:text other_split:text other:text",
        lambda one, asked: rows.near(one),
    ),
    "repeats": _Plan(
        "Most repeated texts",
        "times splits:text text:text",
        lambda one, asked: rows.repeats(one, asked.settings.top),
    ),
    "disagreements": _Plan(
        "Equal texts with different labels",
        "sentences text:text labels:text ids:text",
        lambda one, asked: rows.disagreements(one, asked.settings.top),
    ),
    "posts": _Plan(
        "Posts in two splits or more",
        "post:text splits:text",
        lambda one, asked: rows.posts(one, asked.settings.top),
    ),
    "overlaps": _Plan(
        "Mentions over one another",
        "kind:text outer:text inner:text pairs example:text id:text",
        lambda one, asked: rows.overlaps(one, asked.settings.top),
    ),
    "edges": _Plan(
        "Mentions with white space or punctuation at an end",
        "kind:text surface:text category:text count id:text",
        lambda one, asked: rows.edges(one, asked.settings.top),
    ),
    "gaps": _Plan(
        "Categories with fewer than {rare} mentions in train, or none in a labelled split",
        "category:text *",
        lambda one, asked: rows.gaps(one, asked.splits, asked.settings.rare),
    ),
    "odd": _Plan(
        "Odd characters",
        "character:text name:text kind:text count sentences id:text",
        lambda one, asked: rows.odd(one),
    ),
    "emoji": _Plan(
        "Most frequent emoji",
        "emoji:text count",
        lambda one, asked: rows.emoji(one, asked.settings.top),
    ),
    "outliers": _Plan(
        "Longest outliers: sentences beyond the third quartile + 3 interquartile ranges of their split",
        "split:text length fence id:text text:text",
        lambda one, asked: rows.outliers(one, asked.settings.top),
    ),
    "issues": _Plan(
        "What could not be read as it is",
        "code:text count first:text",
        lambda one, asked: rows.issues(one),
    ),
}
