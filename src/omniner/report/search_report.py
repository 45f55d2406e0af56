"""What a prompt search says: its table, its Markdown, its JSON, and how to use the best prompt.

In goes a `SearchResult`, out come texts. Figures stand beside what they rest on: every F1 with the sentences or the
steps it was measured on, the best one with its interval and with what is left of it without the luck of the choice.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from omniner import __version__
from omniner.config.groups import CompareConfig
from omniner.guidance.prompt_search import CorrectedScore, VariantScore
from omniner.records import storable
from omniner.report.tables import COUNT, NONE, POINTS, SHARE, TEXT, Cell, Sheet, Table, markdown, plain
from omniner.score.resampling import least_p

_PLAIN_VALUE = re.compile(
    r"(?!(?:null|true|false|nan|inf)$)[a-z_][\w./\-]*", re.ASCII | re.IGNORECASE
)  # to Hydra: text

_SEEN = (
    "The guidance is about errors on dev, where the variants are compared: sentences that it shows are left out, but "
    "its rules were made with the rest in sight. Differences from the generic prompt are optimistic for that; notes of "
    "guide.split=train are not."
)
_TEST = "The guidance is about errors on the reported split (guide.allow_test): scores there with it are no test."


@dataclass(frozen=True)
class Tried:
    """A variant and how it went.

    Attributes:
        name: of the variant; `about` says what it is.
        overrides: keys that give this prompt, with their values.
        sha: of the prompt.
        length: of its texts, in `SearchResult.measure`.
        lessons: numbers of those that stand in it.
        covered: share of the guidance's errors that are of their kinds.
        standings: after each rung it was in.
        stopped: the rung after which it went; 0 = none.
        why: it went.
    """

    name: str
    about: str
    overrides: Mapping[str, Any]
    sha: str
    length: int
    lessons: Sequence[int]
    covered: float
    standings: Sequence[VariantScore]
    stopped: int
    why: str


@dataclass(frozen=True)
class Against:
    """How much better the best prompt is than another one, with its interval and p-values.

    The best prompt is the best of `family` that could have been it: `p_corrected` is Holm's p over the others that it
    is compared with, times `family` (Bonferroni's method over the choice). The interval is not corrected.
    """

    name: str
    difference: float
    low: float
    high: float
    p: float
    p_corrected: float
    family: int


@dataclass(frozen=True)
class SearchResult:
    """A finished search.

    Attributes:
        tried: the variants, the best first.
        same: (name, other) of variants that were the same prompt as another one.
        rungs: what each was, in words: `50 sentences`, `200 steps`.
        sentences: of dev in the last rung; `posts` they are of.
        left_out: sentences of dev that some variant shows, or that stand in train where models are trained.
        against: the best prompt against the baselines it is not.
        corrected: F1 of a best variant on sentences that did not choose it; None where dev is a single post.
        choices: variants among which that choice was made.
        cost: what was asked or trained, in words.
        measure: tokens | characters.
        split: of the guidance's errors.
        from_test: whether that is the reported split.
        settings: of the tests and intervals.
    """

    tried: Sequence[Tried]
    same: Sequence[tuple[str, str]]
    rungs: Sequence[str]
    sentences: int
    posts: int
    left_out: int
    against: Sequence[Against]
    corrected: CorrectedScore | None
    choices: int
    cost: str
    measure: str
    split: str
    from_test: bool
    settings: CompareConfig

    @property
    def best(self) -> Tried:
        """The variant with the highest F1 of those that were in the last rung."""
        return self.tried[0]

    def to_json(self) -> dict[str, Any]:
        """The content of `search.json`."""
        value = asdict(self)
        for item, tried in zip(value["tried"], self.tried, strict=True):
            item["standings"] = [standing._asdict() for standing in tried.standings]
        value["corrected"] = self.corrected._asdict() if self.corrected else None
        value["settings"] = {name: getattr(self.settings, name) for name in ("resamples", "confidence", "seed")}
        return {"version": __version__, "best": self.best.name, "command": override_line(self.best.overrides), **value}


def sheet(result: SearchResult) -> Sheet:
    """The variants by rung, the best first."""
    columns = {"variant": TEXT, "what": TEXT, "lessons": COUNT, "which": TEXT, "errors covered": SHARE}
    columns |= {result.measure: COUNT}
    columns |= {f"F1, {rung}": SHARE for rung in result.rungs}
    columns |= {
        "low": SHARE,
        "high": SHARE,
        "apart low": POINTS,
        "apart high": POINTS,
        "stopped after": TEXT,
        "why": TEXT,
    }
    rows: list[list[Cell]] = []
    for one in result.tried:
        f1: list[Cell] = [standing.f1 for standing in one.standings]
        last = one.standings[-1] if one.standings else None
        which = " ".join(map(str, one.lessons))
        row: list[Cell] = [one.name, one.about, len(one.lessons), which, one.covered, one.length]
        row += [*f1, *[NONE] * (len(result.rungs) - len(f1))]
        row += [last.low, last.high, last.difference_low, last.difference_high] if last else [NONE] * 4
        row += [result.rungs[one.stopped - 1] if one.stopped else NONE, one.why]
        rows.append(row)
    title = (
        f"Variants by rung; low to high is the {result.settings.confidence:.0%} interval of the last F1, apart low to "
        "high that of its difference from the best one there"
    )
    return Sheet(title, Table(list(columns), rows), list(columns.values()))


def verdicts(result: SearchResult) -> list[str]:
    """The result in a few lines of plain text."""
    best, final = result.best, result.best.standings[-1]
    confidence = f"{result.settings.confidence:.0%}"
    lines = [
        f"best prompt: {best.name} ({best.about}), {best.length:,} {result.measure}",
        f"dev F1 {final.f1:.2%} [{final.low:.2%}, {final.high:.2%}] {confidence} interval, on {result.sentences:,} "
        f"sentences of dev",
    ]
    lines += [_against(one, result.settings) for one in result.against]
    if result.corrected is not None:
        luck = 100 * (final.f1 - result.corrected.f1)
        lines.append(
            f"the best of {result.choices} is chosen for its luck, too: on sentences that did not choose it, such a "
            f"prompt has F1 {result.corrected.f1:.2%} ({luck:+.2f} points of optimism; a test set tells)"
        )
    return [*lines, result.cost]


def _against(one: Against, settings: CompareConfig) -> str:
    verdict = "better than" if one.difference > 0 else "no better than"
    chance = "significant" if one.p_corrected < settings.alpha else "may be chance"
    return (
        f"{verdict} {one.name}: {100 * one.difference:+.2f} points [{100 * one.low:+.2f}, {100 * one.high:+.2f}], "
        f"p {one.p_corrected:.3g} (Holm, and Bonferroni over the {one.family} prompts it was chosen among), {chance}"
    )


def warnings(result: SearchResult) -> list[str]:
    """What the figures must be read with."""
    found = [_SEEN] if result.split == "dev" else []
    found += [_TEST] if result.from_test else []
    least = min(1.0, len(result.against) * max((one.family for one in result.against), default=0)
                * least_p(result.settings.permutations, 1))  # fmt: skip
    if least >= result.settings.alpha:
        found.append(
            f"{result.settings.permutations:,} permutations cannot make any difference significant (smallest possible "
            f"corrected p {least:.3g}): set compare.permutations higher."
        )
    failed = [one.name for one in result.tried if not one.standings]
    return found + ([f"Never judged, because their runs failed: {', '.join(failed)}."] if failed else [])


def override_line(overrides: Mapping[str, Any]) -> str:
    """What to put on the command line, of a shell, for this prompt."""
    return " ".join(
        shlex.quote(f"{key}={_value(value)}") if isinstance(value, str) else f"{key}={_value(value)}"
        for key, value in overrides.items()
    )


def _value(value: Any) -> str:
    """As Hydra reads it."""
    if value is None:
        return "null"
    if isinstance(value, list):
        return f"[{','.join(map(str, value))}]"
    if not isinstance(value, str) or _PLAIN_VALUE.fullmatch(value):
        return str(value)
    escaped = re.sub(r'(\\*)"', r'\1\1\\"', value)  # backslashes mean something only before a quote
    return '"' + re.sub(r"(\\+)$", r"\1\1", escaped) + '"'


def text(result: SearchResult, name: str, prompt: str, by_name: str) -> str:
    """All of it as Markdown.

    Args:
        result: of the search.
        name: of the run.
        prompt: the best prompt as a model is told it.
        by_name: arguments that choose its configuration, which the run has written.
    """
    parts = [f"# {plain(name)}", "\n".join(f"- {plain(line)}" for line in verdicts(result))]
    parts += [f"**{plain(warning)}**" for warning in warnings(result)]
    parts += ["## How to use it", "With any task that is told a prompt, by its name:", _block(by_name)]
    parts += [
        "or, beside the other settings of `prompt` that this search had, by its keys:",
        _block(override_line(result.best.overrides)),
    ]
    parts += [markdown({"search": sheet(result)}).rstrip()]
    if result.same:
        parts.append("The same prompt as another variant: " + plain("; ".join(f"{a} = {b}" for a, b in result.same)))
    parts += ["## How it was chosen", *map(plain, _method(result)), "## The prompt", _block(prompt)]
    return storable("\n\n".join(parts) + "\n")


def _method(result: SearchResult) -> list[str]:
    settings = result.settings
    return [
        f"All variants are compared on the same sentences of dev, drawn by post; {result.left_out:,} sentences that "
        "some variant shows, or a model would be trained on, are left out for all. The generic prompt and the one of "
        "prompt.from_run go through all rungs.",
        "After each rung a variant goes if the interval of its difference from the best one lies below 0 (paired "
        f"bootstrap over posts, {settings.resamples:,} draws, {settings.confidence:.0%}), or if it is not among the "
        "best of search.keep and search.spare. Of equally good ones the shorter prompt is the better.",
        f"The tests against the two are those of task=compare over {result.posts:,} posts. Because the best prompt was "
        "chosen on the same sentences, their p-values, after Holm's method, are multiplied by the number of prompts "
        "that were judged beside the one it is compared with (Bonferroni's method). Intervals are not corrected for "
        "the choice: those of the best prompt's F1 and of its differences are optimistic. The F1 without optimism "
        f"repeats the choice among the {result.choices} variants of the last rung on each draw and scores it on the "
        "posts left out of the draw; what was dropped before is not chosen again, so some optimism may be left.",
    ]


def _block(content: str) -> str:
    """Text as it is: indented, which nothing in it can end."""
    return "\n".join(f"    {line}" for line in content.split("\n"))
