"""Define the types of errors (ERRTA); each entry holds everything that the program knows of a type.

Scores, tables, figures, pages, notes, prompts and the questions of an agreement measurement read these entries. A new
type is therefore one more `ERROR_TYPES.add(ErrorType(...))` and a sorter that finds it. An entry without a colour, a
meaning or a phrase in either language is refused when it is created.

The order of the entries is that of tables and figures. Errors of several types may belong to one kind of lesson: a
wrong category is learnt the same way whether or not the boundary is right.
"""

from __future__ import annotations

import re
import string
from dataclasses import dataclass

from omniner import registry
from omniner.registry import Registry
from omniner.wording import Wording

LANGUAGES = ("zh", "en")
MODES = ("official", "span")
"""Ways of sorting errors: as the published scripts do (`scoring.official`), or by position (`scoring.errta`)."""

# Okabe and Ito's palette, which colour-blind readers can tell apart.
BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
YELLOW, SKY, AMBER, GREY = "#F0E442", "#56B4E9", "#E69F00", "#999999"


@dataclass(frozen=True, slots=True)
class Phrases:
    """A text in Chinese and in English; the caller fills in its `{names}`."""

    zh: str
    en: str

    def __post_init__(self) -> None:
        if not self.zh.strip() or not self.en.strip():
            raise ValueError(f"a phrase is needed in both languages: {self}")

    def of(self, language: str) -> str:
        """Return the text in `zh` or `en`."""
        return self.zh if language == "zh" else self.en

    def wording(self, **values: str) -> Wording:
        """Return the text for a page, which is written in either language."""
        return Wording.both(self.en, self.zh, **values)

    def check(self, *names: str) -> None:
        """Raise `ValueError` if a text has a placeholder other than these."""
        for language in LANGUAGES:
            text = self.of(language)
            for _, field, _, _ in string.Formatter().parse(text):
                if field is not None and field not in names:
                    raise ValueError(f"{{{field}}} in {text!r}: known are {', '.join(names)}")


@dataclass(frozen=True, slots=True)
class PaperType:
    """One of the types of the paper's Figure 2, under which prompts list the lessons.

    Args:
        name: as in the paper's tables.
        heading: the line above its lessons in a prompt.
    """

    name: str
    heading: Phrases


@dataclass(frozen=True, slots=True)
class LessonKind:
    """How guidance describes errors: those of one kind with the same categories form one lesson.

    Args:
        name: in `guidance.json`.
        paper: the heading of the lesson in a prompt; `paper_counts` of its name sums all error types of this paper
            type.
        opening: what goes wrong, with `{gold}` and `{predicted}` (categories); the first sentence of a counted note.
        example: an error and its correction in a prompt, with `{text}` (the sentence), `{gold}` and `{predicted}` (the
            surfaces), `{right}` and `{label}` (their categories).
        example_same_surface: the wording if both surfaces are equal; None: the same as `example`.
        has_gold: whether such errors have gold entities; all but redundant ones do.
        has_predicted: whether they have predicted entities; all but missing ones do.
        names_both: whether the lesson names the predicted category as well as the gold one.
        counts_ends: whether to count the characters that answers have too many or too few at their ends.
    """

    name: str
    paper: PaperType
    opening: Phrases
    example: Phrases
    example_same_surface: Phrases | None = None
    has_gold: bool = True
    has_predicted: bool = True
    names_both: bool = False
    counts_ends: bool = False

    def __post_init__(self) -> None:
        self.opening.check("gold", "predicted")
        for phrases in filter(None, (self.example, self.example_same_surface)):
            phrases.check("text", "gold", "predicted", "right", "label")


@dataclass(frozen=True, slots=True)
class OpenQuestion:
    """What a disagreement of two annotators leaves open in the guidelines.

    Args:
        name: subject of such questions.
        advice: what the guidelines should say, with `{about}` (the categories).
        example: the case in words, with `{longer}` and `{shorter}` (the surfaces of the two sides).
    """

    name: Phrases
    advice: Phrases
    example: Phrases

    def __post_init__(self) -> None:
        self.advice.check("about")
        self.example.check("longer", "shorter")


@dataclass(frozen=True, slots=True)
class ErrorType:
    """A type of error.

    Args:
        name: in `scores.json`, metrics and tables.
        chinese: its name on Chinese pages.
        meaning: one line for pages.
        chinese_meaning: the same in Chinese.
        colour: in figures and pages, `#rrggbb`.
        modes: the ways of sorting that can find it, of `MODES`.
        paper: the type of the paper that it counts as; a prompt may describe it under another one.
        lesson: how guidance and prompts describe it.
        question: what it means as a disagreement of two annotators.

    Raises:
        ValueError: one of them is missing or malformed.
    """

    name: str
    chinese: str
    meaning: str
    chinese_meaning: str
    colour: str
    modes: tuple[str, ...]
    paper: PaperType
    lesson: LessonKind
    question: OpenQuestion

    def __post_init__(self) -> None:
        wrong = [
            what
            for what, right in (
                ("name", re.fullmatch("[a-z][a-z_]*", self.name)),
                ("chinese", self.chinese.strip()),
                ("meaning", self.meaning.strip()),
                ("chinese_meaning", self.chinese_meaning.strip()),
                ("colour", re.fullmatch("#[0-9A-Fa-f]{6}", self.colour)),
                ("modes", self.modes and set(self.modes) <= set(MODES)),
            )
            if not right
        ]
        if wrong:
            raise ValueError(f"the error type {self.name!r} needs another {', '.join(wrong)}")

    @property
    def label(self) -> Wording:
        """The name for readers: `split + merge`."""
        return Wording.both(self.name.replace("_", " + "), self.chinese)


ERROR_TYPES: Registry[ErrorType] = registry.ERROR_TYPES


def error_types(mode: str) -> tuple[ErrorType, ...]:
    """Return the types that a way of sorting can find, in the order of tables."""
    return tuple(entry for entry in ERROR_TYPES.values() if mode in entry.modes)


def paper_types() -> tuple[PaperType, ...]:
    """Return the paper's five types in its order, then those that further error types add."""
    return tuple(dict.fromkeys((*_PAPER, *(entry.paper for entry in ERROR_TYPES.values()))))


def lesson_kinds() -> dict[str, LessonKind]:
    """Return all kinds of lessons by name, ordered by paper type; equally frequent lessons are listed in this order."""
    kinds = dict.fromkeys(entry.lesson for entry in ERROR_TYPES.values())
    return {kind.name: kind for paper in paper_types() for kind in kinds if kind.paper == paper}


_CLASSIFICATION = PaperType(
    "classification",
    Phrases(
        "分类错误：找对了实体，但类别不符合上下文。",
        "Classification error. The entity is found, but its category does not fit the context.",
    ),
)
_BOUNDARY = PaperType(
    "boundary",
    Phrases(
        "边界错误：实体的首尾多了字或少了字。",
        "Boundary error. There is a character too many or too few at an end of the entity.",
    ),
)
_MISSING = PaperType(
    "missing", Phrases("遗漏：句子中的实体没有标出来。", "Missing. An entity of the sentence is not marked.")
)
_REDUNDANT = PaperType(
    "redundant",
    Phrases("多标：标出了不属于任何类别的内容。", "Redundant. Something was marked that belongs to no category."),
)
_SPLIT_MERGE = PaperType(
    "split_merge",
    Phrases(
        "拆分或合并错误：把一个实体拆成了几个，或把几个实体连成了一个。",
        "Split or merge error. One entity is cut into several, or several are joined into one.",
    ),
)
_PAPER = (_CLASSIFICATION, _BOUNDARY, _MISSING, _REDUNDANT, _SPLIT_MERGE)

_CONFUSION = LessonKind(
    "confusion",
    _CLASSIFICATION,
    opening=Phrases("{gold}容易误标为{predicted}。", "{gold} is easily labelled {predicted}."),
    example=Phrases(
        "例：{text}，把{predicted}标成了{label}。改正：应为{gold}，{right}。",
        "In {text}, {predicted} was labelled {label}. Correction. It is {gold}, {right}.",
    ),
    example_same_surface=Phrases(
        "例：{text}，把{predicted}标成了{label}。改正：应标为{right}。",
        "In {text}, {predicted} was labelled {label}. Correction. It is {right}.",
    ),
    names_both=True,
)
_OTHER_SURFACE = Phrases(
    "例：{text}，标出的是{predicted}。改正：应为{gold}。",
    "In {text}, {predicted} was marked. Correction. It is {gold}.",
)

_LONGER = Phrases("{longer}", "{longer}")
_EITHER = Phrases("{longer}还是{shorter}", "{longer} or {shorter}")
_PRESENCE = OpenQuestion(
    Phrases("标不标", "presence"),
    Phrases("说明哪些算{about}，哪些不标。", "Say which mentions count as {about} and which are left unmarked."),
    example=_LONGER,
)
_WHERE_IT_ENDS = OpenQuestion(
    Phrases("边界", "boundary"),
    Phrases(
        "说明{about}包括哪些字词：修饰语、量词、品牌、标点。",
        "Say which words belong to {about}: modifiers, measure words, brands, punctuation.",
    ),
    example=_EITHER,
)
_HOW_MANY = OpenQuestion(
    Phrases("一个还是几个", "one or several"),
    Phrases("说明这是一个实体还是几个：{about}。", "Say whether this is one entity or several: {about}."),
    example=_EITHER,
)

ERROR_TYPES.add(
    ErrorType(
        "classification",
        chinese="分类错误",
        meaning="right place, wrong category",
        chinese_meaning="位置对，类别错",
        colour=BLUE,
        modes=MODES,
        paper=_CLASSIFICATION,
        lesson=_CONFUSION,
        question=OpenQuestion(
            Phrases("类别", "category"),
            Phrases(
                "说明怎样区分{about}，两者都说得通时取哪一个。",
                "Say what tells {about} apart, and which one wins where both fit.",
            ),
            example=_LONGER,
        ),
    )
)
ERROR_TYPES.add(
    ErrorType(
        "boundary",
        chinese="边界错误",
        meaning="right category, wrong place",
        chinese_meaning="类别对，边界错",
        colour=AMBER,
        modes=MODES,
        paper=_BOUNDARY,
        lesson=LessonKind(
            "boundary",
            _BOUNDARY,
            opening=Phrases(
                "{gold}的首尾容易多字或少字。", "{gold} easily gets a character too many or too few at its ends."
            ),
            example=_OTHER_SURFACE,
            names_both=True,
            counts_ends=True,
        ),
        question=_WHERE_IT_ENDS,
    )
)
ERROR_TYPES.add(
    ErrorType(
        "boundary_class",
        chinese="边界与分类错误",
        meaning="overlaps the gold entity, wrong place and category",
        chinese_meaning="与标准实体重叠，边界和类别都错",
        colour=GREEN,
        modes=("span",),
        paper=_BOUNDARY,  # the entity of the paper's classification errors is recognised
        lesson=_CONFUSION,
        question=OpenQuestion(
            Phrases("边界和类别", "boundary and category"),
            Phrases("说明标长的还是标短的：{about}。", "Say whether the longer or the shorter one is marked: {about}."),
            example=_EITHER,
        ),
    )
)
ERROR_TYPES.add(
    ErrorType(
        "spelling",
        chinese="写法错误",
        meaning="right category, surface written differently",
        chinese_meaning="类别对，文字与原文写法不同",
        colour=YELLOW,
        modes=("span",),
        paper=_BOUNDARY,
        lesson=LessonKind(
            "spelling",
            _BOUNDARY,
            opening=Phrases("{gold}要与原文逐字相同。", "{gold} must be copied character by character."),
            example=_OTHER_SURFACE,
            names_both=True,
        ),
        question=_WHERE_IT_ENDS,
    )
)
ERROR_TYPES.add(
    ErrorType(
        "split",
        chinese="拆分错误",
        meaning="one gold entity answered in pieces",
        chinese_meaning="一个标准实体被答成几段",
        colour=SKY,
        modes=("span",),
        paper=_SPLIT_MERGE,
        lesson=LessonKind(
            "split",
            _SPLIT_MERGE,
            opening=Phrases("{gold}容易被拆成几个。", "{gold} is easily cut into several."),
            example=Phrases(
                "例：{text}，标成了{predicted}。改正：应为一个实体{gold}。",
                "In {text}, {predicted} were marked. Correction. It is one entity, {gold}.",
            ),
        ),
        question=_HOW_MANY,
    )
)
ERROR_TYPES.add(
    ErrorType(
        "merge",
        chinese="合并错误",
        meaning="several gold entities answered as one",
        chinese_meaning="几个标准实体被答成一个",
        colour=PURPLE,
        modes=("span",),
        paper=_SPLIT_MERGE,
        lesson=LessonKind(
            "merge",
            _SPLIT_MERGE,
            opening=Phrases("{gold}容易与相邻的实体连成一个。", "{gold} is easily joined with its neighbours."),
            example=Phrases(
                "例：{text}，连成了{predicted}。改正：应分成{gold}。",
                "In {text}, {predicted} was marked. Correction. These are {gold}.",
            ),
        ),
        question=_HOW_MANY,
    )
)
ERROR_TYPES.add(
    ErrorType(
        "split_merge",  # the official scripts cannot tell the two apart
        chinese="拆分/合并错误",
        meaning="tokens of one surface are part of the other's",
        chinese_meaning="一方的词是另一方的一部分",
        colour=SKY,
        modes=("official",),
        paper=_SPLIT_MERGE,
        lesson=LessonKind(
            "split_merge",
            _SPLIT_MERGE,
            opening=Phrases(
                "{gold}容易被拆开或与相邻的实体连成一个。",
                "{gold} is easily cut into several, or joined with its neighbours.",
            ),
            example=Phrases(
                "例：{text}，标成了{predicted}。改正：应为{gold}。",
                "In {text}, {predicted} was marked. Correction. It is {gold}.",
            ),
        ),
        question=_HOW_MANY,
    )
)
ERROR_TYPES.add(
    ErrorType(
        "missing",
        chinese="漏标",
        meaning="gold entity without an answer",
        chinese_meaning="标准实体没有被答出",
        colour=ORANGE,
        modes=MODES,
        paper=_MISSING,
        lesson=LessonKind(
            "missing",
            _MISSING,
            opening=Phrases("{gold}容易漏标。", "{gold} is easily overlooked."),
            example=Phrases(
                "例：{text}，没有标出{gold}。改正：补上{gold}，{right}。",
                "In {text}, {gold} was not marked. Correction. Add {gold}, {right}.",
            ),
            has_predicted=False,
        ),
        question=_PRESENCE,
    )
)
ERROR_TYPES.add(
    ErrorType(
        "redundant",
        chinese="多标（冗余）",
        meaning="answer where gold has nothing",
        chinese_meaning="标准答案中没有的内容被答出",
        colour=GREY,
        modes=MODES,
        paper=_REDUNDANT,
        lesson=LessonKind(
            "redundant",
            _REDUNDANT,
            opening=Phrases("{predicted}容易多标。", "{predicted} is easily given to what is none."),
            example=Phrases(
                "例：{text}，把{predicted}标成了{label}。改正：应删去。",
                "In {text}, {predicted} was labelled {label}. Correction. Leave it out.",
            ),
            has_gold=False,
        ),
        question=_PRESENCE,
    )
)
