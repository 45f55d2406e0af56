"""Define `Guidance`, the errors of a run with explanations and rules, and read and write its file `guidance.json`.

It is a plain record: `task=guide` makes it, `report.guidance_page` shows it to people, `prompt_errors` puts it into a
prompt. Each lesson is one cluster of errors with examples, counts from the training split and a note, which names its
author. The file may come from elsewhere: pydantic checks it against the types below before it is used, and `VERSION`
changes whenever they change.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from annotated_types import Ge

from omniner.config.validate import (
    AsObject,
    FromList,
    Group,
    NonNegativeInt,
    OneOf,
    PlainValue,
    explain,
    short_json,
    type_adapter,
)
from omniner.errors import UserError
from omniner.files import read_json, write_text
from omniner.records import Entity, storable
from omniner.scoring.error_types import lesson_kinds

GUIDANCE_FILE = "guidance.json"
VERSION = 1
_KIND = "omniner guidance"
_FEWEST_JUDGED = 3  # minimum number of judged control labels that tell whether the teacher can be believed

COUNTED = "counts"
"""The author of a note that contains only counts of the training split."""


NonNegativeNumber = Annotated[float, PlainValue(integer=int, number=float), Ge(0)]
Cost = Annotated[str | int | None, PlainValue(string=str, integer=int, null=type(None))]
Entities = Annotated[tuple[Annotated[Entity, AsObject()], ...], FromList()]


@dataclass(frozen=True)
class SurfaceErrors(Group):
    """A surface, and the number of the cluster's errors with it."""

    text: str
    count: NonNegativeInt


class SurfaceCount(NamedTuple):
    """A surface in train: how often it occurs, and how often it has each label, the most frequent first."""

    text: str
    places: NonNegativeInt
    labels: dict[str, NonNegativeInt]


class BoundaryPiece(NamedTuple):
    """A text that answers have too much (`extra`) or too little (`missing`) at one end.

    `errors` is the number of such errors in the cluster; `held` is the number of mentions of the category in train that
    begin (left) or end (right) with the text.
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
    """The note on a cluster: `rule` and `cause` are texts by language; a counted note has no cause."""

    by: str  # COUNTED, or the teacher's name
    rule: dict[str, str]
    cause: dict[str, str]


class Tried(NamedTuple):
    """The number of sentences that a note was tried on (0 = not tried), and of errors that the model made there."""

    sentences: NonNegativeInt
    errors: NonNegativeInt


NOT_TRIED = Tried(0, 0)


@dataclass(frozen=True)
class Candidate(Group):
    """A note that a lesson may get, and the results of its trial (`tasks.trials`).

    Attributes:
        note: the note.
        chosen: whether it is the lesson's note.
        on_cluster: result on sentences with errors of the cluster.
        on_right: result on sentences that the model had answered without any error.
        choosing: result on the half of all these sentences that chooses a note.
        confirming: result on the other half, on which the chosen note must be better, too.
    """

    note: Note
    chosen: bool
    on_cluster: Annotated[Tried, AsObject()] = NOT_TRIED
    on_right: Annotated[Tried, AsObject()] = NOT_TRIED
    choosing: Annotated[Tried, AsObject()] = NOT_TRIED
    confirming: Annotated[Tried, AsObject()] = NOT_TRIED


@dataclass(frozen=True)
class LessonExample(Group):
    """An error in its sentence; `doubtful` = the teacher thinks that the gold label is wrong."""

    id: str
    type: str
    text: str
    gold: Entities
    predicted: Entities
    doubtful: bool


@dataclass(frozen=True)
class Lesson(Group):
    """A cluster of errors with its evidence; see `clusters.Cluster`.

    `candidates` are the notes that it may get, and `note` is one of them: first the counted one, then the teacher's.
    The list is empty if the teacher gave no answer, and in files of older versions.
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
        """The id of the question about this lesson."""
        return f"{self.kind}: {' → '.join(filter(None, (self.gold, self.predicted)))}"


@dataclass(frozen=True)
class SuspectLabel(Group):
    """A gold label that differs from the usual label of its surface.

    Of the `seen` known labels of the surface, the share `share` is `usual`. In the split, `count` labels are `gold`,
    and the model predicts `usual` for `agreeing` of them. `verdict` is the teacher's; empty if it gave none.
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
        """The id of the question about this label."""
        return f"suspect: {self.surface} ({self.gold})"

    @property
    def control_id(self) -> str:
        """The id of the question about this label if it is a control label."""
        return f"control: {self.surface} ({self.gold})"


class FalseAlarms(NamedTuple):
    """The number of control labels that a teacher judged, and of those that it called wrong."""

    judged: int
    wrong: int

    @classmethod
    def of(cls, controls: Sequence[SuspectLabel]) -> FalseAlarms:
        """Count the verdicts on control labels."""
        verdicts = [control.verdict for control in controls if control.verdict]
        return cls(len(verdicts), verdicts.count("usual"))

    @property
    def believed(self) -> bool:
        """Whether the teacher's verdicts on suspected labels are used."""
        return self.judged < _FEWEST_JUDGED or 2 * self.wrong < self.judged


class Failure(NamedTuple):
    """A question that the teacher did not answer, and the reason; a lesson then keeps its counted note."""

    question: str
    reason: str


@dataclass(frozen=True)
class Guidance(Group):
    """All notes on the errors of one run.

    Attributes:
        source: the run with the errors: run (its id, may be empty), name, folder, model, data; guide: the run of
            task=guide.
        split: the split with the errors.
        from_test: whether this is the reported split.
        scores: scores of the run on this split: sentences, precision, recall, f1, errors.
        types: number of errors by ERRTA type.
        teacher: its kind and, if this is not none, its name and numbers such as its cost: asked, cached, prompt_tokens
            and completion_tokens.
        lessons: the lessons, the largest cluster first.
        suspects: suspected labels.
        rest: number of clusters and of errors without a lesson.
        failures: questions that the teacher did not answer.
        controls: control labels: as unusual as suspects, but predicted by the model, too, so that a teacher who calls
            them wrong is probably mistaken.
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
        """The teacher's verdicts on control labels, counted."""
        return FalseAlarms.of(self.controls)

    @property
    def tried(self) -> list[Lesson]:
        """The lessons whose candidates were tried."""
        return [lesson for lesson in self.lessons if any(one.on_cluster.sentences for one in lesson.candidates)]

    @property
    def won(self) -> list[Lesson]:
        """The tried lessons in which a teacher's rule beat the counted note."""
        return [lesson for lesson in self.tried if lesson.note.by != COUNTED]

    @property
    def sha(self) -> str:
        """A hash of 16 hex digits over the content, without its source, its cost and how notes were chosen."""
        said = {**self.to_json(), "source": None, "teacher": None}
        del said["controls"]
        for lesson in said["lessons"]:
            del lesson["candidates"]
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        """Return the content of `guidance.json`."""
        return {"kind": _KIND, "version": VERSION, **type_adapter(Guidance).dump_python(self)}


def write_guidance(path: Path, guidance: Guidance) -> Path:
    """Write guidance to a file atomically; return its path."""
    return write_text(path, storable(json.dumps(guidance.to_json(), ensure_ascii=False, indent=2)) + "\n")


def read_guidance(path: Path) -> Guidance:
    """Read guidance from a file.

    Raises:
        UserError: the file is not guidance, or has another version.
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
    """Return what is wrong with a lesson that no type checks: missing sides of examples, or wrong offsets."""
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
