"""Draw the figures of a comparison of runs, and write its page.

The figures show the errors by type in each run and, for each run except the first, the gains and losses by category.
The page shows them with the tables of `comparison_tables` and a browser of the changed sentences
(`pages/comparison.html`, `pages/comparison.js`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from omniner.records import Entity
from omniner.report import page
from omniner.report.comparison_tables import comparison_summary
from omniner.report.figures import FAINT, INK, Chart, drawable_names
from omniner.report.tables import P_VALUE, POINTS, SHARE, Table, format_cell
from omniner.scoring.comparison import HUMAN, RunComparison, TestedRun, coverage_notes, summarise_scores
from omniner.scoring.error_types import AMBER, BLUE, ERROR_TYPES, GREEN, GREY, ORANGE, PURPLE, SKY
from omniner.scoring.metrics import ScoreResult
from omniner.scoring.resampling import Difference, smallest_p
from omniner.scoring.units import SentenceErrors
from omniner.wording import Wording, translated

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BASELINE = GREY  # colour of the baseline only
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, AMBER, SKY)  # of the other runs; after the last they repeat with hatches
HATCHES = ("", "////", "xxxx", "....")
MOST_CHANGED = 40  # maximum categories in the figure of gains and losses; more would not be readable


def draw_comparison_figures(comparison: RunComparison, language: str = "en") -> dict[str, Chart]:
    """Return the figures by name; a run in which no category changed has no figure of gains and losses."""
    count, mode = len(comparison.results), comparison.results[comparison.baseline].mode
    types = len(comparison.results[comparison.baseline].errta.by_type)
    title = Wording("Errors by type (ERRTA {mode}) in {sentences:sentence}", mode=mode, sentences=comparison.sentences)
    draw = partial(_errors, comparison=comparison, language=language)
    names = dict(zip(comparison.results, drawable_names(list(comparison.results)), strict=True))
    made = {"compare_errors": Chart(title.of(language), (8, 1.2 + 0.2 * types * (count + 1)), draw)}
    for number, run in enumerate(comparison.tested, 1):
        rows = _most_changed(run)
        if rows:
            title = Wording(
                "Gains and losses by category, {shown} of {total}\n{run} against {baseline}",
                shown=len(rows), total=len(run.significance.categories),
                run=names[run.name], baseline=names[comparison.baseline],
            )  # fmt: skip
            sure = {name for name, _ in rows if run.significance.corrected[name] < comparison.settings.alpha}
            made[f"compare_categories_{number}"] = Chart(
                title.of(language),
                (8, 1.5 + 0.22 * len(rows)),
                partial(_categories, rows=rows, sure=sure, language=language),
            )
    return made


def _most_changed(run: TestedRun) -> list[tuple[str, Difference]]:
    """Return the categories whose F1 changed most, the largest gain first."""
    changed = [(name, row) for name, row in run.significance.categories.items() if row.difference]
    kept = sorted(changed, key=lambda item: (-abs(item[1].difference), item[0]))[:MOST_CHANGED]
    return sorted(kept, key=lambda item: (-item[1].difference, item[0]))


def _errors(figure: Figure, comparison: RunComparison, language: str) -> None:
    """Draw grouped bars: one group per error type, one bar per run."""
    ax = figure.subplots()
    types = list(comparison.results[comparison.baseline].errta.by_type)
    count = len(comparison.results)
    groups = np.arange(len(types))[::-1]
    labels = drawable_names(list(comparison.results))
    for place, result in enumerate(comparison.results.values()):
        values = [result.errta.by_type[kind].errors for kind in types]
        heights = groups + (0.5 - (place + 0.5) / count) * 0.8
        ax.barh(heights, values, height=0.8 / count, label=labels[place], **_filling(place))
        for height, value in zip(heights, values, strict=True):
            ax.text(value, height, f" {value:,}", va="center", fontsize=7.5)
    ax.set_yticks(groups, [ERROR_TYPES[name].label.of(language) for name in types])
    ax.margins(x=0.1)
    ax.grid(visible=False, axis="y")
    ax.set_xlabel(Wording("errors").of(language))
    ax.legend(loc="best")


def _filling(place: int) -> dict[str, Any]:
    """Return how the bars of a run are filled; the filling is unique for up to 25 runs."""
    round_, colour = divmod(place - 1, len(COLOURS))
    hatch = HATCHES[round_ % len(HATCHES)] if place else ""
    return {"facecolor": COLOURS[colour] if place else BASELINE, "hatch": hatch, "edgecolor": "#ffffff", "linewidth": 0}


def _categories(figure: Figure, rows: Sequence[tuple[str, Difference]], sure: set[str], language: str) -> None:
    """Draw differences of F1 with their intervals; those that are significant after the correction are filled."""
    ax = figure.subplots()
    for place, (name, row) in zip(range(len(rows))[::-1], rows, strict=True):
        colour = BLUE if row.difference > 0 else ORANGE
        ax.plot([100 * row.low, 100 * row.high], [place, place], color=colour, linewidth=1.4)
        face = colour if name in sure else "white"
        ax.plot([100 * row.difference], [place], "o", color=colour, markerfacecolor=face)
    ax.axvline(0, color=INK, linewidth=0.8)
    ax.set_yticks(range(len(rows))[::-1], drawable_names([name for name, _ in rows]))
    ax.set_ylim(-0.8, len(rows) - 0.2)
    axis = Wording("points of F1; filled: significant after Holm's correction")
    ax.set_xlabel(axis.of(language), color=FAINT)


@dataclass(frozen=True)
class ComparisonFacts:
    """Facts about a comparison that its page shows."""

    name: str
    created: str  # formatted time
    details: Mapping[str, str]  # shown in this order: source of each run, the test set, ...
    unknown_config: bool  # whether some run has no configuration
    warnings: Sequence[str] = ()  # shown before those of the comparison itself


def render_comparison_page(
    comparison: RunComparison, tables: Mapping[str, Table], facts: ComparisonFacts, language: str = "en"
) -> str:
    """Write the page.

    Args:
        comparison: result of `compare_runs`.
        tables: result of `build_comparison_tables`.
        facts: further facts to show.
        language: zh | en.
    """
    sure = [run.p_corrected < comparison.settings.alpha for run in comparison.tested]
    sure += [False] if comparison.annotators else []
    lines = (str(translated(line, language)).replace("->", "→") for line in comparison_summary(comparison))
    lines = (re.sub(r"(?<![\w.=/-])-(?=\d)", "−", line) for line in lines)  # as in the tables; not hyphens in names
    values = {
        "facts": facts,
        "key_numbers": _key_numbers(comparison),
        "verdicts": list(zip(sure, lines, strict=True)),
        "warnings": [*facts.warnings, *comparison_warnings(comparison)],
        "signature": comparison.signature,
        "has_levels": comparison.has_levels,
        "charts": draw_comparison_figures(comparison, language),
        "method": comparison_method(comparison),
    }
    data = _data(comparison, tables, facts)
    scripts = ("page.js", "comparison.js")
    return page.render_page("comparison.html", "comparison", facts.name, facts.created, values, data, scripts, language)


def comparison_warnings(comparison: RunComparison) -> Sequence[str]:
    """Return warnings about limits of the comparison that a reader of the tables must know."""
    settings = comparison.settings
    partial = coverage_notes(comparison.annotators, comparison.sentences)
    least = {run.name: smallest_p(settings.permutations, run.significance.family) for run in comparison.tested}
    return [Wording("{line}: not what the runs are scored on.", line=line) for line in partial] + [
        Wording(
            "{run}: {permutations:,} permutations cannot make any of {categories:,} categories significant at "
            "{alpha:g} (smallest possible corrected p {least}): set compare.permutations higher.",
            run=run.name, permutations=settings.permutations, categories=run.significance.family,
            alpha=settings.alpha, least=format_cell(least[run.name], P_VALUE),
        )
        for run in comparison.tested
        if comparison.undecidable(run)
    ]  # fmt: skip


def comparison_method(comparison: RunComparison) -> list[str]:
    """Return sentences that explain how the differences were tested."""
    settings, chance = comparison.settings, comparison.unit_of_chance
    whole = Wording("{sentences:sentence} (no posts known)", sentences=comparison.sentences)
    if chance == "posts":
        whole = Wording("{posts:post}", posts=comparison.posts)
    people = Wording(
        "{human} is the mean over {count} people ({names}), each scored as a run; the deviation is the sample standard "
        "deviation over them. Their differences are not tested. If gold was made from these people's labels, they "
        "agree with it more than others would.",
        human=Wording(HUMAN), count=len(comparison.annotators), names=Wording.joined(", ", comparison.annotators),
    )  # fmt: skip
    return [
        Wording(
            "Every run is scored in the same way ({signature}) on the same {sentences:,} sentences.",
            signature=comparison.results[comparison.baseline].signature, sentences=comparison.sentences,
        ),
        Wording(
            "Approximate randomisation exchanges the two answers to each of {whole} at random, {permutations:,} times; "
            "its p-value is the share of exchanges with a difference at least as large as the observed one, in either "
            "direction.",
            whole=whole, permutations=settings.permutations,
        ),
        Wording(
            "The paired bootstrap draws {chance} again, {resamples:,} times, the same for both runs; the "
            "{confidence:g}% intervals are percentiles of the differences, its p-value the share of draws at least as "
            "far from the observed difference as that is from 0.",
            chance=Wording(chance), resamples=settings.resamples, confidence=100 * settings.confidence,
        ),
        Wording(
            "p corrected: Holm's method, for categories over those of gold, for runs over all runs against "
            "{baseline}. A difference is called significant where the corrected p of randomisation is below {alpha:g}.",
            baseline=comparison.baseline, alpha=settings.alpha,
        ),
        *([people] if comparison.annotators else []),
    ]  # fmt: skip


def _key_numbers(comparison: RunComparison) -> list[tuple[str, str, str]]:
    """Return name, F1 and difference of each run, then the mean of the annotators."""
    cards = []
    tested = {run.name: run for run in comparison.tested}
    for name, result in comparison.results.items():
        note: str = Wording("baseline")
        if name in tested:
            f1 = tested[name].significance.figures["micro.f1"]
            shown = (format_cell(value, POINTS) for value in (f1.difference, f1.low, f1.high))
            points, low, high = (text.replace("-", "−") for text in shown)  # as in the tables
            note = f"{points} [{low}, {high}], p {format_cell(tested[name].p_corrected, P_VALUE)}"
        cards.append((name, f"F1 {format_cell(result.metrics.micro.f1, SHARE)}", note))
    if comparison.annotators:
        mean = summarise_scores([result.metrics.micro.f1 for result in comparison.annotators.values()])
        deviation = Wording("standard deviation {value}", value=format_cell(mean.deviation, SHARE))
        people = Wording("{count} people", count=len(comparison.annotators))
        note = Wording.joined(", ", [deviation, people] if len(comparison.annotators) > 1 else [people])
        cards.append((Wording(HUMAN), f"F1 {format_cell(mean.mean, SHARE)}", note))
    return cards


def _data(comparison: RunComparison, tables: Mapping[str, Table], facts: ComparisonFacts) -> dict[str, Any]:
    """Return the data for the script of the page."""
    sentences, flips = _changed(comparison)
    total = sum(len(run.gained) + len(run.lost) for run in comparison.tested)
    kept = Wording(
        "The page holds at most {most:,} of each kind of all {total:,}; compare.examples sets how many.",
        most=comparison.settings.examples, total=total,
    )  # fmt: skip
    differ = Wording("Nothing: the configurations are the same.")
    if len(comparison.results) < 2:
        differ = Wording("There is no second run.")
    elif facts.unknown_config:
        differ = Wording("Not known: a predictions file has no configuration.")
    shown = {**tables, "config": replace(tables["config"], empty=differ)}
    return {
        "runs": list(comparison.results),
        "tables": {name: table for name, table in shown.items() if name != "flips"},  # shown in a browser
        "sentences": sentences,
        "flips": flips,
        "kept": "" if len(flips) == total else kept,
    }


def _changed(comparison: RunComparison) -> tuple[list[Any], list[Any]]:
    """Return the changed sentences as `[id, text, gold]`, each once, and the flips.

    A flip is `[run, gained, sentence, wrong gold, baseline's answer, wrong there, run's answer, wrong there, types]`.
    `run` is an index into `results`, `sentence` one into the list of sentences; wrong entities are indexes into the
    lists of entities; the types are those of the errors of the side that is wrong.
    """
    before = comparison.results[comparison.baseline]
    old_types = _types(before)
    first = _errors_by_sentence(before)
    place: dict[str, int] = {}
    sentences: list[Any] = []
    flips: list[Any] = []
    for number, run in enumerate(comparison.tested, 1):
        after = comparison.results[run.name]
        second, new_types = _errors_by_sentence(after), _types(after)
        for gained, names in ((1, run.gained), (0, run.lost)):
            for name in _spread(names, comparison.settings.examples):
                if name not in place:
                    place[name] = len(sentences)
                    gold = before.sentences[name]
                    sentences.append([name, gold.text, [page.entity_values(e) for e in gold.entities]])
                golds = sentences[place[name]][2]
                old, new = _answer(before, name), _answer(after, name)
                wrong = [first.get(name, _NOTHING), second.get(name, _NOTHING)]
                missing = page.entity_places([e for one in wrong for e in one.missing], golds)
                marks = [page.entity_places(one.extra, side) for one, side in zip(wrong, (old, new), strict=True)]
                types = (old_types if gained else new_types).get(name, [])
                flips.append([number, gained, place[name], missing, old, marks[0], new, marks[1], types])
    return sentences, flips


_NOTHING = SentenceErrors(0, [], [])


def _types(result: ScoreResult) -> dict[str, list[str]]:
    """Return the types of the errors in each sentence, by id."""
    found: dict[str, list[str]] = {}
    for error in result.errta.errors:
        types = found.setdefault(error.sentence_id, [])
        if error.type not in types:
            types.append(error.type)
    return found


def _errors_by_sentence(result: ScoreResult) -> dict[str, SentenceErrors]:
    """Return the wrong entities of each sentence with errors, by id."""
    return {result.scored[one.sentence]: one for one in result.comparison.sentence_errors}


def _answer(result: ScoreResult, name: str) -> list[Any]:
    prediction = result.predictions.get(name)
    entities: Sequence[Entity] = prediction.entities if prediction is not None else []
    return [page.entity_values(entity) for entity in entities]


def _spread(names: Sequence[str], most: int) -> list[str]:
    """Return at most `most` names, evenly spread over the list; the choice is deterministic."""
    return [names[i * len(names) // most] for i in range(most)] if len(names) > most else list(names)
