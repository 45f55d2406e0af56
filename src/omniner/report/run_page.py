"""Draw the figures of a scored run, and write its report page with figures and tables.

Only figures with data are drawn: a scored file has no learning curves, a perfect run no errors. Six figures with 90
categories take about 3 s. The page shows the scores, the tables of `build_run_tables`, heat maps, learning curves and a
browser of examples (`pages/run.html`, `pages/run.js`); writing it takes about 1 s.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from omniner.config.groups import ErrtaConfig
from omniner.issue_codes import explained
from omniner.records import ranked
from omniner.report import page
from omniner.report.figures import FAINT, INK, MOST_ROWS, SERIES, Chart, drawable_names
from omniner.report.tables import (
    COUNT,
    TEXT,
    Table,
    columns,
    count_confusions,
    examples_of_cells,
)
from omniner.scoring.error_types import BLUE, ERROR_TYPES, GREY, ORANGE
from omniner.scoring.metrics import ScoreResult, ScoreRow, category_of
from omniner.wording import Wording

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Curve = Sequence[tuple[int, float]]  # (step, value)
Panels = list[tuple[Wording, dict[str, Curve]]]  # (title, curves by metric) of each panel

_SCORED, _LOSS = Wording("Scores in per cent"), Wording("Loss")  # titles of the panels
_SCORES = ("val/f1", "val/precision", "val/recall")  # curves of the first panel
MOST_CONFUSED = 20  # maximum categories in the confusion figure; more would not be readable


@dataclass(frozen=True)
class RunFacts:
    """Facts about a run that its report shows beside the scores."""

    name: str
    created: str  # formatted time
    details: Mapping[str, str]  # shown in this order: model, data, git state, ...
    config: str  # YAML; may be empty
    issues: Mapping[str, int]  # code -> count, from reading the data and from scoring


def draw_run_figures(result: ScoreResult, curves: Mapping[str, Curve], language: str = "en") -> dict[str, Chart]:
    """Return the figures for which this result has data, by name.

    Args:
        result: what `scoring.scorer.score_loaded` gave.
        curves: (step, value) pairs by metric; may be empty.
        language: zh | en; language of titles and labels.
    """
    made: dict[str, Chart] = {}
    if panels := _curve_panels(curves):
        made["learning_curves"] = Chart("", (8, 5), partial(_curves, panels=panels, language=language))
    if result.metrics.categories:
        made["f1_by_category"] = _f1_chart(result, language)
    if result.errta.errors:
        title = Wording(
            "{total:error} by type (ERRTA {mode}), in {wrong:,} of {read:sentence}",
            total=len(result.errta.errors), mode=result.mode, wrong=result.errta.with_errors, read=result.errta.read,
        )  # fmt: skip
        made["error_types"] = Chart(title.of(language), (8, 3.4), partial(_types, result=result, language=language))
        names, counts = errors_by_primary(result)
        title = Wording(
            "{total:error} by type and category ({count:category})", total=int(counts.sum()), count=len(names)
        )
        if result.has_levels:
            title = Wording(
                "{total:error} by type and primary ({primaries:primary})",
                total=int(counts.sum()), primaries=len(names),
            )  # fmt: skip
        draw = partial(_by_primary, result=result, names=names, counts=counts, language=language)
        made["errors_by_primary"] = Chart(title.of(language), (8, 1.6 + 0.24 * len(names)), draw)
    names, counts = most_confused(result, MOST_CONFUSED)
    if names:
        title = Wording(
            "{shown:,} of {total:,} confusions, between the {count} most confused categories",
            shown=int(counts.sum()), total=count_confusions(result.errta.errors).total(), count=len(names),
        )  # fmt: skip
        draw = partial(_confusion, names=names, counts=counts, language=language)
        made["confusion"] = Chart(title.of(language), (9, 8), draw)
    return made


def errors_by_primary(result: ScoreResult) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Return primaries, most errors first, and their error counts: [primaries, types as in `errta.by_type`]."""
    types = {name: i for i, name in enumerate(result.errta.by_type)}
    rows: dict[str, npt.NDArray[np.int64]] = {}
    for error in result.errta.errors:
        primary = result.primary[category_of(error)]
        if primary not in rows:
            rows[primary] = np.zeros(len(types), np.int64)
        rows[primary][types[error.type]] += 1
    names = sorted(rows, key=lambda name: (-int(rows[name].sum()), name))
    return names, np.array([rows[name] for name in names]).reshape(len(names), len(types))


def most_confused(result: ScoreResult, top: int) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Return the `top` most confused categories and their counts: [gold, predicted].

    They are sorted by name, so that categories of one primary are adjacent.
    """
    counts = count_confusions(result.errta.errors)
    names = sorted(_by_confusions(counts)[:top])
    place = {name: i for i, name in enumerate(names)}
    matrix = np.zeros((len(names), len(names)), np.int64)
    for (gold, predicted), count in counts.items():
        if gold in place and predicted in place:
            matrix[place[gold], place[predicted]] = count
    return names, matrix


def _by_confusions(counts: Mapping[tuple[str, str], int]) -> list[str]:
    """Return the categories, the most confused first."""
    involved: Counter[str] = Counter()
    for pair, count in counts.items():
        involved.update(dict.fromkeys(pair, count))
    return sorted(involved, key=lambda name: (-involved[name], name))


def _curve_panels(curves: Mapping[str, Curve]) -> Panels:
    """Return panels with F1, precision and recall on dev, and with losses; other metrics are only in the tracker."""
    scores: dict[str, Curve] = {
        name: [(step, 100 * value) for step, value in curves[name]] for name in _SCORES if curves.get(name)
    }
    losses: dict[str, Curve] = {name: values for name, values in sorted(curves.items()) if "loss" in name and values}
    return [(title, lines) for title, lines in ((_SCORED, scores), (_LOSS, losses)) if lines]


def _curves(figure: Figure, panels: Panels, language: str) -> None:
    """Draw the panels below each other, with the same steps as x-axis."""
    from matplotlib.ticker import MaxNLocator

    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for ax, (title, lines) in zip(axes, panels, strict=True):
        for i, (name, values) in enumerate(lines.items()):
            steps, heights = zip(*values, strict=True)
            marker = "o" if len(steps) <= 40 else ""
            ax.plot(steps, heights, color=SERIES[i % len(SERIES)], marker=marker, markersize=3.5, label=name)
        best = _mark_best(ax, lines) if title == _SCORED else ""
        last = max(curve[-1][0] for curve in lines.values())
        ax.set_title(Wording("{title} over {steps:step}{best}", title=title, steps=last, best=best).of(language))
        ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.xaxis.set_major_formatter("{x:,.0f}")
    axes[-1].set_xlabel(Wording("optimizer step").of(language))


def _mark_best(ax: Axes, lines: Mapping[str, Curve]) -> str:
    """Mark the best F1; return its value and step for the title, where no curve can hide them."""
    found = [(value, -step) for step, value in lines.get(_SCORES[0], ())]
    if not found:
        return ""
    best, step = max(found)
    ax.plot([-step], [best], "o", color=INK, markersize=5, zorder=5)
    return Wording("; best F1 {best:.2f} at step {step:,}", best=best, step=-step)


def _f1_chart(result: ScoreResult, language: str) -> Chart:
    rows = sorted(result.metrics.categories.items(), key=lambda item: (-item[1].support, item[0]))[:MOST_ROWS]
    rows.sort(key=lambda item: (item[1].f1, item[1].support, item[0]))
    micro, total = result.metrics.micro.f1, len(result.metrics.categories)
    numbers = {"count": len(rows), "total": total, "unit": Wording(result.unit), "micro": 100 * micro}
    title = Wording("F1 of {count} of {total} categories, unit {unit}, micro F1 {micro:.2f}", **numbers)
    if len(rows) == total:
        title = Wording("F1 of {count:category}, unit {unit}, micro F1 {micro:.2f}", **numbers)
    draw = partial(_f1, rows=rows, micro=micro, language=language)
    return Chart(title.of(language), (8, 1.4 + 0.19 * len(rows)), draw)


def _f1(figure: Figure, rows: Sequence[tuple[str, ScoreRow]], micro: float, language: str) -> None:
    """Draw horizontal bars, the best on top, with F1 and support of each category at the right edge."""
    ax = figure.subplots()
    places = np.arange(len(rows))
    values = [100 * row.f1 for _, row in rows]
    ax.barh(places, values, height=0.72, color=[BLUE if row.support else GREY for _, row in rows])
    for place, (_, row) in enumerate(rows):
        inside: Any = {"va": "center", "ha": "right", "fontsize": 7.5, "in_layout": False}  # no extra room
        ax.text(109, place, f"{100 * row.f1:.1f}", **inside)
        ax.text(119, place, f"{row.support:,}", color=FAINT, **inside)
    for right, heading in ((109, "F1"), (119, Wording("gold").of(language))):
        ax.text(right, len(rows) - 0.2, heading, va="bottom", ha="right", fontsize=7.5, color=FAINT)
    ax.axvline(100 * micro, color=ORANGE, linewidth=1.1, linestyle=(0, (4, 3)))
    ax.set_yticks(places, drawable_names([name for name, _ in rows]), fontsize=8)
    ax.set_ylim(-0.7, len(rows) - 0.3)
    ax.set_xlim(0, 120)
    ax.set_xticks(np.arange(0, 101, 20))
    ax.grid(visible=False, axis="y")
    ax.set_xlabel(Wording("F1 in per cent; dashed: micro average").of(language))


def _types(figure: Figure, result: ScoreResult, language: str) -> None:
    """Draw bars in the fixed order of error types, with count and share."""
    counts = {name: count.errors for name, count in result.errta.by_type.items()}
    total = sum(counts.values())
    ax = figure.subplots()
    places = np.arange(len(counts))[::-1]
    ax.barh(places, list(counts.values()), height=0.66, color=[ERROR_TYPES[name].colour for name in counts])
    for place, count in zip(places, counts.values(), strict=True):
        text = f"  {count:,} ({count / total:.1%})" if count else "  0"
        ax.text(count, place, text, va="center", fontsize=8.5)
    ax.set_yticks(places, [ERROR_TYPES[name].label.of(language) for name in counts])
    ax.set_xlim(0, max(counts.values()) * 1.16)
    ax.grid(visible=False, axis="y")
    ax.set_xlabel(Wording("errors").of(language))


def _by_primary(
    figure: Figure, result: ScoreResult, names: list[str], counts: npt.NDArray[np.int64], language: str
) -> None:
    """Draw a heat map of errors by primary and type; see `_heat`."""
    ax = figure.subplots()
    columns = [ERROR_TYPES[name].label.of(language) for name in result.errta.by_type]
    _heat(ax, counts, 7.5)
    ax.set_xticks(np.arange(len(columns)), columns, fontsize=8)
    ax.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False)
    ax.set_yticks(np.arange(len(names)), drawable_names(names))


def _confusion(figure: Figure, names: list[str], counts: npt.NDArray[np.int64], language: str) -> None:
    """Draw a heat map of gold x predicted categories without the diagonal: only confusions."""
    from matplotlib.patches import Rectangle

    ax = figure.subplots()
    _heat(ax, counts, 7)
    shown = drawable_names(names)
    ax.set_xticks(np.arange(len(names)), shown, rotation=45, ha="right", rotation_mode="anchor")
    ax.set_yticks(np.arange(len(names)), shown)
    for i in range(len(names)):  # the diagonal has no confusions
        ax.add_patch(Rectangle((i - 0.5, i - 0.5), 1, 1, facecolor="#eceef1", edgecolor="none"))
    ax.set_xlabel(Wording("predicted category").of(language))
    ax.set_ylabel(Wording("gold category").of(language))


def _heat(ax: Axes, counts: npt.NDArray[np.int64], size: float) -> None:
    """Draw cells in shades of blue with their counts; cells with 0 are white and empty.

    The colour follows the square root of the count, so that small counts are visible beside large ones.
    """
    from matplotlib.colors import LinearSegmentedColormap

    shades = LinearSegmentedColormap.from_list("shades", ["#ffffff", "#cfe3f1", "#5ba3d0", "#0072B2", "#00395a"])
    strength = np.sqrt(counts / max(1, int(counts.max())))
    ax.imshow(strength, cmap=shades, vmin=0, vmax=1, aspect="auto")
    for row, column in np.argwhere(counts > 0):
        colour = "white" if strength[row, column] > 0.55 else INK
        text = f"{counts[row, column]:,}"
        ax.text(column, row, text, ha="center", va="center", fontsize=size, color=colour, in_layout=False)
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    rows, columns = counts.shape
    # two collections of lines are faster than ticks at every border, which would each have a label and a marker
    border: Any = {"colors": "#f0f1f4", "linewidths": 0.8, "zorder": 0.9}
    ax.vlines(np.arange(columns + 1) - 0.5, -0.5, rows - 0.5, **border)
    ax.hlines(np.arange(rows + 1) - 0.5, -0.5, columns - 0.5, **border)


def render_run_page(
    result: ScoreResult,
    tables: Mapping[str, Table],
    facts: RunFacts,
    curves: Mapping[str, Curve],
    errta: ErrtaConfig,
    language: str = "en",
) -> str:
    """Write the report.

    Args:
        result: what `scoring.scorer.score_loaded` gave.
        tables: what `build_run_tables` made of it.
        facts: further facts about the run.
        curves: (step, value) pairs by metric; may be empty.
        errta: says how many examples per type the page contains.
        language: zh | en.
    """
    panels = _curve_panels(curves)
    values = {
        "facts": facts,
        "key_numbers": _key_numbers(result),
        "signature": result.signature,
        "identity": _identity(result),
        "has_levels": result.has_levels,
        "has_scores": bool(result.calibration),
        "curves": Chart("", (8, 5), partial(_curves, panels=panels, language=language)) if panels else None,
        "last_values": _last_values(panels).of(language),
    }
    data = _data(result, tables, facts, errta)
    scripts = ("page.js", "heat.js", "run.js")
    return page.render_page("run.html", "report", facts.name, facts.created, values, data, scripts, language)


def _key_numbers(result: ScoreResult) -> list[tuple[str, str, str]]:
    """Return (title, value, note) of the key numbers; the note is an interval if there is one."""
    metrics, parse = result.metrics, result.parse
    notes = {name: f"{low:.2%} – {high:.2%}" for name, (low, high) in metrics.intervals.items()}
    other = []
    for unit, scores in result.units.items():
        if unit != metrics.unit:
            bounds = " – ".join(f"{bound:.2%}" for bound in scores.intervals.get("micro.f1", ()))
            other.append((Wording("F1 by {unit}", unit=Wording(unit)), f"{scores.micro.f1:.2%}", bounds))
    own = Wording(metrics.unit)
    relaxed = (Wording("Relaxed F1"), f"{metrics.relaxed.f1:.2%}", Wording("micro, primary category only"))
    wrong = {"wrong": result.errta.with_errors, "read": result.errta.read}
    mended = {"repaired": parse.repaired, "sentences": parse.sentences}
    return [
        (
            Wording("Micro F1 by {unit}", unit=own),
            f"{metrics.micro.f1:.2%}",
            notes.get("micro.f1", Wording("unit: {unit}", unit=own)),
        ),
        (Wording("Precision"), f"{metrics.micro.precision:.2%}", notes.get("micro.precision", "")),
        (Wording("Recall"), f"{metrics.micro.recall:.2%}", notes.get("micro.recall", "")),
        (Wording("Macro F1"), f"{metrics.macro.f1:.2%}", notes.get("macro.f1", "")),
        *other,
        *([relaxed] if result.has_levels else []),
        (Wording("Entities in gold"), f"{metrics.micro.support:,}", Wording("{found:,} found", found=metrics.micro.tp)),
        (Wording("Errors"), f"{len(result.errta.errors):,}", Wording("in {wrong:,} of {read:sentence}", **wrong)),
        (
            Wording("Unreadable answers"),
            f"{parse.failed:,}",
            Wording("{repaired:,} repaired, of {sentences:,}", **mended),
        ),
    ]


def _identity(result: ScoreResult) -> str:
    """Return how many sentences count, that errors account for all false negatives and positives, and how sure it is.

    That they do was checked when they were sorted (`scoring.errta.assemble`).
    """
    errta, metrics, parse = result.errta, result.metrics, result.parse
    units = Wording("{fn:false negative} and {fp:false positive}", fn=errta.fn, fp=errta.fp)
    parts = []
    if min(parse.scored, errta.read) < parse.sentences:
        parts.append(
            Wording(
                "Scored: {scored:,} of {sentences:sentence}; errors sorted in {read:,}. The others are dropped by the "
                "rules that the signature names, so scores and errors may count different entities.",
                scored=parse.scored, sentences=parse.sentences, read=errta.read,
            )
        )  # fmt: skip
    parts.append(
        Wording(
            "Identity checked: the units of the sorted errors add up to {units} (ERRTA {mode}, unit {unit}).",
            units=units, mode=errta.mode, unit=Wording(errta.unit),
        )
    )  # fmt: skip
    if metrics.resamples:
        parts.append(
            Wording(
                "Ranges are {confidence:g}% confidence intervals from {resamples:,} resamples over {resampled}.",
                confidence=100 * metrics.confidence, resamples=metrics.resamples, resampled=Wording(metrics.resampled),
            )
        )  # fmt: skip
    if count := len(errta.crashes):
        parts.append(
            Wording(
                "The official scripts stop on {count:sentence}, left out of the error counts.",
                count=count,
            )
        )  # fmt: skip
    if count := errta.greedy_groups:
        parts.append(
            Wording("{count:,} groups of overlapping entities were too large for the exact matching.", count=count)
        )
    return Wording.joined(" ", parts)


def _last_values(panels: Panels) -> Wording:
    """Return the caption of the learning curves with the last value of each."""
    ends = []
    for _, lines in panels:
        for name, values in lines.items():
            finite = [value for _, value in values if math.isfinite(value)]
            ends.append(f"{name} {finite[-1]:.4g}" if finite else Wording("{name} not finite", name=name))
    return Wording("Scores and loss over optimizer steps; last values: {values}", values=Wording.joined(", ", ends))


def _data(result: ScoreResult, tables: Mapping[str, Table], facts: RunFacts, errta: ErrtaConfig) -> dict[str, Any]:
    """Return the data for the script of the page."""
    primaries, by_primary = errors_by_primary(result)
    sentences, examples = _examples(result, errta.examples)
    errors = len(result.errta.errors)
    kept = []
    if errors and not examples:
        kept.append(
            Wording(
                "The page holds none of {errors:,} errors; errta.examples sets how many of each type.", errors=errors
            )
        )
    elif len(examples) < errors:
        kept.append(
            Wording(
                "Of all {errors:,} errors the page holds up to {most:,} of each type, and one at least of each cell "
                "of the heat maps; errta.examples sets how many.",
                most=errta.examples, errors=errors,
            )
        )  # fmt: skip
    if any(len(entity) == 2 for _, _, gold, said in sentences for entity in (*gold, *said)):
        kept.append(Wording("A surface without offsets is marked where it first stands."))
    return {
        "types": [{"name": name, "colour": ERROR_TYPES[name].colour} for name in result.errta.by_type],
        "primary": dict(sorted(result.primary.items())),
        "has_levels": result.has_levels,
        "tables": _page_tables(result, tables, facts),
        "heat": {"names": primaries, "counts": by_primary.tolist()},
        "confusion": _confused_pairs(result),
        "most_confused": MOST_CONFUSED,
        "sentences": sentences,
        "examples": examples,
        "kept": Wording.joined(" ", kept),
    }


def _page_tables(result: ScoreResult, tables: Mapping[str, Table], facts: RunFacts) -> dict[str, Table]:
    """Return the tables for the page: all except examples, some with additional columns."""
    counts, suspects = tables["errta_counts"], tables["suspected_annotation"]
    title = Wording(
        "{errors:error} by type (ERRTA {mode}), and the false negatives (FN) and positives (FP) they account for. A "
        "click on a type shows its examples.",
        errors=len(result.errta.errors), mode=result.mode,
    )  # fmt: skip
    entries = [ERROR_TYPES[str(row[0])] for row in counts.rows]
    meanings = [Wording.both(entry.meaning, entry.chinese_meaning) for entry in entries]
    rows = [[*row, meaning] for row, meaning in zip(counts.rows, meanings, strict=True)]
    # a label cannot be judged without its sentence
    texts = [[*row, result.sentences[str(row[-1])].text] for row in suspects.rows]
    issues = ranked(facts.issues)
    left_out = ["examples", "errta_by_primary", *([] if result.has_levels else ["primaries"])]
    return {
        **{name: table for name, table in tables.items() if name not in left_out},
        "errta_counts": replace(counts, title=title, columns=[*counts.columns, *columns(TEXT, "meaning")], rows=rows),
        "suspected_annotation": replace(suspects, columns=[*suspects.columns, *columns(TEXT, "sentence")], rows=texts),
        "issues": Table(
            Wording("What readers and scorer could not take as it was, by code"),
            [*columns(TEXT, "code"), *columns(COUNT, "count"), *columns(TEXT, "meaning", "advice")],
            [[code, count, *explained(code)] for code, count in issues],
            empty=Wording("No issues."),
        ),
    }


def _confused_pairs(result: ScoreResult) -> dict[str, Any]:
    """Return the categories, the most confused first, and `[gold, predicted, count]` with indexes into them."""
    counts = count_confusions(result.errta.errors)
    names = _by_confusions(counts)
    place = {name: number for number, name in enumerate(names)}
    pairs = sorted([place[gold], place[predicted], count] for (gold, predicted), count in counts.items())
    return {"names": names, "pairs": pairs, "total": counts.total()}


def _examples(result: ScoreResult, per_type: int) -> tuple[list[Any], list[Any]]:
    """Return sentences `[id, text, gold, predicted]`, each once, and examples `[type, sentence, gold, predicted]`.

    Types and sentences of examples are indexes into their lists; gold and predicted of an example are indexes into the
    sentence's lists of entities, so that the page can mark the entities of this error among all others.
    """
    chosen = examples_of_cells(result.errta.errors, per_type)
    place: dict[str, int] = {}
    sentences: list[Any] = []
    examples: list[Any] = []
    for number, name in enumerate(result.errta.by_type):
        for error in chosen.get(name, []):
            if error.sentence_id not in place:
                place[error.sentence_id] = len(sentences)
                sentence = result.sentences[error.sentence_id]
                prediction = result.predictions.get(error.sentence_id)
                sides = sentence.entities, prediction.entities if prediction else []
                values = ([page.entity_values(entity) for entity in side] for side in sides)
                sentences.append([error.sentence_id, sentence.text, *values])
            _, _, gold, predicted = sentences[place[error.sentence_id]]
            marks = page.entity_places(error.gold, gold), page.entity_places(error.predicted, predicted)
            examples.append([number, place[error.sentence_id], *marks])
    return sentences, examples
