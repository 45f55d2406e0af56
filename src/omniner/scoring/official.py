"""Score and sort errors as the published OmniNER2025 scripts do, and report where the scripts would stop.

The evaluation script and the ERRTA scripts read the `label` and `predict` texts of a sample by different rules:
`select_samples` and `compare_selected` follow the first, `sort_selected` the others. If both texts of a sample are
plain lists without a backslash, both scripts and our parser read the same, so the parsed entities are used: this is the
fast path for nearly all samples. Where a script would stop with an exception, the sample is reported instead
(`OfficialStopError`), and the run continues.

The published rules of sorting (`sort_as_published`): first classification (same surface, another category); then, in
one sweep, boundary (one surface inside the other, same category) or split/merge (the white-space tokens of one are
among the other's), taking the first candidate; the rest is missing or redundant. The official script iterates over
hash-ordered sets, so its counts can change from run to run. Here the order is that of first mention in the answer,
which is one of the orders that the script can meet.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from omniner.files import writing
from omniner.records import Entity, Issue, Prediction, Sentence, to_line, with_score
from omniner.scoring import errta
from omniner.scoring.gold import BOM, LABEL, LABEL_ERRTA, LABEL_PARSE, PREDICT_ERRTA
from omniner.scoring.metrics import ErrtaError, ErrtaResult, ParseFailure
from omniner.scoring.units import Comparison, SentenceErrors, compare_units
from omniner.wording import Wording

Unit = tuple[Any, ...]  # usually (surface, category)
Sample = tuple[Sentence, Prediction | None]
SUMMARY_ROWS = ("micro avg", "macro avg", "weighted avg")  # the script loses the row of a category with such a name
STOPS = (IndexError, TypeError, ValueError)  # exceptions that sorting raises where the official script does
_BROKEN = object()


class OfficialStopError(Exception):
    """A published script would stop here with the exception that the message names first."""


@dataclass(slots=True)
class Selection:
    """The samples that the evaluation script scores."""

    samples: list[int] = field(default_factory=list)  # positions in the given samples
    gold: list[list[Entity]] = field(default_factory=list)
    predicted: list[list[Entity]] = field(default_factory=list)
    plain: list[bool] = field(default_factory=list)  # for every given sample: whether it takes the fast path
    repaired: int = 0
    failures: list[ParseFailure] = field(default_factory=list)
    issues: list[Issue] = field(default_factory=list)


def select_samples(samples: Sequence[Sample]) -> Selection:
    """Read every sample as the evaluation script does, without those that it drops."""
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
    """Whether both scripts read these entities; an external `raw` is trusted only if our reader of the file set it."""
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


def sample_texts(sentence: Sentence, prediction: Prediction | None) -> tuple[str, str]:
    """Return `label` and `predict` as in the file, or as we would write them; a missing prediction is an empty list."""
    label = sentence.meta.get(LABEL)
    if label is None:
        label = _written(sentence.entities)
    if prediction is None:
        return label, "[]"
    if prediction.left_out:
        return label, _written(prediction.entities)  # the text still has what was left out
    if prediction.raw or prediction.parse == "failed" or LABEL in sentence.meta:
        return label, prediction.raw
    return label, _written(prediction.entities)


def _written(entities: Sequence[Entity]) -> str:
    return json.dumps([entity[:2] for entity in entities], ensure_ascii=False)


def _read(
    sentence: Sentence, prediction: Prediction | None, chosen: Selection
) -> tuple[list[Entity], list[Entity]] | None:
    """Read gold and answer from their texts; the answer's pairs have the confidences that our own reading gave them."""
    if BOM in sentence.meta:
        return None
    label, predict = sample_texts(sentence, prediction)
    try:
        # The script reads both texts before it rejects either.
        answer, gold = read_for_evaluation(predict), read_for_evaluation(label)
    except OfficialStopError as stop:
        chosen.issues.append(_stop(sentence, f"the evaluation script stops here: {stop}"))
        chosen.failures.append(ParseFailure(sentence.id, "failed", str(stop), predict))
        return None
    if answer is None or gold is None:
        side = "label" if gold is None else "predict"
        chosen.failures.append(
            ParseFailure(sentence.id, "failed", Wording("{side} unreadable: sample dropped", side=side), predict)
        )
        return None
    if answer.repaired:
        chosen.repaired += 1
        chosen.failures.append(ParseFailure(sentence.id, "repaired", Wording("by the official rules"), predict))
    scores: dict[tuple[Any, Any], float | None] = {}
    for entity in prediction.entities if prediction else ():
        scores.setdefault(entity[:2], entity.score)
    predicted = [with_score(Entity(*pair), scores.get(pair)) for pair in answer.pairs]
    return [Entity(*pair) for pair in gold.pairs], predicted


def _stop(sentence: Sentence, message: str) -> Issue:
    return Issue("official-stop", message, id=sentence.id)


def compare_selected(chosen: Selection) -> Comparison:
    """Compare the chosen samples; members that are not strings get the name that the script's table would show."""
    comparison = compare_units(chosen.gold, chosen.predicted, "pair")
    if all(set(map(type, names)) <= {str} for names in (comparison.right, comparison.missing, comparison.extra)):
        return comparison
    comparison.gold, comparison.predicted = _named(chosen.gold), _named(chosen.predicted)
    comparison.right = [_name(name) for name in comparison.right]
    comparison.sentence_errors = [
        SentenceErrors(r.sentence, *_named((r.missing, r.extra))) for r in comparison.sentence_errors
    ]
    return comparison


def _named(sides: Sequence[Sequence[Entity]]) -> list[list[Entity]]:
    return [
        [with_score(Entity(_name(unit[0]), _name(unit[1]), *unit[2:]), unit.score) for unit in units] for units in sides
    ]


def _name(value: Any) -> str:
    if value is None:
        return "nan"
    return value if isinstance(value, str) else str(value)


def sort_selected(samples: Sequence[Sample], chosen: Selection, comparison: Comparison) -> ErrtaResult:
    """Sort the errors that the ERRTA scripts count.

    Args:
        samples: all that were given.
        chosen: the result of `select_samples`.
        comparison: the result of `compare_selected`.
    """
    ids = [samples[index][0].id for index in chosen.samples]
    plain = [chosen.plain[index] for index in chosen.samples]
    sentence_errors = [one for one in comparison.sentence_errors if plain[one.sentence]]
    errors = sort_as_published(sentence_errors, ids)
    tp = sum(count for count, ok in zip(comparison.right_counts, plain, strict=True) if ok)
    missing = [unit[1] for one in sentence_errors for unit in one.missing]
    extra = [unit[1] for one in sentence_errors for unit in one.extra]
    read, crashes = sum(plain), []
    for index, (sentence, prediction) in enumerate(samples):
        if chosen.plain[index]:
            continue
        try:
            outcome = _sort_odd(sentence, prediction)
        except (OfficialStopError, *STOPS) as stop:
            what = str(stop) if isinstance(stop, OfficialStopError) else f"{type(stop).__name__}: {stop}"
            crashes.append(_stop(sentence, f"the ERRTA scripts stop here: {what}"))
            continue
        if outcome is not None:
            right, wrong, found = outcome
            read += 1
            tp += right
            missing += [as_entity(unit)[1] for unit in wrong[0]]
            extra += [as_entity(unit)[1] for unit in wrong[1]]
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
    """Read one sample as the ERRTA reader does; `None` if that drops it.

    Returns:
        The number of true positives, the missing and the extra units, and the errors.
    """
    if BOM in sentence.meta:
        raise OfficialStopError("JSONDecodeError: byte order mark")
    label, predict = sample_texts(sentence, prediction)
    gold = _tuples(sentence.meta.get(LABEL_ERRTA), label)
    predicted = _tuples(sentence.meta.get(PREDICT_ERRTA), predict)
    if gold is None or predicted is None:
        return None
    right, missing, extra = split_tuples(gold, predicted)
    errors = [
        ErrtaError(kind, sentence.id, *(tuple(map(as_entity, units)) for units in sides))
        for kind, *sides in sort_sentence_as_published(missing, extra)
    ]
    return right, (missing, extra), errors


def _tuples(seen: str | None, text: str) -> list[tuple[Any, ...]] | None:
    """Read a text as the ERRTA reader does.

    `seen` is the text that this reader gets, if deleting the backslashes of `text` would not give it.
    """
    return read_for_errta(text.replace("\\", "") if seen is None else seen)


def sort_as_published(sentence_errors: Iterable[SentenceErrors], ids: Sequence[str]) -> list[ErrtaError]:
    """Sort the errors of all sentences by the published rules.

    Args:
        sentence_errors: the wrong units of each sentence, by its position.
        ids: of the sentences.
    """
    errors: list[ErrtaError] = []
    for index, missing, extra in sentence_errors:
        name = ids[index]
        if missing and extra:
            found = sort_sentence_as_published(missing, extra)
            errors += [ErrtaError(kind, name, gold, predicted) for kind, gold, predicted in found]
        else:
            errors += [ErrtaError("missing", name, (unit,), ()) for unit in missing]
            errors += [ErrtaError("redundant", name, (), (unit,)) for unit in extra]
    return errors


def sort_sentence_as_published(
    missing: Sequence[Unit], extra: Sequence[Unit]
) -> list[tuple[str, tuple[Any, ...], tuple[Any, ...]]]:
    """Sort the errors of one sentence: (type, gold units, predicted units) of each.

    A unit is a tuple of any length, because the official reader checks nothing. Where the script stops on one, the same
    exception (of `STOPS`) is raised here.
    """
    found: list[tuple[str, tuple[Any, ...], tuple[Any, ...]]] = []
    left: list[Unit] = []
    spare = list(extra)
    for gold in missing:
        for place, unit in enumerate(spare):
            if gold[0] == unit[0] and gold[1] != unit[1]:
                found.append(("classification", (gold,), (unit,)))
                del spare[place]
                break
        else:
            left.append(gold)
    for gold in left:
        for place, unit in enumerate(spare):
            kind = _partly(gold, unit)
            if kind:
                found.append((kind, (gold,), (unit,)))
                del spare[place]
                break
        else:
            found.append(("missing", (gold,), ()))
    found += [("redundant", (), (unit,)) for unit in spare]
    return found


def _partly(gold: Unit, unit: Unit) -> str:
    ours, theirs = gold[0], unit[0]
    if (ours in theirs or theirs in ours) and gold[1] == unit[1]:
        return "boundary"
    ours, theirs = set(ours.split()), set(theirs.split())
    return "split_merge" if ours <= theirs or theirs <= ours else ""


def split_tuples(gold: Sequence[Unit], predicted: Sequence[Unit]) -> tuple[int, list[Unit], list[Unit]]:
    """Compare tuples of any shape; return the number of correct units, the missing units and the extra units.

    Raises:
        ValueError: the first ERRTA script cannot read back what it wrote.
    """
    right, wrong = dict.fromkeys(gold), dict.fromkeys(predicted)
    missing = [unit for unit in right if unit not in wrong]
    extra = [unit for unit in wrong if unit not in right]
    for unit in (*missing, *extra):
        # The first script writes the units as Python literals, which cannot express these numbers.
        if any(isinstance(member, float) and not math.isfinite(member) for member in unit):
            raise ValueError("not a finite number")
    return len(right) - len(missing), missing, extra


def as_entity(unit: Unit) -> Entity:
    """Convert a unit of any shape to an entity of its first and second members."""
    members = [member if isinstance(member, str) else str(member) for member in unit]
    surface, category = (*members, "", "")[:2]
    return Entity(surface, category)


class Reading(NamedTuple):
    """The pairs of one text, in order, with repeats; members are JSON values, mostly strings."""

    pairs: list[tuple[Any, Any]]
    repaired: bool


def read_for_evaluation(text: str) -> Reading | None:
    """Read a text as the evaluation script does; `None` if that drops the sample.

    There are three attempts: unchanged, with misplaced escapes undone, with apostrophes as double quotes. A list of
    exactly two elements is a pair, a string of two parts is split into a pair, anything else is skipped.
    """
    value, repaired = _load(text), False
    if value is _BROKEN:
        repaired = True
        value = _load(text.replace('\\"', '"').replace('"{', "{").replace('}"', "}"))
    if value is _BROKEN:
        value = _load(text.replace("'", '"'))
    if value is _BROKEN or value is None:
        return None
    pairs = [pair for pair in map(_pair, _elements(value)) if pair is not None]
    _check_hashable(pairs)
    return Reading(pairs, repaired)


def read_for_errta(text: str) -> list[tuple[Any, ...]] | None:
    """Read a text as the ERRTA reader does: tuples of any length; `None` if that drops the sample.

    `text` is what remains after the reader has deleted the backslashes of the line.
    """
    value = _load(text)
    if value is _BROKEN:
        return None
    try:
        items = [tuple(element) for element in _elements(value)]
    except TypeError as error:
        raise OfficialStopError(f"TypeError: {error}") from error
    _check_hashable(items)
    return items


def _load(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return _BROKEN
    except (RecursionError, ValueError) as error:  # nested too deeply; an integer of thousands of digits
        raise OfficialStopError(f"{type(error).__name__}: {error}") from error


def _elements(value: Any) -> list[Any]:
    """Iterate as Python does: a list by element, an object by key, a string by character."""
    try:
        return list(value)
    except TypeError as error:
        raise OfficialStopError(f"TypeError: {error}") from error


def _pair(element: Any) -> tuple[Any, Any] | None:
    if isinstance(element, list):
        return (element[0], element[1]) if len(element) == 2 else None
    if isinstance(element, str):
        parts = element.split(", ")
        if len(parts) == 2:
            surface, category = (part.strip().strip("()").strip('"').strip("'") for part in parts)
            return surface, category
    return None


def _check_hashable(items: list[Any]) -> None:
    try:
        set(items)
    except TypeError as error:
        raise OfficialStopError(f"TypeError: {error}") from error


def write_generated(path: str | Path, sentences: Sequence[Sentence], predictions: Sequence[Prediction]) -> list[Issue]:
    """Write `generated_predictions.jsonl` as LLaMA-Factory does, for the official scripts.

    `label` is the gold as a JSON list of pairs, `predict` the model's answer verbatim. A tagger has no answer text, so
    its entities are written as such a list. The ERRTA script also needs a `test.json` beside it with the same
    sentences, line by line: write them in the alpaca format (`corpus.formats.alpaca`).

    Args:
        path: the file.
        sentences: with gold entities; `prompt` is the one from their file, or else their text.
        predictions: matched by id, in any order.

    Returns:
        An issue for each sentence without a prediction (written as an empty list) and each prediction without a
        sentence (not written).
    """
    answers = {prediction.id: prediction for prediction in predictions}
    issues = []
    with writing(path) as file:
        for sentence in sentences:
            answer = answers.pop(sentence.id, None)
            if answer is None:
                issues.append(Issue("missing-prediction", "written as an empty answer", str(path), id=sentence.id))
            label, predict = sample_texts(sentence, answer)
            prompt = sentence.meta.get("prompt", sentence.text)
            file.write(to_line({"prompt": prompt, "label": label, "predict": predict}) + "\n")
    issues += [Issue("unknown-id", "no gold sentence has this id; not written", str(path), id=id) for id in answers]
    return issues
