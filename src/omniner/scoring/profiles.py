"""Score predictions against gold: scores, sorted errors, how the answers were read, and the signature of all that.

Sentences and predictions are matched by id. Profile `own` counts a missing or unreadable answer as an empty one;
profile `official` reads and counts as the published scripts do (`scoring.official`). Nothing is left out without an
issue, and errors must add up to the false positives and negatives of the scores (`scoring.errta`), or the run stops.
"""

from __future__ import annotations

import hashlib
import time
from array import array
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Literal

from omniner import __version__
from omniner.config.groups import ErrtaConfig, MetricsConfig
from omniner.corpus.taxonomy import primary_of
from omniner.errors import UserError
from omniner.records import Entity, Issue, Prediction, Sentence
from omniner.scoring import official
from omniner.scoring.errta import assemble_compared, sort_by_position, sort_comparison
from omniner.scoring.metrics import (
    Counts,
    ErrtaResult,
    Metrics,
    OverlapRow,
    ParseFailure,
    ParseSummary,
    ScoreResult,
    UnitScores,
    evaluate,
    main_scores,
    overlap_scores,
)
from omniner.scoring.predictions import LABEL, LABEL_PARSE, LoadedPredictions, garbage_collection_paused
from omniner.scoring.resampling import bootstrap_intervals, post_numbers
from omniner.scoring.units import (
    UNITS,
    Comparison,
    all_placed,
    check_some_fit,
    compare_units,
    find_impossible,
    locate_predictions,
    pairs_of,
)

Unit = Literal["pair", "span"]
Mode = Literal["official", "span"]


@dataclass(slots=True)
class _Scored:
    """What a profile gives: the sentences that count, their comparison, and how their answers were read."""

    sentences: list[Sentence]
    comparison: Comparison
    parse: ParseSummary
    selection: official.Selection | None = None  # profile official


def score_loaded(loaded: LoadedPredictions, metrics: MetricsConfig, errta: ErrtaConfig) -> ScoreResult:
    """Score a predictions file that `read_predictions` has read."""
    result = score_records(loaded.gold, loaded.predictions, metrics, errta)
    result.issues[:0] = loaded.issues
    result.timing["read"] += loaded.seconds
    return result


@garbage_collection_paused()
def score_records(
    gold: Sequence[Sentence],
    predictions: Sequence[Prediction],
    metrics: MetricsConfig,
    errta: ErrtaConfig,
    categories: Collection[str] = (),
) -> ScoreResult:
    """Score predictions against gold.

    Args:
        gold: sentences with unique ids.
        predictions: at most one per sentence, in any order.
        metrics: unit, profile, intervals.
        errta: how errors are sorted.
        categories: that a prediction may well have though no gold entity does: those of the corpus.

    Raises:
        UserError: ids of gold repeat, the settings ask for offsets that are not there, or offsets are not those of the
            texts.
    """
    start = time.perf_counter()
    issues: list[Issue] = []
    by_id = _by_id(predictions, issues)
    samples = _match(gold, by_id, issues)
    located = has_places(gold)
    unit, mode = _unit(gold, located, metrics), _mode(gold, located, metrics, errta)
    compare = _compare_official if metrics.profile == "official" else _compare_own
    scored, other = compare(samples, metrics, unit, located, issues)
    primary = _Primaries()
    scores = evaluate(scored.comparison, primary)
    units = _score_both_units(scores, scored, other, metrics)
    known = {name for name, row in scores.categories.items() if row.support}.union(categories)
    if scored.selection is not None:
        _drop_summary_rows(scores, issues)
    middle = time.perf_counter()
    errors = _sort_errors(scored, other, samples, mode)
    overlap = _score_overlap(scored, other, errors)
    sentences = scored.sentences
    ids, texts = [sentence.id for sentence in sentences], [sentence.text for sentence in sentences]
    errors.impossible = find_impossible(scored.comparison, ids, texts, known)
    scored.parse.errta_read = errors.read
    issues += errors.crashes
    primary.meet(unit[1] for error in errors.errors for unit in error.gold + error.predicted)
    timing = {"read": 0.0, "metrics": middle - start, "errta": time.perf_counter() - middle}
    return ScoreResult(
        profile=metrics.profile,
        metrics=scores,
        units=units,
        overlap=overlap,
        errta=errors,
        parse=scored.parse,
        signature=_signature(scores, errors, metrics, samples),
        timing=timing,
        issues=issues,
        sentences={sentence.id: sentence for sentence in gold},
        predictions=_with_places(by_id, scored),
        primary=dict(sorted(primary.items())),
        comparison=scored.comparison,
        scored=ids,
    )


def choose_scale(gold: Sequence[Sentence], metrics: MetricsConfig, errta: ErrtaConfig) -> tuple[Unit, Mode]:
    """Choose what `metrics.unit` and `errta.mode` come to, by gold alone: auto = span where all of it has offsets.

    Raises:
        UserError: spans are asked for, and gold has none, or the profile knows none.
    """
    located = has_places(gold)
    return _unit(gold, located, metrics), _mode(gold, located, metrics, errta)


def has_places(gold: Sequence[Sentence]) -> bool:
    """Whether every gold entity has offsets; where there is no entity, whether there is a text to have places in."""
    known = any(sentence.entities or sentence.text for sentence in gold)
    return known and all_placed(sentence.entities for sentence in gold)


def _unit(gold: Sequence[Sentence], located: bool, metrics: MetricsConfig) -> Unit:
    if metrics.profile == "official":
        if metrics.unit == "span":
            raise UserError("metrics.unit", "span, but the official scripts know no offsets", "Use metrics.unit=pair.")
        return "pair"
    if metrics.unit == "span" and not located and any(sentence.entities for sentence in gold):
        fix = "Use metrics.unit=pair, or gold with start and end."
        raise UserError("metrics.unit", "span, but some entities of gold have no offsets", fix)
    if metrics.unit == "auto":
        return "span" if located else "pair"
    return metrics.unit


def _mode(gold: Sequence[Sentence], located: bool, metrics: MetricsConfig, errta: ErrtaConfig) -> Mode:
    if errta.mode == "official" or (errta.mode == "auto" and metrics.profile == "official"):
        return "official"
    if errta.mode == "auto":
        return "span" if located else "official"
    if not located and any(sentence.entities for sentence in gold) and not any(sentence.text for sentence in gold):
        fix = "Use errta.mode=official, name gold sentences with their texts, or put test.json beside the predictions."
        raise UserError("errta.mode", "span, but there are neither offsets nor texts to find surfaces in", fix)
    return "span"


class _Primaries(dict[str, str]):
    """Category -> primary, filled as categories are met."""

    def meet(self, categories: Iterable[str]) -> None:
        """Make sure of an entry for each (the official readers may know more categories than the scores)."""
        for category in set(categories).difference(self):
            self[category] = primary_of(category)

    def __missing__(self, category: str) -> str:
        self[category] = primary = primary_of(category)
        return primary


def _by_id(predictions: Sequence[Prediction], issues: list[Issue]) -> dict[str, Prediction]:
    by_id = {prediction.id: prediction for prediction in reversed(predictions)}
    if len(by_id) < len(predictions):
        seen: set[str] = set()
        for prediction in predictions:
            if prediction.id in seen:
                issues.append(Issue("duplicate-prediction", "the first one is used", id=prediction.id))
            seen.add(prediction.id)
    return by_id


def _match(
    gold: Sequence[Sentence], by_id: dict[str, Prediction], issues: list[Issue]
) -> list[tuple[Sentence, Prediction | None]]:
    samples = [(sentence, by_id.get(sentence.id)) for sentence in gold]
    known = {sentence.id for sentence in gold}
    if len(known) < len(gold):
        raise UserError("gold", "two sentences have the same id", "Give every sentence its own id.")
    issues += [
        Issue("no-prediction", "counted as an empty answer", id=sentence.id)
        for sentence, prediction in samples
        if prediction is None
    ]
    if len(by_id) > len(gold) or any(name not in known for name in by_id):
        unknown = [name for name in by_id if name not in known]
        issues += [Issue("unknown-id", "a prediction for no gold sentence: not scored", id=name) for name in unknown]
    return samples


def _compare_own(
    samples: Sequence[official.Sample], metrics: MetricsConfig, unit: str, located: bool, issues: list[Issue]
) -> tuple[_Scored, _Scored | None]:
    """An answer that is missing or cannot be read is empty, or is left out where the settings say so.

    Returns:
        What is scored, and the same by the other unit; None where gold has no places.
    """
    drop = metrics.on_parse_failure == "drop"
    sentences: list[Sentence] = []
    predicted: list[list[Entity]] = []
    failures: list[ParseFailure] = []
    for sentence, prediction in samples:
        if prediction is not None and prediction.parse != "ok":
            failures.append(ParseFailure(sentence.id, prediction.parse, prediction.reason, prediction.raw))
        if sentence.meta.get(LABEL_PARSE) == "failed":
            issues.append(Issue("no-gold", "the label cannot be read: not scored", id=sentence.id))
        elif drop and prediction is not None and prediction.parse == "failed":
            issues.append(Issue("dropped", "unreadable answer: left out with its gold", id=sentence.id))
        else:
            sentences.append(sentence)
            predicted.append(prediction.entities if prediction is not None else [])
    failed = sum(failure.status == "failed" for failure in failures)
    parse = ParseSummary(len(samples), len(sentences), 0, failed, len(failures) - failed, failures)
    comparison, other = _compare_by_units(sentences, predicted, unit, located, issues)
    return _Scored(sentences, comparison, parse), _Scored(sentences, other, parse) if other is not None else None


def _compare_by_units(
    sentences: Sequence[Sentence], predicted: Sequence[Sequence[Entity]], unit: str, located: bool, issues: list[Issue]
) -> tuple[Comparison, Comparison | None]:
    """The comparison by `unit` and, where gold has places, that by the other one."""
    gold = [sentence.entities for sentence in sentences]
    if not located and unit == "pair":
        return compare_units(gold, predicted, unit), None
    placed, met = locate_predictions(sentences, predicted)
    issues += met
    spans = compare_units(gold, placed, "span")
    if unit == "pair":
        # What names no place gets one when errors are sorted, beside what it may be taken for.
        known = [
            given if found is given else [old if old[2] is None else new for old, new in zip(given, found, strict=True)]
            for given, found in zip(predicted, placed, strict=True)
        ]
        return compare_units(gold, known, "pair"), spans
    check_some_fit(predicted, met)
    return spans, pairs_of(spans)


def _compare_official(
    samples: Sequence[official.Sample], metrics: MetricsConfig, unit: str, located: bool, issues: list[Issue]
) -> tuple[_Scored, _Scored | None]:
    """As the scripts read and count, by pair; beside it, where gold has places, by span as the own profile does."""
    chosen = official.select_samples(samples)
    issues += chosen.issues
    failed = len(samples) - len(chosen.samples)
    parse = ParseSummary(len(samples), len(chosen.samples), 0, failed, chosen.repaired, chosen.failures)
    sentences = [samples[index][0] for index in chosen.samples]
    scored = _Scored(sentences, official.compare_selected(chosen), parse, chosen)
    if not located:
        return scored, None
    return scored, _compare_own(samples, replace(metrics, on_parse_failure="empty"), "span", located, [])[0]


def _drop_summary_rows(scores: Metrics, issues: list[Issue]) -> None:
    if not scores.categories:
        issues.append(Issue("official-stop", "no category at all: the evaluation script has no table and stops"))
    taken = [name for name in official.SUMMARY_ROWS if scores.categories.pop(name, None) is not None]
    issues += [Issue("official-row", f"the category {name!r} loses its row to the summary's") for name in taken]


def _score_both_units(
    scores: Metrics, scored: _Scored, other: _Scored | None, metrics: MetricsConfig
) -> dict[str, UnitScores]:
    """Give the main scores by each unit, with intervals where they are wanted; `scores` shares its own."""
    sides = {scored.comparison.unit: (scored, UnitScores(scores.micro, scores.macro, scores.intervals))}
    if other is not None:
        sides[other.comparison.unit] = (other, main_scores(Counts.of(other.comparison)))
    if metrics.bootstrap:
        # The same draws of posts for both, where both are of the same sentences.
        together = other is not None and other.sentences is scored.sentences
        for group in [[*sides.values()]] if together else [[side] for side in sides.values()]:
            posts = post_numbers(group[0][0].sentences)
            found = bootstrap_intervals(
                [side.comparison for side, _ in group], posts, metrics.bootstrap, metrics.confidence, metrics.seed
            )
            for (_, row), intervals in zip(group, found, strict=True):
                row.intervals.update(intervals)
        scores.confidence, scores.resamples = metrics.confidence, metrics.bootstrap
        scores.resampled = "posts" if any(sentence.post_id for sentence in scored.sentences) else "sentences"
    return {unit: sides[unit][1] for unit in UNITS if unit in sides}


def _sort_errors(scored: _Scored, other: _Scored | None, samples: Sequence[official.Sample], mode: str) -> ErrtaResult:
    comparison = scored.comparison
    if mode == "official" and scored.selection is not None:
        return official.sort_selected(samples, scored.selection, comparison)
    if mode == "official" and comparison.unit != "pair":
        assert other is not None, "where there are spans there are pairs"
        comparison = other.comparison
    ids = [sentence.id for sentence in scored.sentences]
    if mode == "official":
        errors = official.sort_as_published(comparison.sentence_errors, ids)
        return assemble_compared(comparison, errors, mode, read=len(ids))
    return sort_comparison(comparison, ids, [sentence.text for sentence in scored.sentences])


def _score_overlap(scored: _Scored, other: _Scored | None, errta: ErrtaResult) -> dict[str, OverlapRow]:
    """Give the scores of overlapping spans, from the sorted errors where those are by span."""
    spans = next((side for side in (scored, other) if side is not None and side.comparison.unit == "span"), None)
    if spans is None:
        return {}
    errors, comparison = errta.errors, spans.comparison
    if (errta.mode, errta.unit) != ("span", "span"):
        ids, texts = [one.id for one in spans.sentences], [one.text for one in spans.sentences]
        errors, _ = sort_by_position(comparison.sentence_errors, ids, texts, "span")
    return overlap_scores(errors, len(comparison.right))


def _with_places(by_id: dict[str, Prediction], scored: _Scored) -> dict[str, Prediction]:
    """The predictions with the places that were found for what they hold, if they were compared with these."""
    sides = zip(scored.sentences, scored.comparison.predicted, strict=True)
    placed = {
        sentence.id: replace(by_id[sentence.id], entities=list(entities))
        for sentence, entities in sides
        if sentence.id in by_id and entities is not by_id[sentence.id].entities
    }
    return by_id | placed if scored.selection is None else by_id


def _signature(scores: Metrics, errors: ErrtaResult, metrics: MetricsConfig, samples: Sequence[official.Sample]) -> str:
    """How the scores were computed and on what, in one line; equal signatures mean comparable scores."""
    interval = f"{metrics.bootstrap}x{scores.resampled}@{metrics.confidence:g}/seed{metrics.seed}"
    answers = [prediction for _, prediction in samples if prediction is not None]
    labels = [sentence.meta.get(LABEL, "") for sentence, _ in samples]
    parts = {
        "profile": metrics.profile,
        "unit": scores.unit,
        "unreadable": "official" if metrics.profile == "official" else metrics.on_parse_failure,
        "macro": "gold",
        "errta": errors.mode,
        "bootstrap": interval if metrics.bootstrap else "none",
        "sentences": str(len(samples)),
        "gold": _digest([s.id for s, _ in samples], [s.entities for s, _ in samples], labels),
        "predictions": _digest([p.id for p in answers], [p.entities for p in answers], [p.raw for p in answers]),
        "version": __version__,
    }
    return "|".join(f"{name}:{value}" for name, value in parts.items())


def _digest(ids: list[str], sides: list[list[Entity]], texts: list[str]) -> str:
    """A short digest of ids, entities and texts, in this order."""
    columns: list[Any] = list(zip(*chain.from_iterable(sides), strict=True)) or [()] * 4
    surfaces, categories, starts, ends = columns
    sizes, places = array("q", map(len, sides)), starts + ends
    try:
        offsets = array("q", places)
    except TypeError:  # some are unknown
        offsets = array("q", [-1 if place is None else place for place in places])
    words = "\x1f".join((*ids, *texts, *surfaces, *categories))
    return hashlib.sha256(sizes.tobytes() + offsets.tobytes() + words.encode("utf-8", "surrogatepass")).hexdigest()[:8]
