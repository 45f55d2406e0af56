"""`task=score`: score a predictions file of any system. No model, no torch, no GPU.

It reads `predictions=` (OmniNER's `predictions.jsonl`, `generated_predictions.jsonl` with its own gold, and others)
and, if the file has no labels, `gold=` or a `gold.jsonl` beside it. Like every task with predictions, it then writes
`scores.json`, `tables/`, `figures/` and `report.html` into the run's folder and into the tracked run (under the same
paths in every run, so that the UI shows runs side by side), and prints a summary.
"""

from __future__ import annotations

import shlex
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from omniner.answers import CUT
from omniner.config import compose, run_config
from omniner.config.groups import Config
from omniner.corpus.sources import require_entities
from omniner.corpus.taxonomy import Taxonomy
from omniner.errors import UserError
from omniner.predicting.engines import ENGINES
from omniner.progress import show, timed
from omniner.records import Prediction, Sentence, count_codes
from omniner.report.tables import Table, build_run_tables
from omniner.runs.context import Context, Input, Task, path_label
from omniner.runs.folder import SCORES
from omniner.scoring.metrics import ParseSummary, ScoreResult, calibration_error
from omniner.scoring.predictions import read_predictions
from omniner.scoring.scorer import score_loaded, score_records
from omniner.wording import Wording, counted

SHOWN_RAW, SHOWN_REASONS = 80, 3  # characters of an answer, and answers, that an error shows
SCORE_OUTPUTS = (SCORES, "tables", "figures", "report.html")  # what `publish_scores` writes

FEW_STEPS = 300  # optimizer steps; with fewer, hardly any model is trained well
UNREAD = 0.05  # share of unreadable answers above which a hint is given
UNANSWERED = 0.05  # share of sentences without a prediction above which a hint is given
FAR = 0.1  # difference of F1 between dev and test that is too large for chance with usual sizes

# Sections and keys of the configuration that a report of task=score shows.
_SHOWN = ("predictions", "gold", *compose.SCORING, "data", "report")


def run(context: Context) -> None:
    """Read the predictions, score them, and publish the results."""
    config = context.config
    assert config.predictions is not None, "the task's inputs say so"
    gold = Path(config.gold) if config.gold else None
    loaded = read_predictions(Path(config.predictions), gold, config.data)
    result = score_loaded(loaded, config.metrics, config.errta)
    context.publish_issues(result.issues)
    check_scored(result, config.predictions)
    publish_scores(context, result, ReportInputs())


def check_scored(result: ScoreResult, source: str | Path) -> None:
    """Raise a `UserError` for meaningless scores: nothing was scored, gold has no entities, or no answer was readable.

    Args:
        result: the scores.
        source: the file of predictions, or the name of the run, for the message.
    """
    parse, answered = result.parse, sum(name in result.sentences for name in result.predictions)
    reasons = [f"{one.sentence_id}: {one.reason} {one.raw[:SHOWN_RAW]!r}" for one in parse.failures]
    reasons += [str(issue) for issue in result.issues if issue.code == "no-gold"]
    first = f" (first: {'; '.join(reasons[:SHOWN_REASONS])})" if reasons else ""
    if not parse.scored:
        found = f"0 of {parse.sentences:,} sentences could be scored{first}"
        raise UserError(source, found, "Look at what the file holds: answers and gold must be readable.")
    require_entities(f"gold of {source}", list(result.sentences.values()))
    if not answered or parse.failed >= answered:
        fix = "Look at what the model was asked for, and whether it could finish (thinking, limit of tokens)."
        raise UserError(source, f"none of {answered:,} answers can be read{first}", fix)


@dataclass(frozen=True)
class ReportInputs:
    """What a report shows beside the scores; each part may be empty.

    Attributes:
        taxonomy: gives the English names of categories.
        train: gold sentences that help to find suspected annotation errors.
        curves: learning curves: metric -> (step, value).
        steps: optimizer steps of the training.
        issues: number of issues by code.
        split: published name of the split that was scored; empty if the sentences are not a split of the corpus.
    """

    taxonomy: Taxonomy | None = None
    train: Sequence[Sentence] = ()
    curves: Mapping[str, Sequence[tuple[int, float]]] = field(default_factory=dict)
    steps: int = 0
    issues: Mapping[str, int] = field(default_factory=dict)
    split: str = ""


def score_and_publish(
    context: Context, gold: Sequence[Sentence], predictions: Sequence[Prediction], inputs: ReportInputs
) -> ScoreResult:
    """Score predictions against gold, publish scores and report, and return the scores."""
    categories = inputs.taxonomy.categories if inputs.taxonomy is not None else ()
    result = score_records(gold, predictions, context.config.metrics, context.config.errta, categories)
    publish_scores(context, result, inputs)
    return result


def publish_scores(context: Context, result: ScoreResult, inputs: ReportInputs) -> None:
    """Publish the scores, tables, figures and report of a scored run, and print its summary."""
    from omniner.report.run_page import draw_run_figures

    context.publish_json(SCORES, result.to_json())
    context.run.tags({"score.unit": result.metrics.unit, "score.signature": result.signature})
    context.publish_results(_metrics(result))
    with timed("tables"):
        tables = build_run_tables(result, context.config.errta, inputs.taxonomy, inputs.train)
    context.publish_tables(tables)
    with timed("figures"):
        language = context.page_language(sentence.text for sentence in result.sentences.values())
        context.publish_figures(draw_run_figures(result, inputs.curves, language))
    issues = dict(sorted((Counter(inputs.issues) + Counter(count_codes(result.issues))).items()))
    with timed("report"):
        context.publish_text("report.html", _report(context, result, tables, inputs, issues, language))
    summary = _summary(result, issues, inputs.split)
    advice = hints(result, inputs, context.config.task.name)
    context.describe(
        _headline(result, inputs.split),
        pages=["report.html", "predictions.jsonl"],
        figure="figures/error_types.png",
        command=_next_command(context),
        points=advice,
        details=summary,
    )
    show("\n".join([*summary, *(f"  hint     {hint}" for hint in advice), *_ways_on(context)]))


def _metrics(result: ScoreResult) -> dict[str, float]:
    """Return all tracked numbers: scores under `test/`, errors under `errta/`, also `parse/` and `timing/`."""
    metrics = result.metrics
    values: dict[str, float] = {}
    for name in ("micro", "macro", "macro_seen", "weighted", "relaxed"):
        row = getattr(metrics, name)
        values |= {f"test/{name}_{key}": getattr(row, key) for key in ("precision", "recall", "f1")}
    values["test/f1"] = metrics.micro.f1
    values["test/errors"] = float(len(result.errta.errors))
    for name, interval in metrics.intervals.items():
        values[f"test/{name.replace('.', '_')}_low"] = interval.low
        values[f"test/{name.replace('.', '_')}_high"] = interval.high
    for unit, scores in result.units.items():
        values |= {f"test/{unit}/{key}": getattr(scores.micro, key) for key in ("precision", "recall", "f1")}
        values[f"test/{unit}/macro_f1"] = scores.macro.f1
        if bounds := scores.intervals.get("micro.f1"):
            values |= {f"test/{unit}/f1_low": bounds.low, f"test/{unit}/f1_high": bounds.high}
    values |= {f"test/overlap/{scheme}_f1": row.f1 for scheme, row in result.overlap.items() if scheme != "strict"}
    if result.calibration:
        values["test/calibration_error"] = calibration_error(result.calibration)
    values |= {f"test/category/{name}_f1": row.f1 for name, row in metrics.categories.items()}
    values |= {f"test/primary/{name}_f1": row.strict.f1 for name, row in metrics.primaries.items()}
    values |= {f"errta/{name}": float(count) for name, count in result.errta.counts.items()}
    values |= {f"errta/impossible/{name}": float(count) for name, count in result.errta.impossible_counts.items()}
    values |= {f"parse/{name}": float(count) for name, count in result.parse.to_json().items()}
    values |= {f"timing/{name}_seconds": seconds for name, seconds in result.timing.items()}
    return values


def _report(
    context: Context,
    result: ScoreResult,
    tables: Mapping[str, Table],
    inputs: ReportInputs,
    issues: Mapping[str, int],
    language: str,
) -> str:
    """Render the run's page."""
    from omniner.report.run_page import RunFacts, render_run_page

    config, details = context.config, report_details(context, result.parse, inputs.split)
    created = time.strftime("%Y-%m-%d %H:%M:%S")
    # task=score does not know which model gave the answers, so the model sections are left out
    shown = run_config.to_yaml(config, _SHOWN if config.task.name == "score" else ())
    facts = RunFacts(config.name, created, details, shown, issues)
    return render_run_page(result, tables, facts, inputs.curves, config.errta, language)


def report_details(context: Context, read: ParseSummary, split: str = "") -> dict[str, str]:
    """Return the facts at the top of a page by name: the run, its model, its data, and the number of sentences."""
    config = context.config
    details: dict[str, str] = {
        Wording("task"): config.task.name,
        Wording("folder"): str(context.folder),
        Wording("MLflow run"): context.run.id or Wording("not tracked"),
    }
    if config.task.name == "score":
        details[Wording("predictions")] = str(config.predictions)
        details[Wording("gold")] = config.gold or Wording("in the predictions file, or gold.jsonl beside it")
    else:
        details[Wording("model")] = _answering(config)
        details[Wording("data")] = config.input or config.data.name
    if split:
        details[Wording("reported split")] = split
    details[Wording("sentences")] = f"{read.sentences:,}"
    return details


def _answering(config: Config) -> str:
    """Return what gave the answers: a server, the checkpoint that was named, or the model of the configuration."""
    decoding, model = config.decoding, config.model
    if not ENGINES[decoding.engine].local_weights:
        return " at ".join(filter(None, [decoding.model, decoding.url]))
    if config.task.name == "predict" and config.checkpoint:
        return config.checkpoint
    return model.name if config.llm else f"{model.name}, head {config.head.kind}"


def _headline(result: ScoreResult, split: str) -> str:
    """Return the result in one line."""
    micro, errors = result.metrics.micro, len(result.errta.errors)
    scores = f"**F1 {micro.f1:.2%}** (P {micro.precision:.2%}, R {micro.recall:.2%})"
    return f"{scores}, {counted(errors, 'error')}{_unusual(split)}"


def _unusual(split: str) -> str:
    """Return a remark that names the reported split if it is not test; otherwise an empty text."""
    return "" if split in ("", "test") else f"; reported split: {split}"


def _summary(result: ScoreResult, issues: Mapping[str, int], split: str) -> list[str]:
    """Return the result as a few lines of plain text."""
    metrics, errta = result.metrics, result.errta
    lines = [f"{counted(result.parse.scored, 'sentence')} scored by {metrics.unit}{_unusual(split)}"]
    rows = {"micro": metrics.micro, "macro": metrics.macro}
    intervals = {name: metrics.intervals.get(f"{name}.f1") for name in rows}
    if result.has_levels:
        rows["primary"], intervals["primary"] = metrics.relaxed, None
    for unit, scores in result.units.items():
        if unit != metrics.unit:
            rows[f"by {unit}"], intervals[f"by {unit}"] = scores.micro, scores.intervals.get("micro.f1")
    for name, row in rows.items():
        line = f"  {name:<8} P {row.precision:7.2%}  R {row.recall:7.2%}  F1 {row.f1:7.2%}"
        if interval := intervals[name]:
            line += f"  [{interval.low:.2%}, {interval.high:.2%}] {100 * metrics.confidence:g}% interval"
        lines.append(line)
    if result.calibration:
        error = calibration_error(result.calibration)
        lines.append(f"  scores   expected calibration error {error:.2%} (tables/calibration.csv)")
    if result.parse.left_out:
        lines.append(f"  left out {counted(result.parse.left_out, 'entity')} by decoding.min_score")
    total = sum(count.errors for count in errta.by_type.values())
    kinds = [f"{name} {count.errors:,}" for name, count in errta.by_type.items() if count.errors]
    lines.append(f"  errors   {total:,}: {', '.join(kinds)}" if total else "  errors   none")
    if errta.impossible:
        odd = ", ".join(
            f"{count:,} {name.replace('_', ' ')}" for name, count in errta.impossible_counts.items() if count
        )
        lines.append(f"  among the false positives that no gold could have had: {odd}")
    if issues:
        listed = ", ".join(f"{count:,} {code}" for code, count in issues.items())
        lines.append(f"  issues   {listed} (listed in issues.jsonl)")
    if result.parse.failed or result.parse.repaired or result.parse.cut:
        parse = result.parse
        answers = f"{parse.failed:,} unreadable and {parse.repaired:,} repaired, of {parse.sentences:,}"
        lines.append(f"  answers  {answers}{f'; {parse.cut:,} {CUT}' if parse.cut else ''}")
    return lines


def hints(result: ScoreResult, inputs: ReportInputs, task: str) -> list[str]:
    """Return hints on what may have made the result worse, and what to do about it.

    Args:
        result: the scores.
        inputs: with the learning curves if the run trained a model.
        task: the run's task; `score` scores answers of another program.
    """
    found = []
    total, parse, f1 = len(result.predictions), result.parse, result.metrics.micro.f1
    if total and not any(prediction.entities for prediction in result.predictions.values()):
        found.append(
            "decoding.min_score left out all entities: lower it"
            if parse.left_out
            else "no entity was predicted: look at the learning curves, train longer, or read some answers"
        )
    absent = sum(issue.code == "no-prediction" for issue in result.issues)
    if absent > UNANSWERED * len(result.sentences):
        found.append(
            f"{absent:,} of {counted(len(result.sentences), 'gold sentence')} have no prediction and count as empty "
            "answers: is gold= the file of those that were answered?"
        )
    said = {entity.category for one in result.predictions.values() for entity in one.entities}
    known = {entity.category for one in result.sentences.values() for entity in one.entities}
    if said and not said & known:
        listed, wanted = (", ".join(sorted(names)[:3]) for names in (said, known))
        found.append(f"no predicted category is one of gold's: {listed} here, {wanted} there")
    if total and parse.failed / total > UNREAD:
        fix = "decoding=guided, a larger decoding.max_new_tokens, or another prompt"
        if task == "score":
            fix = "look at what that system was asked for, and whether its answers could end (limit of tokens)"
        failed = parse.failed / total
        found.append(f"{failed:.0%} of the answers cannot be read (tables/parse_failures.csv says why): {fix}")
    dev = inputs.curves.get("val/f1", ())
    if dev:
        best = max(value for _, value in dev)
        if inputs.steps < FEW_STEPS and best < 1 and f1 < 1:
            made = counted(inputs.steps, "step")
            found.append(f"training made only {made}: a small corpus needs more passes (trainer.max_epochs)")
        elif len(dev) > 1 and 1 > dev[-1][1] >= best > dev[-2][1]:
            found.append("dev F1 was still rising at the last evaluation: more trainer.max_epochs may help")
        if abs(best - f1) > FAR:
            found.append(
                f"F1 is {best:.1%} on dev and {f1:.1%} here: the two differ, or are small (task=stats shows both)"
            )
    return found


def _ways_on(context: Context) -> list[str]:
    """Return lines with the report, the MLflow page and the next command."""
    config, folder = context.config, context.folder
    ways = [f"  report   {folder / 'report.html'}"]
    if context.run.url:
        opened = "python -m omniner.run task=ui, then " if config.tracking.kind == "local" else ""
        ways.append(f"  MLflow   {opened}{context.run.url}")
    return [*ways, f"  next     {_next_command(context)}"]


def _next_command(context: Context) -> str:
    """Return the next sensible command after a scored run, with this run's settings for scoring."""
    config, name = context.config, shlex.quote(str(context.folder))
    if config.task.name == "train" and config.llm is None:
        return f"python -m omniner.run task=chat checkpoint={name}   # type a sentence, see its entities"
    if config.task.name != "train":
        command, why = f"task=compare 'runs=[{context.folder},<another run>]'", ""
    else:
        command, why = f"task=guide run={name}", "   # what its errors have in common"
    return " ".join(filter(None, ["python -m omniner.run", command, compose.scoring_line(config)])) + why


TASK = Task(
    name="score",
    description=__doc__,
    run=run,
    label=lambda config: ["score", path_label(config.predictions or "")],
    inputs=[Input("predictions", required=True), Input("gold", folder_allowed=False)],
    outputs=SCORE_OUTPUTS,
    settings=lambda config: ["metrics", "errta"],
)
