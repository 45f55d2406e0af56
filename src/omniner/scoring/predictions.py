"""Read a predictions file of any system, with its gold.

Two kinds of files are known by the keys of their first object: our own lines (`id`, `entities` or `raw`), which need
gold from elsewhere, and `generated_predictions.jsonl` (`prompt`, `label`, `predict`), which brings its own. What cannot
be read is an issue with its line; a file of no known kind is one `UserError`. The texts of `label` and `predict` are
kept, so that the official profile can read them by its own rules.
"""

from __future__ import annotations

import contextlib
import gc
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omniner import records
from omniner.answers import parse_answer
from omniner.corpus import formats
from omniner.corpus.formats.fields import IssueLog, quote, read_lines
from omniner.errors import UserError
from omniner.records import Entity, Issue, Prediction, Sentence

# Under these keys of `Sentence.meta` the official profile finds what the file said.
LABEL, LABEL_PARSE = "label", "label_parse"  # the text; ok | repaired | failed | replaced
LABEL_ERRTA, PREDICT_ERRTA = "label_errta", "predict_errta"  # where the ERRTA reader sees another text
BOM = "bom"  # the line begins with a byte order mark, which hides it from the evaluation script

_KINDS = "Lines are {id, entities} of omniner or {prompt, label, predict} of LLaMA-Factory."
_MAX_OFFSET = 1 << 31
_PARSES = ("ok", "repaired", "failed")
_CORPUS = formats.ReadOptions(glued_positions=False, joiner="", id_prefix="test")


@dataclass(slots=True)
class LoadedPredictions:
    """Gold and predictions that belong together, matched by id."""

    gold: list[Sentence]
    predictions: list[Prediction]
    issues: list[Issue]
    kind: str  # omniner | generated
    seconds: float  # spent on reading


def read_predictions(predictions: Path, gold: Path | None) -> LoadedPredictions:
    """Read a predictions file and the gold that belongs to it.

    Args:
        predictions: the file.
        gold: a corpus file of any format; for `generated_predictions.jsonl` it must have as many sentences, in the
            same order, and may be the official `test.json` too. `None`: `gold.jsonl` beside our own lines; the labels
            in the file, with the texts of a `test.json` beside it, otherwise.

    Raises:
        UserError: the file is of no known kind, or its gold is missing or of other sentences.
    """
    start, log = time.perf_counter(), IssueLog(predictions)
    lines = read_lines(predictions, log)
    kind = _kind_of(predictions, lines)
    with garbage_collection_paused():
        if kind == "generated":
            sentences, answers = _generated(lines, log)
            _attach(sentences, predictions, gold, len(lines), log)
        else:
            answers = _own(lines, log)
            sentences = _gold(predictions, gold, log)
            _check_ids(predictions, sentences, answers)
    return LoadedPredictions(sentences, answers, log.items, kind, time.perf_counter() - start)


@contextlib.contextmanager
def garbage_collection_paused() -> Iterator[None]:
    """Pause the garbage collection: records by the hundred thousand hold no cycles, and looking can double the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _kind_of(path: Path, lines: Sequence[str]) -> str:
    for number, line in enumerate(lines[:1000], 1):
        record = _record(line.removeprefix("\ufeff"))
        if isinstance(record, dict):
            if "predict" in record or "label" in record:
                return "generated"
            if "id" in record and ("entities" in record or "raw" in record):
                return "omniner"
            raise UserError(f"{path}:{number}", f"an object with the keys {', '.join(map(repr, record))[:200]}", _KINDS)
    raise UserError(f"{path}:1", "no line with a JSON object" if lines else "the file is empty", _KINDS)


def _record(line: str) -> Any:
    """The JSON value of a line; the error as a string where there is none."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        return f"not JSON: {error}"


def _generated(lines: Sequence[str], log: IssueLog) -> tuple[list[Sentence], list[Prediction]]:
    sentences, predictions = [], []
    names: dict[str, str] = {}  # one object for equal strings: half the memory, and comparing is quick
    records = [_record(line.removeprefix("\ufeff") if number == 1 else line) for number, line in enumerate(lines, 1)]
    labels = [_text_of(record, "label") for record in records]
    golds = [parse_answer(label) if label is not None else None for label in labels]
    known = {category for gold in golds if gold and gold.status == "ok" for _, category in gold.pairs}
    for number, (line, record, label, gold) in enumerate(zip(lines, records, labels, golds, strict=True), 1):
        if label is None or gold is None:
            found = record if isinstance(record, str) else "no text under 'label'"
            log.add("bad-line", f"{found}; the sample is left out (the official ERRTA script stops here)", number)
            continue
        name, predict, bom = f"line-{number}", _text_of(record, "predict"), number == 1 and line.startswith("\ufeff")
        if gold.status != "ok":
            gold = parse_answer(label, known)
            log.add(f"label-{gold.status}", gold.reason, number, name)
        entities = _entities(gold.pairs, names)
        meta: dict[str, Any] = {LABEL: label, LABEL_PARSE: gold.status}
        sentences.append(Sentence(name, "", entities, None, meta))
        if bom:
            meta[BOM] = True
            log.add("byte-order-mark", "the official scripts lose this line", number, name)
        if "prompt" in record:
            meta["prompt"] = record["prompt"]
        if predict is None:
            log.add("bad-line", "no text under 'predict' (the official scripts stop here)", number, name)
            continue
        if "\\u005c" in line or "\\u005C" in line:
            _keep_errta_texts(meta, line[bom:])
        if predict == label:
            answer = Prediction(name, entities, predict, gold.status, gold.reason)
        else:
            parsed = parse_answer(predict)
            if parsed.status != "ok":
                parsed = parse_answer(predict, known)
            answer = Prediction(name, _entities(parsed.pairs, names), predict, parsed.status, parsed.reason)
        predictions.append(answer)
    return sentences, predictions


def _text_of(record: Any, key: str) -> str | None:
    """The answer under a key: a text, or a list or object that is not in one; None where there is none."""
    value = record.get(key) if isinstance(record, dict) else None
    return (
        json.dumps(value, ensure_ascii=False)
        if isinstance(value, (list, dict))
        else value
        if isinstance(value, str)
        else None
    )


def _entities(pairs: Iterable[tuple[str, str]], names: dict[str, str]) -> list[Entity]:
    known = names.setdefault
    return [Entity(known(text, text), known(category, category)) for text, category in pairs]


def _keep_errta_texts(meta: dict[str, Any], line: str) -> None:
    """The ERRTA reader deletes doubled backslashes of the line: one written as an escape survives it."""
    record = json.loads(line.replace("\\\\", ""))
    meta[LABEL_ERRTA], meta[PREDICT_ERRTA] = record["label"], record["predict"]


def _attach(sentences: list[Sentence], path: Path, gold: Path | None, lines: int, log: IssueLog) -> None:
    """Give samples the texts (and, from a corpus file, offsets and posts) of the sentences of the same line."""
    beside = path.with_name("test.json")
    if gold is None and not beside.is_file():
        return
    source = gold or beside
    texts = _official_test(source)
    known = [Sentence("", text) for text in texts] if texts is not None else []
    if texts is None and gold is not None:
        known, issues = formats.read(gold, "auto", _CORPUS)
        log.items += issues
    if len(known) != lines:
        found = f"{len(known)} sentences, but {path.name} has {lines} lines"
        if gold is not None:
            raise UserError(gold, found, "Name the gold of these predictions, or none to use the labels in the file.")
        log.add("test-json", f"{source.name}: {found}; not used (the official ERRTA script stops here)")
        return
    for sentence in sentences:
        theirs = known[int(sentence.id.removeprefix("line-")) - 1]
        sentence.text, sentence.post_id = theirs.text, theirs.post_id
        if texts is None:
            sentence.entities = theirs.entities
            sentence.meta[LABEL_PARSE] = "replaced"


def _official_test(path: Path) -> list[str] | None:
    """The inputs of an official `test.json`; `None` for any other file."""
    content = _record("\n".join(read_lines(path, IssueLog(path))).removeprefix("\ufeff"))
    if not isinstance(content, list) or not all(isinstance(item, dict) and "input" in item for item in content):
        return None
    return [str(item["input"]) for item in content]


def _gold(path: Path, gold: Path | None, log: IssueLog) -> list[Sentence]:
    source = gold or path.with_name("gold.jsonl")
    if gold is None and not source.is_file():
        fix = "Set gold=<file> to the sentences with their gold entities."
        raise UserError(path, "the file holds no gold and no gold.jsonl stands beside it", fix)
    sentences, issues = formats.read(source, "auto", _CORPUS)
    log.items += issues
    if all(map(records.is_unlabeled, sentences)):
        raise UserError(source, "no sentence has labels", "Name the file with the gold entities.")
    return sentences


def _check_ids(path: Path, sentences: Sequence[Sentence], predictions: Sequence[Prediction]) -> None:
    known = {sentence.id for sentence in sentences}
    if predictions and not any(prediction.id in known for prediction in predictions):
        found = f"no id is one of the gold sentences ({predictions[0].id!r} here, {sentences[0].id!r} there)"
        raise UserError(path, found, "Give both files the same ids.")


def _own(lines: Sequence[str], log: IssueLog) -> list[Prediction]:
    predictions = []
    for number, line in enumerate(lines, 1):
        record = _record(line.removeprefix("\ufeff") if number == 1 else line)
        if not isinstance(record, dict):
            found = record if isinstance(record, str) else f"{quote(record)} where an object belongs"
            log.add("bad-line", f"{found}; the line is left out", number)
        elif (prediction := _prediction(record, log, number)) is not None:
            predictions.append(prediction)
    return predictions


def prediction_from_line(line: str) -> Prediction:
    """Read one line of our own.

    Raises:
        UserError: the line is no prediction.
    """
    log, record = IssueLog(Path()), _record(line)
    prediction = _prediction(record, log, 0) if isinstance(record, dict) else None
    if prediction is None or log.items:
        found = "; ".join(issue.message for issue in log.items) or str(record)[:200]
        raise UserError("predictions", f"a line is no prediction: {found}", "Delete the file and predict again.")
    return prediction


def _prediction(record: dict[str, Any], log: IssueLog, line: int) -> Prediction | None:
    name = record.get("id")
    if not isinstance(name, (str, int)):
        log.add("bad-line", f"the id is {quote(name)}; the line is left out", line)
        return None
    name, raw = str(name), record.get("raw", "")
    raw = raw if isinstance(raw, str) else json.dumps(raw, ensure_ascii=False)
    if "entities" not in record and raw:
        pairs, status, reason = parse_answer(raw)
        return Prediction(name, [Entity(*pair) for pair in pairs], raw, status, reason)
    items = record.get("entities")
    if not isinstance(items, list):
        log.add("bad-entities", f"entities is {quote(items)}, not a list; an empty answer", line, name)
        items = []
    entities = [entity for item in items if (entity := _entity(item, log, line, name)) is not None]
    prediction = Prediction(name, entities, raw)
    for key in ("reason", "prompt_sha", "engine"):
        setattr(prediction, key, str(record.get(key, "")))
    prediction.parse = record.get("parse", "ok")
    if prediction.parse not in _PARSES:
        log.add("bad-parse", f"parse is {quote(prediction.parse)}; taken as ok", line, name)
        prediction.parse = "ok"
    return prediction


def _entity(item: Any, log: IssueLog, line: int, name: str) -> Entity | None:
    """An object, or a [text, category] pair."""
    if isinstance(item, list) and len(item) == 2:
        item = {"text": item[0], "category": item[1]}
    text, category = (item.get("text"), item.get("category")) if isinstance(item, dict) else (None, None)
    if not isinstance(text, str) or not isinstance(category, str):
        log.add("bad-entity", f"{quote(item)} has no text and category; left out", line, name)
        return None
    start, end = item.get("start"), item.get("end")
    if start is None and end is None:
        return Entity(text, category)
    if type(start) is not int or type(end) is not int or not 0 <= start < end < _MAX_OFFSET:
        log.add("bad-offsets", f"{quote(text)} at {quote(start)}, {quote(end)}; taken as without offsets", line, name)
        return Entity(text, category)
    return Entity(text, category, start, end)
