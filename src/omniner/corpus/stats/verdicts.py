"""What can be wrong with a corpus: one verdict a check, with its figure, its limit and what to do.

In goes what `corpus.stats` measured, out come `Verdict`s in the order of `CHECKS`. Every figure is a share; above
`stats.warn` a check warns, above `stats.fail` it fails, and one without a limit only tells. A check that has nothing
to look at (leaks of a corpus with one split) is skipped and says why.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from omniner.config.groups import StatsConfig
from omniner.corpus.stats import texts as repeats
from omniner.corpus.stats.measure import (
    TRAIN,
    Statistics,
    labelled_splits,
    mentions_in_split,
    split_pairs,
    training_split,
)
from omniner.corpus.stats.mentions import CROSSING, NESTED, PUNCTUATION, SAME, SPACE
from omniner.corpus.taxonomy import Taxonomy
from omniner.records import Issue

PASSED, WARNED, FAILED, SKIPPED = "passed", "warned", "failed", "skipped"
STATUSES = (FAILED, WARNED, PASSED, SKIPPED)  # the worst first
_NAMED = 5  # categories or codes named in a line


@dataclass(frozen=True, slots=True)
class SurveyedCorpus:
    """A corpus with all that is known of it. `taxonomy` is None where the categories are those of the files."""

    statistics: Statistics
    about: str  # where it comes from and how it was read
    issues: list[Issue]
    taxonomy: Taxonomy | None
    max_length: int  # characters that a model takes: encoding.max_length
    settings: StatsConfig


class Verdict(NamedTuple):
    """One check of one corpus; `value` is its share (0 where it was skipped), `limit` the next one it could break."""

    check: str
    status: str
    value: float
    limit: float
    found: str
    advice: str

    def line(self) -> str:
        """For the terminal."""
        if self.status in (SKIPPED, PASSED):
            return f"{self.status:8}{self.check}: {self.found}"
        return f"{self.status:8}{self.check}: {self.found} (limit {100 * self.limit:g}%). {self.advice}"


Found = tuple[float, str]  # the share, and the counts behind it in words
Look = Callable[[SurveyedCorpus], Found | str]  # a text alone says why there is nothing to check


def run_checks(surveyed: SurveyedCorpus) -> list[Verdict]:
    """The verdict of every check."""
    return [_judge(name, look, advice, surveyed) for name, (look, advice) in CHECKS.items()]


def _judge(name: str, look: Look, advice: str, surveyed: SurveyedCorpus) -> Verdict:
    settings = surveyed.settings
    warn, fail = settings.warn.get(name, math.inf), settings.fail.get(name, math.inf)
    found = look(surveyed)
    if isinstance(found, str):
        return Verdict(name, SKIPPED, 0.0, min(warn, fail), found, advice)
    value, text = found
    if value > fail:
        return Verdict(name, FAILED, value, fail, text, advice)
    if value > warn:
        return Verdict(name, WARNED, value, warn, text, advice)
    return Verdict(name, PASSED, value, min(warn, fail), text, advice)


def describe_part(count: int, total: int, what: str) -> str:
    """`3 of 270 test sentences (1.11%)`."""
    return f"{count:,} of {total:,} {what} ({_share(count, total):.2%})"


def _share(count: int, total: int) -> float:
    return count / total if total else 0.0


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _of_sentences(count: int, surveyed: SurveyedCorpus, what: str) -> Found:
    total = len(surveyed.statistics.flat.sentences)
    return _share(count, total), describe_part(count, total, what)


def _across(surveyed: SurveyedCorpus, count: Callable[[int, int], int]) -> Found | str:
    """The worst pair of splits, and all pairs in words."""
    statistics = surveyed.statistics
    pairs, splits = split_pairs(statistics), statistics.flat.splits
    if not pairs:
        return "one split only"
    rows = []
    for one, other in pairs:
        total = statistics.texts[splits[one]].sentences
        rows.append((_share(count(one, other), total), count(one, other), total, splits[one], splits[other]))
    lines = [describe_part(shared, total, f"of {one} in {other}") for _, shared, total, one, other in rows if shared]
    return max(row[0] for row in rows), "; ".join(lines) or f"none between {_named(splits)}"


def _leakage(surveyed: SurveyedCorpus) -> Found | str:
    counts = surveyed.statistics.counts
    return _across(surveyed, lambda one, other: repeats.count_shared(counts, one, other)[0])


def _near_leakage(surveyed: SurveyedCorpus) -> Found | str:
    counts, near = surveyed.statistics.counts, surveyed.statistics.near
    if near is None:
        return _too_many(surveyed)
    return _across(surveyed, lambda one, other: repeats.count_near_shared(counts, near.similar, one, other))


def _too_many(surveyed: SurveyedCorpus) -> str:
    found = surveyed.statistics.candidates
    return f"{found:,} pairs would have to be compared, more than stats.candidates={surveyed.settings.candidates:,}"


def _posts(surveyed: SurveyedCorpus) -> Found | str:
    statistics = surveyed.statistics
    if len(statistics.flat.splits) < 2:
        return "one split only"
    if all(sentence.post_id is None for sentence in statistics.flat.sentences):
        return "no sentence says which post it is of"
    count = len(statistics.split_posts)
    return _share(count, statistics.posts), describe_part(count, statistics.posts, "posts in two splits or more")


def _duplicates(surveyed: SurveyedCorpus) -> Found | str:
    repeated = repeats.count_repeated(surveyed.statistics.counts)
    return _of_sentences(int(repeated.sum()), surveyed, "sentences repeat one of their split")


def _near_duplicates(surveyed: SurveyedCorpus) -> Found | str:
    statistics = surveyed.statistics
    if statistics.near is None:
        return _too_many(surveyed)
    counts, similar = statistics.counts, statistics.near.similar
    count = sum(repeats.count_near_repeated(counts, similar, split) for split in range(counts.shape[1]))
    return _of_sentences(count, surveyed, "sentences have an equal or nearly equal one in their split")


def _inconsistent(surveyed: SurveyedCorpus) -> Found | str:
    count, texts = surveyed.statistics.disagreeing, len(surveyed.statistics.disagreements)
    share, text = _of_sentences(count, surveyed, "sentences have a twin with other labels")
    return share, f"{text}: {_counted(texts, 'text')}" if count else text


def _of_mentions(count: int, surveyed: SurveyedCorpus, what: str) -> Found | str:
    total = len(surveyed.statistics.flat.owner)
    return (_share(count, total), describe_part(count, total, what)) if total else "no mentions"


def _edge_space(surveyed: SurveyedCorpus) -> Found | str:
    count = len(surveyed.statistics.edges[SPACE])
    return _of_mentions(count, surveyed, "mentions begin or end with white space")


def _edge_punctuation(surveyed: SurveyedCorpus) -> Found | str:
    count = len(surveyed.statistics.edges[PUNCTUATION])
    return _of_mentions(count, surveyed, "mentions begin or end with punctuation")


def _unplaced(surveyed: SurveyedCorpus) -> Found | str:
    count = int((~surveyed.statistics.flat.placed).sum())
    return _of_mentions(count, surveyed, "mentions have no place in their text")


def _overlapping(surveyed: SurveyedCorpus) -> Found | str:
    count = sum(labels.involved for labels in surveyed.statistics.labels.values())
    found = _of_mentions(count, surveyed, "mentions lie over another one")
    if isinstance(found, str) or not count:
        return found
    kinds = Counter(overlap.kind for overlap in surveyed.statistics.overlaps)
    return found[0], found[1] + ": " + ", ".join(f"{kinds[kind]:,} {kind}" for kind in (NESTED, CROSSING, SAME))


def _ambiguous(surveyed: SurveyedCorpus) -> Found | str:
    kinds, mentions = surveyed.statistics.ambiguity.kinds, surveyed.statistics.ambiguity.mentions
    return _of_mentions(int(mentions[kinds > 1].sum()), surveyed, "mentions have a surface of several categories")


def _seen(surveyed: SurveyedCorpus) -> Found | str:
    rows = {split: seen for split, seen in surveyed.statistics.seen.items() if seen.mentions}
    if not rows:
        return "no labelled split beside train" if TRAIN in surveyed.statistics.flat.splits else "no train split"
    lines = [describe_part(seen.surface, seen.mentions, f"mentions of {split}") for split, seen in rows.items()]
    share = max(_share(seen.surface, seen.mentions) for seen in rows.values())
    return share, f"surfaces that train has: {'; '.join(lines)}"


def _odd(surveyed: SurveyedCorpus) -> Found | str:
    count = int(surveyed.statistics.with_odd.sum())
    share, text = _of_sentences(count, surveyed, "sentences have control or other odd characters")
    kinds = _named([f"{odd.times:,} x U+{odd.point:04X}" for odd in surveyed.statistics.odd])
    return share, f"{text}: {kinds}" if kinds else text


def _empty(surveyed: SurveyedCorpus) -> Found | str:
    return _of_sentences(int(surveyed.statistics.empty.sum()), surveyed, "sentences show nothing")


def _bare(surveyed: SurveyedCorpus) -> Found | str:
    labels = surveyed.statistics.labels.values()
    total = sum(one.labeled for one in labels)
    count = sum(one.bare for one in labels)
    return (
        (_share(count, total), describe_part(count, total, "labelled sentences have no entity"))
        if total
        else "no labels"
    )


def _too_long(surveyed: SurveyedCorpus) -> Found | str:
    count = int((surveyed.statistics.flat.length > surveyed.max_length).sum())
    return _of_sentences(count, surveyed, f"sentences are longer than encoding.max_length={surveyed.max_length}")


def _outliers(surveyed: SurveyedCorpus) -> Found | str:
    count = len(surveyed.statistics.outliers)
    return _of_sentences(count, surveyed, "sentences are far longer than most of their split")


def _rare(surveyed: SurveyedCorpus) -> Found | str:
    statistics = surveyed.statistics
    base = training_split(statistics)
    if base is None:
        return "no labelled train split"
    counts = mentions_in_split(statistics, base)
    rare = [f"{name} {count}" for name, count in counts.items() if count < surveyed.settings.rare]
    text = describe_part(
        len(rare), len(counts), f"categories have fewer than {surveyed.settings.rare} mentions in {base}"
    )
    return _share(len(rare), len(counts)), f"{text}: {_named(rare)}" if rare else text


def _untrained(surveyed: SurveyedCorpus) -> Found | str:
    statistics = surveyed.statistics
    if TRAIN not in labelled_splits(statistics) or len(labelled_splits(statistics)) < 2:
        return "no labelled train split with another one beside it"
    absent = [name for name, count in mentions_in_split(statistics, TRAIN).items() if not count]
    total = len(statistics.categories)
    text = describe_part(len(absent), total, "categories are in other splits, not in train")
    return _share(len(absent), total), f"{text}: {_named(absent)}" if absent else text


def _unmeasured(surveyed: SurveyedCorpus) -> Found | str:
    statistics = surveyed.statistics
    labelled = labelled_splits(statistics)
    others = [split for split in labelled if split != TRAIN]
    if len(labelled) < 2 or not others:
        return "one labelled split at most"
    worst, lines = 0.0, []
    for split in others:
        absent = [name for name, count in mentions_in_split(statistics, split).items() if not count]
        worst = max(worst, _share(len(absent), len(statistics.categories)))
        if absent:
            lacking = describe_part(len(absent), len(statistics.categories), "categories")
            lines.append(f"{split} lacks {lacking}: {_named(absent)}")
    return worst, "; ".join(lines) or f"every category is in {_named(others)}"


def _unknown(surveyed: SurveyedCorpus) -> Found | str:
    if surveyed.taxonomy is None:
        return "no taxonomy: the categories are those of the files"
    absent = {row.name: row.mentions for row in surveyed.statistics.categories if row.name not in surveyed.taxonomy}
    found = _of_mentions(sum(absent.values()), surveyed, f"mentions are not of the taxonomy {surveyed.taxonomy.name}")
    return found if isinstance(found, str) or not absent else (found[0], f"{found[1]}: {_named(list(absent))}")


def _unused(surveyed: SurveyedCorpus) -> Found | str:
    if surveyed.taxonomy is None:
        return "no taxonomy: the categories are those of the files"
    held = {row.name for row in surveyed.statistics.categories}
    absent = [name for name in surveyed.taxonomy.categories if name not in held]
    text = describe_part(len(absent), len(surveyed.taxonomy), "categories of the taxonomy have no mention")
    return _share(len(absent), len(surveyed.taxonomy)), f"{text}: {_named(absent)}" if absent else text


def _issues(surveyed: SurveyedCorpus) -> Found | str:
    codes = Counter(issue.code for issue in surveyed.issues)
    total = max(len(surveyed.statistics.flat.sentences), 1)
    kinds = _named([f"{count:,} {code}" for code, count in sorted(codes.items(), key=lambda item: (-item[1], item[0]))])
    text = f"{_counted(codes.total(), 'issue')} in {_counted(total, 'sentence')}"
    return min(codes.total() / total, 1.0), f"{text}: {kinds}" if kinds else text


CHECKS: dict[str, tuple[Look, str]] = {
    "leakage": (_leakage, "Take them out of one side: a model has seen them."),
    "near_leakage": (_near_leakage, "Take them out of one side, or divide anew with task=split."),
    "posts": (_posts, "Divide anew with task=split: sentences of one post are alike."),
    "seen": (_seen, "Report unseen mentions apart: remembering alone explains this share."),
    "duplicates": (_duplicates, "Keep one of each, or weigh that frequent texts count more."),
    "near_duplicates": (_near_duplicates, "Look at the table of near duplicates: templates and forwarded posts."),
    "inconsistent": (_inconsistent, "Have them labelled again: the guidelines, or an annotator, were unsure."),
    "edge_space": (_edge_space, "Cut the blanks off: no tagger finds such a span."),
    "edge_punctuation": (_edge_punctuation, "Say in the guidelines whether such marks belong to the mention."),
    "unplaced": (_unplaced, "Add offsets: span scores and taggers leave these mentions out."),
    "overlapping": (_overlapping, "Use head=span or a causal model: softmax and crf cannot give two at one place."),
    "ambiguous": (_ambiguous, "Expect confusion here, and give the prompt or the guidelines a rule."),
    "odd_characters": (_odd, "Clean the texts before they are labelled: offsets change with them."),
    "empty": (_empty, "Take them out."),
    "no_entity": (_bare, "Make sure that they were looked at; sample fewer of them if training is slow."),
    "too_long": (_too_long, "Cut them at sentence ends, raise encoding.max_length or set encoding.on_too_long."),
    "outliers": (_outliers, "Look at them: several sentences in one, or markup."),
    "rare": (_rare, "Collect more of them, merge them, or leave them out (task=filter)."),
    "untrained": (_untrained, "Divide anew with task=split: no model can learn them."),
    "unmeasured": (_unmeasured, "Divide anew with task=split: nothing can be said about them."),
    "unknown": (_unknown, "Correct their names, or set data.taxonomy=flat."),
    "unused": (_unused, "Collect some, or leave them out of the prompt."),
    "issues": (_issues, "Look at issues.jsonl and repair the files."),
}
