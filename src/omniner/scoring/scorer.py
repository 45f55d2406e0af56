"""Score predictions against gold: scores, sorted errors, how the answers were read, and a signature of these.

Sentences and predictions are matched by id. Profile `own` counts a missing or unreadable answer as empty; profile
`official` reads and counts as the published scripts do (`scoring.official`). Nothing is left out without an issue, and
errors must add up to the false positives and negatives of the scores (`scoring.errta`), or the run stops.
"""

from __future__ import annotations

import hashlib
import time
from array import array
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Literal

from omniner.answers import CUT
from omniner.config.groups import ErrtaConfig, MetricsConfig
from omniner.corpus.taxonomy import primary_of
from omniner.errors import UserError
from omniner.records import Entity, Issue, Prediction, Sentence
from omniner.scoring import official
from omniner.scoring.errta import assemble_compared, sort_by_position, sort_comparison
from omniner.scoring.gold import LABEL, LABEL_PARSE
from omniner.scoring.metrics import (
    Counts,
    ErrtaResult,
    Interval,
    Metrics,
    OverlapRow,
    ParseFailure,
    ParseSummary,
    ScoreResult,
    ScoreRow,
    UnitScores,
    calibrate,
    evaluate,
    main_scores,
    overlap_scores,
)
from omniner.scoring.predictions import LoadedPredictions, garbage_collection_paused
from omniner.scoring.resampling import bootstrap_intervals, counted_categories, post_numbers
from omniner.scoring.units import (
    UNITS,
    Comparison,
    all_placed,
    check_some_fit,
    compare_units,
    find_impossible,
    locate_predictions,
    pairs_of,
    spelt_as_in_text,
)
from omniner.version import __version__

Unit = Literal["pair", "span"]
Mode = Literal["official", "span"]


@dataclass(frozen=True, slots=True)
class _Scored:
    """The result of a profile: the scored sentences, their comparison, and how their answers were read."""

    sentences: list[Sentence]
    comparison: Comparison
    parse: ParseSummary
    selection: official.Selection | None = None  # official profile only


def score_loaded(loaded: LoadedPredictions, metrics: MetricsConfig, errta: ErrtaConfig) -> ScoreResult:
    """Score a predictions file that `read_predictions` has read."""
    result = score_records(loaded.gold, loaded.predictions, metrics, errta)
    timing = result.timing | {"read": loaded.seconds}
    return replace(result, issues=[*loaded.issues, *result.issues], timing=timing)


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
        categories: those of the corpus; a prediction may use them even if no gold entity does.

    Raises:
        UserError: ids of gold repeat, the settings require offsets that are missing, or no predicted offsets fit the
            texts.
    """
    start = time.perf_counter()
    by_id, repeated = _by_id(predictions)
    samples, unmatched = _match(gold, by_id)
    located = has_places(gold)
    unit, mode = _unit(gold, located, metrics), _mode(gold, located, metrics, errta)
    compare = _compare_official if metrics.profile == "official" else _compare_own
    scored, other, met = compare(samples, metrics, unit, located)
    scores, units, lost_rows = _evaluate(scored, other, metrics)
    middle = time.perf_counter()
    errors = _sort_errors(scored, other, samples, mode)
    overlap = _score_overlap(scored, other, errors)
    comparison, sentences = scored.comparison, scored.sentences
    ids, texts = [sentence.id for sentence in sentences], [sentence.text for sentence in sentences]
    impossible = find_impossible(comparison, ids, texts, {*comparison.right, *comparison.missing, *categories})
    signature = _signature(scores, errors, metrics, samples)
    return ScoreResult(
        profile=metrics.profile,
        metrics=scores,
        units=units,
        overlap=overlap,
        errta=replace(errors, impossible=impossible, texts=dict(zip(ids, texts, strict=True))),
        parse=replace(scored.parse, errta_read=errors.read),
        signature=signature,
        timing={"read": 0.0, "metrics": middle - start, "errta": time.perf_counter() - middle},
        issues=[*repeated, *unmatched, *met, *lost_rows, *errors.crashes],
        sentences={sentence.id: sentence for sentence in gold},
        predictions=_with_places(by_id, scored),
        primary=_primaries(comparison, errors),
        comparison=comparison,
        scored=ids,
        calibration=calibrate(comparison),
    )


def choose_scale(gold: Sequence[Sentence], metrics: MetricsConfig, errta: ErrtaConfig) -> tuple[Unit, Mode]:
    """Resolve `metrics.unit` and `errta.mode` from gold alone: auto = span if all gold entities have offsets.

    Raises:
        UserError: spans are requested, but gold has none or the profile does not support them.
    """
    located = has_places(gold)
    return _unit(gold, located, metrics), _mode(gold, located, metrics, errta)


def settle_scale(
    gold: Sequence[Sentence], metrics: MetricsConfig, errta: ErrtaConfig
) -> tuple[MetricsConfig, ErrtaConfig]:
    """Replace `auto` in the settings by the choice of `choose_scale`, if parts of this gold might choose otherwise.

    This makes scores on the parts comparable. If all gold has offsets, so has every part, and `auto` stays: runs on the
    parts are then the same with or without this step.
    """
    unit, mode = choose_scale(gold, metrics, errta)
    if has_places(gold):
        return metrics, errta
    return replace(metrics, unit=unit), replace(errta, mode=mode)


def has_places(gold: Sequence[Sentence]) -> bool:
    """Whether every gold entity has offsets; without any entity, whether any sentence has a text."""
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


def _by_id(predictions: Sequence[Prediction]) -> tuple[dict[str, Prediction], list[Issue]]:
    """Return the first prediction of each id, and an issue for each further one."""
    by_id = {prediction.id: prediction for prediction in reversed(predictions)}
    issues: list[Issue] = []
    if len(by_id) < len(predictions):
        seen: set[str] = set()
        for prediction in predictions:
            if prediction.id in seen:
                issues.append(Issue("duplicate-prediction", "the first one is used", id=prediction.id))
            seen.add(prediction.id)
    return by_id, issues


def _match(gold: Sequence[Sentence], by_id: dict[str, Prediction]) -> tuple[list[official.Sample], list[Issue]]:
    """Pair each gold sentence with its prediction; return an issue for each one without a partner."""
    samples = [(sentence, by_id.get(sentence.id)) for sentence in gold]
    known = {sentence.id for sentence in gold}
    if len(known) < len(gold):
        raise UserError("gold", "two sentences have the same id", "Give every sentence its own id.")
    issues = [
        Issue("no-prediction", "counted as an empty answer", id=sentence.id)
        for sentence, prediction in samples
        if prediction is None
    ]
    if len(by_id) > len(gold) or any(name not in known for name in by_id):
        unknown = [name for name in by_id if name not in known]
        issues += [Issue("unknown-id", "a prediction for no gold sentence: not scored", id=name) for name in unknown]
    return samples, issues


def _compare_own(
    samples: Sequence[official.Sample], metrics: MetricsConfig, unit: str, located: bool
) -> tuple[_Scored, _Scored | None, list[Issue]]:
    """Compare by the own profile: a missing or unreadable answer is empty, or left out if the settings say so.

    Returns:
        What is scored, the same by the other unit (None if gold has no offsets), and the issues.
    """
    drop = metrics.on_parse_failure == "drop"
    sentences: list[Sentence] = []
    predicted: list[Sequence[Entity]] = []
    failures: list[ParseFailure] = []
    issues: list[Issue] = []
    for sentence, prediction in samples:
        if prediction is not None and prediction.parse != "ok":
            failures.append(ParseFailure(sentence.id, prediction.parse, prediction.reason, prediction.raw))
        if sentence.meta.get(LABEL_PARSE) == "failed":
            issues.append(Issue("no-gold", "the label cannot be read: not scored", id=sentence.id))
        elif drop and prediction is not None and prediction.parse == "failed":
            issues.append(Issue("dropped", "unreadable answer: left out with its gold", id=sentence.id))
        else:
            sentences.append(sentence)
            predicted.append(spelt_as_in_text(sentence, prediction.entities) if prediction is not None else [])
    failed = sum(failure.status == "failed" for failure in failures)
    repaired = len(failures) - failed
    parse = ParseSummary(len(samples), len(sentences), 0, failed, repaired, failures, *_count_shortened(samples))
    comparison, other, misplaced = _compare_by_units(sentences, predicted, unit, located)
    beside = None if other is None else _Scored(sentences, other, parse)
    return _Scored(sentences, comparison, parse), beside, issues + misplaced


def _count_shortened(samples: Sequence[official.Sample]) -> tuple[int, int]:
    """Count the answers that `decoding.max_new_tokens` stopped, and the entities that `decoding.min_score` left out."""
    cut = sum(prediction is not None and CUT in prediction.reason for _, prediction in samples)
    return cut, sum(prediction.left_out for _, prediction in samples if prediction is not None)


def _compare_by_units(
    sentences: Sequence[Sentence], predicted: Sequence[Sequence[Entity]], unit: str, located: bool
) -> tuple[Comparison, Comparison | None, list[Issue]]:
    """Compare by `unit` and, if gold has offsets, by the other unit, too; return issues of offsets."""
    gold = [sentence.entities for sentence in sentences]
    if not located and unit == "pair":
        return compare_units(gold, predicted, unit), None, []
    placed, issues = locate_predictions(sentences, predicted)
    spans = compare_units(gold, placed, "span")
    if unit == "pair":
        # Entities without offsets get them when errors are sorted, near the gold entity that they may be meant for.
        known = [
            given if found is given else [old if old[2] is None else new for old, new in zip(given, found, strict=True)]
            for given, found in zip(predicted, placed, strict=True)
        ]
        return compare_units(gold, known, "pair"), spans, issues
    check_some_fit(predicted, issues)
    return spans, pairs_of(spans), issues


def _compare_official(
    samples: Sequence[official.Sample], metrics: MetricsConfig, unit: str, located: bool
) -> tuple[_Scored, _Scored | None, list[Issue]]:
    """Read and count by pair as the scripts do; if gold has offsets, also by span as the own profile does."""
    chosen = official.select_samples(samples)
    failed = len(samples) - len(chosen.samples)
    parse = ParseSummary(
        len(samples), len(chosen.samples), 0, failed, chosen.repaired, chosen.failures, *_count_shortened(samples)
    )
    sentences = [samples[index][0] for index in chosen.samples]
    scored = _Scored(sentences, official.compare_selected(chosen), parse, chosen)
    if not located:
        return scored, None, chosen.issues
    spans, _, _ = _compare_own(samples, replace(metrics, on_parse_failure="empty"), "span", located)
    return scored, spans, chosen.issues


def _evaluate(
    scored: _Scored, other: _Scored | None, metrics: MetricsConfig
) -> tuple[Metrics, dict[str, UnitScores], list[Issue]]:
    """Return all scores, the main ones by each unit, and issues for rows that the official scripts lose."""
    sides = [scored] if other is None else [scored, other]
    intervals = _intervals(sides, metrics) if metrics.bootstrap else {}
    scores = evaluate(scored.comparison)
    if metrics.bootstrap:
        drawn = "posts" if any(sentence.post_id for sentence in scored.sentences) else "sentences"
        scores = replace(
            scores,
            intervals=intervals[scores.unit],
            confidence=metrics.confidence,
            resamples=metrics.bootstrap,
            resampled=drawn,
        )
    units = {scores.unit: UnitScores(scores.micro, scores.macro, scores.intervals)}
    if other is not None:
        unit = other.comparison.unit
        units[unit] = replace(main_scores(Counts.of(other.comparison)), intervals=intervals.get(unit, {}))
    issues: list[Issue] = []
    if scored.selection is not None:
        rows, issues = _without_summary_rows(scores.categories)
        scores = replace(scores, categories=rows)
    return scores, {unit: units[unit] for unit in UNITS if unit in units}, issues


def _intervals(sides: Sequence[_Scored], metrics: MetricsConfig) -> dict[str, dict[str, Interval]]:
    """Return the intervals by unit, from the same draws of posts if both units cover the same sentences."""
    together = all(side.sentences is sides[0].sentences for side in sides)
    found: dict[str, dict[str, Interval]] = {}
    for group in [sides] if together else [[side] for side in sides]:
        comparisons = [side.comparison for side in group]
        posts = post_numbers(group[0].sentences)
        drawn = bootstrap_intervals(comparisons, posts, metrics.bootstrap, metrics.confidence, metrics.seed)
        found |= {one.unit: intervals for one, intervals in zip(comparisons, drawn, strict=True)}
    return found


def _without_summary_rows(rows: dict[str, ScoreRow]) -> tuple[dict[str, ScoreRow], list[Issue]]:
    """Return the rows that the evaluation script's table shows, and an issue for each lost one."""
    if not rows:
        return rows, [Issue("official-stop", "no category at all: the evaluation script has no table and stops")]
    lost = [name for name in official.SUMMARY_ROWS if name in rows]
    issues = [Issue("official-row", f"the category {name!r} loses its row to the summary's") for name in lost]
    return {name: row for name, row in rows.items() if name not in lost}, issues


def _primaries(comparison: Comparison, errors: ErrtaResult) -> dict[str, str]:
    """Return the primary of every category, in name order, including those that only the official ERRTA readers see."""
    named = {unit[1] for error in errors.errors for unit in error.gold + error.predicted}
    return {name: primary_of(name) for name in sorted(named.union(counted_categories([comparison])))}


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
    """Return the scores of overlapping spans, from the sorted errors if those are by span."""
    spans = next((side for side in (scored, other) if side is not None and side.comparison.unit == "span"), None)
    if spans is None:
        return {}
    errors, comparison = errta.errors, spans.comparison
    if (errta.mode, errta.unit) != ("span", "span"):
        ids, texts = [one.id for one in spans.sentences], [one.text for one in spans.sentences]
        errors, _ = sort_by_position(comparison.sentence_errors, ids, texts, "span")
    return overlap_scores(errors, len(comparison.right))


def _with_places(by_id: dict[str, Prediction], scored: _Scored) -> dict[str, Prediction]:
    """Return the predictions, with the offsets that were found for the comparison if these were used."""
    if scored.selection is not None:
        return by_id
    sides = zip(scored.sentences, scored.comparison.predicted, strict=True)
    placed = {
        sentence.id: replace(by_id[sentence.id], entities=list(entities))
        for sentence, entities in sides
        if sentence.id in by_id and entities is not by_id[sentence.id].entities
    }
    return by_id | placed


def _signature(scores: Metrics, errors: ErrtaResult, metrics: MetricsConfig, samples: Sequence[official.Sample]) -> str:
    """Return in one line how and on what the scores were computed; equal signatures mean comparable scores."""
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


def way_of_counting(signature: str) -> dict[str, str]:
    """Return the part of a signature that tells how scores and errors are counted, without the data."""
    parts = dict(part.partition(":")[::2] for part in signature.split("|"))
    return {name: parts[name] for name in ("profile", "unit", "unreadable", "errta") if name in parts}


def _digest(ids: list[str], sides: list[list[Entity]], texts: list[str]) -> str:
    """Return a short digest of ids, entities and texts, in this order."""
    columns: list[Any] = list(zip(*chain.from_iterable(sides), strict=True)) or [()] * 4
    surfaces, categories, starts, ends = columns
    sizes, places = array("q", map(len, sides)), starts + ends
    try:
        offsets = array("q", places)
    except TypeError:  # some are unknown
        offsets = array("q", [-1 if place is None else place for place in places])
    words = "\x1f".join((*ids, *texts, *surfaces, *categories))
    return hashlib.sha256(sizes.tobytes() + offsets.tobytes() + words.encode("utf-8", "surrogatepass")).hexdigest()[:8]
