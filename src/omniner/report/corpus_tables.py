"""Build the tables of measured corpora, and the same values as JSON.

There is Table 3 of the paper, and one table for each measurement; the first column of each is `corpus`. Tokens are
characters (the paper does not define its tokens), or words in texts with spaces; words are the pieces between white
space. Examples give the id of the sentence; long texts are cut.
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
from omniner.issue_codes import explained
from omniner.records import count_codes, ranked
from omniner.report.tables import COUNT, NONE, TEXT, Cell, Column, Table, columns
from omniner.wording import Wording, shortened

Rows = Iterator[list[Cell]]
Verdicts = Mapping[str, Sequence[Verdict]]  # by corpus

_LONGEST = 160  # maximum characters of a text in a table
_FIRST = ("train", "dev", "test")


class _Options(NamedTuple):
    """What rows depend on beside their corpus: the splits of all corpora (which are columns), verdicts and settings."""

    splits: Sequence[str]
    verdicts: Verdicts
    settings: StatsConfig


class _TableSpec(NamedTuple):
    """The definition of a table.

    Attributes:
        title: its title; `{rare}` in it is the setting of this name.
        columns: columns after `corpus`, as `name:kind`; without a kind they are counts, and * is one count per split.
        rows: returns the rows of one corpus.
        empty: text shown if there are no rows.
    """

    title: str
    columns: str
    rows: Callable[[SurveyedCorpus, _Options], Rows]
    empty: str = "None."


def build_corpus_tables(
    corpora: Sequence[SurveyedCorpus], verdicts: Verdicts, settings: StatsConfig
) -> dict[str, Table]:
    """Return all tables by name, including those without rows."""
    options = _Options(split_names(corpora), verdicts, settings)
    return {name: _build(corpora, spec, options) for name, spec in _TABLES.items()}


def _build(corpora: Sequence[SurveyedCorpus], spec: _TableSpec, options: _Options) -> Table:
    heads = columns(TEXT, "corpus")
    for column in spec.columns.split():
        name, _, kind = column.partition(":")
        if name == "*":
            heads += [Column(split, COUNT) for split in options.splits]
        else:
            heads += columns(kind or COUNT, name)
    cells = [[surveyed.statistics.name, *row] for surveyed in corpora for row in spec.rows(surveyed, options)]
    return Table(Wording(spec.title, rare=options.settings.rare), heads, cells, empty=Wording(spec.empty))


def split_names(corpora: Sequence[SurveyedCorpus]) -> list[str]:
    """Return the splits of all corpora: train, dev and test first."""
    met = dict.fromkeys(split for one in corpora for split in one.statistics.flat.splits)
    return [*(name for name in _FIRST if name in met), *(name for name in met if name not in _FIRST)]


def corpus_numbers(surveyed: SurveyedCorpus) -> dict[str, float]:
    """Return the main numbers of a corpus by name, by which runs can be compared."""
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
    """Return all numbers as a JSON object; examples are only in the tables."""
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
        "issues": count_codes(surveyed.issues),
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


def tokens_of(surveyed: SurveyedCorpus) -> str:
    """Return the kind of tokens of a corpus: words or characters."""
    return Wording("words") if surveyed.statistics.spaced else Wording("characters")


def _table3(surveyed: SurveyedCorpus, options: _Options) -> Rows:
    """Yield one row with the main numbers of the corpus."""
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
        *_by_split(surveyed, [one.sentences for one in texts], options.splits),
    ]


def _verdicts(surveyed: SurveyedCorpus, options: _Options) -> Rows:
    """Yield a row for each check."""
    for one in options.verdicts[surveyed.statistics.name]:
        share: Cell = NONE if one.status == SKIPPED else one.value
        yield [one.check, one.status, share, one.limit if math.isfinite(one.limit) else NONE, one.found, one.advice]


# The columns of `_splits`, in the order of its cells
_OF_SPLITS = (
    "split:text documents sentences characters words entities placed:share categories entities_per_sentence "
    "no_entity:share mean median p95 longest emoji with_emoji:share beyond_plane"
)


def _splits(surveyed: SurveyedCorpus, options: _Options) -> Rows:
    """Yield a row for each split."""
    for split, texts in surveyed.statistics.texts.items():
        labels = surveyed.statistics.labels[split]
        count = max(texts.sentences, 1)
        known: list[Cell] = [NONE] * 5  # a split without labels has no counts of entities
        if labels.labeled:
            each = round(labels.entities / labels.labeled, 2)
            placed: Cell = labels.placed / labels.entities if labels.entities else NONE
            known = [labels.entities, placed, labels.categories, each, labels.bare / labels.labeled]
        yield [
            split, texts.documents, texts.sentences, texts.characters,
            texts.words if surveyed.statistics.spaced else NONE, *known, round(texts.mean, 1), texts.median,
            round(texts.p95, 1), texts.longest, texts.emoji, texts.with_emoji / count, texts.beyond_plane,
        ]  # fmt: skip


def _categories(surveyed: SurveyedCorpus, options: _Options) -> Rows:
    """Yield a row for each category, the most frequent first."""
    return _category_rows(surveyed.statistics.categories, surveyed, options.splits, with_primary=True)


def _primaries(surveyed: SurveyedCorpus, options: _Options) -> Rows:
    """Yield a row for each primary."""
    return _category_rows(surveyed.statistics.primaries, surveyed, options.splits, with_primary=False)


# The columns of `_category_rows` after the name, in the order of its cells
_OF_ROWS = (
    "count * share:share mean median p95 longest surfaces exclusive:share entropy span_distinct boundary_distinct"
)


def _category_rows(
    rows: Sequence[CategoryStats], surveyed: SurveyedCorpus, splits: Sequence[str], with_primary: bool
) -> Rows:
    """Yield the rows of categories or of primaries, the most frequent first."""
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


def _surfaces(surveyed: SurveyedCorpus, options: _Options) -> Rows:
    """Yield the most ambiguous surfaces."""
    for one in surveyed.statistics.surfaces:
        kinds = ", ".join(f"{name} {count:,}" for name, count in one.categories)
        yield [one.text, one.mentions, round(one.entropy, 3), kinds]


def _seen(surveyed: SurveyedCorpus, options: _Options) -> Rows:
    """Yield for each split how many of its mentions train has."""
    for split, seen in surveyed.statistics.seen.items():
        if total := seen.mentions:
            share = seen.surface / total
            yield [split, total, seen.surface, share, seen.pair, seen.pair / total, 1 - share]


def _leaks(surveyed: SurveyedCorpus, options: _Options) -> Rows:
    """Yield a row for each pair of splits with the sentences that they share."""
    statistics = surveyed.statistics
    for one, other in split_pairs(statistics):
        total = max(statistics.texts[statistics.flat.splits[one]].sentences, 1)
        count, texts = count_shared(statistics.counts, one, other)
        near: list[Cell] = [NONE, NONE]
        if statistics.near is not None:
            nearly = count_near_shared(statistics.counts, statistics.near.similar, one, other)
            near = [nearly, nearly / total]
        yield [statistics.flat.splits[one], statistics.flat.splits[other], count, count / total, texts, *near]


def _near(surveyed: SurveyedCorpus, options: _Options) -> Rows:
    """Yield pairs of texts that are nearly the same."""
    texts = surveyed.statistics.flat.texts
    for pair in surveyed.statistics.near.examples if surveyed.statistics.near else ():
        one, other = ([_where(surveyed, text), _cut(texts[text])] for text in (pair.left, pair.right))
        yield [pair.jaccard, *one, *other]


def _where(surveyed: SurveyedCorpus, text: int) -> str:
    """Return in which splits a text occurs, and how often."""
    counts = surveyed.statistics.counts[text]
    pairs = zip(surveyed.statistics.flat.splits, counts.tolist(), strict=True)
    return ", ".join(f"{split} {count:,}" if count > 1 else split for split, count in pairs if count)


def _repeats(surveyed: SurveyedCorpus, options: _Options) -> Rows:
    """Yield the texts that occur most often."""
    statistics = surveyed.statistics
    for text in most_repeated(statistics.counts, options.settings.top).tolist():
        times = int(statistics.counts[text].sum())
        yield [times, _where(surveyed, text), _cut(statistics.flat.texts[text])]


def _disagreements(surveyed: SurveyedCorpus, options: _Options) -> Rows:
    """Yield equal texts with different labels."""
    flat = surveyed.statistics.flat
    for one in surveyed.statistics.disagreements[: options.settings.top]:
        labels = []
        for sentence, count in zip(one.sentences, one.counts, strict=True):
            said = ", ".join(f"{e.text}/{e.category}" for e in flat.sentences[sentence].entities) or Wording("none")
            labels.append(Wording("{count} x {labels}", count=count, labels=_cut(said)))
        ids = ", ".join(_id(surveyed, sentence) for sentence in one.sentences)
        yield [sum(one.counts), _cut(flat.texts[one.text]), Wording.joined("; ", labels), _cut(ids)]


def _posts(surveyed: SurveyedCorpus, options: _Options) -> Rows:
    """Yield posts that are in two or more splits."""
    flat = surveyed.statistics.flat
    for sentence, splits in surveyed.statistics.split_posts[: options.settings.top]:
        yield [str(flat.sentences[sentence].post_id), ", ".join(flat.splits[split] for split in splits)]


def _overlaps(surveyed: SurveyedCorpus, options: _Options) -> Rows:
    """Yield overlapping mentions, counted by their categories."""
    flat = surveyed.statistics.flat
    counts: Counter[tuple[str, str, str]] = Counter()
    first: dict[tuple[str, str, str], Overlap] = {}
    for overlap in surveyed.statistics.overlaps:
        outer, inner = (flat.categories[flat.category[mention]] for mention in overlap[1:])
        if overlap.kind == SAME:
            outer, inner = sorted((outer, inner))
        counts[overlap.kind, outer, inner] += 1
        first.setdefault((overlap.kind, outer, inner), overlap)
    for key, count in ranked(counts, options.settings.top):
        example = " > ".join(flat.surfaces[flat.surface[mention]] for mention in first[key][1:])
        yield [Wording(key[0]), *key[1:], count, _cut(example), _id(surveyed, int(flat.owner[first[key].outer]))]


def _edges(surveyed: SurveyedCorpus, options: _Options) -> Rows:
    """Yield surfaces that begin or end with white space or punctuation."""
    flat = surveyed.statistics.flat
    for kind, mentions in surveyed.statistics.edges.items():
        pairs = [(int(flat.surface[m]), int(flat.category[m])) for m in mentions]
        first = dict(zip(reversed(pairs), reversed(mentions.tolist()), strict=True))
        counts = ranked(Counter(pairs), options.settings.top)
        for (surface, category), count in counts:
            sentence = int(flat.owner[first[surface, category]])
            yield [
                Wording(kind),
                _cut(flat.surfaces[surface]),
                flat.categories[category],
                count,
                _id(surveyed, sentence),
            ]


def _gaps(surveyed: SurveyedCorpus, options: _Options) -> Rows:
    """Yield categories that are rare in the training split, or absent from a labelled split."""
    statistics = surveyed.statistics
    labelled = [number for number, one in enumerate(statistics.labels.values()) if one.labeled]
    base = training_split(statistics)
    counts = mentions_in_split(statistics, base) if base else {}
    for row in statistics.categories:
        few = base is not None and counts[row.name] < options.settings.rare
        if few or any(not row.by_split[number] for number in labelled):
            yield [row.name, *_by_split(surveyed, row.by_split, options.splits)]


def _odd(surveyed: SurveyedCorpus, options: _Options) -> Rows:
    """Yield the odd characters."""
    for odd in surveyed.statistics.odd:
        name = unicodedata.name(chr(odd.point), "no name")
        yield [f"U+{odd.point:04X}", name, Wording(odd.kind), odd.times, odd.sentences, _id(surveyed, odd.example)]


def _emoji(surveyed: SurveyedCorpus, options: _Options) -> Rows:
    """Yield the most frequent emoji."""
    for emoji, count in surveyed.statistics.emoji[: options.settings.top]:
        yield [emoji, count]


def _outliers(surveyed: SurveyedCorpus, options: _Options) -> Rows:
    """Yield the longest outliers in sentence length."""
    flat = surveyed.statistics.flat
    for one in surveyed.statistics.outliers[: options.settings.top]:
        sentence = flat.sentences[one.sentence]
        split = flat.splits[flat.split[one.sentence]]
        yield [split, one.length, round(one.fence, 1), sentence.id, _cut(sentence.text)]


def _issues(surveyed: SurveyedCorpus, options: _Options) -> Rows:
    """Yield the number of issues of each code, with what it means and the first one."""
    first: dict[str, str] = {}
    for issue in surveyed.issues:
        first.setdefault(issue.code, _cut(str(issue)))
    for code, count in ranked(count_codes(surveyed.issues)):
        yield [code, count, *explained(code), first[code]]


def _by_split(surveyed: SurveyedCorpus, counts: Sequence[int], splits: Sequence[str]) -> list[Cell]:
    """Return the counts of this corpus's splits in the columns of all splits."""
    known = dict(zip(surveyed.statistics.flat.splits, counts, strict=True))
    return [known.get(split, NONE) for split in splits]


def _id(surveyed: SurveyedCorpus, sentence: int) -> str:
    return surveyed.statistics.flat.sentences[sentence].id


def _cut(text: str) -> str:
    """Cut a text to the length allowed in a table."""
    return shortened(text, _LONGEST)


_TABLES = {
    "table3": _TableSpec(
        "Corpora (Table 3); tokens are characters, words where the writing has blanks; splits in sentences",
        "documents sentences tokens:text characters words entities categories primaries *",
        _table3,
    ),
    "verdicts": _TableSpec(
        "Checks; shares and limits x 100",
        "check:text status:text share:share limit:share found:text advice:text",
        _verdicts,
    ),
    "splits": _TableSpec(
        "Splits; placed: share of the entities whose place is known; lengths in characters",
        _OF_SPLITS,
        _splits,
    ),
    "categories": _TableSpec(
        "Categories; lengths in characters, entropy in bits, distinctiveness in nats (Papay et al. 2020)",
        f"category:text primary:text {_OF_ROWS}",
        _categories,
        empty="No mentions.",
    ),
    "primaries": _TableSpec(
        "Primaries",
        f"primary:text {_OF_ROWS}",
        _primaries,
        empty="No primaries: no category has a part before a _.",
    ),
    "surfaces": _TableSpec(
        "Most ambiguous surfaces: entropy of the category in bits, times mentions",
        "surface:text mentions entropy categories:text",
        _surfaces,
        empty="No surface has two categories.",
    ),
    "seen": _TableSpec(
        "Mentions whose surface, and surface with category, train has",
        "split:text mentions seen seen_share:share same_category same_category_share:share unseen_share:share",
        _seen,
        empty="No labelled split beside train.",
    ),
    "leaks": _TableSpec(
        "Sentences of a split that stand in another one, letter for letter, and nearly so or letter for letter",
        "split:text stands_in:text sentences share:share texts near_sentences near_share:share",
        _leaks,
        empty="One split only.",
    ),
    "near": _TableSpec(
        "Most similar texts, those in different splits first",
        "jaccard:share one_split:text one:text other_split:text other:text",
        _near,
        empty="No near duplicates, or too many to look for.",
    ),
    "repeats": _TableSpec(
        "Most repeated texts",
        "times splits:text text:text",
        _repeats,
        empty="No text stands twice.",
    ),
    "disagreements": _TableSpec(
        "Equal texts with different labels",
        "sentences text:text labels:text ids:text",
        _disagreements,
        empty="Equal texts have equal labels.",
    ),
    "posts": _TableSpec(
        "Posts in two splits or more",
        "post:text splits:text",
        _posts,
        empty="No post is in two splits.",
    ),
    "overlaps": _TableSpec(
        "Mentions over one another",
        "kind:text outer:text inner:text pairs example:text id:text",
        _overlaps,
        empty="No mention lies over another one.",
    ),
    "edges": _TableSpec(
        "Mentions with white space or punctuation at an end",
        "kind:text surface:text category:text count id:text",
        _edges,
        empty="No mention begins or ends with white space or punctuation.",
    ),
    "gaps": _TableSpec(
        "Categories with fewer than {rare} mentions in train, or none in a labelled split",
        "category:text *",
        _gaps,
        empty="Every category is frequent in train and in every labelled split.",
    ),
    "odd": _TableSpec(
        "Odd characters",
        "character:text name:text kind:text count sentences id:text",
        _odd,
        empty="No odd characters.",
    ),
    "emoji": _TableSpec(
        "Most frequent emoji",
        "emoji:text count",
        _emoji,
        empty="No emoji.",
    ),
    "outliers": _TableSpec(
        "Longest outliers: sentences beyond the third quartile + 3 interquartile ranges of their split",
        "split:text length fence id:text text:text",
        _outliers,
        empty="No outliers.",
    ),
    "issues": _TableSpec(
        "What could not be read as it is",
        "code:text count meaning:text advice:text first:text",
        _issues,
        empty="Everything could be read as it is.",
    ),
}
