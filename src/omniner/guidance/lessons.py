"""`Guidance`: what a run gets wrong, why, and what would help; the file that prompts are made of.

A plain record with its JSON: `task=guide` makes it, `report.guidance_page` shows it to people, `prompt_errors` puts it
into a prompt. Each lesson is one cluster of errors with examples, counts from the training split and a note; the note
says whose word it is. The file is read as foreign: pydantic checks it against the types below before anything is taken
from it, and `VERSION` changes whenever they do. `explain` puts what pydantic finds into one sentence, for people and
for a teacher whose answer is not as asked for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, get_type_hints

from annotated_types import Ge

from omniner.config.validate import Group, NonNegativeInt, OneOf, type_adapter
from omniner.errors import UserError
from omniner.files import read_json, write_text
from omniner.records import Entity, storable
from omniner.scoring.error_types import lesson_kinds
from omniner.wording import shortened

if TYPE_CHECKING:
    from pydantic import ValidationError

GUIDANCE_FILE = "guidance.json"
VERSION = 1
_KIND = "omniner guidance"
_QUOTED = 60  # characters of a value that are shown
_FEWEST_JUDGED = 3  # labels that are right: what a teacher says of fewer tells nothing of the teacher

COUNTED = "counts"
"""The author of a note that says nothing but what was counted in the training split."""


class AsObject:
    """Marks a named tuple that JSON writes as an object, without the fields that have no value."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        fields = {
            name: core_schema.typed_dict_field(
                handler.generate_schema(hint), required=name not in source._field_defaults
            )
            for name, hint in get_type_hints(source, include_extras=True).items()
        }

        def write(item: Any) -> dict[str, Any]:
            return {name: value for name, value in source(*item)._asdict().items() if value is not None}

        return core_schema.no_info_after_validator_function(
            lambda values: source(**values),
            core_schema.typed_dict_schema(fields, extra_behavior="forbid", config={"strict": True}),
            serialization=core_schema.plain_serializer_function_ser_schema(write),
        )


class FromList:
    """Marks a tuple that JSON writes as a list."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        from pydantic_core import core_schema

        schema = handler(source)
        schema["strict"] = False
        schema["serialization"] = core_schema.wrap_serializer_function_ser_schema(
            lambda items, write: list(write(items)), schema=schema.copy()
        )
        return schema


class PlainValue:
    """Marks a value of one of several plain types that stays as it is."""

    def __init__(self, **types: type) -> None:
        self.types = types

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        from pydantic_core import PydanticCustomError, core_schema

        def check(value: Any) -> Any:
            if type(value) not in self.types.values():
                raise PydanticCustomError("plain", "another type", {"types": " or ".join(self.types)})
            return value

        return core_schema.no_info_plain_validator_function(check)


NonNegativeNumber = Annotated[float, PlainValue(integer=int, number=float), Ge(0)]
Cost = Annotated[str | int | None, PlainValue(string=str, integer=int, null=type(None))]
Entities = Annotated[tuple[Annotated[Entity, AsObject()], ...], FromList()]


@dataclass(frozen=True)
class SurfaceErrors(Group):
    """A surface that went wrong, and in how many errors of the cluster."""

    text: str
    count: NonNegativeInt


class SurfaceCount(NamedTuple):
    """A surface in train: in how many places it stands, and as what it is labelled there, the commonest first."""

    text: str
    places: NonNegativeInt
    labels: dict[str, NonNegativeInt]


class BoundaryPiece(NamedTuple):
    """What answers have too much (`extra`) or too little (`missing`) at one end.

    `errors` of the cluster are so; `held` mentions of the category begin (left) or end (right) with it in train.
    """

    side: Literal["left", "right"]
    change: Literal["extra", "missing"]
    text: str
    errors: NonNegativeInt
    held: NonNegativeInt


class CategoryCount(NamedTuple):
    """A category in the training split, with its most frequent surfaces."""

    name: str
    mentions: NonNegativeInt
    typical: list[str]


@dataclass(frozen=True)
class Facts(Group):
    """Counts from the training split about one cluster."""

    surfaces: list[Annotated[SurfaceCount, AsObject()]]
    pieces: list[Annotated[BoundaryPiece, AsObject()]]
    categories: list[Annotated[CategoryCount, AsObject()]]


@dataclass(frozen=True)
class Note(Group):
    """What to learn from a cluster. `rule` and `cause` are texts by language; a counted note has no cause."""

    by: str  # COUNTED, or the teacher's name
    rule: dict[str, str]
    cause: dict[str, str]


class Tried(NamedTuple):
    """How many sentences a note was tried on, and how many errors the model made there; 0 = on none."""

    sentences: NonNegativeInt
    errors: NonNegativeInt


NOT_TRIED = Tried(0, 0)


@dataclass(frozen=True)
class Candidate(Group):
    """A note that a lesson may have, and what came of its trial (`tasks.trials`).

    `on_cluster`: on sentences with errors of the cluster; `on_right`: on sentences that the model had wholly right.
    `choosing` and `confirming`: the same sentences, in halves: one chooses a note, on the other it must be better, too.
    """

    note: Note
    chosen: bool
    on_cluster: Annotated[Tried, AsObject()] = NOT_TRIED
    on_right: Annotated[Tried, AsObject()] = NOT_TRIED
    choosing: Annotated[Tried, AsObject()] = NOT_TRIED
    confirming: Annotated[Tried, AsObject()] = NOT_TRIED


@dataclass(frozen=True)
class LessonExample(Group):
    """An error in its sentence; `doubtful`: the teacher holds the gold label to be wrong."""

    id: str
    type: str
    text: str
    gold: Entities
    predicted: Entities
    doubtful: bool


@dataclass(frozen=True)
class Lesson(Group):
    """A cluster of errors with its evidence; see `clusters.Cluster`.

    `candidates` are the notes that it may have, of which `note` is one: the counted one, then the teacher's. They are
    none where the teacher says nothing, and in files of older versions.
    """

    kind: Annotated[str, OneOf(lesson_kinds)]
    gold: str
    predicted: str
    count: NonNegativeInt
    types: dict[str, NonNegativeInt]
    note: Note
    surfaces: list[SurfaceErrors]
    examples: list[LessonExample]
    facts: Facts
    candidates: list[Candidate] = field(default_factory=list)

    @property
    def question_id(self) -> str:
        """The name of the question about it."""
        return f"{self.kind}: {' → '.join(filter(None, (self.gold, self.predicted)))}"


@dataclass(frozen=True)
class SuspectLabel(Group):
    """A gold label that is unlike the usual one of its surface.

    `seen` labels of the surface are known, `share` of them `usual`; `count` are `gold` in the split, and the model
    says `usual` of `agreeing` of them. `verdict` is the teacher's; empty where none was asked.
    """

    surface: str
    gold: str
    usual: str
    share: NonNegativeNumber
    seen: NonNegativeInt
    count: NonNegativeInt
    agreeing: NonNegativeInt
    id: str
    text: str
    verdict: Literal["", "gold", "usual", "unclear"]
    reason: str

    @property
    def question_id(self) -> str:
        """The name of the question about it."""
        return f"suspect: {self.surface} ({self.gold})"

    @property
    def control_id(self) -> str:
        """The name of the question about it where it is known to be right."""
        return f"control: {self.surface} ({self.gold})"


class FalseAlarms(NamedTuple):
    """Of how many labels that are right a teacher judged, and how many of these it called wrong."""

    judged: int
    wrong: int

    @classmethod
    def of(cls, controls: Sequence[SuspectLabel]) -> FalseAlarms:
        """Count the verdicts on labels that are right."""
        verdicts = [control.verdict for control in controls if control.verdict]
        return cls(len(verdicts), verdicts.count("usual"))

    @property
    def believed(self) -> bool:
        """Whether the teacher's verdicts on suspected labels mean something."""
        return self.judged < _FEWEST_JUDGED or 2 * self.wrong < self.judged


class Failure(NamedTuple):
    """A question that the teacher did not answer, and why; its note is a counted one."""

    question: str
    reason: str


@dataclass(frozen=True)
class Guidance(Group):
    """All notes of one run.

    Attributes:
        source: whose errors: run (id or empty), name, folder, model, data; guide: the run of task=guide itself.
        split: the errors are on.
        from_test: whether the split is the one that is reported.
        scores: of the run on that split: sentences, precision, recall, f1, errors.
        types: errors by ERRTA type.
        teacher: kind; where it is not none, also name, and what it cost: asked, cached, prompt_tokens and
            completion_tokens.
        lessons: the largest cluster first.
        suspects: labels to look at.
        rest: clusters and errors without a lesson.
        failures: what the teacher did not answer.
        controls: labels as unusual as suspects that the model gives, too: a teacher who calls them wrong errs.
    """

    source: dict[str, str]
    split: Literal["dev", "train", "test"]
    from_test: bool
    scores: dict[str, NonNegativeNumber]
    types: dict[str, NonNegativeInt]
    teacher: dict[str, Cost]
    lessons: list[Lesson]
    suspects: list[SuspectLabel]
    rest: dict[str, NonNegativeInt]
    failures: list[Annotated[Failure, AsObject()]] = field(default_factory=list)
    controls: list[SuspectLabel] = field(default_factory=list)

    @property
    def alarms(self) -> FalseAlarms:
        """How often the teacher erred about labels that are right."""
        return FalseAlarms.of(self.controls)

    @property
    def tried(self) -> list[Lesson]:
        """The lessons whose candidates were tried."""
        return [lesson for lesson in self.lessons if any(one.on_cluster.sentences for one in lesson.candidates)]

    @property
    def won(self) -> list[Lesson]:
        """Those of them in which a rule of the teacher beat the counted note."""
        return [lesson for lesson in self.tried if lesson.note.by != COUNTED]

    @property
    def sha(self) -> str:
        """16 hex digits that change with what the notes say, but not with what they cost or how they were chosen."""
        said = {**self.to_json(), "source": None, "teacher": None}
        del said["controls"]
        for lesson in said["lessons"]:
            del lesson["candidates"]
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        """Give the content of `guidance.json`."""
        return {"kind": _KIND, "version": VERSION, **type_adapter(Guidance).dump_python(self)}


def write_guidance(path: Path, guidance: Guidance) -> Path:
    """Write the file, whole or not at all."""
    return write_text(path, storable(json.dumps(guidance.to_json(), ensure_ascii=False, indent=2)) + "\n")


def read_guidance(path: Path) -> Guidance:
    """Read the guidance in a file.

    Raises:
        UserError: it holds something else, or another version.
    """
    from pydantic import ValidationError

    value, fix = read_json(path), "Name a run of task=guide, its folder, or its guidance.json."
    kind = value.pop("kind", None) if isinstance(value, dict) else None
    if kind != _KIND:
        raise UserError(path, f"not guidance: kind must be {short_json(_KIND)}, not {short_json(kind)}", fix)
    if (version := value.pop("version", None)) != VERSION:
        found = f"guidance of version {version!r}, this program knows {VERSION}"
        raise UserError(path, found, "Run task=guide again.")
    try:
        guidance: Guidance = type_adapter(Guidance).validate_python(value)
    except ValidationError as error:
        raise UserError(path, f"not guidance: {explain(error)}", fix) from None
    wrong = next(filter(None, map(find_unsound, guidance.lessons)), None)
    if wrong is None and not sum(guidance.types.values()):
        wrong = "types counts no error"
    if wrong is not None:
        raise UserError(path, f"not guidance: {wrong}", fix)
    return guidance


def find_unsound(lesson: Lesson) -> str | None:
    """Check what no type says: an example has the sides of its kind, and entities stand where they say."""
    kind = lesson_kinds()[lesson.kind]
    for example in lesson.examples:
        if kind.has_gold and not example.gold:
            return f"the example {example.id} of {lesson.kind} has no gold entity"
        if kind.has_predicted and not example.predicted:
            return f"the example {example.id} of {lesson.kind} has no predicted entity"
        for entity in example.gold + example.predicted:
            if (entity.start, entity.end) != (None, None) and example.text[entity.start : entity.end] != entity.text:
                return f"{entity.text!r} is not where the example {example.id} says"
    return None


_TYPES = {  # pydantic's names of a wrong type, in JSON's words
    "dataclass_type": "object",
    "model_type": "object",
    "dict_type": "object",
    "list_type": "array",
    "tuple_type": "array",
    "string_type": "string",
    "int_type": "integer",
    "bool_type": "boolean",
}
_WRONG = {  # by pydantic's names of mistakes
    "missing": "{parent} lacks the key {name!r}",
    "unexpected_keyword_argument": "{parent} has the unknown key {key}",
    "extra_forbidden": "{parent} has the unknown key {key}",
    "literal_error": "{where} must be one of {expected}, not {value}",
    "choice": "{where} must be one of {names}, not {value}",
    "greater_than_equal": "{where} must be at least {ge}, not {value}",
    "less_than_equal": "{where} must be at most {le}, not {value}",
    "string_too_short": "{where}: the length must be at least {min_length}, not {length}",
    "string_too_long": "{where}: the length must be at most {max_length}, not {length}",
    "too_short": "{where}: the length must be at least {min_length}, not {length}",
    "too_long": "{where}: the length must be at most {max_length}, not {length}",
    "plain": "{where} must be of type {types}, not {value}",
}


def explain(error: ValidationError) -> str:
    """Return the first thing that is wrong with a value, and where: `lessons[0].count must be at least 0, not -1`."""
    mistake = error.errors(include_url=False)[0]
    kind, value = mistake["type"], mistake["input"]
    *outer, key = mistake["loc"] or [""]
    details = mistake.get("ctx", {}) | ({"types": _TYPES[kind]} if kind in _TYPES else {})
    said = _WRONG["plain"] if kind in _TYPES else _WRONG.get(kind, "{where}: {message}")
    return said.format(
        where=json_path(mistake["loc"]) or "the whole",
        parent=json_path(outer) or "the object",
        name=key,
        key=short_json(key),
        message=mistake["msg"],  # of whatever text: a category may hold braces
        value=short_json(value),
        length=len(value) if isinstance(value, str | list) else 0,
        **details,
    )


def json_path(loc: Iterable[int | str]) -> str:
    """Write the place of a value as `lessons[0].note.rule`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).removeprefix(".")


def short_json(value: Any) -> str:
    """Show a JSON value, or the beginning of a long one."""
    return shortened(json.dumps(value, ensure_ascii=False), _QUOTED)
