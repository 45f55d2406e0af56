"""The tables of a comparison, and what it comes to in words.

After the OmniNER2025 paper: precision, recall and F1 by primary and run (its Table 4), error counts with their change
(Table 5), precision, recall and F1 by run (Table 6); beside them the tests, gains and losses by category, every
sentence that became right or wrong, and the keys in which the runs' configurations differ. Where people's labels are
compared, Tables 4 and 6 have their mean and standard deviation beside the runs. `pages.sheets` prints them, the best of
the runs bold in both.

The same configurations with several seeds: mean and standard deviation of what was measured.

In: the overrides of each run of a sweep and its metrics (None where it failed). Runs that differ in nothing but `seed`
are one row of the table and one line of the figure. The standard deviation is that of a sample (n - 1): it says how
far one more run with another seed may lie off, not how sure the mean is; a single run has none.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

from omniner.records import Prediction
from omniner.report import annotator_tables
from omniner.report.tables import (
    CHANGE,
    COUNT,
    NONE,
    PERCENT,
    POINTS,
    SHARE,
    TEXT,
    Cell,
    P,
    Sheet,
    Table,
    shown,
    written,
)
from omniner.score import human
from omniner.score.comparison import RunComparison, Versus
from omniner.score.error_types import BLUE, ORANGE
from omniner.score.resampling import Difference
from omniner.score.results import ScoreResult, ScoreRow

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ALL = "all"  # the row of everything together


def verdicts(comparison: RunComparison) -> list[str]:
    """What the comparison comes to, one sentence or two per run, and one for the people."""
    lines = [_verdict(comparison, versus) for versus in comparison.versus]
    return [*lines, human_verdict(comparison)] if comparison.people else lines


def human_verdict(comparison: RunComparison) -> str:
    """How well people do, and how far each run is from that."""
    f1 = human.summarise_scores([result.metrics.micro.f1 for result in comparison.people.values()])
    runs = [f"{name} {shown(result.metrics.micro.f1 - f1.mean, POINTS)}" for name, result in comparison.results.items()]
    deviation = f", standard deviation {shown(f1.deviation, SHARE)}" if len(comparison.people) > 1 else ""
    return (
        f"{human.HUMAN} ({', '.join(comparison.people)}): mean F1 {shown(f1.mean, SHARE)}{deviation}; "
        f"points from it: {', '.join(runs)}."
    )


def _verdict(comparison: RunComparison, versus: Versus) -> str:
    settings, f1 = comparison.settings, versus.significance.figures["micro.f1"]
    errors = [_error_counts(comparison.results[name])[ALL] for name in (comparison.baseline, versus.name)]
    found = "significant" if versus.p_corrected < settings.alpha else "not significant"
    corrected = f" ({shown(versus.p_corrected, P)} after Holm over the runs)" if len(comparison.versus) > 1 else ""
    return (
        f"{versus.name} against {comparison.baseline}: F1 {shown(f1.baseline, SHARE)} -> {shown(f1.value, SHARE)}, "
        f"{shown(f1.difference, POINTS)} points [{shown(f1.low, POINTS)}, {shown(f1.high, POINTS)}], "
        f"p {shown(f1.p_randomisation, P)} by randomisation{corrected}, {shown(f1.p_bootstrap, P)} by bootstrap: "
        f"{found} at {settings.alpha:g}. Errors {errors[0]:,} -> {errors[1]:,}; "
        f"{len(versus.gained):,} sentences became right, {len(versus.lost):,} wrong."
    )


def build(comparison: RunComparison, configs: Mapping[str, Sequence[Any]]) -> dict[str, Sheet]:
    """All tables.

    Args:
        comparison: what `comparison.compare_runs` gave.
        configs: keys of the runs' configurations that are not the same for all, with the value of each run.
    """
    people = (
        {"human": annotator_tables.human_sheet(comparison.people, comparison.sentences)} if comparison.people else {}
    )
    return {
        "models": _models(comparison),
        **people,
        "errors": _errors(comparison),
        "primaries": _primaries(comparison),
        "tests": _tests(comparison),
        "categories": _categories(comparison),
        "flips": _flips(comparison),
        "config": _config(comparison, configs),
    }


def _sheet(title: str, columns: Sequence[tuple[str, str]], rows: list[list[Cell]]) -> Sheet:
    """Columns as (name, kind)."""
    return Sheet(title, Table([name for name, _ in columns], rows), [kind for _, kind in columns])


def _models(comparison: RunComparison) -> Sheet:
    """The paper's Table 6: every run, and its difference from the first."""
    confidence = f"{100 * comparison.settings.confidence:g}%"
    columns = [("run", TEXT), ("precision", SHARE), ("recall", SHARE), ("f1", SHARE), ("macro_f1", SHARE)]
    columns += [(f"{name}_deviation", SHARE) for name in (*human.SCORES, "macro_f1")] if comparison.people else []
    columns += [(f"{name}_difference", POINTS) for name in ("precision", "recall", "f1")]
    columns += [("low", POINTS), ("high", POINTS), ("p_randomisation", P), ("p_bootstrap", P), ("p_corrected", P)]
    of = {versus.name: versus for versus in comparison.versus}
    rows: list[list[Cell]] = []
    for name, result in comparison.results.items():
        micro, tail = result.metrics.micro, [NONE] * 8
        row: list[Cell] = [name, micro.precision, micro.recall, micro.f1, result.metrics.macro.f1]
        row += [NONE] * 4 if comparison.people else []
        rows.append([*row, *(_model_differences(of[name]) if name in of else tail)])
    title = f"Precision, recall and F1 by run, difference from {comparison.baseline}; {confidence} interval of F1's"
    runs = range(len(rows))
    best = {place for column in range(1, 5) for place in _best(rows, [(row, column) for row in runs])}
    if comparison.people:
        rows.append(_human_row(comparison))
        title += f"; {human.HUMAN}: mean and standard deviation of {len(comparison.people)} people"
    return replace(_sheet(title, columns, rows), best=frozenset(best))


def _best(rows: Sequence[Sequence[Cell]], places: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Where the highest of the values at these places (row, column) stands; nowhere if all are the same."""
    values = {place: value for place in places if isinstance(value := rows[place[0]][place[1]], float)}
    if len(set(values.values())) < 2:
        return []
    return [place for place, value in values.items() if value == max(values.values())]


def _human_row(comparison: RunComparison) -> list[Cell]:
    """The mean of the people in the table of runs; their differences from the first run are not tested."""
    people = [result.metrics for result in comparison.people.values()]
    base = comparison.results[comparison.baseline].metrics
    spreads = [human.summarise_scores([getattr(metrics.micro, name) for metrics in people]) for name in human.SCORES]
    differences = [found.mean - getattr(base.micro, name) for found, name in zip(spreads, human.SCORES, strict=True)]
    spreads.append(human.summarise_scores([metrics.macro.f1 for metrics in people]))
    deviations: list[Cell] = [found.deviation if len(people) > 1 else NONE for found in spreads]
    return [human.HUMAN, *(found.mean for found in spreads), *deviations, *differences, *[NONE] * 5]


def _model_differences(versus: Versus) -> list[Cell]:
    figures = versus.significance.figures
    f1 = figures["micro.f1"]
    differences = [figures[f"micro.{name}"].difference for name in ("precision", "recall", "f1")]
    return [*differences, f1.low, f1.high, f1.p_randomisation, f1.p_bootstrap, versus.p_corrected]


def _errors(comparison: RunComparison) -> Sheet:
    """The paper's Table 5: errors of each type, and their change."""
    counts = {name: _error_counts(result) for name, result in comparison.results.items()}
    before = counts[comparison.baseline]
    columns = [("type", TEXT), (comparison.baseline, COUNT)]
    for versus in comparison.versus:
        columns += [(versus.name, COUNT), (f"{versus.name}: change", CHANGE), (f"{versus.name}: change in %", PERCENT)]
    rows: list[list[Cell]] = []
    for kind, count in before.items():
        row: list[Cell] = [kind, count]
        for versus in comparison.versus:
            after = counts[versus.name][kind]
            row += [after, after - count, 100 * (after - count) / count if count else NONE]
        rows.append(row)
    mode = comparison.results[comparison.baseline].mode
    return _sheet(f"Errors by type (ERRTA {mode}) and their change from {comparison.baseline}", columns, rows)


def _error_counts(result: ScoreResult) -> dict[str, int]:
    counts = {name: count.errors for name, count in result.errta.by_type.items()}
    return {**counts, ALL: sum(counts.values())}


def _primaries(comparison: RunComparison) -> Sheet:
    """The paper's Table 4: precision, recall and F1 of each primary, the whole category right."""
    columns = [("primary", TEXT), ("gold", COUNT)]
    columns += [(f"{name}: {what}", SHARE) for name in comparison.results for what in ("precision", "recall", "f1")]
    names = sorted({name for result in comparison.results.values() for name in result.metrics.primaries})
    metrics = [result.metrics for result in comparison.results.values()]
    lines: list[tuple[str, list[ScoreRow | None]]] = [
        (name, [m.primaries[name].strict if name in m.primaries else None for m in metrics]) for name in names
    ]
    lines.append((ALL, [m.micro for m in metrics]))
    people = _human_cells(comparison)
    if people:
        columns += [(f"{human.HUMAN}: {name}{what}", SHARE) for name in human.SCORES for what in ("", "_deviation")]
    rows: list[list[Cell]] = []
    for place, (name, found) in enumerate(lines):
        support = max(row.support for row in found if row is not None)
        scores: list[Cell] = [cell for row in found for cell in (row[:3] if row is not None else [NONE] * 3)]
        if people:  # the last line is everything together, which a primary may be called, too
            scores += people.get(name if place < len(names) else human.MICRO, [NONE] * 6)
        rows.append([name, support, *scores])
    runs = len(comparison.results)
    best = (
        _best(rows, [(row, 2 + 3 * run + score) for run in range(runs)])
        for row in range(len(rows))
        for score in range(3)
    )
    sheet = _sheet("Precision, recall and F1 by primary and run", columns, rows)
    return replace(sheet, best=frozenset(chain.from_iterable(best)))


def _human_cells(comparison: RunComparison) -> dict[str, list[Cell]]:
    """Mean and standard deviation of precision, recall and F1 over people, by primary; empty without people."""
    found: dict[str, list[Cell]] = {}
    for name, rows in human.human_rows(comparison.people).items() if comparison.people else ():
        spreads = [human.summarise_scores([getattr(row, score) for row in rows.values()]) for score in human.SCORES]
        found[name] = [cell for one in spreads for cell in (one.mean, one.deviation if len(rows) > 1 else NONE)]
    return found


def _tests(comparison: RunComparison) -> Sheet:
    columns = [("run", TEXT), ("figure", TEXT), *_DIFFERENCE, ("p_bootstrap", P)]
    rows: list[list[Cell]] = [
        [versus.name, name, *_difference_cells(row), row.p_bootstrap]
        for versus in comparison.versus
        for name, row in versus.significance.figures.items()
    ]
    return _sheet(f"Differences from {comparison.baseline} and their significance", columns, rows)


_DIFFERENCE = [
    ("baseline", SHARE),
    ("value", SHARE),
    ("difference", POINTS),
    ("low", POINTS),
    ("high", POINTS),
    ("p_randomisation", P),
]


def _difference_cells(row: Difference) -> list[Cell]:
    return [row.baseline, row.value, row.difference, row.low, row.high, row.p_randomisation]


_NOTHING = ScoreRow(0.0, 0.0, 0.0, 0, 0, 0, 0)


def _categories(comparison: RunComparison) -> Sheet:
    """Gains and losses of F1 by category, the largest gain first."""
    columns = [("run", TEXT), ("category", TEXT), ("gold", COUNT), *_DIFFERENCE, ("p_corrected", P)]
    columns += [(f"{name}_change", CHANGE) for name in ("tp", "fp", "fn")]
    before = comparison.results[comparison.baseline].metrics.categories
    rows: list[list[Cell]] = []
    for versus in comparison.versus:
        after = comparison.results[versus.name].metrics.categories
        found = sorted(versus.significance.categories.items(), key=lambda item: (-item[1].difference, item[0]))
        for name, row in found:
            old, new = (side.get(name, _NOTHING) for side in (before, after))
            changes = [new.tp - old.tp, new.fp - old.fp, new.fn - old.fn]
            support = max(old.support, new.support)
            corrected = versus.significance.corrected[name]
            rows.append([versus.name, name, support, *_difference_cells(row), corrected, *changes])
    return _sheet(f"F1 by category: gains and losses against {comparison.baseline}", columns, rows)


def _flips(comparison: RunComparison) -> Sheet:
    """Every sentence that became right or wrong."""
    columns = [(name, TEXT) for name in ("run", "change", "id", "sentence", "gold", "baseline", "run_answer")]
    before = comparison.results[comparison.baseline]
    rows: list[list[Cell]] = []
    for versus in comparison.versus:
        after = comparison.results[versus.name]
        for change, names in (("gained", versus.gained), ("lost", versus.lost)):
            for name in names:
                gold = before.sentences[name]
                answers = [_answer(result.predictions.get(name)) for result in (before, after)]
                rows.append([versus.name, change, name, gold.text, written(gold.entities), *answers])
    title = f"Sentences that {comparison.baseline} has wrong and the run right (gained), or the other way round (lost)"
    return _sheet(title, columns, rows)


def _answer(prediction: Prediction | None) -> str:
    return written(prediction.entities) if prediction is not None else NONE


def _config(comparison: RunComparison, configs: Mapping[str, Sequence[Any]]) -> Sheet:
    columns = [(name, TEXT) for name in ("key", *comparison.results)]
    rows: list[list[Cell]] = [[key, *map(str, values)] for key, values in configs.items()]
    return _sheet("Configuration keys that differ", columns, rows)


METRICS = (
    "test/f1",
    "test/micro_precision",
    "test/micro_recall",
    "test/macro_f1",
    "test/relaxed_f1",
    "parse/failed",
    "val/best_f1",
)
SHOWN = "test/f1"  # in the figure
BLANK = ""  # where there is nothing to compute
LARGEST = 200  # configurations of the figure, the best; a longer image cannot be drawn or looked at
LABEL = 60  # characters of a configuration in text and figure


class Result(NamedTuple):
    """One run: what sets its configuration apart (empty: nothing but the seed), and its metrics; None = it failed."""

    label: str
    metrics: Mapping[str, float] | None


def apart(runs: Sequence[Sequence[str]], without: Sequence[str]) -> list[str]:
    """What sets each run apart: those of its overrides that are not the same in all runs, `without` these keys."""
    given = [dict(override.partition("=")[::2] for override in overrides) for overrides in runs]
    keys = dict.fromkeys(key for item in given for key in item if key not in without)
    varying = [key for key in keys if len({item.get(key) for item in given}) > 1]
    return [" ".join(f"{key}={item[key]}" for key in varying if key in item) for item in given]


def results(runs: Sequence[tuple[Sequence[str], Mapping[str, float] | None]]) -> list[Result]:
    """Runs given as overrides and metrics, named by what sets their configurations apart: all but the seed."""
    labels = apart([overrides for overrides, _ in runs], ("seed",))
    return [Result(label, metrics) for label, (_, metrics) in zip(labels, runs, strict=True)]


def _groups(runs: Sequence[Result]) -> dict[str, list[Mapping[str, float]]]:
    groups: dict[str, list[Mapping[str, float]]] = {}
    for run in runs:
        group = groups.setdefault(run.label, [])
        if run.metrics is not None:
            group.append(run.metrics)
    return groups


def summary(runs: Sequence[Result], name: str) -> Table:
    """One row per configuration: runs that finished and failed, then mean and standard deviation of each metric.

    Args:
        runs: of a sweep.
        name: stands for a configuration that nothing sets apart.
    """
    names = [metric for metric in METRICS if any(run.metrics and metric in run.metrics for run in runs)]
    columns = ["configuration", "n", "failed", *(f"{m} {what}" for m in names for what in ("mean", "sd"))]
    table = Table(columns, [])
    for label, finished in _groups(runs).items():
        failed = sum(run.label == label and run.metrics is None for run in runs)
        row: list[Cell] = [label or name, len(finished), failed]
        for metric in names:
            values = [metrics[metric] for metrics in finished if metric in metrics]
            row.append(statistics.fmean(values) if values else BLANK)
            row.append(statistics.stdev(values) if len(values) > 1 else BLANK)
        table.rows.append(row)
    return table


def text(table: Table) -> list[str]:
    """The table as lines for a terminal: `mean ± sd`, rates in per cent."""
    metrics = [column.removesuffix(" mean") for column in table.columns[3::2]]
    heads = ["configuration", "n", "failed", *metrics]
    body = []
    for row in table.rows:
        pairs = zip(metrics, row[3::2], row[4::2], strict=True)
        body.append([str(row[0])[:LABEL], str(row[1]), str(row[2]), *(_cell(*pair) for pair in pairs)])
    widths = [max(len(line[i]) for line in [heads, *body]) for i in range(len(heads))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in [heads, *body]
    ]


def _cell(metric: str, mean: object, deviation: object) -> str:
    if not isinstance(mean, float):
        return "-"
    factor = 1 if metric.startswith("parse/") else 100
    spread = f" ± {deviation * factor:.2f}" if isinstance(deviation, float) else ""
    return f"{mean * factor:.2f}{spread}"


def figure(runs: Sequence[Result], name: str) -> bytes | None:
    """F1 on test, a line per configuration: each seed a point, the mean with one standard deviation; None: no F1."""
    from omniner.report.figures import png

    groups = {
        label or name: values
        for label, finished in _groups(runs).items()
        if (values := [metrics[SHOWN] for metrics in finished if SHOWN in metrics])
    }
    if not groups:
        return None
    if len(groups) > LARGEST:
        best = sorted(groups, key=lambda label: -statistics.fmean(groups[label]))[:LARGEST]
        groups = {label: groups[label] for label in best}
    return png((8, 1.2 + 0.35 * len(groups)), lambda figure: _draw(figure, groups))


def _draw(figure: Figure, groups: Mapping[str, Sequence[float]]) -> None:
    ax = figure.subplots()
    for row, values in enumerate(groups.values()):
        deviation = statistics.stdev(values) if len(values) > 1 else 0.0
        ax.errorbar(statistics.fmean(values), row, xerr=deviation, fmt="D", color=BLUE, capsize=4, zorder=3)
        ax.plot(values, [row] * len(values), "o", color=ORANGE, markersize=3.5, alpha=0.8, zorder=4)
    ax.set_yticks(range(len(groups)), [label[:LABEL] for label in groups])
    ax.set_ylim(len(groups) - 0.5, -0.5)
    ax.set_xlabel("F1 on test")
    ax.set_title(f"F1 of {sum(map(len, groups.values()))} runs: seeds (points), mean ± standard deviation")
