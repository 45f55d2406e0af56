"""The official profile: which samples the published scripts count, what they read in them, where they stop.

In go sentences with their predictions, out comes what `scoring` needs: a comparison of the samples that the evaluation
script scores and, read again by other rules, the errors of the samples that the ERRTA scripts count. The two differ in
a few odd texts only. A sample whose two texts are plain lists without a backslash reads the same for both scripts and
for us, so its entities are taken as they are: that is the fast path for nearly all samples.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from omniner.analysis.errta import official as errta_official
from omniner.analysis.errta import sorting as errta
from omniner.analysis.scores.metrics import Comparison, Residue, compare
from omniner.analysis.scores.parse_official import OfficialStopError, read_for_errta, read_for_evaluation
from omniner.analysis.scores.predictions import BOM, LABEL, LABEL_ERRTA, LABEL_PARSE, PREDICT_ERRTA
from omniner.analysis.scores.results import ErrtaError, ErrtaResult, ParseFailure
from omniner.records import Entity, Issue, Prediction, Sentence

Sample = tuple[Sentence, Prediction | None]
SUMMARY_ROWS = ("micro avg", "macro avg", "weighted avg")  # a category of this name loses its row in the script


@dataclass(slots=True)
class Selection:
    """The samples that the evaluation script scores."""

    samples: list[int] = field(default_factory=list)  # positions in what was given
    gold: list[list[Entity]] = field(default_factory=list)
    predicted: list[list[Entity]] = field(default_factory=list)
    plain: list[bool] = field(default_factory=list)  # of all that was given: the fast path
    repaired: int = 0
    failures: list[ParseFailure] = field(default_factory=list)
    issues: list[Issue] = field(default_factory=list)


def select(samples: Sequence[Sample]) -> Selection:
    """Read every sample as the evaluation script does."""
    chosen = Selection()
    for index, (sentence, prediction) in enumerate(samples):
        plain = _is_plain(sentence, prediction)
        chosen.plain.append(plain)
        if plain:
            gold, predicted = sentence.entities, prediction.entities if prediction else []
        else:
            sides = _read(sentence, prediction, chosen)
            if sides is None:
                continue
            gold, predicted = sides
        chosen.samples.append(index)
        chosen.gold.append(gold)
        chosen.predicted.append(predicted)
    return chosen


def _is_plain(sentence: Sentence, prediction: Prediction | None) -> bool:
    """Whether the entities are what both scripts read; a foreign `raw` is only trusted from our reader of the file."""
    meta = sentence.meta
    if prediction is None or prediction.parse != "ok":
        return False
    if LABEL not in meta:
        return not prediction.raw and "\\" not in _written(sentence.entities) + _written(prediction.entities)
    return (
        meta[LABEL_PARSE] == "ok"
        and "\\" not in prediction.raw
        and "\\" not in meta[LABEL]
        and BOM not in meta
        and PREDICT_ERRTA not in meta
    )


def texts(sentence: Sentence, prediction: Prediction | None) -> tuple[str, str]:
    """`label` and `predict` as the file has them, or as we would write them; no prediction is an empty list."""
    label = sentence.meta.get(LABEL)
    if label is None:
        label = _written(sentence.entities)
    if prediction is None:
        return label, "[]"
    if prediction.raw or prediction.parse == "failed" or LABEL in sentence.meta:
        return label, prediction.raw
    return label, _written(prediction.entities)


def _written(entities: Sequence[Entity]) -> str:
    return json.dumps([entity[:2] for entity in entities], ensure_ascii=False)


def _read(
    sentence: Sentence, prediction: Prediction | None, chosen: Selection
) -> tuple[list[Entity], list[Entity]] | None:
    if BOM in sentence.meta:
        return None
    label, predict = texts(sentence, prediction)
    try:
        # The script reads both texts before it gives up on either.
        answer, gold = read_for_evaluation(predict), read_for_evaluation(label)
    except OfficialStopError as stop:
        chosen.issues.append(_stop(sentence, f"the evaluation script stops here: {stop}"))
        chosen.failures.append(ParseFailure(sentence.id, "failed", str(stop), predict))
        return None
    if answer is None or gold is None:
        side = "label" if gold is None else "predict"
        chosen.failures.append(ParseFailure(sentence.id, "failed", f"{side} unreadable: sample dropped", predict))
        return None
    if answer.repaired:
        chosen.repaired += 1
        chosen.failures.append(ParseFailure(sentence.id, "repaired", "by the official rules", predict))
    return [Entity(*pair) for pair in gold.pairs], [Entity(*pair) for pair in answer.pairs]


def _stop(sentence: Sentence, message: str) -> Issue:
    return Issue("official-stop", message, id=sentence.id)


def compare_selected(chosen: Selection) -> Comparison:
    """Compare the chosen samples; then every category and surface gets the name that the script's table would show."""
    comparison = compare(chosen.gold, chosen.predicted, "pair")
    if all(set(map(type, names)) <= {str} for names in (comparison.right, comparison.missing, comparison.extra)):
        return comparison
    comparison.gold, comparison.predicted = _named(chosen.gold), _named(chosen.predicted)
    comparison.right = [_name(name) for name in comparison.right]
    comparison.residues = [Residue(r.sentence, *_named((r.missing, r.extra))) for r in comparison.residues]
    return comparison


def _named(sides: Sequence[Sequence[Entity]]) -> list[list[Entity]]:
    return [[Entity(_name(unit[0]), _name(unit[1]), *unit[2:]) for unit in units] for units in sides]


def _name(value: Any) -> str:
    if value is None:
        return "nan"
    return value if isinstance(value, str) else str(value)


def sort_errors(samples: Sequence[Sample], chosen: Selection, comparison: Comparison) -> ErrtaResult:
    """The errors that the ERRTA scripts count, made deterministic."""
    ids = [samples[index][0].id for index in chosen.samples]
    plain = [chosen.plain[index] for index in chosen.samples]
    residues = [residue for residue in comparison.residues if plain[residue.sentence]]
    errors = errta_official.errors_of(residues, ids)
    tp = sum(count for count, ok in zip(comparison.right_counts, plain, strict=True) if ok)
    missing = [unit[1] for residue in residues for unit in residue.missing]
    extra = [unit[1] for residue in residues for unit in residue.extra]
    read, crashes = sum(plain), []
    for index, (sentence, prediction) in enumerate(samples):
        if chosen.plain[index]:
            continue
        try:
            outcome = _sort_odd(sentence, prediction)
        except (OfficialStopError, *errta_official.STOPS) as stop:
            what = str(stop) if isinstance(stop, OfficialStopError) else f"{type(stop).__name__}: {stop}"
            crashes.append(_stop(sentence, f"the ERRTA scripts stop here: {what}"))
            continue
        if outcome is not None:
            right, wrong, found = outcome
            read += 1
            tp += right
            missing += [errta_official.as_entity(unit)[1] for unit in wrong[0]]
            extra += [errta_official.as_entity(unit)[1] for unit in wrong[1]]
            errors += found
    if read > sum(plain):
        order = {sentence.id: place for place, (sentence, _) in enumerate(samples)}
        errors.sort(key=lambda error: order[error.sentence_id])
    return errta.assemble(
        errors, mode="official", unit="pair", tp=tp, missing=missing, extra=extra, read=read, crashes=crashes
    )


def _sort_odd(
    sentence: Sentence, prediction: Prediction | None
) -> tuple[int, tuple[list[Any], list[Any]], list[ErrtaError]] | None:
    """True positives, wrong units and errors of one sample read by the ERRTA reader; `None` where it drops it."""
    if BOM in sentence.meta:
        raise OfficialStopError("JSONDecodeError: byte order mark")
    label, predict = texts(sentence, prediction)
    gold = _tuples(sentence.meta.get(LABEL_ERRTA), label)
    predicted = _tuples(sentence.meta.get(PREDICT_ERRTA), predict)
    if gold is None or predicted is None:
        return None
    right, missing, extra = errta_official.split_tuples(gold, predicted)
    errors = [
        ErrtaError(kind, sentence.id, *(tuple(map(errta_official.as_entity, units)) for units in sides))
        for kind, *sides in errta_official.sort_units(missing, extra)
    ]
    return right, (missing, extra), errors


def _tuples(seen: str | None, text: str) -> list[tuple[Any, ...]] | None:
    """`seen`: the text that this reader gets where deleting backslashes from `text` would not give it."""
    return read_for_errta(text.replace("\\", "") if seen is None else seen)
