"""`Guidance`: what a run gets wrong, why, and what would help; the file that prompts are made of.

A plain record with its JSON: `tasks.guide` fills it, `guide.page` shows it to people, `encoding.lessons` puts it
into a prompt. Each lesson is one cluster of errors with examples, counts from the training split and a note; the note
says whose word it is. The file is read as foreign: its form is checked before anything is taken from it, and `version`
changes whenever that form does.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omniner.errors import UserError
from omniner.files import read_json, write_text
from omniner.guidance.clusters import Facts
from omniner.records import Entity, entity_to_json, storable
from omniner.scoring.error_types import lesson_kinds

Schema = Mapping[str, Any]


_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}


_WORDS = {
    "type", "properties", "required", "additionalProperties", "items", "maxItems", "enum", "const", "minimum",
    "maximum", "minLength", "maxLength",
}  # fmt: skip


_QUOTED = 60  # characters of a value that are shown


def complaint(value: Any, schema: Schema) -> str | None:
    """The first thing that is wrong with `value`, or None."""
    return next(_complaints(value, schema, ""), None)


def strict(properties: Mapping[str, Schema]) -> dict[str, Any]:
    """The schema of an object that has exactly these keys."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


def array(items: Schema) -> dict[str, Any]:
    """The schema of a list."""
    return {"type": "array", "items": items}


def _complaints(value: Any, schema: Schema, path: str) -> Iterator[str]:
    if not schema:
        return
    if unknown := schema.keys() - _WORDS:
        raise ValueError(f"words that are not known here: {sorted(unknown)}")
    if "const" in schema and value != schema["const"]:
        yield f"{path or 'the whole'} must be {_show(schema['const'])}, not {_show(value)}"
        return
    if "enum" in schema and value not in schema["enum"]:
        yield f"{path or 'the whole'} must be one of {_show(schema['enum'])}, not {_show(value)}"
        return
    if "type" in schema and not _is(value, schema["type"]):
        names = schema["type"] if isinstance(schema["type"], str) else " or ".join(schema["type"])
        yield f"{path or 'the whole'} must be of type {names}, not {_show(value)}"
        return
    if isinstance(value, dict):
        yield from _of_object(value, schema, path)
    elif isinstance(value, list):
        yield from _of_array(value, schema, path)
    elif isinstance(value, str):
        yield from _in_range(len(value), schema.get("minLength"), schema.get("maxLength"), f"{path}: the length")
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield from _in_range(value, schema.get("minimum"), schema.get("maximum"), path)


def _is(value: Any, names: str | list[str]) -> bool:
    for name in [names] if isinstance(names, str) else names:
        if isinstance(value, _TYPES[name]) and (name == "boolean" or not isinstance(value, bool)):
            return True
    return False


def _of_object(value: dict[str, Any], schema: Schema, path: str) -> Iterator[str]:
    known: Schema = schema.get("properties", {})
    for name in schema.get("required", ()):
        if name not in value:
            yield f"{path or 'the object'} lacks the key {name!r}"
    for name, item in value.items():
        others = schema.get("additionalProperties", {})
        if name in known:
            yield from _complaints(item, known[name], f"{path}.{name}" if path else name)
        elif others is False:
            yield f"{path or 'the object'} has the unknown key {_show(name)}"
        else:
            yield from _complaints(item, others, f"{path}.{name}" if path else name)


def _of_array(value: list[Any], schema: Schema, path: str) -> Iterator[str]:
    yield from _in_range(len(value), None, schema.get("maxItems"), f"{path}: the length")
    for number, item in enumerate(value):
        yield from _complaints(item, schema.get("items", {}), f"{path}[{number}]")


def _in_range(value: float, low: float | None, high: float | None, what: str) -> Iterator[str]:
    if low is not None and value < low:
        yield f"{what} must be at least {low}, not {value}"
    if high is not None and value > high:
        yield f"{what} must be at most {high}, not {value}"


def _show(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _QUOTED else f"{text[:_QUOTED]}..."


GUIDANCE_FILE = "guidance.json"
VERSION = 1
_KIND = "omniner guidance"

COUNTED = "counts"
"""The author of a note that says nothing but what was counted in the training split."""


@dataclass(frozen=True)
class Note:
    """What to learn from a cluster. `rule` and `cause` are texts by language; a counted note has no cause."""

    by: str  # counts, or the teacher's name
    rule: dict[str, str]
    cause: dict[str, str]


@dataclass(frozen=True)
class LessonExample:
    """An error in its sentence; `doubtful`: the teacher holds the gold label to be wrong."""

    id: str
    type: str
    text: str
    gold: tuple[Entity, ...]
    predicted: tuple[Entity, ...]
    doubtful: bool


@dataclass(frozen=True)
class Lesson:
    """A cluster of errors with its evidence; see `clusters.Cluster`."""

    kind: str
    gold: str
    predicted: str
    count: int
    types: dict[str, int]
    surfaces: list[tuple[str, int]]
    examples: list[LessonExample]
    facts: Facts
    note: Note


@dataclass(frozen=True)
class SuspectLabel:
    """A gold label that is unlike the usual one of its surface.

    `seen` labels of the surface are known, `share` of them `usual`; `count` are `gold` in the split, and the model
    says `usual` of `agreeing` of them. `verdict` is the teacher's: gold | usual | unclear; empty where none was asked.
    """

    surface: str
    gold: str
    usual: str
    share: float
    seen: int
    count: int
    agreeing: int
    id: str
    text: str
    verdict: str
    reason: str


@dataclass(frozen=True)
class Guidance:
    """All notes of one run.

    Attributes:
        source: whose errors: run (id or empty), name, folder, model, data; guide: the run of task=guide itself.
        split: dev | train | test.
        from_test: whether the split is the one that is reported.
        scores: of the run on that split: sentences, precision, recall, f1, errors.
        types: errors by ERRTA type.
        teacher: kind; where it is not none, also name, and what it cost: asked, cached, prompt_tokens and
            completion_tokens.
        lessons: the largest cluster first.
        suspects: labels to look at.
        rest: clusters and errors without a lesson.
        failures: (question, why) of all that the teacher did not answer; their notes are counted ones.
    """

    source: dict[str, str]
    split: str
    from_test: bool
    scores: dict[str, float]
    types: dict[str, int]
    teacher: dict[str, Any]
    lessons: list[Lesson]
    suspects: list[SuspectLabel]
    rest: dict[str, int]
    failures: list[tuple[str, str]] = field(default_factory=list)

    @property
    def sha(self) -> str:
        """16 hex digits that change with what the notes say, but not with where the run stood or what it cost."""
        said = {**self.to_json(), "source": None, "teacher": None}
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        """The content of `guidance.json`."""
        return {
            "kind": _KIND,
            "version": VERSION,
            "source": self.source,
            "split": self.split,
            "from_test": self.from_test,
            "scores": self.scores,
            "types": self.types,
            "teacher": self.teacher,
            "lessons": [_lesson_to_json(lesson) for lesson in self.lessons],
            "suspects": [vars(suspect) for suspect in self.suspects],
            "rest": self.rest,
            "failures": [{"question": question, "reason": reason} for question, reason in self.failures],
        }


def write_guidance(path: Path, guidance: Guidance) -> Path:
    """Write the file, whole or not at all."""
    return write_text(path, storable(json.dumps(guidance.to_json(), ensure_ascii=False, indent=2)) + "\n")


def read_guidance(path: Path) -> Guidance:
    """The guidance in a file; anything else in it is a `UserError`."""
    value = read_json(path)
    fix = "Name a run of task=guide, its folder, or its guidance.json."
    if isinstance(value, dict) and value.get("kind") == _KIND and value.get("version") != VERSION:
        found = f"guidance of version {value.get('version')!r}, this program knows {VERSION}"
        raise UserError(path, found, "Run task=guide again.")
    if (wrong := complaint(value, _schema())) is not None:
        raise UserError(path, f"not guidance: {wrong}", fix)
    if (wrong := next(filter(None, map(_unsound, value["lessons"])), None)) is not None:
        raise UserError(path, f"not guidance: {wrong}", fix)
    if not sum(value["types"].values()):
        raise UserError(path, "not guidance: types counts no error", fix)
    return Guidance(
        **{name: value[name] for name in ("source", "split", "from_test", "scores", "types", "teacher", "rest")},
        lessons=[_lesson(item) for item in value["lessons"]],
        suspects=[SuspectLabel(**item) for item in value["suspects"]],
        failures=[(item["question"], item["reason"]) for item in value["failures"]],
    )


def _lesson_to_json(lesson: Lesson) -> dict[str, Any]:
    return {
        "kind": lesson.kind,
        "gold": lesson.gold,
        "predicted": lesson.predicted,
        "count": lesson.count,
        "types": lesson.types,
        "note": vars(lesson.note),
        "surfaces": [{"text": text, "count": count} for text, count in lesson.surfaces],
        "examples": [
            {**vars(example), "gold": _entities(example.gold), "predicted": _entities(example.predicted)}
            for example in lesson.examples
        ],
        "facts": lesson.facts.to_json(),
    }


def _lesson(value: Mapping[str, Any]) -> Lesson:
    plain = {name: value[name] for name in ("kind", "gold", "predicted", "count", "types")}
    examples = [
        LessonExample(**{**item, "gold": _from_json(item["gold"]), "predicted": _from_json(item["predicted"])})
        for item in value["examples"]
    ]
    surfaces = [(item["text"], item["count"]) for item in value["surfaces"]]
    facts = Facts.from_json(value["facts"])
    return Lesson(**plain, surfaces=surfaces, examples=examples, facts=facts, note=Note(**value["note"]))


def _unsound(lesson: Mapping[str, Any]) -> str | None:
    """What no schema says: an example has the sides of its kind, and entities stand where they say."""
    kind = lesson_kinds()[lesson["kind"]]
    for example in lesson["examples"]:
        if kind.has_gold and not example["gold"]:
            return f"the example {example['id']} of {lesson['kind']} has no gold entity"
        if kind.has_predicted and not example["predicted"]:
            return f"the example {example['id']} of {lesson['kind']} has no predicted entity"
        for entity in _from_json(example["gold"] + example["predicted"]):
            if (entity.start, entity.end) != (None, None) and example["text"][entity.start : entity.end] != entity.text:
                return f"{entity.text!r} is not where the example {example['id']} says"
    return None


def _entities(entities: Sequence[Entity]) -> list[dict[str, Any]]:
    return [entity_to_json(entity) for entity in entities]


def _from_json(items: Sequence[Mapping[str, Any]]) -> tuple[Entity, ...]:
    return tuple(Entity(item["text"], item["category"], item.get("start"), item.get("end")) for item in items)


_TEXT = {"type": "string"}
_NUMBER = {"type": "integer", "minimum": 0}
_SHARE = {"type": "number", "minimum": 0}
_TEXTS = {"type": "object", "additionalProperties": _TEXT}
_COUNTS = {"type": "object", "additionalProperties": _NUMBER}
_ENTITY = {
    **strict({"text": _TEXT, "category": _TEXT, "start": _NUMBER, "end": _NUMBER}),
    "required": ["text", "category"],
}
_EXAMPLE = strict(
    {
        "id": _TEXT,
        "type": _TEXT,
        "text": _TEXT,
        "gold": array(_ENTITY),
        "predicted": array(_ENTITY),
        "doubtful": {"type": "boolean"},
    }
)
_PIECE: dict[str, Schema] = {
    "side": {"enum": ["left", "right"]},
    "change": {"enum": ["extra", "missing"]},
    "text": _TEXT,
    "errors": _NUMBER,
    "held": _NUMBER,
}
_FACTS = strict(
    {
        "surfaces": array(strict({"text": _TEXT, "places": _NUMBER, "labels": _COUNTS})),
        "pieces": array(strict(_PIECE)),
        "categories": array(strict({"name": _TEXT, "mentions": _NUMBER, "typical": array(_TEXT)})),
    }
)
_SUSPECT = strict(
    {
        **dict.fromkeys(("surface", "gold", "usual", "id", "text", "reason"), _TEXT),
        **dict.fromkeys(("seen", "count", "agreeing"), _NUMBER),
        "share": _SHARE,
        "verdict": {"enum": ["", "gold", "usual", "unclear"]},
    }
)


def _schema() -> Schema:
    """The form of the file; lessons may be of every kind that there is."""
    lesson = strict(
        {
            "kind": {"enum": list(lesson_kinds())},
            "gold": _TEXT,
            "predicted": _TEXT,
            "count": _NUMBER,
            "types": _COUNTS,
            "note": strict({"by": _TEXT, "rule": _TEXTS, "cause": _TEXTS}),
            "surfaces": array(strict({"text": _TEXT, "count": _NUMBER})),
            "examples": array(_EXAMPLE),
            "facts": _FACTS,
        }
    )
    return strict(
        {
            "kind": {"const": _KIND},
            "version": {"const": VERSION},
            "source": _TEXTS,
            "split": {"enum": ["dev", "train", "test"]},
            "from_test": {"type": "boolean"},
            "scores": {"type": "object", "additionalProperties": _SHARE},
            "types": _COUNTS,
            "teacher": {"type": "object", "additionalProperties": {"type": ["string", "integer", "null"]}},
            "lessons": array(lesson),
            "suspects": array(_SUSPECT),
            "rest": _COUNTS,
            "failures": array(strict({"question": _TEXT, "reason": _TEXT})),
        }
    )
