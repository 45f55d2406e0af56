"""Check a corpus for problems: one function per check, each with its advice; the results are verdicts.

Every figure is a share. A check warns above `stats.warn.<check>` and fails above `stats.fail.<check>`; without limits
it only reports. A check with nothing to examine (leaks of a corpus with one split) is skipped and says why. To add a
check, add a function here and its limits to `conf/stats`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from omniner.config.groups import StatsConfig
from omniner.corpus.stats.measure import (
    TRAIN,
    Statistics,
    labelled_splits,
    mentions_in_split,
    split_pairs,
    training_split,
)
from omniner.corpus.stats.mentions import CROSSING, NESTED, PUNCTUATION, SAME, SPACE
from omniner.corpus.stats.texts import count_near_repeated, count_near_shared, count_repeated, count_shared
from omniner.corpus.taxonomy import Taxonomy
from omniner.records import Issue, ranked
from omniner.wording import Wording

PASSED, WARNED, FAILED, SKIPPED = "passed", "warned", "failed", "skipped"
STATUSES = (FAILED, WARNED, PASSED, SKIPPED)  # the worst first
_NAMED = 5  # categories or codes named in a line


@dataclass(frozen=True, slots=True)
class SurveyedCorpus:
    """A corpus with everything that is known of it.

    Attributes:
        statistics: what was measured.
        about: its source, and how it was read.
        issues: of reading it.
        taxonomy: None if the categories are those of the files.
        max_length: number of characters that a model accepts, `encoding.max_length`.
        settings: limits of the checks, lengths of lists.
    """

    statistics: Statistics
    about: str
    issues: list[Issue]
    taxonomy: Taxonomy | None
    max_length: int
    settings: StatsConfig


class Verdict(NamedTuple):
    """The result of one check of one corpus.

    Attributes:
        check: its name.
        status: passed | warned | failed | skipped.
        value: the share it found; 0 if it was skipped.
        limit: the exceeded limit, or else the lowest one.
        found: the counts behind the value, or why it was skipped.
        advice: what to do.
    """

    check: str
    status: str
    value: float
    limit: float
    found: str
    advice: str

    def line(self) -> str:
        """Format the verdict for the terminal."""
        if self.status in (SKIPPED, PASSED):
            return f"{self.status:8}{self.check}: {self.found}"
        return f"{self.status:8}{self.check}: {self.found} (limit {100 * self.limit:g}%). {self.advice}"


Found = tuple[float, str]  # the share, and the counts behind it in words
Look = Callable[[SurveyedCorpus], Found | str]  # returns only a text if there is nothing to check


class Check(NamedTuple):
    """A check: its name for readers, its function, and what to do if it finds too much."""

    label: str
    look: Look
    advice: str


CHECKS: dict[str, Check] = {}  # filled below, in the order in which verdicts are shown


def add_check(advice: str) -> Callable[[Look], Look]:
    """Register a function `check_<name>` as a check of that name."""

    def add(look: Look) -> Look:
        name = look.__name__.removeprefix("check_")
        CHECKS[name] = Check(Wording(name.replace("_", " ")), look, Wording(advice))
        return look

    return add


def run_checks(surveyed: SurveyedCorpus) -> list[Verdict]:
    """Return the verdict of every check, in the order of `CHECKS`."""
    settings, verdicts = surveyed.settings, []
    for name, (_, look, advice) in CHECKS.items():
        warn, fail = settings.warn.get(name, math.inf), settings.fail.get(name, math.inf)
        found = look(surveyed)
        if isinstance(found, str):
            verdicts.append(Verdict(name, SKIPPED, 0.0, min(warn, fail), found, advice))
            continue
        value, text = found
        if value > fail:
            status, limit = FAILED, fail
        elif value > warn:
            status, limit = WARNED, warn
        else:
            status, limit = PASSED, min(warn, fail)
        verdicts.append(Verdict(name, status, value, limit, text, advice))
    return verdicts


@add_check("Take them out of one side: a model has seen them.")
def check_leakage(surveyed: SurveyedCorpus) -> Found | str:
    """Count sentences whose text is in another split, too."""
    counts = surveyed.statistics.counts
    return _across(surveyed, lambda one, other: count_shared(counts, one, other)[0])


@add_check("Take them out of one side, or divide anew with task=split.")
def check_near_leakage(surveyed: SurveyedCorpus) -> Found | str:
    """Count sentences with the same or nearly the same text in another split."""
    counts, near = surveyed.statistics.counts, surveyed.statistics.near
    if near is None:
        return _too_many(surveyed)
    return _across(surveyed, lambda one, other: count_near_shared(counts, near.similar, one, other))


@add_check("Divide anew with task=split: sentences of one post are alike.")
def check_posts(surveyed: SurveyedCorpus) -> Found | str:
    """Count posts that have sentences in several splits."""
    statistics = surveyed.statistics
    if len(statistics.flat.splits) < 2:
        return Wording("one split only")
    if not any(sentence.post_id for sentence in statistics.flat.sentences):
        return Wording("no sentence says which post it is of")
    return _part(len(statistics.split_posts), statistics.posts, Wording("posts in two splits or more"))


@add_check("Report unseen mentions apart: remembering alone explains this share.")
def check_seen(surveyed: SurveyedCorpus) -> Found | str:
    """Count mentions whose surface is in train, for the split with the largest share."""
    rows = {split: seen for split, seen in surveyed.statistics.seen.items() if seen.mentions}
    if not rows:
        return (
            Wording("no labelled split beside train")
            if TRAIN in surveyed.statistics.flat.splits
            else Wording("no train split")
        )
    parts = [
        _part(seen.surface, seen.mentions, Wording("mentions of {split}", split=split)) for split, seen in rows.items()
    ]
    counts = Wording.joined("; ", (text for _, text in parts))
    return max(share for share, _ in parts), Wording("surfaces that train has: {counts}", counts=counts)


@add_check("Keep one of each, or weigh that frequent texts count more.")
def check_duplicates(surveyed: SurveyedCorpus) -> Found | str:
    """Count sentences that repeat an earlier one of their split."""
    count = int(count_repeated(surveyed.statistics.counts).sum())
    return _of_sentences(count, surveyed, Wording("sentences repeat one of their split"))


@add_check("Look at the table of near duplicates: templates and forwarded posts.")
def check_near_duplicates(surveyed: SurveyedCorpus) -> Found | str:
    """Count sentences that have an equal or nearly equal one in their split."""
    statistics = surveyed.statistics
    if statistics.near is None:
        return _too_many(surveyed)
    counts, similar = statistics.counts, statistics.near.similar
    count = sum(count_near_repeated(counts, similar, split) for split in range(counts.shape[1]))
    return _of_sentences(count, surveyed, Wording("sentences have an equal or nearly equal one in their split"))


@add_check("Have them labelled again: the guidelines, or an annotator, were unsure.")
def check_inconsistent(surveyed: SurveyedCorpus) -> Found | str:
    """Count sentences whose text is in the corpus again with other labels."""
    count, texts = surveyed.statistics.disagreeing, len(surveyed.statistics.disagreements)
    share, text = _of_sentences(count, surveyed, Wording("sentences have a twin with other labels"))
    twins = Wording("{count:text}", count=texts)
    return share, _with(text, twins) if count else text


@add_check("Cut the blanks off: no tagger finds such a span.")
def check_edge_space(surveyed: SurveyedCorpus) -> Found | str:
    """Count mentions with white space at an end."""
    count = len(surveyed.statistics.edges[SPACE])
    return _of_mentions(count, surveyed, Wording("mentions begin or end with white space"))


@add_check("Say in the guidelines whether such marks belong to the mention.")
def check_edge_punctuation(surveyed: SurveyedCorpus) -> Found | str:
    """Count mentions with punctuation at an end."""
    count = len(surveyed.statistics.edges[PUNCTUATION])
    return _of_mentions(count, surveyed, Wording("mentions begin or end with punctuation"))


@add_check("Add offsets: span scores and taggers leave these mentions out.")
def check_unplaced(surveyed: SurveyedCorpus) -> Found | str:
    """Count mentions without offsets."""
    count = int((~surveyed.statistics.flat.placed).sum())
    return _of_mentions(count, surveyed, Wording("mentions have no place in their text"))


@add_check("Use head=span or a causal model: softmax and crf cannot give two at one place.")
def check_overlapping(surveyed: SurveyedCorpus) -> Found | str:
    """Count mentions that share a character with another one."""
    count = sum(labels.involved for labels in surveyed.statistics.labels.values())
    found = _of_mentions(count, surveyed, Wording("mentions lie over another one"))
    if isinstance(found, str) or not count:
        return found
    kinds = Counter(overlap.kind for overlap in surveyed.statistics.overlaps)
    parts = (Wording("{count:,} {kind}", count=kinds[kind], kind=Wording(kind)) for kind in (NESTED, CROSSING, SAME))
    return found[0], _with(found[1], Wording.joined(", ", parts))


@add_check("Expect confusion here, and give the prompt or the guidelines a rule.")
def check_ambiguous(surveyed: SurveyedCorpus) -> Found | str:
    """Count mentions whose surface has several categories."""
    kinds, mentions = surveyed.statistics.ambiguity.kinds, surveyed.statistics.ambiguity.mentions
    return _of_mentions(
        int(mentions[kinds > 1].sum()), surveyed, Wording("mentions have a surface of several categories")
    )


@add_check("Clean the texts before they are labelled: offsets change with them.")
def check_odd_characters(surveyed: SurveyedCorpus) -> Found | str:
    """Count sentences with characters that nobody types."""
    count = int(surveyed.statistics.with_odd.sum())
    share, text = _of_sentences(count, surveyed, Wording("sentences have control or other odd characters"))
    kinds = _named([f"{odd.times:,} x U+{odd.point:04X}" for odd in surveyed.statistics.odd])
    return share, _with(text, kinds) if kinds else text


@add_check("Take them out.")
def check_empty(surveyed: SurveyedCorpus) -> Found | str:
    """Count sentences that consist only of white space."""
    return _of_sentences(int(surveyed.statistics.empty.sum()), surveyed, Wording("sentences show nothing"))


@add_check("Make sure that they were looked at; sample fewer of them if training is slow.")
def check_no_entity(surveyed: SurveyedCorpus) -> Found | str:
    """Count labelled sentences without an entity."""
    labels = surveyed.statistics.labels.values()
    total = sum(one.labeled for one in labels)
    count = sum(one.bare for one in labels)
    return _part(count, total, Wording("labelled sentences have no entity")) if total else Wording("no labels")


@add_check("Cut them at sentence ends, raise encoding.max_length or set encoding.on_too_long.")
def check_too_long(surveyed: SurveyedCorpus) -> Found | str:
    """Count sentences that are too long for a model to read whole."""
    count = int((surveyed.statistics.flat.length > surveyed.max_length).sum())
    return _of_sentences(
        count, surveyed, Wording("sentences are longer than encoding.max_length={limit}", limit=surveyed.max_length)
    )


@add_check("Look at them: several sentences in one, or markup.")
def check_outliers(surveyed: SurveyedCorpus) -> Found | str:
    """Count sentences beyond the outer fence of their split's lengths."""
    count = len(surveyed.statistics.outliers)
    return _of_sentences(count, surveyed, Wording("sentences are far longer than most of their split"))


@add_check("Collect more of them, merge them, or leave them out (task=filter).")
def check_rare(surveyed: SurveyedCorpus) -> Found | str:
    """Count categories with too few mentions to learn from."""
    statistics, least = surveyed.statistics, surveyed.settings.rare
    base = training_split(statistics)
    if base is None:
        return Wording("no labelled train split")
    counts = mentions_in_split(statistics, base)
    rare = [f"{name} {count}" for name, count in counts.items() if count < least]
    what = Wording("categories have fewer than {least} mentions in {split}", least=least, split=base)
    return _part_named(rare, len(counts), what)


@add_check("Divide anew with task=split: no model can learn them.")
def check_untrained(surveyed: SurveyedCorpus) -> Found | str:
    """Count categories that train lacks."""
    statistics = surveyed.statistics
    if TRAIN not in labelled_splits(statistics) or len(labelled_splits(statistics)) < 2:
        return Wording("no labelled train split with another one beside it")
    absent = [name for name, count in mentions_in_split(statistics, TRAIN).items() if not count]
    return _part_named(absent, len(statistics.categories), Wording("categories are in other splits, not in train"))


@add_check("Divide anew with task=split: nothing can be said about them.")
def check_unmeasured(surveyed: SurveyedCorpus) -> Found | str:
    """Count categories that a split for measuring lacks, for the split that lacks most."""
    statistics = surveyed.statistics
    labelled = labelled_splits(statistics)
    others = [split for split in labelled if split != TRAIN]
    if len(labelled) < 2 or not others:
        return Wording("one labelled split at most")
    worst, lines = 0.0, []
    for split in others:
        absent = [name for name, count in mentions_in_split(statistics, split).items() if not count]
        share, text = _part_named(absent, len(statistics.categories), Wording("categories"))
        worst = max(worst, share)
        if absent:
            lines.append(Wording("{split} lacks {text}", split=split, text=text))
    whole = Wording("every category is in {splits}", splits=_named(others))
    return worst, Wording.joined("; ", lines) if lines else whole


@add_check("Correct their names, or set data.taxonomy=flat.")
def check_unknown(surveyed: SurveyedCorpus) -> Found | str:
    """Count mentions whose category is not in the taxonomy."""
    if surveyed.taxonomy is None:
        return Wording("no taxonomy: the categories are those of the files")
    absent = {row.name: row.mentions for row in surveyed.statistics.categories if row.name not in surveyed.taxonomy}
    found = _of_mentions(
        sum(absent.values()), surveyed, Wording("mentions are not of the taxonomy {name}", name=surveyed.taxonomy.name)
    )
    return found if isinstance(found, str) or not absent else (found[0], _with(found[1], _named(list(absent))))


@add_check("Collect some, or leave them out of the prompt.")
def check_unused(surveyed: SurveyedCorpus) -> Found | str:
    """Count categories of the taxonomy without a mention."""
    if surveyed.taxonomy is None:
        return Wording("no taxonomy: the categories are those of the files")
    held = {row.name for row in surveyed.statistics.categories}
    absent = [name for name in surveyed.taxonomy.categories if name not in held]
    return _part_named(absent, len(surveyed.taxonomy), Wording("categories of the taxonomy have no mention"))


@add_check("Look at issues.jsonl and repair the files.")
def check_issues(surveyed: SurveyedCorpus) -> Found | str:
    """Count the issues of reading, per sentence."""
    codes = Counter(issue.code for issue in surveyed.issues)
    total = max(len(surveyed.statistics.flat.sentences), 1)
    kinds = _named([f"{count:,} {code}" for code, count in ranked(codes)])
    issues = Wording("{count:issue}", count=codes.total())
    sentences = Wording("{count:sentence}", count=total)
    text = Wording("{issues} in {sentences}", issues=issues, sentences=sentences)
    return min(codes.total() / total, 1.0), _with(text, kinds) if kinds else text


def _part(count: int, total: int, what: str) -> Found:
    """Return the share and its text: `3 of 270 test sentences (1.11%)`."""
    share = count / total if total else 0.0
    values = {"count": count, "total": total, "what": what, "share": share}
    return share, Wording("{count:,} of {total:,} {what} ({share:.2%})", **values)


def _with(text: str, parts: str) -> Wording:
    """Join a finding with its parts."""
    return Wording.both("{text}: {parts}", "{text}：{parts}", text=text, parts=parts)


def _part_named(names: Sequence[str], total: int, what: str) -> Found:
    """Return the share of these names in the total, with the first of them."""
    share, text = _part(len(names), total, what)
    return share, _with(text, _named(names)) if names else text


def _of_sentences(count: int, surveyed: SurveyedCorpus, what: str) -> Found:
    return _part(count, len(surveyed.statistics.flat.sentences), what)


def _of_mentions(count: int, surveyed: SurveyedCorpus, what: str) -> Found | str:
    total = len(surveyed.statistics.flat.owner)
    return _part(count, total, what) if total else Wording("no mentions")


def _across(surveyed: SurveyedCorpus, count: Callable[[int, int], int]) -> Found | str:
    """Return the largest share over the pairs of splits, and all pairs in words.

    `count` returns the number of sentences of one split that the other one has, too.
    """
    statistics = surveyed.statistics
    pairs, splits = split_pairs(statistics), statistics.flat.splits
    if not pairs:
        return Wording("one split only")
    worst, lines = 0.0, []
    for one, other in pairs:
        shared = count(one, other)
        what = Wording("of {one} in {other}", one=splits[one], other=splits[other])
        share, text = _part(shared, statistics.texts[splits[one]].sentences, what)
        worst = max(worst, share)
        if shared:
            lines.append(text)
    none = Wording("none between {splits}", splits=_named(splits))
    return worst, Wording.joined("; ", lines) if lines else none


def _too_many(surveyed: SurveyedCorpus) -> str:
    found = surveyed.statistics.candidates
    return Wording(
        "{pairs:,} pairs would have to be compared, more than stats.candidates={most:,}",
        pairs=found, most=surveyed.settings.candidates,
    )  # fmt: skip


def _named(names: Sequence[str]) -> Wording:
    first = Wording.joined(", ", names[:_NAMED])
    if len(names) <= _NAMED:
        return first
    return Wording("{names} and {count} more", names=first, count=len(names) - _NAMED)
