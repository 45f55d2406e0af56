"""Build the tables and the summary of a comparison of runs, and the table and figure of a sweep over seeds.

Tables as in the OmniNER2025 paper: precision, recall and F1 by primary and run (its Table 4), error counts with their
change (Table 5), and precision, recall and F1 by run (Table 6). Further tables show the tests, gains and losses by
category, every sentence that became right or wrong, and the keys in which the runs' configurations differ. If
annotators are compared with the runs, Tables 4 and 6 have their mean and standard deviation. The best run is bold in
both.

Runs of a sweep that differ only in `seed` are one row of its table and one line of its figure. The standard deviation
is that of a sample (n - 1): it shows how far another run with a new seed may deviate, not how precise the mean is; a
single run has none.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

from omniner.records import Prediction
from omniner.report.curation_tables import build_human_table
from omniner.report.figures import MOST_ROWS, Chart
from omniner.report.tables import (
    CHANGE,
    COUNT,
    FIGURE,
    MARKDOWN_ROWS,
    NONE,
    P_VALUE,
    PERCENT,
    POINTS,
    SHARE,
    TEXT,
    Cell,
    Column,
    Table,
    columns,
    entities_text,
    escape_markdown,
    format_cell,
)
from omniner.scoring.comparison import HUMAN, MICRO, SCORES, RunComparison, TestedRun, human_rows, summarise_scores
from omniner.scoring.error_types import BLUE, ORANGE
from omniner.scoring.metrics import ScoreResult, ScoreRow
from omniner.scoring.resampling import Difference
from omniner.wording import Wording, counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ALL = Wording("all")  # name of the row with the totals

METRICS = (
    "test/f1",
    "test/micro_precision",
    "test/micro_recall",
    "test/macro_f1",
    "test/relaxed_f1",
    "parse/failed",
    "val/best_f1",
)
SHOWN = "test/f1"  # the metric in the figure
CHOSEN_BY = ("val/best_f1", SHOWN)  # metrics that decide which configuration is the best, the first available one
_COUNTED = "parse/"  # prefix of metrics that are counts, not shares
LABEL = 60  # characters of a configuration's label in text and figure
_KEY = re.compile(r"(?<!\S)\+*([\w.@/-]+)(?==)")  # a key in such a label
_DIFFERENCE = [
    *columns(SHARE, "baseline", "value"),
    *columns(POINTS, "difference", "low", "high"),
    *columns(P_VALUE, "p_randomisation"),
]
_NOTHING = ScoreRow(0.0, 0.0, 0.0, 0, 0, 0, 0)


def comparison_summary(comparison: RunComparison) -> list[str]:
    """Return the result in words: one or two sentences per run, and one for the annotators."""
    lines = [_verdict(comparison, run) for run in comparison.tested]
    return [*lines, human_summary(comparison)] if comparison.annotators else lines


def human_summary(comparison: RunComparison) -> str:
    """Return a sentence with the mean F1 of the annotators, and the difference of each run from it."""
    f1 = summarise_scores([result.metrics.micro.f1 for result in comparison.annotators.values()])
    figures = [Wording("mean F1 {value}", value=format_cell(f1.mean, SHARE))]
    if len(comparison.annotators) > 1:
        figures.append(Wording("standard deviation {value}", value=format_cell(f1.deviation, SHARE)))
    return Wording(
        "{human} ({names}): {figures}; points from it: {runs}.",
        human=Wording(HUMAN),
        names=Wording.joined(", ", comparison.annotators),
        figures=Wording.joined(", ", figures),
        runs=Wording.joined(
            ", ",
            (
                f"{name} {format_cell(result.metrics.micro.f1 - f1.mean, POINTS)}"
                for name, result in comparison.results.items()
            ),
        ),
    )


def _verdict(comparison: RunComparison, run: TestedRun) -> str:
    settings, f1 = comparison.settings, run.significance.figures["micro.f1"]
    errors = [_error_counts(comparison.results[name])[ALL] for name in (comparison.baseline, run.name)]
    found = Wording("significant") if run.p_corrected < settings.alpha else Wording("not significant")
    corrected = format_cell(run.p_corrected, P_VALUE)
    holm = Wording(" ({p} after Holm over the runs)", p=corrected) if len(comparison.tested) > 1 else ""
    before, after = (format_cell(value, SHARE) for value in (f1.baseline, f1.value))
    points, low, high = (format_cell(value, POINTS) for value in (f1.difference, f1.low, f1.high))
    p_randomisation, p_bootstrap = (format_cell(value, P_VALUE) for value in (f1.p_randomisation, f1.p_bootstrap))
    return Wording(
        "{run} against {baseline}: F1 {before} -> {after}, {points} points [{low}, {high}], p {p_randomisation} by "
        "randomisation{holm}, {p_bootstrap} by bootstrap: {found} at {alpha:g}. Errors {errors_before:,} -> "
        "{errors_after:,}; {gained:sentence} became right, {lost:,} wrong.",
        run=run.name, baseline=comparison.baseline, before=before, after=after, points=points, low=low, high=high,
        p_randomisation=p_randomisation, holm=holm, p_bootstrap=p_bootstrap, found=found, alpha=settings.alpha,
        errors_before=errors[0], errors_after=errors[1], gained=len(run.gained), lost=len(run.lost),
    )  # fmt: skip


def build_comparison_tables(comparison: RunComparison, configs: Mapping[str, Sequence[Any]]) -> dict[str, Table]:
    """Return all tables by name.

    Args:
        comparison: result of `comparison.compare_runs`.
        configs: configuration keys that differ between runs, with the value of each run.
    """
    human_table = build_human_table(comparison.annotators, comparison.sentences) if comparison.annotators else None
    return {
        "models": _models(comparison),
        **({"human": human_table} if human_table else {}),
        "errors": _errors(comparison),
        "primaries": _primaries(comparison),
        "tests": _tests(comparison),
        "categories": _categories(comparison),
        "flips": _flips(comparison),
        "config": _config(comparison, configs),
    }


def _models(comparison: RunComparison) -> Table:
    """Build the paper's Table 6: every run, and its difference from the first."""
    confidence = f"{100 * comparison.settings.confidence:g}%"
    heads = [*columns(TEXT, "run"), *columns(SHARE, *SCORES, "macro_f1")]
    if comparison.annotators:
        heads += columns(SHARE, *(f"{name}_deviation" for name in (*SCORES, "macro_f1")))
    heads += columns(POINTS, *(f"{name}_difference" for name in SCORES), "low", "high")
    heads += columns(P_VALUE, "p_randomisation", "p_bootstrap", "p_corrected")
    of = {run.name: run for run in comparison.tested}
    rows: list[list[Cell]] = []
    for name, result in comparison.results.items():
        micro, tail = result.metrics.micro, [NONE] * 8
        row: list[Cell] = [name, micro.precision, micro.recall, micro.f1, result.metrics.macro.f1]
        row += [NONE] * 4 if comparison.annotators else []
        rows.append([*row, *(_model_differences(of[name]) if name in of else tail)])
    title = Wording(
        "Precision, recall and F1 by run, difference from {baseline}; {confidence} interval of F1's",
        baseline=comparison.baseline, confidence=confidence,
    )  # fmt: skip
    runs = range(len(rows))
    best = {place for column in range(1, 5) for place in _best(rows, [(row, column) for row in runs])}
    if comparison.annotators:
        rows.append(_human_row(comparison))
        title = Wording(
            "{title}; {human}: mean and standard deviation of {count} people",
            title=title, human=Wording(HUMAN), count=len(comparison.annotators),
        )  # fmt: skip
    return Table(title, heads, rows, frozenset(best))


def _best(rows: Sequence[Sequence[Cell]], places: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the cells (row, column) with the highest value of the given cells; empty if all values are equal."""
    values = {place: value for place in places if isinstance(value := rows[place[0]][place[1]], float)}
    if len(set(values.values())) < 2:
        return []
    return [place for place, value in values.items() if value == max(values.values())]


def _human_row(comparison: RunComparison) -> list[Cell]:
    """Return the row with the mean of the annotators; their differences from the first run are not tested."""
    people = [result.metrics for result in comparison.annotators.values()]
    base = comparison.results[comparison.baseline].metrics
    spreads = [summarise_scores([getattr(metrics.micro, name) for metrics in people]) for name in SCORES]
    differences = [found.mean - getattr(base.micro, name) for found, name in zip(spreads, SCORES, strict=True)]
    spreads.append(summarise_scores([metrics.macro.f1 for metrics in people]))
    deviations: list[Cell] = [found.deviation if len(people) > 1 else NONE for found in spreads]
    return [Wording(HUMAN), *(found.mean for found in spreads), *deviations, *differences, *[NONE] * 5]


def _model_differences(run: TestedRun) -> list[Cell]:
    figures = run.significance.figures
    f1 = figures["micro.f1"]
    differences = [figures[f"micro.{name}"].difference for name in SCORES]
    return [*differences, f1.low, f1.high, f1.p_randomisation, f1.p_bootstrap, run.p_corrected]


def _errors(comparison: RunComparison) -> Table:
    """Build the paper's Table 5: errors of each type, and their change."""
    counts = {name: _error_counts(result) for name, result in comparison.results.items()}
    before = counts[comparison.baseline]
    heads = [*columns(TEXT, "type"), Column(comparison.baseline, COUNT)]
    for run in comparison.tested:
        heads += [Column(run.name, COUNT), Column(Wording("{run}: change", run=run.name), CHANGE)]
        heads.append(Column(Wording("{run}: change in %", run=run.name), PERCENT))
    rows: list[list[Cell]] = []
    for kind, count in before.items():
        row: list[Cell] = [kind, count]
        for run in comparison.tested:
            after = counts[run.name][kind]
            row += [after, after - count, 100 * (after - count) / count if count else NONE]
        rows.append(row)
    mode = comparison.results[comparison.baseline].mode
    title = Wording(
        "Errors by type (ERRTA {mode}) and their change from {baseline}", mode=mode, baseline=comparison.baseline
    )
    return Table(title, heads, rows)


def _error_counts(result: ScoreResult) -> dict[str, int]:
    counts = {name: count.errors for name, count in result.errta.by_type.items()}
    return {**counts, ALL: sum(counts.values())}


def _primaries(comparison: RunComparison) -> Table:
    """Build the paper's Table 4: precision, recall and F1 of each primary, where the whole category must be right.

    If categories have no primaries, the rows are the categories.
    """
    level = "primary" if comparison.has_levels else "category"
    heads = [*columns(TEXT, level), *columns(COUNT, "gold")]
    named = ((name, Wording(score)) for name in comparison.results for score in SCORES)
    heads += columns(SHARE, *(Wording("{run}: {score}", run=name, score=score) for name, score in named))
    names = sorted({name for result in comparison.results.values() for name in result.metrics.primaries})
    metrics = [result.metrics for result in comparison.results.values()]
    lines: list[tuple[str, list[ScoreRow | None]]] = [
        (name, [m.primaries[name].strict if name in m.primaries else None for m in metrics]) for name in names
    ]
    lines.append((ALL, [m.micro for m in metrics]))
    people = _human_cells(comparison)
    if people:
        both = (Wording(f"{name}{what}") for name in SCORES for what in ("", "_deviation"))
        heads += columns(SHARE, *(Wording("{run}: {score}", run=Wording(HUMAN), score=score) for score in both))
    rows: list[list[Cell]] = []
    for place, (name, found) in enumerate(lines):
        support = max(row.support for row in found if row is not None)
        scores: list[Cell] = [cell for row in found for cell in (row[:3] if row is not None else [NONE] * 3)]
        if people:  # the last line is the total; a primary may have the same name
            scores += people.get(name if place < len(names) else MICRO, [NONE] * 6)
        rows.append([name, support, *scores])
    runs = len(comparison.results)
    best = (
        _best(rows, [(row, 2 + 3 * run + score) for run in range(runs)])
        for row in range(len(rows))
        for score in range(3)
    )
    title = Wording("Precision, recall and F1 by {level} and run", level=Wording(level))
    return Table(title, heads, rows, frozenset(chain.from_iterable(best)), Wording("No entities."))


def _human_cells(comparison: RunComparison) -> dict[str, list[Cell]]:
    """Return mean and standard deviation of precision, recall and F1 over annotators, by primary; empty without any."""
    found: dict[str, list[Cell]] = {}
    for name, rows in human_rows(comparison.annotators).items() if comparison.annotators else ():
        spreads = [summarise_scores([getattr(row, score) for row in rows.values()]) for score in SCORES]
        found[name] = [cell for one in spreads for cell in (one.mean, one.deviation if len(rows) > 1 else NONE)]
    return found


def _tests(comparison: RunComparison) -> Table:
    heads = [*columns(TEXT, "run", "figure"), *_DIFFERENCE, *columns(P_VALUE, "p_bootstrap")]
    rows: list[list[Cell]] = [
        [run.name, Wording(name), *_difference_cells(row), row.p_bootstrap]
        for run in comparison.tested
        for name, row in run.significance.figures.items()
    ]
    title = Wording("Differences from {baseline} and their significance", baseline=comparison.baseline)
    return Table(title, heads, rows, empty=Wording("There is no second run."))


def _difference_cells(row: Difference) -> list[Cell]:
    return [row.baseline, row.value, row.difference, row.low, row.high, row.p_randomisation]


def _categories(comparison: RunComparison) -> Table:
    """Build the table of gains and losses of F1 by category, the largest gain first."""
    heads = [*columns(TEXT, "run", "category"), *columns(COUNT, "gold"), *_DIFFERENCE]
    heads += [*columns(P_VALUE, "p_corrected"), *columns(CHANGE, "tp_change", "fp_change", "fn_change")]
    before = comparison.results[comparison.baseline].metrics.categories
    rows: list[list[Cell]] = []
    for run in comparison.tested:
        after = comparison.results[run.name].metrics.categories
        found = sorted(run.significance.categories.items(), key=lambda item: (-item[1].difference, item[0]))
        for name, row in found:
            old, new = (side.get(name, _NOTHING) for side in (before, after))
            changes = [new.tp - old.tp, new.fp - old.fp, new.fn - old.fn]
            support = max(old.support, new.support)
            corrected = run.significance.corrected[name]
            rows.append([run.name, name, support, *_difference_cells(row), corrected, *changes])
    empty = Wording("No categories.") if comparison.tested else Wording("There is no second run.")
    title = Wording("F1 by category: gains and losses against {baseline}", baseline=comparison.baseline)
    return Table(title, heads, rows, empty=empty)


def _flips(comparison: RunComparison) -> Table:
    """Build the table of all sentences that became right or wrong."""
    heads = columns(TEXT, "run", "change", "id", "sentence", "gold", "baseline", "run_answer")
    before = comparison.results[comparison.baseline]
    rows: list[list[Cell]] = []
    for run in comparison.tested:
        after = comparison.results[run.name]
        for change, names in (("gained", run.gained), ("lost", run.lost)):
            for name in names:
                gold = before.sentences[name]
                answers = [_answer(result.predictions.get(name)) for result in (before, after)]
                rows.append([run.name, change, name, gold.text, entities_text(gold.entities), *answers])
    title = f"Sentences that {comparison.baseline} has wrong and the run right (gained), or the other way round (lost)"
    return Table(title, heads, rows)


def _answer(prediction: Prediction | None) -> str:
    return entities_text(prediction.entities) if prediction is not None else NONE


def _config(comparison: RunComparison, configs: Mapping[str, Sequence[Any]]) -> Table:
    rows: list[list[Cell]] = [[key, *map(str, values)] for key, values in configs.items()]
    heads = [*columns(TEXT, "key"), *(Column(name, TEXT) for name in comparison.results)]
    return Table(Wording("Configuration keys that differ"), heads, rows)


class SweepRun(NamedTuple):
    """A run of a sweep: the overrides that distinguish its configuration, without the seed; metrics (None = failed)."""

    label: str
    metrics: Mapping[str, float] | None


def distinguishing_overrides(runs: Sequence[Sequence[str]], without: Sequence[str]) -> list[str]:
    """Return for each run the overrides that are not the same in all runs, leaving out the keys in `without`."""
    given = [dict(override.partition("=")[::2] for override in overrides) for overrides in runs]
    keys = dict.fromkeys(key for item in given for key in item if key not in without)
    varying = [key for key in keys if len({item.get(key) for item in given}) > 1]
    return [" ".join(f"{key}={item[key]}" for key in varying if key in item) for item in given]


def sweep_runs(runs: Sequence[tuple[Sequence[str], Mapping[str, float] | None]]) -> list[SweepRun]:
    """Label runs, given as overrides and metrics, by the overrides that distinguish them, except the seed."""
    labels = distinguishing_overrides([overrides for overrides, _ in runs], ("seed",))
    return [SweepRun(label, metrics) for label, (_, metrics) in zip(labels, runs, strict=True)]


def _groups(runs: Sequence[SweepRun]) -> dict[str, list[Mapping[str, float]]]:
    groups: dict[str, list[Mapping[str, float]]] = {}
    for run in runs:
        group = groups.setdefault(run.label, [])
        if run.metrics is not None:
            group.append(run.metrics)
    return groups


def build_seed_table(runs: Sequence[SweepRun], name: str) -> Table:
    """Build a table with one row per configuration: finished and failed runs, mean and standard deviation per metric.

    Args:
        runs: the runs of a sweep.
        name: label of the configuration if all runs differ only in the seed.
    """
    names = [metric for metric in METRICS if any(run.metrics and metric in run.metrics for run in runs)]
    heads = [*columns(TEXT, "configuration"), *columns(COUNT, "n", "failed")]
    kinds = [FIGURE if metric.startswith(_COUNTED) else SHARE for metric in names]
    heads += [
        Column(f"{name} {what}", kind) for name, kind in zip(names, kinds, strict=True) for what in ("mean", "sd")
    ]
    table = Table("Mean and standard deviation over seeds", heads, [])
    for label, finished in _groups(runs).items():
        failed = sum(run.label == label and run.metrics is None for run in runs)
        row: list[Cell] = [label or name, len(finished), failed]
        for metric in names:
            values = [metrics[metric] for metrics in finished if metric in metrics]
            row.append(statistics.fmean(values) if values else NONE)
            row.append(statistics.stdev(values) if len(values) > 1 else NONE)
        table.rows.append(row)
    return table


def best_configuration(table: Table, *, comparable: bool) -> tuple[int, str]:
    """Return the best row of a seed table and the metric that decides; the first row and an empty metric if none can.

    F1 on dev decides, because a sweep must not choose by test; if nothing was trained, there is only F1 on test.
    Configurations that are not `comparable`, because they were scored on different gold, have no best one: it would
    only be the one with the easiest corpus.
    """
    done = [number for number, row in enumerate(table.rows) if row[1]]
    for metric in CHOSEN_BY if comparable and len(table.rows) > 1 else ():
        means = _means(table, metric)
        if done and all(number in means for number in done):
            return max(means, key=lambda number: means[number]), metric
    return 0, ""


def _means(table: Table, metric: str) -> dict[int, float]:
    """Return the mean of a metric by row number, for the rows of a seed table that have it."""
    if (name := f"{metric} mean") not in table.names:
        return {}
    column = table.names.index(name)
    return {number: mean for number, row in enumerate(table.rows) if isinstance(mean := row[column], float)}


def seed_metrics(table: Table, *, comparable: bool) -> dict[str, float]:
    """Return the metrics of a sweep's parent run: the means of its best configuration, under their own names.

    Their standard deviations are `<metric>_sd`. Empty if no metric decides which of several configurations is the best.
    """
    row, metric = best_configuration(table, comparable=comparable)
    if not metric and len(table.rows) > 1:
        return {}
    found = zip(table.names[3:], table.rows[row][3:], strict=True)
    return {
        name.removesuffix(" mean") if name.endswith(" mean") else f"{name.removesuffix(' sd')}_sd": value
        for name, value in found
        if isinstance(value, float)
    }


def seed_markdown(table: Table, length: int, *, comparable: bool) -> str:
    """Return a sentence about the best configuration, then the table in Markdown, the best first.

    The last rows are left out if the text would have more than `length` characters.
    """
    best, metric = best_configuration(table, comparable=comparable)
    body = _seed_rows(table, [str(row[0]) for row in table.rows])
    heads = _seed_heads(table)
    about = []
    if metric:
        where, name = ("test", "") if metric == SHOWN else ("dev", "F1 on test ")
        reached = f", {name}{body[best][heads.index(SHOWN)]}" if best in _means(table, SHOWN) else ""
        about = [f"Best by F1 on {where}: **{escape_markdown(str(table.rows[best][0]))}**{reached}."]
        means = _means(table, metric)
        body = [body[number] for number in sorted(range(len(body)), key=lambda number: -means.get(number, -1.0))]
    elif heads[3:] and not comparable and len(body) > 1:
        about = ["The configurations were scored on different sentences, so none is the best."]
    if heads[3:]:
        several = any(isinstance(row[1], int) and row[1] > 1 for row in table.rows)
        about.append(f"Rates in per cent{', means ± standard deviations over seeds' if several else ''}:")
    above = f"{' '.join(about)}\n\n" if about else ""
    shown = Table("", columns(TEXT, *heads), body, frozenset({(0, 0)} if metric else ()))
    texts = (shown.to_markdown(most) for most in range(min(len(body), MARKDOWN_ROWS), 0, -1))
    return next((f"{above}{text}" for text in texts if len(text) <= length), "")


def _fitting(labels: Sequence[str]) -> list[str]:
    """Shorten labels: remove the sections of keys, then cut the text; different labels stay different."""
    if all(len(label) <= LABEL for label in labels):
        return list(labels)
    keys = {key for label in labels for key in _KEY.findall(label)}
    short = {key: key.partition(".")[2] or key for key in keys}
    if len(set(short.values())) == len(keys):
        labels = [_KEY.sub(lambda found: short[found[1]], label) for label in labels]
    length = LABEL
    while len({label[:length] for label in labels}) < len(set(labels)):
        length += 1
    return [label[:length] for label in labels]


def seed_lines(table: Table) -> list[str]:
    """Return the table as lines for a terminal: `mean ± sd`, rates in per cent."""
    body = _seed_rows(table, _fitting([str(row[0]) for row in table.rows]))
    return Table("", columns(TEXT, *_seed_heads(table)), body).aligned()


def _seed_heads(table: Table) -> list[str]:
    return ["configuration", "n", "failed", *(column.removesuffix(" mean") for column in table.names[3::2])]


def _seed_rows(table: Table, labels: Sequence[str]) -> list[list[Cell]]:
    """Return the rows of a seed table with these labels, and with `mean ± sd` in one cell."""
    metrics = _seed_heads(table)[3:]
    return [
        [label, str(row[1]), str(row[2]), *map(_cell, metrics, row[3::2], row[4::2])]
        for label, row in zip(labels, table.rows, strict=True)
    ]


def _cell(metric: str, mean: object, deviation: object) -> str:
    if not isinstance(mean, float):
        return "-"
    factor = 1 if metric.startswith(_COUNTED) else 100
    spread = f" ± {deviation * factor:.2f}" if isinstance(deviation, float) else ""
    return f"{mean * factor:.2f}{spread}"


def draw_seed_figure(runs: Sequence[SweepRun], name: str) -> Chart | None:
    """Return the figure of F1 on test, one line per configuration; None if there is no F1.

    A configuration with several seeds has a point for each, and its mean with one standard deviation.
    """
    groups = {
        label or name: values
        for label, finished in _groups(runs).items()
        if (values := [metrics[SHOWN] for metrics in finished if SHOWN in metrics])
    }
    if not groups:
        return None
    if len(groups) > MOST_ROWS:
        best = sorted(groups, key=lambda label: -statistics.fmean(groups[label]))[:MOST_ROWS]
        groups = {label: groups[label] for label in best}
    title = f"F1 of {counted(sum(map(len, groups.values())), 'run')}"
    if any(len(values) > 1 for values in groups.values()):
        title += ": seeds (points), mean ± standard deviation"
    return Chart(title, (8, 1.2 + 0.35 * len(groups)), partial(_draw, groups=groups))


def _draw(figure: Figure, groups: Mapping[str, Sequence[float]]) -> None:
    ax = figure.subplots()
    for row, values in enumerate(groups.values()):
        shares = [100 * value for value in values]
        if len(shares) > 1:
            ax.plot(shares, [row] * len(shares), "o", color=ORANGE, markersize=3.5, alpha=0.8, zorder=4)
        deviation = statistics.stdev(shares) if len(shares) > 1 else None
        ax.errorbar(statistics.fmean(shares), row, xerr=deviation, fmt="D", color=BLUE, capsize=4, zorder=3)
    ax.set_yticks(range(len(groups)), _fitting(list(groups)))
    ax.set_ylim(len(groups) - 0.5, -0.5)
    ax.set_xlabel("F1 on test, in per cent")
