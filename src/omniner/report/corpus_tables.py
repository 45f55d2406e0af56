"""The rows of the sheets of statistics: each function gives those of one corpus, in the columns that `tables` names.

Examples name the sentence by its id; long texts are cut.

What the statistics of corpora show: Table 3 of the paper, and a sheet for each thing that was measured.

In go surveyed corpora with their verdicts, out come sheets by name, each with a first column `corpus` and the rows of
`rows`. Tokens are characters, as in the paper; words are the pieces between white space, the tokens of spaced writing.

The figures of surveyed corpora as plain values: for JSON, and for runs to be compared by.
"""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from omniner.config.groups import StatsConfig
from omniner.corpus.stats.checks import SKIPPED, SurveyedCorpus, Verdict
from omniner.corpus.stats.measure import mentions_in_split, split_pairs, training_split
from omniner.corpus.stats.mentions import SAME, CategoryStats, Overlap
from omniner.corpus.stats.texts import count_near_shared, count_shared, most_repeated
from omniner.corpus.taxonomy import primary_of
from omniner.report.tables import COUNT, NONE, TEXT, Cell, Table, columns

Rows = Iterator[list[Cell]]

_LONGEST = 160  # characters of a text in a table


def tokens_of(surveyed: SurveyedCorpus) -> str:
    """What the tokens of a corpus are."""
    return "words" if surveyed.statistics.spaced else "characters"


def cut(text: str) -> str:
    """A text for a table."""
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _id(surveyed: SurveyedCorpus, sentence: int) -> str:
    return surveyed.statistics.flat.sentences[sentence].id


def _by_split(surveyed: SurveyedCorpus, counts: Sequence[int], splits: Sequence[str]) -> list[Cell]:
    """Counts of this corpus's splits under the columns of all."""
    known = dict(zip(surveyed.statistics.flat.splits, counts, strict=True))
    return [known.get(split, NONE) for split in splits]


def table3(surveyed: SurveyedCorpus, splits: Sequence[str]) -> Rows:
    """The corpus in one row."""
    statistics = surveyed.statistics
    texts = list(statistics.texts.values())
    yield [
        statistics.posts,
        len(statistics.flat.sentences),
        tokens_of(surveyed),
        sum(one.characters for one in texts),
        sum(one.words for one in texts) if statistics.spaced else NONE,
        len(statistics.flat.owner),
        len(statistics.categories),
        len(statistics.primaries),
        *_by_split(surveyed, [one.sentences for one in texts], splits),
    ]


def verdicts(found: Sequence[Verdict]) -> Rows:
    """A row for each check."""
    for one in found:
        share: Cell = NONE if one.status == SKIPPED else one.value
        yield [one.check, one.status, share, one.limit if math.isfinite(one.limit) else NONE, one.found, one.advice]


def splits(surveyed: SurveyedCorpus) -> Rows:
    """A row for each split."""
    for split, texts in surveyed.statistics.texts.items():
        labels = surveyed.statistics.labels[split]
        count = max(texts.sentences, 1)
        known: list[Cell] = [NONE] * 5  # a split without labels has no counts of them
        if labels.labeled:
            each = round(labels.entities / labels.labeled, 2)
            placed: Cell = labels.placed / labels.entities if labels.entities else NONE
            known = [labels.entities, placed, labels.categories, each, labels.bare / labels.labeled]
        yield [
            split, texts.documents, texts.sentences, texts.characters,
            texts.words if surveyed.statistics.spaced else NONE, *known, round(texts.mean, 1), texts.median,
            round(texts.p95, 1), texts.longest, texts.emoji, texts.with_emoji / count, texts.beyond_plane,
        ]  # fmt: skip


def categories(
    rows: Sequence[CategoryStats], surveyed: SurveyedCorpus, splits: Sequence[str], with_primary: bool
) -> Rows:
    """A row for each category, or for each primary, the most frequent first."""
    primaries = {row.name: primary_of(row.name) for row in surveyed.statistics.categories}
    if not with_primary and all(name == primary for name, primary in primaries.items()):
        return  # a corpus without primaries
    for row in sorted(rows, key=lambda row: (-row.mentions, row.name)):
        own: list[Cell] = [NONE if primaries[row.name] == row.name else primaries[row.name]] if with_primary else []
        yield [
            row.name, *own,
            row.mentions, *_by_split(surveyed, row.by_split, splits), row.share,
            round(row.mean, 2), row.median, round(row.p95, 1), row.longest, row.surfaces, 1 - row.ambiguous,
            round(row.entropy, 4), round(row.span_distinctiveness, 3), round(row.boundary_distinctiveness, 3),
        ]  # fmt: skip


def surfaces(surveyed: SurveyedCorpus) -> Rows:
    """The most ambiguous surfaces."""
    for one in surveyed.statistics.surfaces:
        kinds = ", ".join(f"{name} {count:,}" for name, count in one.categories)
        yield [one.text, one.mentions, round(one.entropy, 3), kinds]


def seen(surveyed: SurveyedCorpus) -> Rows:
    """How much of each split train has."""
    for split, seen in surveyed.statistics.seen.items():
        if total := seen.mentions:
            share = seen.surface / total
            yield [split, total, seen.surface, share, seen.pair, seen.pair / total, 1 - share]


def leaks(surveyed: SurveyedCorpus) -> Rows:
    """A row for each two splits."""
    statistics = surveyed.statistics
    for one, other in split_pairs(statistics):
        total = max(statistics.texts[statistics.flat.splits[one]].sentences, 1)
        count, texts = count_shared(statistics.counts, one, other)
        near: list[Cell] = [NONE, NONE]
        if statistics.near is not None:
            nearly = count_near_shared(statistics.counts, statistics.near.similar, one, other)
            near = [nearly, nearly / total]
        yield [statistics.flat.splits[one], statistics.flat.splits[other], count, count / total, texts, *near]


def _where(surveyed: SurveyedCorpus, text: int) -> str:
    """In which splits a text stands, and how often."""
    counts = surveyed.statistics.counts[text]
    pairs = zip(surveyed.statistics.flat.splits, counts.tolist(), strict=True)
    return ", ".join(f"{split} {count:,}" if count > 1 else split for split, count in pairs if count)


def near(surveyed: SurveyedCorpus) -> Rows:
    """Texts that are nearly the same."""
    texts = surveyed.statistics.flat.texts
    for pair in surveyed.statistics.near.examples if surveyed.statistics.near else ():
        one, other = ([_where(surveyed, text), cut(texts[text])] for text in (pair.left, pair.right))
        yield [pair.jaccard, *one, *other]


def repeats(surveyed: SurveyedCorpus, top: int) -> Rows:
    """The texts that stand most often."""
    statistics = surveyed.statistics
    for text in most_repeated(statistics.counts, top).tolist():
        times = int(statistics.counts[text].sum())
        yield [times, _where(surveyed, text), cut(statistics.flat.texts[text])]


def disagreements(surveyed: SurveyedCorpus, top: int) -> Rows:
    """Equal texts with different labels."""
    flat = surveyed.statistics.flat
    for one in surveyed.statistics.disagreements[:top]:
        labels = []
        for sentence, count in zip(one.sentences, one.counts, strict=True):
            said = ", ".join(f"{e.text}/{e.category}" for e in flat.sentences[sentence].entities) or "none"
            labels.append(f"{count} x {said}")
        ids = ", ".join(_id(surveyed, sentence) for sentence in one.sentences)
        yield [sum(one.counts), cut(flat.texts[one.text]), cut("; ".join(labels)), cut(ids)]


def posts(surveyed: SurveyedCorpus, top: int) -> Rows:
    """Posts in two splits or more."""
    flat = surveyed.statistics.flat
    for sentence, splits in surveyed.statistics.split_posts[:top]:
        yield [str(flat.sentences[sentence].post_id), ", ".join(flat.splits[split] for split in splits)]


def overlaps(surveyed: SurveyedCorpus, top: int) -> Rows:
    """Mentions over one another, by their categories."""
    flat = surveyed.statistics.flat
    counts: Counter[tuple[str, str, str]] = Counter()
    first: dict[tuple[str, str, str], Overlap] = {}
    for overlap in surveyed.statistics.overlaps:
        outer, inner = (flat.categories[flat.category[mention]] for mention in overlap[1:])
        if overlap.kind == SAME:
            outer, inner = sorted((outer, inner))
        counts[overlap.kind, outer, inner] += 1
        first.setdefault((overlap.kind, outer, inner), overlap)
    for key, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:top]:
        example = " > ".join(flat.surfaces[flat.surface[mention]] for mention in first[key][1:])
        yield [*key, count, cut(example), _id(surveyed, int(flat.owner[first[key].outer]))]


def edges(surveyed: SurveyedCorpus, top: int) -> Rows:
    """Surfaces with something at an end that does not belong there."""
    flat = surveyed.statistics.flat
    for kind, mentions in surveyed.statistics.edges.items():
        pairs = [(int(flat.surface[m]), int(flat.category[m])) for m in mentions]
        first = dict(zip(reversed(pairs), reversed(mentions.tolist()), strict=True))
        counts = sorted(Counter(pairs).items(), key=lambda item: (-item[1], item[0]))[:top]
        for (surface, category), count in counts:
            sentence = int(flat.owner[first[surface, category]])
            yield [kind, cut(flat.surfaces[surface]), flat.categories[category], count, _id(surveyed, sentence)]


def gaps(surveyed: SurveyedCorpus, splits: Sequence[str], rare: int) -> Rows:
    """Categories that are rare or absent somewhere."""
    statistics = surveyed.statistics
    labelled = [number for number, one in enumerate(statistics.labels.values()) if one.labeled]
    base = training_split(statistics)
    counts = mentions_in_split(statistics, base) if base else {}
    for row in statistics.categories:
        few = base is not None and counts[row.name] < rare
        if few or any(not row.by_split[number] for number in labelled):
            yield [row.name, *_by_split(surveyed, row.by_split, splits)]


def odd(surveyed: SurveyedCorpus) -> Rows:
    """The odd characters."""
    for odd in surveyed.statistics.odd:
        name = unicodedata.name(chr(odd.point), "no name")
        yield [f"U+{odd.point:04X}", name, odd.kind, odd.times, odd.sentences, _id(surveyed, odd.example)]


def emoji(surveyed: SurveyedCorpus, top: int) -> Rows:
    """The most frequent emoji."""
    for emoji, count in surveyed.statistics.emoji[:top]:
        yield [emoji, count]


def outliers(surveyed: SurveyedCorpus, top: int) -> Rows:
    """The longest of the far too long sentences."""
    flat = surveyed.statistics.flat
    for one in surveyed.statistics.outliers[:top]:
        sentence = flat.sentences[one.sentence]
        split = flat.splits[flat.split[one.sentence]]
        yield [split, one.length, round(one.fence, 1), sentence.id, cut(sentence.text)]


def issues(surveyed: SurveyedCorpus) -> Rows:
    """Issues by code, with the first of each."""
    first: dict[str, str] = {}
    for issue in surveyed.issues:
        first.setdefault(issue.code, cut(str(issue)))
    counts = Counter(issue.code for issue in surveyed.issues)
    for code, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        yield [code, count, first[code]]


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
        empty: what to say where a corpus has none.
    """

    title: str
    columns: str
    rows: Callable[[SurveyedCorpus, _Asked], Rows]
    empty: str = "None."


def build_corpus_tables(
    corpora: Sequence[SurveyedCorpus], verdicts: Verdicts, settings: StatsConfig
) -> dict[str, Table]:
    """All tables by name; those without a row are there, too."""
    asked = _Asked(split_names(corpora), verdicts, settings)
    return {name: _sheet(corpora, plan, asked) for name, plan in _SHEETS.items()}


def _sheet(corpora: Sequence[SurveyedCorpus], plan: _Plan, asked: _Asked) -> Table:
    heads = columns(TEXT, "corpus")
    for column in plan.columns.split():
        name, _, kind = column.partition(":")
        heads += columns(kind or COUNT, *(asked.splits if name == "*" else [name]))
    cells = [[surveyed.statistics.name, *row] for surveyed in corpora for row in plan.rows(surveyed, asked)]
    return Table(plan.title.format(rare=asked.settings.rare), heads, cells, empty=plan.empty)


def split_names(corpora: Sequence[SurveyedCorpus]) -> list[str]:
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
        lambda one, asked: table3(one, asked.splits),
    ),
    "verdicts": _Plan(
        "Checks; shares and limits x 100",
        "check:text status:text share:share limit:share found:text advice:text",
        lambda one, asked: verdicts(asked.verdicts[one.statistics.name]),
    ),
    "splits": _Plan(
        "Splits; placed: share of the entities whose place is known; lengths in characters",
        "split:text documents sentences characters words entities placed:share categories entities_per_sentence "
        "no_entity:share mean median p95 longest emoji with_emoji:share beyond_plane",
        lambda one, asked: splits(one),
    ),
    "categories": _Plan(
        "Categories; lengths in characters, entropy in bits, distinctiveness in nats (Papay et al. 2020)",
        f"category:text primary:text {_OF_ROWS}",
        lambda one, asked: categories(one.statistics.categories, one, asked.splits, True),
        empty="No mentions.",
    ),
    "primaries": _Plan(
        "Primaries",
        f"primary:text {_OF_ROWS}",
        lambda one, asked: categories(one.statistics.primaries, one, asked.splits, False),
        empty="No primaries: no category has a part before a _.",
    ),
    "surfaces": _Plan(
        "Most ambiguous surfaces: entropy of the category in bits, times mentions",
        "surface:text mentions entropy categories:text",
        lambda one, asked: surfaces(one),
        empty="No surface has two categories.",
    ),
    "seen": _Plan(
        "Mentions whose surface, and surface with category, train has",
        "split:text mentions seen seen_share:share same_category same_category_share:share unseen_share:share",
        lambda one, asked: seen(one),
        empty="No labelled split beside train.",
    ),
    "leaks": _Plan(
        "Sentences of a split that stand in another one, letter for letter, and nearly so or letter for letter",
        "split:text stands_in:text sentences share:share texts near_sentences near_share:share",
        lambda one, asked: leaks(one),
        empty="One split only.",
    ),
    "near": _Plan(
        "Most similar texts, those in different splits first",
        "jaccard:share one_split:text one:text other_split:text other:text",
        lambda one, asked: near(one),
        empty="No near duplicates, or too many to look for.",
    ),
    "repeats": _Plan(
        "Most repeated texts",
        "times splits:text text:text",
        lambda one, asked: repeats(one, asked.settings.top),
        empty="No text stands twice.",
    ),
    "disagreements": _Plan(
        "Equal texts with different labels",
        "sentences text:text labels:text ids:text",
        lambda one, asked: disagreements(one, asked.settings.top),
        empty="Equal texts have equal labels.",
    ),
    "posts": _Plan(
        "Posts in two splits or more",
        "post:text splits:text",
        lambda one, asked: posts(one, asked.settings.top),
        empty="No post is in two splits.",
    ),
    "overlaps": _Plan(
        "Mentions over one another",
        "kind:text outer:text inner:text pairs example:text id:text",
        lambda one, asked: overlaps(one, asked.settings.top),
        empty="No mention lies over another one.",
    ),
    "edges": _Plan(
        "Mentions with white space or punctuation at an end",
        "kind:text surface:text category:text count id:text",
        lambda one, asked: edges(one, asked.settings.top),
        empty="No mention begins or ends with white space or punctuation.",
    ),
    "gaps": _Plan(
        "Categories with fewer than {rare} mentions in train, or none in a labelled split",
        "category:text *",
        lambda one, asked: gaps(one, asked.splits, asked.settings.rare),
        empty="Every category is frequent in train and in every labelled split.",
    ),
    "odd": _Plan(
        "Odd characters",
        "character:text name:text kind:text count sentences id:text",
        lambda one, asked: odd(one),
        empty="No odd characters.",
    ),
    "emoji": _Plan(
        "Most frequent emoji",
        "emoji:text count",
        lambda one, asked: emoji(one, asked.settings.top),
        empty="No emoji.",
    ),
    "outliers": _Plan(
        "Longest outliers: sentences beyond the third quartile + 3 interquartile ranges of their split",
        "split:text length fence id:text text:text",
        lambda one, asked: outliers(one, asked.settings.top),
        empty="No outliers.",
    ),
    "issues": _Plan(
        "What could not be read as it is",
        "code:text count first:text",
        lambda one, asked: issues(one),
        empty="Everything could be read as it is.",
    ),
}


def corpus_numbers(surveyed: SurveyedCorpus) -> dict[str, float]:
    """The main figures of a corpus by name, for runs to be compared by."""
    statistics = surveyed.statistics
    texts, labels = statistics.texts.values(), statistics.labels.values()
    length, mention = statistics.flat.length, statistics.flat.mention_length
    ambiguity = statistics.ambiguity
    total = max(int(ambiguity.mentions.sum()), 1)
    values: dict[str, float] = {
        "documents": statistics.posts,
        "sentences": len(statistics.flat.sentences),
        "labelled": sum(one.labeled for one in labels),
        "characters": sum(one.characters for one in texts),
        "entities": len(statistics.flat.owner),
        "placed": sum(one.placed for one in labels),
        "categories": len(statistics.categories),
        "primaries": len(statistics.primaries),
        "surfaces": len(statistics.flat.surfaces),
        "emoji": sum(one.emoji for one in texts),
        "with_emoji": sum(one.with_emoji for one in texts),
        "ambiguity_bits": float((ambiguity.entropy * ambiguity.mentions).sum() / total),
        "sentence_length": float(length.mean()) if len(length) else 0.0,
        "mention_length": float(mention.mean()) if len(mention) else 0.0,
        "near_candidates": statistics.candidates,
    }
    for name in ("span_distinctiveness", "boundary_distinctiveness"):
        values[name] = sum(getattr(row, name) * row.share for row in statistics.categories)
    if statistics.spaced:
        values["words"] = sum(one.words for one in texts)
    if statistics.near is not None:
        values["near_pairs"] = statistics.near.pairs
    return values


def corpus_json(corpora: Sequence[SurveyedCorpus], verdicts: Verdicts) -> dict[str, Any]:
    """Everything as JSON object; examples are in the tables."""
    return {"corpora": {one.statistics.name: _corpus_json(one, verdicts[one.statistics.name]) for one in corpora}}


def _corpus_json(surveyed: SurveyedCorpus, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    statistics = surveyed.statistics
    return {
        "about": surveyed.about,
        "tokens": tokens_of(surveyed),
        **corpus_numbers(surveyed),
        "splits": {
            split: {**texts._asdict(), **_labels_json(surveyed, split)} for split, texts in statistics.texts.items()
        },
        "seen": {split: seen._asdict() for split, seen in statistics.seen.items()},
        "category_rows": {row.name: _row_json(row, surveyed) for row in statistics.categories},
        "primary_rows": {row.name: _row_json(row, surveyed) for row in statistics.primaries},
        "overlaps": dict(sorted(Counter(overlap.kind for overlap in statistics.overlaps).items())),
        "issues": dict(sorted(Counter(issue.code for issue in surveyed.issues).items())),
        "verdicts": {
            one.check: {"status": one.status, "value": one.value, "found": one.found}
            | ({"limit": one.limit} if math.isfinite(one.limit) else {})
            for one in verdicts
        },
    }


def _labels_json(surveyed: SurveyedCorpus, split: str) -> dict[str, Any]:
    labels = surveyed.statistics.labels[split]
    return {name: getattr(labels, name) for name in ("labeled", "bare", "entities", "placed", "categories", "involved")}


def _row_json(row: CategoryStats, surveyed: SurveyedCorpus) -> dict[str, Any]:
    return {**row._asdict(), "by_split": dict(zip(surveyed.statistics.flat.splits, row.by_split, strict=True))}
