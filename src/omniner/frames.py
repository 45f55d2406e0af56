"""Check and convert Python callers' data to records, and records and results to data frames.

Callers pass records as an iterable, or as the rows of a data frame. Anything else raises a `UserError` that names the
argument and the number of the item or row. pandas is imported only to create a data frame: callers who pass one have
imported it already.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import count
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

from omniner.errors import UserError, one_line
from omniner.records import (
    Entity,
    Issue,
    Prediction,
    ScoredEntity,
    Sentence,
    entity_to_json,
    is_unlabeled,
    sentence_to_json,
    to_line,
    with_score,
)

if TYPE_CHECKING:
    import pandas as pd

    from omniner.config.groups import Config, DataConfig
    from omniner.scoring.comparison import RunComparison
    from omniner.scoring.gold import GoldFile
    from omniner.scoring.metrics import ErrtaError, ErrtaResult, ScoreResult
    from omniner.scoring.predictions import LoadedPredictions

    Answers: TypeAlias = str | Path | Iterable[Prediction] | Iterable[Sentence] | pd.DataFrame
    Gold: TypeAlias = str | Path | Iterable[Sentence] | pd.DataFrame
    Corpus: TypeAlias = Iterable[Sentence] | Iterable[Mapping[str, Any]] | Iterable[Sequence[Any]] | pd.DataFrame

T = TypeVar("T", Sentence, Prediction)

_SHOWN = 60  # characters of a wrong value in a message
_ERROR_COLUMNS = ["type", "id", "text"]
_ERROR_COLUMNS += ["gold_text", "gold_category", "predicted_text", "predicted_category", "gold", "predicted"]
_TEXTS = "Give texts or omniner.Sentence records; of a data frame, its column of texts."
_CORPUS = "Give a list of omniner.Sentence, of dicts or of spaCy's tuples, a data frame, or a split of a data set."
_OF_FILES = ("data.root", "data.files", "data.size", "data.from_memory")
_PLAIN = (str, int, bool)  # types that JSON has as they are
_ROWS = (Sentence, Prediction, Entity, Issue)  # of a data frame
_ENTITY = "Give (text, category), (text, category, start, end), or an object with these keys (or label for category)."


def check_path(where: str, given: Any) -> Path:
    """Make a path of what is given as one.

    Raises:
        UserError: it is neither a text nor a path.
    """
    if not isinstance(given, str | Path):
        raise UserError(where, f"{_kind(given)} where a path or a name belongs", "Give a text or a pathlib.Path.")
    return Path(given)


def listed(where: str, given: Any, fix: str) -> list[Any]:
    """Return the items of an iterable argument as a list.

    Args:
        where: the name of the argument.
        given: from the caller: a list or another iterable.
        fix: what to pass instead.

    Raises:
        UserError: it is not iterable, or a text, a mapping or a data frame, whose elements are not items.
    """
    return list(_checked_items(where, given, fix))


def _checked_items(where: str, given: Any, fix: str) -> Iterable[Any]:
    if isinstance(given, str | bytes | Mapping) or _is_frame(given) or not isinstance(given, Iterable):
        raise UserError(where, f"{_kind(given)} where a list belongs", fix)
    return given


def stream_of_texts(texts: Any) -> Iterator[Any]:
    """Give what `sentences_to_tag` takes one by one, without reading ahead; see `listed`."""
    return iter(_checked_items("texts", texts, _TEXTS))


def listed_texts(where: str, given: Any, fix: str) -> list[str]:
    """Return the items of an iterable argument as a list of texts; see `listed`."""
    items = listed(where, given, fix)
    for number, item in enumerate(items):
        if not isinstance(item, str):
            raise UserError(f"{where}[{number}]", f"{_shown(item)} is no text", fix)
    return items


def records_of(kind: type[T], given: Any, where: str) -> list[T]:
    """Return checked records from an iterable of records or the rows of a data frame.

    Args:
        kind: the class of the records.
        given: from the caller.
        where: the name of the argument.

    Returns:
        The records. A record whose id is a whole number, or whose entities are not exactly `Entity` (tuples, numpy
        offsets), is replaced by a copy in which they are.

    Raises:
        UserError: an item or a row is not such a record.
    """
    if _is_frame(given):
        return _records_of_rows(kind, given, where)
    records: list[T] = []
    for number, item in enumerate(listed(where, given, f"Give {kind.__name__} records, or a data frame of them.")):
        place = f"{where}[{number}]"
        if not isinstance(item, kind):
            raise UserError(place, f"{_shown(item)} is no omniner.{kind.__name__}", "Give records of one kind.")
        records.append(_checked_record(item, place))
    return records


def _checked_record(item: T, place: str) -> T:
    """The record with texts and entities where they belong; see `records_of`."""
    item = _with_texts(item, place)
    if not isinstance(item.entities, list) or not all(map(_is_plain, item.entities)):
        item = dataclasses.replace(item, entities=_entities(item.entities, f"{place}.entities"))
    return item


def _with_texts(item: T, place: str) -> T:
    """The record with texts where they belong; a copy if whole numbers stood in the place of one."""
    values = {name: getattr(item, name) for name in ("id", "text", "post_id", "raw") if hasattr(item, name)}
    changed: dict[str, Any] = {
        name: _text(value, f"{place}.{name}")
        for name, value in values.items()
        if not isinstance(value, str) and not (name == "post_id" and value is None)
    }
    return dataclasses.replace(item, **changed) if changed else item


def _text(value: Any, place: str) -> str:
    """A text; that of a whole number of any library, as tables hold ids."""
    if isinstance(value, str):
        return value
    try:
        return str(index(value))
    except TypeError as error:
        raise UserError(place, f"{_shown(value)} is no text", "Give a text.") from error


def _records_of_rows(kind: type[T], table: pd.DataFrame, where: str) -> list[T]:
    """Convert the rows of a data frame to records, using all columns that are fields of the record."""
    fields = [field.name for field in dataclasses.fields(kind)]
    needed = [name for name in fields if name in ("id", "text", "entities")]
    if (
        kind is Prediction
        and "entities" not in table.columns
        and any(isinstance(cell, str) and cell for cell in table.get("raw", ()))
    ):
        needed = ["id", "raw"]
    if missing := [name for name in needed if name not in table.columns]:
        found = f"the data frame has no column {', '.join(missing)} (it has {', '.join(map(str, table.columns))})"
        raise UserError(where, found, f"Give it the columns {', '.join(needed)}.")
    records = []
    for number, row in enumerate(table[[name for name in fields if name in table.columns]].to_dict("records")):
        place = f"{where}, row {number}"
        values = {str(name): cell for name, cell in row.items() if not _is_missing(cell)}
        if "id" not in values:
            raise UserError(place, "the id is empty", "Give each row the id of its sentence.")
        values |= {name: str(values.get(name, "")) for name in needed if name != "entities"}
        if "entities" in needed:
            values["entities"] = _entities(values.get("entities"), f"{place}, entities")
        if "post_id" in values:
            values["post_id"] = _text(values["post_id"], f"{place}, post_id")
        records.append(kind(**values))
    return records


def check_meta(sentences: Sequence[Sentence], where: str) -> None:
    """Raise a `UserError` that names the first sentence whose `meta` cannot be written as JSON."""
    for number, sentence in enumerate(sentences):
        try:
            json.dumps(sentence.meta, allow_nan=False)  # which the readers refuse
        except (TypeError, ValueError) as error:
            fix = "Give meta of texts, finite numbers, lists and mappings."
            raise UserError(f"{where}[{number}].meta", one_line(error), fix) from error


def records_or_rows(given: Any, where: str) -> list[Sentence] | list[Prediction]:
    """Make checked records of a list of sentences or of predictions, or of a data frame: rows with texts are sentences.

    Raises:
        UserError: an item or a row is not such a record.
    """
    if _is_frame(given):
        is_text = "text" in given.columns
    else:
        given = listed(where, given, "Give sentences or predictions.")
        is_text = not given or not isinstance(given[0], Prediction)
    return records_of(Sentence, given, where) if is_text else records_of(Prediction, given, where)


def sentences_to_tag(texts: Any, numbers: Iterator[int] | None = None, first: int = 0) -> list[Sentence]:
    """Convert texts and `Sentence` records to sentences with unique ids.

    Args:
        texts: from the caller.
        numbers: of the ids that bare texts get; by default from 0 on.
        first: the number of the first item in the caller's list or stream, for messages.

    Raises:
        UserError: an item is neither, or two records have the same id.
    """
    items = listed("texts", texts, _TEXTS)
    for number, item in enumerate(items):
        place = f"texts[{first + number}]"
        if not isinstance(item.text if isinstance(item, Sentence) else item, str):
            raise UserError(place, f"{_shown(item)} is no text", _TEXTS)
        if isinstance(item, Sentence):
            items[number] = _with_texts(item, place)
    ids = Counter(item.id for item in items if isinstance(item, Sentence))
    for name, times in ids.items():
        if times > 1:
            raise UserError("texts", f"{times} sentences have the id {name!r}", "Give each an id of its own.")
    free = (name for number in numbers or count() if (name := f"text-{number}") not in ids)
    return [Sentence(next(free), item) if isinstance(item, str) else item for item in items]


def gold_of(gold: Gold | None) -> Path | list[Sentence] | None:
    """Give the file of gold, or its sentences, of which there is at least one."""
    if gold is None or isinstance(gold, str | Path):
        return None if gold is None else Path(gold)
    sentences = records_of(Sentence, gold, "gold")
    if not sentences:
        raise UserError("gold", "it is empty", "Give the gold sentences.")
    return sentences


def load_predictions(
    predictions: Answers, gold: Path | GoldFile | list[Sentence] | None, where: str, data: DataConfig
) -> LoadedPredictions:
    """Load predictions and their gold, whatever holds them.

    Args:
        predictions: as for `score`.
        gold: a file, one that is read once for several predictions, or sentences.
        where: what messages call the predictions.
        data: how files are to be read.

    Raises:
        UserError: they cannot be read, or are about no sentence of gold.
    """
    from omniner.scoring.gold import GoldFile, check_labelled
    from omniner.scoring.predictions import LoadedPredictions, read_predictions, read_unread

    if isinstance(predictions, str | Path):
        path = Path(predictions)
        inside = path / "predictions.jsonl"  # of the folder of a run
        return read_predictions(inside if inside.is_file() else path, gold, data)
    answers = _answers(predictions, where)
    if not answers:
        raise UserError(where, "it is empty", "Give a prediction for each sentence, one without entities for none.")
    if gold is None:
        raise UserError("gold", f"the records of {where} hold no gold", "Give the gold sentences beside them.")
    if isinstance(gold, Path):
        gold = GoldFile(gold, data, None)
    sentences, issues = gold.content if isinstance(gold, GoldFile) else (gold, [])
    check_labelled(sentences, gold.path if isinstance(gold, GoldFile) else "gold")
    if not {answer.id for answer in answers} & {sentence.id for sentence in sentences}:
        found = f"no id is one of the gold sentences ({answers[0].id!r} here, {sentences[0].id!r} there)"
        fix = "Give both the same ids. A bare text has none: predict the Sentence records of gold."
        raise UserError(where, found, fix)
    return LoadedPredictions(sentences, read_unread(answers, sentences), [*issues], 0.0)


def corpus_lines(given: Any, where: str) -> tuple[bytes, bool]:
    """Convert the sentences of one split to the content of a file of JSON lines, which the readers of files take.

    Args:
        given: from the caller: sentences, a data frame, or whatever JSON lines of a known format hold: dicts (also the
            rows of a Hugging Face data set, whose numbered tags get their names), tuples of spaCy.
        where: the name of the argument.

    Returns:
        The content, one line for each item, and whether all of them are sentences: the program's own format.

    Raises:
        UserError: there is none, or an item is something else, or holds a value that JSON has not.
    """
    if _is_frame(given):
        items = _rows_of(given)
    elif isinstance(given, str | Path):
        fix = "Give omniner.read(path); or name the files of all splits in data.files, and give none here."
        raise UserError(where, f"a path, {_shown(str(given))}, where sentences belong", fix)
    else:
        items = listed(where, given, _CORPUS)
    if not items:
        raise UserError(where, "it is empty", _CORPUS)
    features = getattr(given, "features", None)
    names = _class_names(features) if isinstance(features, Mapping) else {}
    lines = []
    for number, item in enumerate(items):
        place = f"{where}[{number}]"
        if isinstance(item, Sentence):
            item = sentence_to_json(_checked_record(item, place))
        elif isinstance(item, Mapping):
            item = _with_names(item, names, place) if names else item
        elif not isinstance(item, tuple | list) or isinstance(item, Prediction | Entity):
            raise UserError(place, f"{_shown(item)} is no sentence", _CORPUS)
        lines.append(f"{to_line(_to_json(item, place))}\n")
    return "".join(lines).encode(), all(isinstance(item, Sentence) for item in items)


def config_from_memory(config: Config, splits: Mapping[str, tuple[bytes, bool]], given: Collection[str]) -> Config:
    """Return the configuration of a run whose corpus is given by a program; the run's folder will hold its files.

    Args:
        config: how it is used: dev cut from train, the taxonomy, the seed.
        splits: each split that is given, as `corpus_lines` returns it.
        given: the keys that the caller set.

    Raises:
        UserError: a key is about files, or the corpus of `data` is generated.
    """
    for key in given:
        if key in _OF_FILES or key.startswith(("data.files.", "data.size.", "data.from_memory.")):
            raise UserError(
                key, f"given beside {' and '.join(splits)}, which hold the corpus", "Leave one of them out."
            )
    if "data" in given and config.data.format == "synthetic":
        found = f"{config.data.name} is generated, and {' and '.join(splits)} hold the corpus"
        raise UserError("data", found, "Leave one of them out.")
    format = "jsonl" if all(is_own for _, is_own in splits.values()) else "auto"
    if "data.format" in given:
        format = config.data.format
        own = [split for split, (_, is_own) in splits.items() if is_own]
        if own and format not in ("auto", "jsonl"):
            found = f"{format}, but {' and '.join(own)} are omniner.Sentence records"
            raise UserError("data.format", found, "Leave it out.")
    files = {split: [f"{split}.jsonl"] for split in splits}
    digests = {split: hashlib.sha256(content).hexdigest() for split, (content, _) in splits.items()}
    report, share = _roles_of(config.data, splits, given)
    data = dataclasses.replace(config.data, report=report, dev_from_train=share, format=format, files=files)
    data = dataclasses.replace(data, root=None, source="", from_memory=digests)
    return dataclasses.replace(config, data=data)


def _roles_of(
    data: DataConfig, splits: Collection[str], given: Collection[str]
) -> tuple[Literal["test", "dev"], float]:
    """Return `data.report` and `data.dev_from_train` of a corpus with these splits, each of which has a use.

    What a choice of `data` says of its own files gives way to them; what the caller set does not.

    Raises:
        UserError: a split would not be used.
    """
    report, share = data.report, data.dev_from_train
    if report == "dev" and "test" in splits:
        if "data.report" in given:
            raise UserError("test", "data.report=dev reports on dev instead of it", "Leave one of them out.")
        report = "test"
    if share and report == "test" and "dev" in splits:
        if "data.dev_from_train" in given:
            raise UserError("dev", "data.dev_from_train cuts dev from train instead of it", "Leave one of them out.")
        share = 0
    return report, share


def _rows_of(table: pd.DataFrame) -> list[Sentence] | list[dict[str, Any]]:
    """The rows of a data frame: sentences if it is a table of them (see `frame`), else without their empty cells."""
    rows = [{key: cell for key, cell in row.items() if not _is_missing(cell)} for row in table.to_dict("records")]
    own = {field.name for field in dataclasses.fields(Sentence)} >= {*table.columns} and all(map(_is_sentence, rows))
    return [Sentence(**row) for row in rows] if own else rows


def _is_sentence(row: Mapping[str, Any]) -> bool:
    """Whether a row holds what a sentence needs, with its entities as `Entity`."""
    entities = row.get("entities")
    if not {"id", "text"} <= row.keys() or not isinstance(entities, list):
        return False
    return all(isinstance(entity, Entity) for entity in entities)


def _class_names(feature: Any) -> Any:
    """The names of a Hugging Face feature of classes, or of lists of them; a mapping for one of features, else None."""
    if isinstance(feature, Mapping):
        return {key: names for key, inner in feature.items() if (names := _class_names(inner))}
    if isinstance(feature, list) and len(feature) == 1:  # a list of features of this kind
        return _class_names(feature[0])
    inner = getattr(feature, "feature", None)
    return getattr(feature, "names", None) if inner is None else _class_names(inner)


def _with_names(cell: Any, names: Any, place: str) -> Any:
    """A value with names in place of the numbers of classes; see `_class_names`.

    Raises:
        UserError: a number in a list is not one of a class.
    """
    if hasattr(cell, "tolist"):
        cell = cell.tolist()
    if isinstance(cell, Mapping) and isinstance(names, Mapping):
        return {
            key: _with_names(item, names[key], f"{place}.{key}") if key in names else item for key, item in cell.items()
        }
    if isinstance(cell, list | tuple):
        if isinstance(names, Mapping) or not all(type(item) is int for item in cell):
            return [_with_names(item, names, f"{place}[{number}]") for number, item in enumerate(cell)]
        for number, item in enumerate(cell):
            if not 0 <= item < len(names):
                fix = f"Its classes are 0 to {len(names) - 1}; leave out rows without labels."
                raise UserError(f"{place}[{number}]", f"{item} is no class of this column", fix)
        return [names[item] for item in cell]
    return names[cell] if type(cell) is int and not isinstance(names, Mapping) and 0 <= cell < len(names) else cell


def _to_json(value: Any, place: str) -> Any:
    """The value as JSON holds it: entities as objects, numbers and arrays of other libraries as Python's."""
    if type(value) in _PLAIN:
        return value
    if isinstance(value, Entity):
        return entity_to_json(value)
    if isinstance(value, Mapping):  # a place is made only for what may need it: there are millions of plain values
        return {
            str(key): item if type(item) in _PLAIN else _to_json(item, f"{place}.{key}") for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [
            item if type(item) in _PLAIN else _to_json(item, f"{place}[{number}]") for number, item in enumerate(value)
        ]
    if hasattr(value, "tolist"):
        return _to_json(value.tolist(), place)
    if hasattr(value, "isoformat"):  # a date
        return value.isoformat()
    if _is_missing(value):
        return None
    if not isinstance(value, str | int | float | bool) or value in (float("inf"), -float("inf")):
        raise UserError(place, f"{_shown(value)} is no value of JSON", "Give texts, numbers, lists and mappings.")
    return value


def _answers(given: Any, where: str) -> list[Prediction]:
    """Predictions of records or rows; sentences, which `read` makes of a predictions file, are taken for them."""
    if _is_frame(given):
        return records_of(Prediction, given, where)
    items = listed(where, given, "Give Prediction records, or a data frame of them.")
    if not items or not isinstance(items[0], Sentence):
        return records_of(Prediction, items, where)
    sentences = records_of(Sentence, items, where)
    if all(map(is_unlabeled, sentences)):
        raise UserError(where, "sentences that nobody labelled", "Give predictions, or sentences with their entities.")
    return [Prediction(sentence.id, sentence.entities) for sentence in sentences]


def _entities(given: Any, place: str) -> list[Entity]:
    """Convert a list of `Entity`, of equivalent tuples, or of objects like those of JSON lines."""
    fix = "Give a list of entities, [] where there are none."
    if _is_missing(given):
        raise UserError(place, "empty", fix)
    if isinstance(given, str):
        fix += " A CSV file keeps them as text alone: write records with omniner.write, data frames with to_pickle."
    return [_entity(item, f"{place}[{number}]") for number, item in enumerate(listed(place, given, fix))]


def _entity(item: Any, place: str) -> Entity:
    values, score = item, getattr(item, "score", None)
    if isinstance(item, Mapping):
        score = item.get("score")
        item = {key: value for key, value in item.items() if key != "score"}
        if "category" not in item and "label" in item:  # as GLiNER gives them
            item = {"category" if key == "label" else key: value for key, value in item.items()}
        if not {"text", "category"} <= item.keys() <= set(Entity._fields):
            raise UserError(place, f"an object with the keys {', '.join(map(str, item))}", _ENTITY)
        values = [item.get(name) for name in Entity._fields]
    if not isinstance(values, Sequence) or len(values) not in (2, 4) or not all(isinstance(v, str) for v in values[:2]):
        raise UserError(place, f"{_shown(item)} is no entity", _ENTITY)
    start, end = (_offset(value, place) for value in values[2:] or (None, None))
    if (start is None) != (end is None):
        raise UserError(place, f"{_shown(item)} has one offset of two", _ENTITY)
    return with_score(Entity(values[0], values[1], start, end), score)


def _offset(value: Any, place: str) -> int | None:
    """Convert an integer of any library, or a float with an integer value: pandas uses floats if others are missing."""
    if _is_missing(value):
        return None
    if isinstance(value, float) and value.is_integer():
        return int(value)
    try:
        return index(value)
    except TypeError as error:
        raise UserError(place, f"{_shown(value)} is no offset", _ENTITY) from error


def _is_plain(entity: Any) -> bool:
    """Whether an entity has exactly the declared types; numbers of other libraries cannot be written as JSON."""
    if (
        type(entity) not in (Entity, ScoredEntity)
        or not isinstance(entity.text, str)
        or not isinstance(entity.category, str)
    ):
        return False
    start, end = type(entity.start), type(entity.end)
    return start is end and (start is int or entity.start is None)


def _is_missing(cell: Any) -> bool:
    """Whether a cell is empty; pandas has a different missing value for each kind of column, none equal to itself."""
    return cell is None or type(cell).__name__ == "NAType" or (isinstance(cell, float) and cell != cell)


def _is_frame(given: Any) -> bool:
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(given, pandas.DataFrame)


def _kind(given: Any) -> str:
    """Describe a value that is not a list, for a message."""
    if isinstance(given, str):
        return f"a text, {_shown(given)},"
    if isinstance(given, Mapping):
        return "a mapping"
    return "a data frame" if _is_frame(given) else "None" if given is None else type(given).__name__


def _shown(value: Any) -> str:
    """Format a value for a message, shortened if it is long."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def frame(
    what: Iterable[Sentence | Prediction | Entity | Issue] | ScoreResult | ErrtaResult | RunComparison,
) -> pd.DataFrame:
    """Create a pandas data frame of records or results.

    Args:
        what: sentences, predictions, entities or issues (one row each, with their fields); scores (one row per
            category); sorted errors (one row per error: its entities, and columns with their texts and categories,
            joined by ` + ` if there are several); or a comparison (one row per run).

    Returns:
        The data frame, with its columns even if it has no rows. Those of sentences and predictions can be passed to
        `score`, `errta` and `compare`.

    Raises:
        UserError: `what` is something else.
    """
    import pandas as pd

    from omniner.scoring.comparison import RunComparison
    from omniner.scoring.metrics import ErrtaResult, ScoreResult, ScoreRow

    if isinstance(what, ScoreResult):
        rows = [{"category": name, **row.to_json()} for name, row in what.metrics.categories.items()]
        return pd.DataFrame(rows, columns=["category", *ScoreRow._fields])
    if isinstance(what, ErrtaResult):
        return pd.DataFrame([_error_row(error, what.texts) for error in what.errors], columns=_ERROR_COLUMNS)
    if isinstance(what, RunComparison):
        return pd.DataFrame(
            {"run": name, **result.metrics.micro.to_json(), **result.errta.counts}
            for name, result in what.results.items()
        )
    fix = "Give sentences, predictions, entities or issues, or what score, errta or compare returned."
    items = listed("frame", what, fix)
    kind = next((kind for kind in _ROWS if items and isinstance(items[0], kind)), None)
    for number, item in enumerate(items):
        if kind is None or not isinstance(item, kind):
            raise UserError(f"frame[{number}]", f"{_shown(item)} is no row of this table", fix)
    if kind is None:
        return pd.DataFrame(columns=["id", "text", "entities"])
    names = [*getattr(kind, "__dataclass_fields__", getattr(kind, "_fields", ()))]
    if any(getattr(item, "score", None) is not None for item in items):
        names.append("score")
    return pd.DataFrame([[getattr(item, name) for name in names] for item in items], columns=names)


def _error_row(error: ErrtaError, texts_by_id: Mapping[str, str]) -> tuple[Any, ...]:
    """Return the cells of an error, in the order of `_ERROR_COLUMNS`."""
    units = (error.gold, error.predicted)
    said = [
        " + ".join(texts)
        for side in units
        for texts in ([entity.text for entity in side], dict.fromkeys(entity.category for entity in side))
    ]
    return (error.type, error.sentence_id, texts_by_id.get(error.sentence_id, ""), *said, *units)
