"""The figures of a comparison as PNG bytes: errors by type in each run, gains and losses by category.

Same style, colours and letters as the figures of a single run (`pages.figures`); the same comparison gives the same
bytes.

The page of a comparison: a single HTML file that needs no network, no server and no Chinese font.

`html` puts what a comparison comes to, its tables, charts and a browser of the changed sentences into the template
`compare.html` (with `report.css`, `page.js`, `charts.js` and `compare.js`); `pages.page` makes one safe file of it.
It weighs about 1 MB for three runs on 19,557 sentences, half of it the Chinese letters.
"""

from __future__ import annotations

import html as markup
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from omniner.records import Entity
from omniner.report import page
from omniner.report.comparison_tables import comparison_summary
from omniner.report.figures import FAINT, INK, LABEL_LENGTH, drawable_text, png
from omniner.report.tables import P_VALUE, POINTS, SHARE, Table, format_cell
from omniner.scoring import human
from omniner.scoring.comparison import RunComparison, TestedRun
from omniner.scoring.error_types import AMBER, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY
from omniner.scoring.metrics import Residue
from omniner.scoring.resampling import Difference, smallest_p
from omniner.scoring.results import ScoreResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = (GREY, BLUE, ORANGE, GREEN, PURPLE, AMBER, SKY)  # of the runs, the baseline first
MOST_CHANGED = 40  # categories of the figure of gains and losses; more cannot be read
NAME = 28  # characters of a run's name


def draw_comparison_figures(comparison: RunComparison) -> dict[str, bytes]:
    """The figures by name; a run in which no category changed has none of gains and losses."""
    count = len(comparison.results)
    types = len(comparison.results[comparison.baseline].errta.by_type)
    made = {"compare_errors": png((8, 1.2 + 0.2 * types * (count + 1)), lambda figure: _errors(figure, comparison))}
    for number, run in enumerate(comparison.tested, 1):
        rows = most_changed(run)
        if rows:
            height = 1.5 + 0.22 * len(rows)
            name = f"compare_categories_{number}"
            made[name] = png((8, height), partial(_categories, comparison=comparison, run=run, rows=rows))
    return made


def most_changed(run: TestedRun) -> list[tuple[str, Difference]]:
    """The categories whose F1 changed most, the largest gain first."""
    changed = [(name, row) for name, row in run.significance.categories.items() if row.difference]
    kept = sorted(changed, key=lambda item: (-abs(item[1].difference), item[0]))[:MOST_CHANGED]
    return sorted(kept, key=lambda item: (-item[1].difference, item[0]))


def _errors(figure: Figure, comparison: RunComparison) -> None:
    """Grouped bars: one group per type, one bar per run."""
    ax = figure.subplots()
    types = list(comparison.results[comparison.baseline].errta.by_type)
    count = len(comparison.results)
    groups = np.arange(len(types))[::-1]
    for place, (name, result) in enumerate(comparison.results.items()):
        values = [result.errta.by_type[kind].errors for kind in types]
        heights = groups + (0.5 - (place + 0.5) / count) * 0.8
        ax.barh(
            heights, values, height=0.8 / count, color=COLOURS[place % len(COLOURS)], label=drawable_text(name, NAME)
        )
        for height, value in zip(heights, values, strict=True):
            ax.text(value, height, f" {value:,}", va="center", fontsize=7.5)
    ax.set_yticks(groups, [name.replace("_", " + ") for name in types])
    ax.margins(x=0.1)
    ax.grid(visible=False, axis="y")
    ax.set_xlabel("errors")
    ax.legend(loc="best")
    mode = comparison.results[comparison.baseline].mode
    ax.set_title(f"Errors by type (ERRTA {mode}) in {comparison.sentences:,} sentences")


def _categories(figure: Figure, comparison: RunComparison, run: TestedRun, rows: list[tuple[str, Difference]]) -> None:
    """Differences of F1 with their intervals; those that stay significant after the correction are filled."""
    ax = figure.subplots()
    for place, (name, row) in zip(range(len(rows))[::-1], rows, strict=True):
        colour = BLUE if row.difference > 0 else ORANGE
        certain = run.significance.corrected[name] < comparison.settings.alpha
        ax.plot([100 * row.low, 100 * row.high], [place, place], color=colour, linewidth=1.4)
        ax.plot([100 * row.difference], [place], "o", color=colour, markerfacecolor=colour if certain else "white")
    ax.axvline(0, color=INK, linewidth=0.8)
    ax.set_yticks(range(len(rows))[::-1], [drawable_text(name, LABEL_LENGTH) for name, _ in rows])
    ax.set_ylim(-0.8, len(rows) - 0.2)
    ax.set_xlabel("points of F1; filled: significant after Holm's correction", color=FAINT)
    names = f"{drawable_text(run.name, NAME)} against {drawable_text(comparison.baseline, NAME)}"
    of = len(run.significance.categories)
    ax.set_title(f"Gains and losses by category, {len(rows)} of {of}\n{names}")


_SECTIONS = {
    "result": "Result",
    "models": "Runs",
    "errors": "Error types",
    "primaries": "By primary",
    "categories": "Categories",
    "sentences": "Changed sentences",
    "config": "Configuration",
    "method": "Method",
}
_SHOWN = ("models", "human", "tests", "errors", "primaries", "categories", "config")  # the flips have their own browser


@dataclass(frozen=True)
class ComparisonFacts:
    """What the page says beside the figures."""

    name: str
    created: str  # time, as people read it
    details: Mapping[str, str]  # shown in this order: where each run comes from, the test set, ...
    unknown_config: bool  # whether some run has no configuration


def render_comparison_page(comparison: RunComparison, tables: Mapping[str, Table], facts: ComparisonFacts) -> str:
    """The page.

    Args:
        comparison: what `comparison.compare_runs` gave.
        tables: what `build_comparison_tables` made of it.
        facts: what else to say.
    """
    parts = {
        "name": markup.escape(facts.name),
        "created": markup.escape(facts.created),
        "kind": "comparison",
        "nav": page.nav(_SECTIONS),
        "cards": page.cards(_cards(comparison)),
        "verdicts": _verdicts(comparison),
        "notes": "".join(f'<p class="notice">{markup.escape(note)}</p>' for note in comparison_warnings(comparison)),
        "signature": markup.escape(comparison.signature),
        "details": page.details(facts.details),
        "method": "".join(f"<p>{markup.escape(line)}</p>" for line in comparison_method(comparison)),
    }
    scripts = {"js": "".join(map(page.asset, ("page.js", "charts.js", "compare.js")))}
    return page.render_page("compare.html", parts, _data(comparison, tables, facts), scripts, {})


def comparison_warnings(comparison: RunComparison) -> list[str]:
    """What a reader must know before believing the tables."""
    settings = comparison.settings
    partial = human.coverage_notes(comparison.annotators, comparison.sentences)
    return [f"{line}: not what the runs are scored on." for line in partial] + [
        f"{run.name}: {settings.permutations:,} permutations cannot make any of "
        f"{len(run.significance.categories):,} categories significant at {settings.alpha:g} (smallest possible "
        f"corrected p {format_cell(smallest_p(settings.permutations, len(run.significance.categories)), P_VALUE)}): "
        "set compare.permutations higher."
        for run in comparison.tested
        if comparison.undecidable(run)
    ]


def comparison_method(comparison: RunComparison) -> list[str]:
    """How the differences were tested, in words."""
    settings, chance = comparison.settings, comparison.unit_of_chance
    whole = (
        f"{comparison.posts:,} posts" if chance == "posts" else f"{comparison.sentences:,} sentences (no posts known)"
    )
    names = ", ".join(comparison.annotators)
    people = [
        f"{human.HUMAN} is the mean over {len(comparison.annotators)} people ({names}), each scored as a run; the "
        "deviation is the sample standard deviation over them. Their differences are not tested. If gold was made from "
        "these people's labels, they agree with it more than others would."
    ]
    return [
        f"Every run is scored in the same way ({comparison.results[comparison.baseline].signature}) on the same "
        f"{comparison.sentences:,} sentences.",
        f"Approximate randomisation exchanges the two answers to each of {whole} at random, {settings.permutations:,} "
        "times; its p-value is the share of exchanges with a difference at least as large as the observed one, in "
        "either direction.",
        f"The paired bootstrap draws {chance} again, {settings.resamples:,} times, the same for both runs; the "
        f"{100 * settings.confidence:g}% intervals are percentiles of the differences, its p-value the share of draws "
        "at least as far from the observed difference as that is from 0.",
        f"p corrected: Holm's method, for categories over all categories of a run, for runs over all runs against "
        f"{comparison.baseline}. A difference is called significant where the corrected p of randomisation is below "
        f"{settings.alpha:g}.",
        *(people if comparison.annotators else []),
    ]


def _cards(comparison: RunComparison) -> list[tuple[str, str, str]]:
    cards = []
    of = {run.name: run for run in comparison.tested}
    for name, result in comparison.results.items():
        note = "baseline"
        if name in of:
            f1 = of[name].significance.figures["micro.f1"]
            note = (
                f"{format_cell(f1.difference, POINTS)} [{format_cell(f1.low, POINTS)}, {format_cell(f1.high, POINTS)}]"
            )
            note += f", p {format_cell(of[name].p_corrected, P_VALUE)}"
        cards.append((name, f"F1 {format_cell(result.metrics.micro.f1, SHARE)}", note))
    if comparison.annotators:
        people = human.summarise_scores([result.metrics.micro.f1 for result in comparison.annotators.values()])
        note = f"standard deviation {format_cell(people.deviation, SHARE)}, " if len(comparison.annotators) > 1 else ""
        cards.append(
            (human.HUMAN, f"F1 {format_cell(people.mean, SHARE)}", f"{note}{len(comparison.annotators)} people")
        )
    return cards


def _verdicts(comparison: RunComparison) -> str:
    marks = ["verdict sure" if v.p_corrected < comparison.settings.alpha else "verdict" for v in comparison.tested]
    marks += ["verdict"] if comparison.annotators else []
    lines = zip(marks, comparison_summary(comparison), strict=True)
    return "".join(f'<p class="{mark}">{markup.escape(line.replace("->", "→"))}</p>' for mark, line in lines)


def _data(comparison: RunComparison, tables: Mapping[str, Table], facts: ComparisonFacts) -> dict[str, Any]:
    """What the script of the page works on."""
    sentences, flips = _changed(comparison)
    total = sum(len(run.gained) + len(run.lost) for run in comparison.tested)
    kept = "" if len(flips) == total else f"The page holds at most {comparison.settings.examples:,} of each kind of all"
    return {
        "runs": list(comparison.results),
        # columns of the error table with the counts of each run
        "counts": [1, *(2 + 3 * place for place in range(len(comparison.tested)))],
        "sheets": {name: table.to_json() for name, table in tables.items() if name in _SHOWN},
        "forests": [forest for run in comparison.tested if (forest := _forest(comparison, run))["rows"]],
        "sentences": sentences,
        "flips": flips,
        "kept": f"{kept} {total:,}; compare.examples sets how many." if kept else "",
        "unknown": facts.unknown_config,
    }


def _forest(comparison: RunComparison, run: TestedRun) -> dict[str, Any]:
    """Rows of (category, difference, low, high, whether significant), the largest gain first."""
    rows = [
        [name, row.difference, row.low, row.high, run.significance.corrected[name] < comparison.settings.alpha]
        for name, row in most_changed(run)
    ]
    return {"run": run.name, "of": len(run.significance.categories), "rows": rows}


def _changed(comparison: RunComparison) -> tuple[list[Any], list[Any]]:
    """Sentences `[id, text, gold]`, each once, and flips with places in the lists of entities for what is wrong.

    A flip is `[run, gained, sentence, wrong gold, baseline's answer, wrong there, run's answer, wrong there, types]`;
    the run is its place in `results`, the sentence its place in the list, the types are those of the errors of the one
    that has it wrong.
    """
    before = comparison.results[comparison.baseline]
    old_types = _types(before)
    first = _residues(before)
    place: dict[str, int] = {}
    sentences: list[Any] = []
    flips: list[Any] = []
    for number, run in enumerate(comparison.tested, 1):
        after = comparison.results[run.name]
        second, new_types = _residues(after), _types(after)
        for gained, names in ((1, run.gained), (0, run.lost)):
            for name in _spread(names, comparison.settings.examples):
                if name not in place:
                    place[name] = len(sentences)
                    gold = before.sentences[name]
                    sentences.append([name, gold.text, [page.entity_values(e) for e in gold.entities]])
                golds = sentences[place[name]][2]
                old, new = _answer(before, name), _answer(after, name)
                wrong = [first.get(name, _NOTHING), second.get(name, _NOTHING)]
                missing = page.entity_places([e for residue in wrong for e in residue.missing], golds)
                marks = [
                    page.entity_places(residue.extra, side) for residue, side in zip(wrong, (old, new), strict=True)
                ]
                types = (old_types if gained else new_types).get(name, [])
                flips.append([number, gained, place[name], missing, old, marks[0], new, marks[1], types])
    return sentences, flips


_NOTHING = Residue(0, [], [])


def _types(result: ScoreResult) -> dict[str, list[str]]:
    """The types of the errors in each sentence, by id."""
    found: dict[str, list[str]] = {}
    for error in result.errta.errors:
        types = found.setdefault(error.sentence_id, [])
        if error.type not in types:
            types.append(error.type)
    return found


def _residues(result: ScoreResult) -> dict[str, Residue]:
    """What is wrong in each sentence, by id."""
    return {result.scored[residue.sentence]: residue for residue in result.comparison.residues}


def _answer(result: ScoreResult, name: str) -> list[Any]:
    prediction = result.predictions.get(name)
    entities: Sequence[Entity] = prediction.entities if prediction is not None else []
    return [page.entity_values(entity) for entity in entities]


def _spread(names: Sequence[str], most: int) -> list[str]:
    """At most so many, evenly over the list: always the same ones."""
    return [names[i * len(names) // most] for i in range(most)] if len(names) > most else list(names)
