"""Score predictions against gold: scores, sorted errors, how the answers were read, and the signature of all that.

Sentences and predictions are matched by id. Profile `own` counts a missing or unreadable answer as an empty one;
profile `official` reads and counts as the published scripts do (`scoring.official`). Nothing is left out without an
issue, and errors must add up to the false positives and negatives of the scores (`scoring.errta`), or the run stops.
"""

from __future__ import annotations

import hashlib
import time
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter
from typing import Any

from omniner import __version__
from omniner.config.groups import ErrtaConfig, MetricsConfig
from omniner.corpus.taxonomy import primary_of
from omniner.errors import UserError
from omniner.records import Entity, Issue, Prediction, Sentence
from omniner.scoring import official
from omniner.scoring.errta import assemble, sort_by_position
from omniner.scoring.metrics import (
    Comparison,
    ErrtaResult,
    Metrics,
    ParseFailure,
    ParseSummary,
    ScoreResult,
    compare_units,
    evaluate,
)
from omniner.scoring.predictions import LABEL, LABEL_PARSE, LoadedPredictions, garbage_collection_paused
from omniner.scoring.resampling import bootstrap_intervals, post_numbers


@dataclass(slots=True)
class _Scored:
    """What a profile gives: the compared sentences and how their answers were read."""

    sentences: list[Sentence]
    comparison: Comparison
    parse: ParseSummary
    selection: official.Selection | None  # profile official


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
) -> ScoreResult:
    """Score predictions against gold.

    Args:
        gold: sentences with unique ids.
        predictions: at most one per sentence, in any order.
        metrics: unit, profile, intervals.
        errta: how errors are sorted.

    Raises:
        UserError: ids of gold repeat, or the settings ask for offsets that are not there.
    """
    start = time.perf_counter()
    issues: list[Issue] = []
    by_id = _by_id(predictions, issues)
    samples = _match(gold, by_id, issues)
    scored = (_official if metrics.profile == "official" else _own)(samples, metrics, issues)
    primary = _Primaries()
    scores = evaluate(scored.comparison, primary)
    _add_intervals(scores, scored, metrics)
    if scored.selection is not None:
        _drop_summary_rows(scores, issues)
    middle = time.perf_counter()
    mode = _mode(scored, metrics, errta)
    errors = _sort_errors(scored, samples, mode)
    scored.parse.errta_read = errors.read
    issues += errors.crashes
    primary.meet(unit[1] for error in errors.errors for unit in error.gold + error.predicted)
    timing = {"read": 0.0, "metrics": middle - start, "errta": time.perf_counter() - middle}
    return ScoreResult(
        profile=metrics.profile,
        metrics=scores,
        errta=errors,
        parse=scored.parse,
        signature=_signature(scores, errors, metrics, samples),
        timing=timing,
        issues=issues,
        sentences={sentence.id: sentence for sentence in gold},
        predictions=by_id,
        primary=dict(sorted(primary.items())),
        comparison=scored.comparison,
        scored=[sentence.id for sentence in scored.sentences],
    )


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


def _own(samples: Sequence[official.Sample], metrics: MetricsConfig, issues: list[Issue]) -> _Scored:
    """An answer that is missing or cannot be read is empty, or is left out where the settings say so."""
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
    gold = [sentence.entities for sentence in sentences]
    failed = sum(failure.status == "failed" for failure in failures)
    parse = ParseSummary(len(samples), len(sentences), 0, failed, len(failures) - failed, failures)
    return _Scored(sentences, compare_units(gold, predicted, choose_unit(gold, predicted, metrics)), parse, None)


def choose_unit(gold: Sequence[Sequence[Entity]], predicted: Sequence[Sequence[Entity]], metrics: MetricsConfig) -> str:
    """Choose what `metrics.unit` comes to; auto = `span` where all entities of both sides have offsets."""
    if metrics.unit == "pair" or metrics.profile == "official":
        return "pair"
    located = _located(gold) and _located(predicted)
    if metrics.unit == "span" and not located:
        fix = "Use metrics.unit=pair, or predictions and gold with start and end."
        raise UserError("metrics.unit", "span, but some entities have no offsets", fix)
    return "span" if located else "pair"


def _located(sides: Iterable[Sequence[Entity]]) -> bool:
    return None not in map(itemgetter(2), chain.from_iterable(sides))


def _official(samples: Sequence[official.Sample], metrics: MetricsConfig, issues: list[Issue]) -> _Scored:
    if metrics.unit == "span":
        raise UserError("metrics.unit", "span, but the official scripts know no offsets", "Use metrics.unit=pair.")
    chosen = official.select_samples(samples)
    issues += chosen.issues
    failed = len(samples) - len(chosen.samples)
    parse = ParseSummary(len(samples), len(chosen.samples), 0, failed, chosen.repaired, chosen.failures)
    sentences = [samples[index][0] for index in chosen.samples]
    return _Scored(sentences, official.compare_selected(chosen), parse, chosen)


def _drop_summary_rows(scores: Metrics, issues: list[Issue]) -> None:
    if not scores.categories:
        issues.append(Issue("official-stop", "no category at all: the evaluation script has no table and stops"))
    taken = [name for name in official.SUMMARY_ROWS if scores.categories.pop(name, None) is not None]
    issues += [Issue("official-row", f"the category {name!r} loses its row to the summary's") for name in taken]


def _add_intervals(scores: Metrics, scored: _Scored, metrics: MetricsConfig) -> None:
    if not metrics.bootstrap:
        return
    posts = post_numbers(scored.sentences)
    scores.intervals = bootstrap_intervals(
        scored.comparison, posts, metrics.bootstrap, metrics.confidence, metrics.seed
    )
    scores.confidence, scores.resamples = metrics.confidence, metrics.bootstrap
    scores.resampled = "posts" if any(sentence.post_id for sentence in scored.sentences) else "sentences"


def _mode(scored: _Scored, metrics: MetricsConfig, errta: ErrtaConfig) -> str:
    comparison = scored.comparison
    if errta.mode == "official" or (errta.mode == "auto" and metrics.profile == "official"):
        return "official"
    if comparison.unit == "span" or (_located(comparison.gold) and _located(comparison.predicted)):
        return "span"
    if errta.mode == "auto":
        return "official"
    if not any(sentence.text for sentence in scored.sentences):
        fix = "Use errta.mode=official, name gold sentences with their texts, or put test.json beside the predictions."
        raise UserError("errta.mode", "span, but there are neither offsets nor texts to find surfaces in", fix)
    return "span"


def _sort_errors(scored: _Scored, samples: Sequence[official.Sample], mode: str) -> ErrtaResult:
    comparison = scored.comparison
    if mode == "official" and scored.selection is not None:
        return official.sort_selected(samples, scored.selection, comparison)
    if mode == "official" and comparison.unit != "pair":
        comparison = compare_units(comparison.gold, comparison.predicted, "pair")
    ids = [sentence.id for sentence in scored.sentences]
    large = 0
    if mode == "official":
        errors = official.sort_as_published(comparison.residues, ids)
    else:
        texts = [sentence.text for sentence in scored.sentences]
        errors, large = sort_by_position(comparison.residues, ids, texts, comparison.unit)
    return assemble(
        errors,
        mode=mode,
        unit=comparison.unit,
        tp=len(comparison.right),
        missing=comparison.missing,
        extra=comparison.extra,
        read=len(ids),
        greedy_groups=large,
    )


def _signature(scores: Metrics, errors: ErrtaResult, metrics: MetricsConfig, samples: Sequence[official.Sample]) -> str:
    """How the scores were computed and on what, in one line; equal signatures mean comparable scores."""
    interval = f"{metrics.bootstrap}x{scores.resampled}@{metrics.confidence:g}/seed{metrics.seed}"
    answers = [prediction for _, prediction in samples if prediction is not None]
    parts = {
        "profile": metrics.profile,
        "unit": scores.unit,
        "unreadable": "official" if metrics.profile == "official" else metrics.on_parse_failure,
        "macro": "gold",
        "errta": errors.mode,
        "bootstrap": interval if metrics.bootstrap else "none",
        "sentences": str(len(samples)),
        "gold": _digest([s.id for s, _ in samples], [s.entities for s, _ in samples], _labels(samples)),
        "predictions": _digest([p.id for p in answers], [p.entities for p in answers], [p.raw for p in answers]),
        "version": __version__,
    }
    return "|".join(f"{name}:{value}" for name, value in parts.items())


def _labels(samples: Sequence[official.Sample]) -> list[str]:
    return [sentence.meta.get(LABEL, "") for sentence, _ in samples]


def _digest(ids: list[str], sides: list[list[Entity]], texts: list[str]) -> str:
    """A short digest of ids, entities and texts, in this order."""
    flat: list[Any] = list(chain.from_iterable(chain.from_iterable(sides)))
    sizes = array("q", map(len, sides))
    offsets = array("q", [-1 if place is None else place for place in flat[2::4] + flat[3::4]])
    words = "\x1f".join((*ids, *texts, *flat[0::4], *flat[1::4]))
    return hashlib.sha256(sizes.tobytes() + offsets.tobytes() + words.encode("utf-8", "surrogatepass")).hexdigest()[:8]
