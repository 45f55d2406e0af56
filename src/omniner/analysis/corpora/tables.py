"""What the statistics of corpora show: Table 3 of the paper, and a sheet for each thing that was measured.

In go surveyed corpora with their verdicts, out come sheets by name, each with a first column `corpus`. Examples name
the sentence by its id; long texts are cut.
Tokens are characters, as in the paper; words are the pieces between white space, the tokens of spaced writing.
"""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

from omniner.analysis.corpora.checks import SKIPPED, Surveyed, Verdict
from omniner.analysis.pages.sheets import COUNT, NONE, SHARE, TEXT, Sheet
from omniner.analysis.scores.tables import Cell, Table
from omniner.corpus.stats import repeats
from omniner.corpus.stats.measure import in_split, learnt_from, pairs_of_splits
from omniner.corpus.stats.mentions import Row
from omniner.corpus.stats.overlaps import SAME, Overlap
from omniner.corpus.taxonomy import primary_of
from omniner.schema import StatsConfig

Verdicts = Mapping[str, Sequence[Verdict]]  # by corpus
Rows = Iterator[list[Cell]]

_LONGEST = 160  # characters of a text in a table
_FIRST = ("train", "dev", "test")


def build(corpora: Sequence[Surveyed], verdicts: Verdicts, settings: StatsConfig) -> dict[str, Sheet]:
    """All sheets by name; those without a row are there, too."""
    splits = split_names(corpora)
    number = [COUNT] * len(splits)
    row_kinds = [*number, SHARE, *[COUNT] * 5, SHARE, *[COUNT] * 3]

    def sheet(title: str, columns: str, kinds: Sequence[str], rows: Callable[[Surveyed], Rows]) -> Sheet:
        names = ["corpus", *(name for column in columns.split() for name in (splits if column == "*" else [column]))]
        cells = [[surveyed.statistics.name, *row] for surveyed in corpora for row in rows(surveyed)]
        return Sheet(title, Table(names, cells), [TEXT, *kinds])

    top = settings.top
    columns = "count * share mean median p95 longest surfaces exclusive entropy span_distinct boundary_distinct"
    return {
        "table3": sheet(
            "Corpora (Table 3); tokens are characters, words where the writing has blanks; splits in sentences",
            "documents sentences tokens characters words entities categories primaries *",
            [COUNT, COUNT, TEXT, *[COUNT] * 5, *number],
            lambda one: _table3(one, splits),
        ),
        "verdicts": sheet(
            "Checks; shares and limits x 100",
            "check status share limit found advice",
            [TEXT, TEXT, SHARE, SHARE, TEXT, TEXT],
            lambda one: _verdicts(verdicts[one.statistics.name]),
        ),
        "splits": sheet(
            "Splits; placed: share of the entities whose place is known; lengths in characters",
            "split documents sentences characters words entities placed categories entities_per_sentence "
            "no_entity mean "
            "median p95 longest emoji with_emoji beyond_plane",
            [TEXT, *[COUNT] * 5, SHARE, *[COUNT] * 2, SHARE, *[COUNT] * 5, SHARE, COUNT],
            _splits,
        ),
        "categories": sheet(
            "Categories; lengths in characters, entropy in bits, distinctiveness in nats (Papay et al. 2020)",
            "category primary " + columns,
            [TEXT, TEXT, COUNT, *row_kinds],
            lambda one: _rows(one.statistics.categories, one, splits, True),
        ),
        "primaries": sheet(
            "Primaries", "primary " + columns, [TEXT, COUNT, *row_kinds],
            lambda one: _rows(one.statistics.primaries, one, splits, False),
        ),
        "surfaces": sheet(
            "Most ambiguous surfaces: entropy of the category in bits, times mentions",
            "surface mentions entropy categories", [TEXT, COUNT, COUNT, TEXT], _surfaces,
        ),
        "seen": sheet(
            "Mentions whose surface, and surface with category, train has",
            "split mentions seen seen_share same_category same_category_share unseen_share",
            [TEXT, COUNT, COUNT, SHARE, COUNT, SHARE, SHARE], _seen,
        ),
        "leaks": sheet(
            "Sentences of a split that stand in another one, letter for letter, and nearly so or letter for letter",
            "split stands_in sentences share texts near_sentences near_share",
            [TEXT, TEXT, COUNT, SHARE, COUNT, COUNT, SHARE], _leaks,
        ),
        "near": sheet(
            "Most similar texts, those in different splits first",
            "jaccard one_split one other_split other", [SHARE, TEXT, TEXT, TEXT, TEXT], _near,
        ),
        "repeats": sheet(
            "Most repeated texts", "times splits text", [COUNT, TEXT, TEXT], lambda one: _repeats(one, top)
        ),
        "disagreements": sheet(
            "Equal texts with different labels", "sentences text labels ids", [COUNT, TEXT, TEXT, TEXT],
            lambda one: _disagreements(one, top),
        ),
        "posts": sheet(
            "Posts in two splits or more", "post splits", [TEXT, TEXT], lambda one: _posts(one, top)
        ),
        "overlaps": sheet(
            "Mentions over one another", "kind outer inner pairs example id", [TEXT, TEXT, TEXT, COUNT, TEXT, TEXT],
            lambda one: _overlaps(one, top),
        ),
        "edges": sheet(
            "Mentions with white space or punctuation at an end",
            "kind surface category count id", [TEXT, TEXT, TEXT, COUNT, TEXT], lambda one: _edges(one, top),
        ),
        "gaps": sheet(
            f"Categories with fewer than {settings.rare} mentions in train, or none in a labelled split",
            "category *", [TEXT, *number], lambda one: _gaps(one, splits, settings.rare),
        ),
        "odd": sheet(
            "Odd characters", "character name kind count sentences id", [TEXT, TEXT, TEXT, COUNT, COUNT, TEXT], _odd
        ),
        "emoji": sheet("Most frequent emoji", "emoji count", [TEXT, COUNT], lambda one: _emoji(one, top)),
        "outliers": sheet(
            "Longest outliers: sentences beyond the third quartile + 3 interquartile ranges of their split",
            "split length fence id text", [TEXT, COUNT, COUNT, TEXT, TEXT], lambda one: _outliers(one, top),
        ),
        "issues": sheet(
            "What could not be read as it is", "code count first", [TEXT, COUNT, TEXT], _issues
        ),
    }  # fmt: skip


def split_names(corpora: Sequence[Surveyed]) -> list[str]:
    """The splits of any corpus: train, dev and test first."""
    met = dict.fromkeys(split for one in corpora for split in one.statistics.flat.splits)
    return [*(name for name in _FIRST if name in met), *(name for name in met if name not in _FIRST)]


def tokens_of(surveyed: Surveyed) -> str:
    """What the tokens of a corpus are."""
    return "words" if surveyed.statistics.spaced else "characters"


def cut(text: str) -> str:
    """A text for a table."""
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _id(surveyed: Surveyed, sentence: int) -> str:
    return surveyed.statistics.flat.sentences[sentence].id


def _by_split(surveyed: Surveyed, counts: Sequence[int], splits: Sequence[str]) -> list[Cell]:
    """Counts of this corpus's splits under the columns of all."""
    known = dict(zip(surveyed.statistics.flat.splits, counts, strict=True))
    return [known.get(split, NONE) for split in splits]


def _table3(surveyed: Surveyed, splits: Sequence[str]) -> Rows:
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


def _verdicts(verdicts: Sequence[Verdict]) -> Rows:
    for one in verdicts:
        share: Cell = NONE if one.status == SKIPPED else one.value
        yield [one.check, one.status, share, one.limit if math.isfinite(one.limit) else NONE, one.found, one.advice]


def _splits(surveyed: Surveyed) -> Rows:
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


def _rows(rows: Sequence[Row], surveyed: Surveyed, splits: Sequence[str], categories: bool) -> Rows:
    primaries = {row.name: primary_of(row.name) for row in surveyed.statistics.categories}
    if not categories and all(name == primary for name, primary in primaries.items()):
        return  # a corpus without primaries
    for row in sorted(rows, key=lambda row: (-row.mentions, row.name)):
        own: list[Cell] = [NONE if primaries[row.name] == row.name else primaries[row.name]] if categories else []
        yield [
            row.name, *own,
            row.mentions, *_by_split(surveyed, row.by_split, splits), row.share,
            round(row.mean, 2), row.median, round(row.p95, 1), row.longest, row.surfaces, 1 - row.ambiguous,
            round(row.entropy, 4), round(row.span_distinctiveness, 3), round(row.boundary_distinctiveness, 3),
        ]  # fmt: skip


def _surfaces(surveyed: Surveyed) -> Rows:
    for one in surveyed.statistics.surfaces:
        kinds = ", ".join(f"{name} {count:,}" for name, count in one.categories)
        yield [one.text, one.mentions, round(one.entropy, 3), kinds]


def _seen(surveyed: Surveyed) -> Rows:
    for split, seen in surveyed.statistics.seen.items():
        if total := seen.mentions:
            share = seen.surface / total
            yield [split, total, seen.surface, share, seen.pair, seen.pair / total, 1 - share]


def _leaks(surveyed: Surveyed) -> Rows:
    statistics = surveyed.statistics
    for one, other in pairs_of_splits(statistics):
        total = max(statistics.texts[statistics.flat.splits[one]].sentences, 1)
        count, texts = repeats.shared(statistics.counts, one, other)
        near: list[Cell] = [NONE, NONE]
        if statistics.near is not None:
            nearly = repeats.near_shared(statistics.counts, statistics.near.similar, one, other)
            near = [nearly, nearly / total]
        yield [statistics.flat.splits[one], statistics.flat.splits[other], count, count / total, texts, *near]


def _where(surveyed: Surveyed, text: int) -> str:
    """In which splits a text stands, and how often."""
    counts = surveyed.statistics.counts[text]
    pairs = zip(surveyed.statistics.flat.splits, counts.tolist(), strict=True)
    return ", ".join(f"{split} {count:,}" if count > 1 else split for split, count in pairs if count)


def _near(surveyed: Surveyed) -> Rows:
    texts = surveyed.statistics.flat.texts
    for pair in surveyed.statistics.near.examples if surveyed.statistics.near else ():
        one, other = ([_where(surveyed, text), cut(texts[text])] for text in (pair.left, pair.right))
        yield [pair.jaccard, *one, *other]


def _repeats(surveyed: Surveyed, top: int) -> Rows:
    statistics = surveyed.statistics
    for text in repeats.most_repeated(statistics.counts, top).tolist():
        times = int(statistics.counts[text].sum())
        yield [times, _where(surveyed, text), cut(statistics.flat.texts[text])]


def _disagreements(surveyed: Surveyed, top: int) -> Rows:
    flat = surveyed.statistics.flat
    for one in surveyed.statistics.disagreements[:top]:
        labels = []
        for sentence, count in zip(one.sentences, one.counts, strict=True):
            said = ", ".join(f"{e.text}/{e.category}" for e in flat.sentences[sentence].entities) or "none"
            labels.append(f"{count} x {said}")
        ids = ", ".join(_id(surveyed, sentence) for sentence in one.sentences)
        yield [sum(one.counts), cut(flat.texts[one.text]), cut("; ".join(labels)), cut(ids)]


def _posts(surveyed: Surveyed, top: int) -> Rows:
    flat = surveyed.statistics.flat
    for sentence, splits in surveyed.statistics.split_posts[:top]:
        yield [str(flat.sentences[sentence].post_id), ", ".join(flat.splits[split] for split in splits)]


def _overlaps(surveyed: Surveyed, top: int) -> Rows:
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


def _edges(surveyed: Surveyed, top: int) -> Rows:
    flat = surveyed.statistics.flat
    for kind, mentions in surveyed.statistics.edges.items():
        pairs = [(int(flat.surface[m]), int(flat.category[m])) for m in mentions]
        first = dict(zip(reversed(pairs), reversed(mentions.tolist()), strict=True))
        counts = sorted(Counter(pairs).items(), key=lambda item: (-item[1], item[0]))[:top]
        for (surface, category), count in counts:
            sentence = int(flat.owner[first[surface, category]])
            yield [kind, cut(flat.surfaces[surface]), flat.categories[category], count, _id(surveyed, sentence)]


def _gaps(surveyed: Surveyed, splits: Sequence[str], rare: int) -> Rows:
    statistics = surveyed.statistics
    labelled = [number for number, one in enumerate(statistics.labels.values()) if one.labeled]
    base = learnt_from(statistics)
    counts = in_split(statistics, base) if base else {}
    for row in statistics.categories:
        few = base is not None and counts[row.name] < rare
        if few or any(not row.by_split[number] for number in labelled):
            yield [row.name, *_by_split(surveyed, row.by_split, splits)]


def _odd(surveyed: Surveyed) -> Rows:
    for odd in surveyed.statistics.odd:
        name = unicodedata.name(chr(odd.point), "no name")
        yield [f"U+{odd.point:04X}", name, odd.kind, odd.times, odd.sentences, _id(surveyed, odd.example)]


def _emoji(surveyed: Surveyed, top: int) -> Rows:
    for emoji, count in surveyed.statistics.emoji[:top]:
        yield [emoji, count]


def _outliers(surveyed: Surveyed, top: int) -> Rows:
    flat = surveyed.statistics.flat
    for one in surveyed.statistics.outliers[:top]:
        sentence = flat.sentences[one.sentence]
        split = flat.splits[flat.split[one.sentence]]
        yield [split, one.length, round(one.fence, 1), sentence.id, cut(sentence.text)]


def _issues(surveyed: Surveyed) -> Rows:
    first: dict[str, str] = {}
    for issue in surveyed.issues:
        first.setdefault(issue.code, cut(str(issue)))
    counts = Counter(issue.code for issue in surveyed.issues)
    for code, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        yield [code, count, first[code]]
