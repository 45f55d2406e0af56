"""Read a predictions file of any system, with its gold.

The kind of a file is recognised by the keys of its first object: our own lines (`id`, `entities` or `raw`);
`generated_predictions.jsonl` (`prompt`, `label`, `predict`) and ms-swift output, which contain their gold; answers
without gold (`prompt` and `predict` only, results of OpenAI's batches, `output`); CLUENER submissions; and labelled
corpora of any format. All but those with labels need gold from elsewhere (`gold`). Whatever cannot be read becomes an
issue with its line; a file of unknown kind, or of other sentences than gold's, raises a `UserError`. The texts of
`label` and `predict` are kept, so that the official profile can read them by its own rules.
"""

from __future__ import annotations

import contextlib
import gc
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from omniner import records
from omniner.answers import parse_answer
from omniner.answers.pairs import Pair
from omniner.config.groups import DataConfig
from omniner.corpus import formats
from omniner.corpus.formats import ReadOptions
from omniner.corpus.formats.fields import IssueLog, quote, read_lines, unique_keys
from omniner.corpus.formats.regions import moved, regions_of
from omniner.corpus.sources import check_read
from omniner.errors import UserError
from omniner.records import Entity, Issue, Prediction, Sentence, to_line, with_score
from omniner.scoring.gold import (
    BOM,
    GOLD_PREFIX,
    LABEL,
    LABEL_ERRTA,
    LABEL_PARSE,
    PREDICT_ERRTA,
    REPLACED,
    Gold,
    attach_gold,
    gold_ids,
    read_gold,
)

_KINDS = (
    "Name lines of {id, entities} or {id, raw}, {prompt, predict} of LLaMA-Factory, {response, messages} of ms-swift, "
    "{custom_id, response} of OpenAI's batches, a CLUENER submission, or a labelled corpus of any format."
)
_ANSWER_KEYS = ("predict", "prediction", "output", "completion", "generated_text", "answer")
_PROMPT_KEYS = ("text", "prompt", "query", "input")
_ENTITY_LOSSES = ("bad-entity", "bad-entities", "offset-range")
_MAX_OFFSET = 1 << 31
_PARSES = ("ok", "repaired", "failed")

_Reading = tuple[list[Sentence], list[Issue]]


class Said(NamedTuple):
    """The content of a line: a prediction, its prompt or sentence, and whether it is only a model's text."""

    prediction: Prediction
    asked: str = ""
    is_text: bool = False


@dataclass(slots=True)
class LoadedPredictions:
    """Gold and predictions that belong together, matched by id."""

    gold: list[Sentence]
    predictions: list[Prediction]
    issues: list[Issue]
    seconds: float  # spent on reading


def read_predictions(predictions: Path, gold: Gold | None, data: DataConfig | None = None) -> LoadedPredictions:
    """Read a predictions file and the gold that belongs to it.

    Args:
        predictions: the file.
        gold: a corpus file of any format, or its sentences. For `generated_predictions.jsonl` it must have as many
            sentences, or those that the prompts quote; the official `test.json` is accepted, too. `None`: the labels in
            the file, with the texts of a `test.json` beside it, or else `gold.jsonl` beside the file.
        data: the config group. Its format (if the user's own) and its keys apply to the gold file. Its offsets also
            apply to predictions whose offsets no surfaces explain.

    Raises:
        UserError: the file is of unknown kind, or its gold is missing or has other sentences.
    """
    start, log = time.perf_counter(), IssueLog(predictions)
    lines = _prediction_lines(read_lines(predictions, log))
    kind = _kind_of(predictions, lines)
    with garbage_collection_paused():
        if kind == "answers" and gold is None and all('"labels"' in line for line in lines):
            lines, kind = [_as_generated(line) for line in lines], "generated"
        if kind == "generated":
            sentences, answers = _read_generated(lines, log)
            sentences = attach_gold(sentences, predictions, gold, len(lines), log, data)
            labels = {one.id: one.meta.get(LABEL) for one in sentences if one.meta.get(LABEL_PARSE) != REPLACED}
            said = [Said(one, is_text=one.raw != labels.get(one.id)) for one in answers]  # not of a label
            answers = _read_again(said, [one.id for one in answers], sentences)
        else:
            said = _read_labels(predictions, log, data) if kind == "corpus" else _READERS[kind](lines, log, data)
            sentences = read_gold(predictions, gold, log, data)
            ids = gold_ids([(one.id, asked) for one, asked, _ in said], sentences, predictions, log)
            answers = _read_again(said, ids, sentences)
    if not answers:
        raise UserError(predictions, f"no prediction could be read{_first_issues(log.items)}", _KINDS)
    lost = [issue for issue in log.items if issue.code in _ENTITY_LOSSES and issue.file == log.file]  # not of gold
    if lost and not any(answer.entities for answer in answers):
        fix = "Give each a text and a category, or [start, end, category] beside the text of its sentence."
        raise UserError(predictions, f"not one predicted entity could be read{_first_issues(lost)}", fix)
    return LoadedPredictions(sentences, answers, log.items, time.perf_counter() - start)


def read_unread(answers: Sequence[Prediction], gold: Sequence[Sentence]) -> list[Prediction]:
    """Read the texts of predictions that are only texts, as those of a file are read; other predictions stay."""
    said = [_read_text(one.id, one.raw) if records.is_unread(one) else Said(one) for one in answers]
    return _read_again(said, [one.id for one in answers], gold)


def _read_text(name: str, text: str) -> Said:
    """What a model's text says about the sentence of this id."""
    pairs, status, reason = parse_answer(text)
    return Said(Prediction(name, [Entity(*pair) for pair in pairs], text, status, reason), is_text=True)


@contextlib.contextmanager
def garbage_collection_paused() -> Iterator[None]:
    """Pause garbage collection: hundreds of thousands of records have no cycles, and searching can double the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _prediction_lines(lines: list[str]) -> list[str]:
    """Return the lines of the file; a JSON list of predictions is converted to one line per prediction."""
    first = next((line for line in lines if line.strip()), "").removeprefix("\ufeff").lstrip()
    if not first.startswith("["):
        return lines
    items, _ = _parse_line("\n".join(lines).removeprefix("\ufeff"))
    if not isinstance(items, list) or not items or not all(isinstance(item, dict) for item in items):
        return lines
    says = {"predict", "prediction", "raw", "response"} & items[0].keys() or (
        "entities" in items[0] and "id" in items[0] and "text" not in items[0]
    )
    return [to_line(item) for item in items] if says else lines


def _read_again(said: Sequence[Said], ids: Sequence[str], gold: Sequence[Sentence]) -> list[Prediction]:
    """Return the predictions with the ids of gold; parse texts again, as our models' answers are, if needed.

    A text that names unknown categories or was not plain is parsed with the known categories and the sentence.
    """
    known = {entity.category for sentence in gold for entity in sentence.entities}
    texts = {sentence.id: sentence.text for sentence in gold}
    found: list[Prediction] = []
    for (one, _, is_text), name in zip(said, ids, strict=True):
        if is_text and (one.parse != "ok" or (one.entities and one.entities[0].category not in known)):
            pairs, status, reason = parse_answer(one.raw, known, texts.get(name, ""))
            if pairs:
                one = replace(one, entities=[Entity(*pair) for pair in pairs], parse=status, reason=reason)
        found.append(one if name == one.id else replace(one, id=name))
    return found


def _kind_of(path: Path, lines: Sequence[str]) -> str:
    number, record = _first_object(lines)
    found = f"an object with the keys {', '.join(map(repr, record))[:200]}"
    if "predict" in record or isinstance(record.get("label"), str):
        return "generated" if "label" in record else "answers"
    if "id" in record and ("entities" in record or "raw" in record):
        return "omniner"
    if _answer_of(record) is not None:
        return "answers"
    if "id" in record and "text" not in record and isinstance(record.get("label"), dict):
        return "cluener"
    if not record:
        found = "no line with a JSON object" if lines else "the file is empty"
    try:
        formats.recognise(path)
    except UserError as error:
        raise UserError(f"{path}:{number}", found, _KINDS) from error
    return "corpus"


def _first_issues(issues: Sequence[Issue]) -> str:
    """Format the first issues as part of a message."""
    return f" ({'; '.join(map(str, issues[:3]))})" if issues else ""


def _first_object(lines: Sequence[str]) -> tuple[int, dict[str, Any]]:
    """Return the first JSON object of the first 1000 lines and its line number; an empty object if there is none."""
    for number, line in enumerate(lines[:1000], 1):
        record, _ = _parse_line(line.removeprefix("\ufeff"))
        if isinstance(record, dict):
            return number, record
    return 1, {}


def _answer_of(record: dict[str, Any]) -> Any:
    """Return the answer of another program's model; None if no known key has one."""
    response = record.get("response")
    if "custom_id" in record and (isinstance(response, dict) or "error" in record):
        try:
            return record["response"]["body"]["choices"][0]["message"]["content"] or ""
        except (KeyError, IndexError, TypeError):
            return ""  # the request failed
    if response is not None and any(key in record for key in ("labels", "messages", "query", "id", *_PROMPT_KEYS)):
        return response
    return next((record[key] for key in _ANSWER_KEYS if record.get(key) is not None), None)


def _prompt_of(record: dict[str, Any]) -> str:
    """Return the prompt, which contains the sentence; empty if the object has none."""
    messages = record.get("messages")
    if isinstance(messages, list):
        asked = [one.get("content") for one in messages if isinstance(one, dict) and one.get("role") == "user"]
        return str(asked[-1]) if asked else ""
    return next((str(record[key]) for key in _PROMPT_KEYS if record.get(key)), "")


def _as_generated(line: str) -> str:
    """Convert a line of ms-swift to LLaMA-Factory's form; return any other line unchanged."""
    record, _ = _parse_line(line)
    if not isinstance(record, dict):
        return line
    return to_line({"prompt": _prompt_of(record), "label": record.get("labels"), "predict": record.get("response")})


def _parse_line(line: str) -> tuple[Any, str]:
    """Return the JSON value of a line and an empty text, or None and the reason if it is not JSON."""
    try:
        return json.loads(line, object_pairs_hook=unique_keys), ""
    except (ValueError, RecursionError) as error:
        return None, f"not JSON: {error}"


def _read_generated(lines: Sequence[str], log: IssueLog) -> tuple[list[Sentence], list[Prediction]]:
    sentences, predictions = [], []
    shared: dict[Pair, Entity] = {}  # equal pairs share one object: less memory, and less work for garbage collection
    values = [_parse_line(line.removeprefix("\ufeff") if number == 1 else line) for number, line in enumerate(lines, 1)]
    labels = [_text_of(record, "label") for record, _ in values]
    golds = [parse_answer(label) if label is not None else None for label in labels]
    known = {category for gold in golds if gold and gold.status == "ok" for _, category in gold.pairs}
    samples = zip(lines, values, labels, golds, strict=True)
    for number, (line, (record, error), label, gold) in enumerate(samples, 1):
        if label is None or gold is None:
            found = error or "no text under 'label'"
            log.add("bad-line", f"{found}; the sample is left out (the official ERRTA script stops here)", number)
            continue
        name, predict, bom = f"line-{number}", _text_of(record, "predict"), number == 1 and line.startswith("\ufeff")
        if gold.status != "ok":
            gold = parse_answer(label, known)
            log.add(f"label-{gold.status}", gold.reason, number, name)
        entities = _entities(gold.pairs, shared)
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
            if parsed.status != "ok" or (parsed.pairs and parsed.pairs[0][1] not in known):
                parsed = parse_answer(predict, known)
            answer = Prediction(name, _entities(parsed.pairs, shared), predict, parsed.status, parsed.reason)
        predictions.append(answer)
    return sentences, predictions


def _text_of(record: Any, key: str) -> str | None:
    """Return the answer under a key: a string, or a list or object as JSON; None if there is none."""
    value = record.get(key) if isinstance(record, dict) else None
    return (
        json.dumps(value, ensure_ascii=False)
        if isinstance(value, (list, dict))
        else value
        if isinstance(value, str)
        else None
    )


def _entities(pairs: Iterable[Pair], shared: dict[Pair, Entity]) -> list[Entity]:
    return [
        shared.get(pair) or shared.setdefault(pair, Entity(sys.intern(pair[0]), sys.intern(pair[1]))) for pair in pairs
    ]


def _keep_errta_texts(meta: dict[str, Any], line: str) -> None:
    """Keep the texts that the ERRTA reader sees.

    It deletes double backslashes from the line, but not a backslash written as a unicode escape.
    """
    record = json.loads(line.replace("\\\\", ""))
    meta[LABEL_ERRTA], meta[PREDICT_ERRTA] = record["label"], record["predict"]


def _numbered_values(lines: Sequence[str]) -> Iterator[tuple[int, Any, str]]:
    """Yield the line number, value and error (see `_parse_line`) of each line that is not blank."""
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield number, *_parse_line(line.removeprefix("\ufeff"))


def _read_answers(lines: Sequence[str], log: IssueLog, _: DataConfig | None) -> list[Said]:
    said: list[Said] = []
    for number, record, error in _numbered_values(lines):
        answer = _answer_of(record) if isinstance(record, dict) else None
        if answer is None:
            found = error or "no answer"
            log.add("bad-line", f"{found}; the line is left out", number)
            continue
        text = answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)
        name = record.get("custom_id", record.get("id", ""))
        said.append(_read_text(str(name), text)._replace(asked=_prompt_of(record)))
    return said


def _read_submission(lines: Sequence[str], log: IssueLog, _: DataConfig | None) -> list[Said]:
    """Read a CLUENER submission: `{"id": 0, "label": {"name": {"彭小军": [[15, 17]]}}}`, ends inclusive."""
    said: list[Said] = []
    for number, record, error in _numbered_values(lines):
        label = record.get("label") if isinstance(record, dict) else None
        if not isinstance(label, dict) or "id" not in record:
            found = error or f"{quote(record)} has no id and label"
            log.add("bad-line", f"{found}; the line is left out", number)
            continue
        name, entities = str(record["id"]), []
        for category, surfaces in label.items():
            if not isinstance(surfaces, dict):
                found = f"{quote(category)} has {quote(surfaces)} where surfaces with their places belong; left out"
                log.add("bad-entity", found, number, name)
                continue
            for surface, places in surfaces.items():
                for place in places if isinstance(places, list) else [places]:
                    start, end = place if isinstance(place, list) and len(place) == 2 else (None, None)
                    if type(start) is int and type(end) is int and 0 <= start <= end < _MAX_OFFSET:
                        entities.append(Entity(surface, category, start, end + 1))
                    else:
                        log.add("bad-offsets", f"{quote(surface)} at {quote(place)}; left out", number, name)
        said.append(Said(Prediction(name, entities)))
    return said


def _read_labels(path: Path, log: IssueLog, data: DataConfig | None) -> list[Said]:
    """Read the labels of a corpus file as predictions.

    The file may have another format than gold, so its format is recognised from its content. A tag column set for gold
    does not apply, and misplaced entities are the system's errors. Of `data` only the token joiner applies, and the
    meaning of offsets without surfaces.
    """
    options = ReadOptions(id_prefix=GOLD_PREFIX, joiner=data.joiner if data is not None else None)
    if data is None or data.offsets == "auto":
        sentences, issues = _read_corpus(path, options)
    else:
        sentences, issues = _read_offsets(path, options, data.offsets, log)
    log.items += issues
    if all(map(records.is_unlabeled, sentences)):
        raise UserError(f"{path}:1", "no line with a JSON object, and no labelled sentence", _KINDS)
    return [Said(Prediction(sentence.id, sentence.entities), sentence.text) for sentence in sentences]


def _read_corpus(path: Path, options: ReadOptions) -> _Reading:
    return check_read(path, *formats.read(path, "auto", options))


def _read_offsets(path: Path, options: ReadOptions, way: str, log: IssueLog) -> _Reading:
    """Read offsets as `way` says, unless surfaces in the file contradict that; add an issue if they do not."""
    found: _Reading | None = None
    with contextlib.suppress(UserError):  # perhaps no reading is possible except with gold's meaning of offsets
        found = _read_corpus(path, options)
    try:
        as_gold = _read_corpus(path, replace(options, offsets=way))
    except UserError:
        if found is None:
            raise
        return found
    if found is not None and not _is_told_by_gold(as_gold, found):
        return found
    log.add(*_offsets_as_gold(way))
    return as_gold


def _is_told_by_gold(as_gold: _Reading, found: _Reading) -> bool:
    """Whether gold's meaning of offsets gives other entities, and no surface in the file contradicts it."""
    if [sentence.entities for sentence in as_gold[0]] == [sentence.entities for sentence in found[0]]:
        return False
    return _misplaced(as_gold) <= _misplaced(found)


def _misplaced(reading: _Reading) -> int:
    """Count surfaces that are not at their offsets: left without offsets, or found elsewhere."""
    sentences, issues = reading
    unplaced = sum(entity.start is None for sentence in sentences for entity in sentence.entities)
    return unplaced + sum(issue.code == "offset-mismatch" for issue in issues)


def _offsets_as_gold(way: str) -> tuple[str, str]:
    """Return code and message of the issue that `data.offsets` decided how predictions are read."""
    return "offset-units", f"offsets taken as {way}, as data.offsets says; if they are not, add the surfaces"


def _read_own(lines: Sequence[str], log: IssueLog, data: DataConfig | None) -> list[Said]:
    said: list[Said] = []
    way = data.offsets if data is not None else "auto"
    is_told = way == "auto"
    for number, record, error in _numbered_values(lines):
        if not isinstance(record, dict):
            found = error or f"{quote(record)} where an object belongs"
            log.add("bad-line", f"{found}; the line is left out", number)
        elif (prediction := _prediction(record, log, number, way)) is not None:
            if not is_told and prediction != _prediction(record, IssueLog(Path()), number):
                log.add(*_offsets_as_gold(way), number)
                is_told = True
            text = record.get("text")
            said.append(Said(prediction, text if isinstance(text, str) else "", "entities" not in record))
    return said


_READERS: dict[str, Callable[[Sequence[str], IssueLog, DataConfig | None], list[Said]]] = {
    "omniner": _read_own,
    "answers": _read_answers,
    "cluener": _read_submission,
}


def prediction_from_line(line: str) -> Prediction:
    """Read one line in our own format.

    Raises:
        UserError: the line is not a prediction.
    """
    log, (record, error) = IssueLog(Path()), _parse_line(line)
    prediction = _prediction(record, log, 0) if isinstance(record, dict) else None
    if prediction is None or log.items:
        found = "; ".join(issue.message for issue in log.items) or (error or str(record))[:200]
        raise UserError("predictions", f"a line is no prediction: {found}", "Delete the file and predict again.")
    return prediction


def _prediction(record: dict[str, Any], log: IssueLog, line: int, way: str = "auto") -> Prediction | None:
    name = record.get("id")
    if not isinstance(name, (str, int)):
        log.add("bad-line", f"the id is {quote(name)}; the line is left out", line)
        return None
    name, raw = str(name), record.get("raw", "")
    raw = raw if isinstance(raw, str) else json.dumps(raw, ensure_ascii=False)
    if "entities" not in record and raw:
        return _read_text(name, raw).prediction
    items, text = record.get("entities"), record.get("text")
    if isinstance(items, (dict, str)):  # by category, or the answer text of a model
        pairs, status, _ = parse_answer(items if isinstance(items, str) else json.dumps(items, ensure_ascii=False))
        if status != "failed":
            items = [list(pair) for pair in pairs]
    if not isinstance(items, list):
        log.add("bad-entities", f"entities is {quote(items)}, not a list; an empty answer", line, name)
        items = []
    text = text if isinstance(text, str) else ""
    entities = [
        with_score(entity, item.get("score")) if isinstance(item, dict) else entity
        for item in items
        if (entity := _entity(item, text, way, log, line, name)) is not None
    ]
    prediction = Prediction(name, entities, raw)
    for key in ("reason", "prompt_sha", "engine"):
        setattr(prediction, key, str(record.get(key) or ""))
    left_out = record.get("left_out", 0)
    prediction.left_out = left_out if isinstance(left_out, int) else 0  # another program's key may hold anything
    prediction.parse = record.get("parse", "ok")
    if prediction.parse not in _PARSES:
        log.add("bad-parse", f"parse is {quote(prediction.parse)}; taken as ok", line, name)
        prediction.parse = "ok"
    return prediction


def _entity(item: Any, sentence: str, way: str, log: IssueLog, line: int, name: str) -> Entity | None:
    """Read an object with the keys of any tool, a [text, category] pair, or offsets in a known sentence (by `way`)."""
    if isinstance(item, list) and len(item) == 2:
        item = {"text": item[0], "category": item[1]}
    text, category = (item.get("text"), item.get("category")) if isinstance(item, dict) else (None, None)
    if not isinstance(text, str) or not isinstance(category, str):
        regions = regions_of(item, IssueLog(Path()), line)
        if len(regions) == 1 and len(regions[0].categories) == 1:
            text, (category,), start, end, _ = regions[0]
            if text is None and way != "auto":
                start, end = moved(sentence, regions[0], way)
            if text is None and type(start) is int and type(end) is int:
                if sentence and not 0 <= start < end <= len(sentence):
                    found = f"[{start}, {end}) is outside the text of {len(sentence)} characters; left out"
                    log.add("offset-range", found, line, name)
                    return None
                text = sentence[start:end] or None
            item = {"start": start, "end": end}
    if not isinstance(text, str) or not isinstance(category, str):
        log.add("bad-entity", f"{quote(item)} has no text and category; left out", line, name)
        return None
    text, category = sys.intern(text), sys.intern(category)  # equal words share their memory
    start, end = item.get("start"), item.get("end")
    if start is None and end is None:
        return Entity(text, category)
    if type(start) is not int or type(end) is not int or not 0 <= start < end < _MAX_OFFSET:
        log.add("bad-offsets", f"{quote(text)} at {quote(start)}, {quote(end)}; taken as without offsets", line, name)
        return Entity(text, category)
    return Entity(text, category, start, end)
