"""`task=compare`: finished runs on one test set against the first of them. No model, no torch, no GPU.

In: `runs=[a,b,...]` (see `tasks.compared`), and `annotators=[a.jsonl,b.jsonl,...]` for people's labels of the same
sentences, whose mean stands beside the runs; one run is enough then. Out, in the run's folder and as MLflow metrics,
tables and artifacts: `comparison.html`, `comparison.md`, `comparison.json`, `tables/*.csv`, `latex/*.tex` and
`figures/*.png`. All are scored anew with the `metrics` and `errta` of this run, so that their figures mean the same.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from omniner import tracking
from omniner.analysis.compare.comparison import Contender, RunComparison, compare_runs
from omniner.analysis.compare.tables import build, verdicts
from omniner.analysis.pages.sheets import TEXT, Sheet, latex, markdown, plain
from omniner.analysis.people import human
from omniner.errors import UserError
from omniner.files import write_json, write_text, writing
from omniner.records import Issue, Sentence
from omniner.tasks import annotators, compared
from omniner.tasks.compared import Source
from omniner.tasks.context import Context, publish_issues
from omniner.tracking import DataInput

log = logging.getLogger("omniner")


def run(context: Context) -> None:
    """Find, read, align, compare, publish."""
    config = context.config
    annotators.named(config.annotators)  # their files are there: said before the runs are read
    with tempfile.TemporaryDirectory() as copies:
        sources = compared.resolve(config, Path(copies))
        if config.annotators and human.HUMAN in {source.name for source in sources}:
            found = f"a run is called {human.HUMAN}, as the mean over the annotators is"
            raise UserError("runs", found, 'Give it another name: "name=path".')
        for source in sources:
            log.info("%s: %s", source.name, source.where)
        loaded, issues = compared.read(sources)
        contenders, digest = compared.align(sources, loaded)
        people, met = _people(context, contenders[0].gold)
    start = time.perf_counter()
    comparison = compare_runs(contenders, config.metrics, config.errta, config.compare, people)
    log.info("compared in %.1f s", time.perf_counter() - start)
    publish_issues(context, [*issues, *met, *_issues(comparison)])
    context.run.datasets([DataInput("test", "test", digest, sources[0].where, comparison.sentences)])
    context.run.tags({f"compare.{source.name}": source.run_id or source.where for source in sources})
    _publish(context, comparison, sources, digest)
    ids = [source.run_id for source in sources if source.run_id]
    print("\n".join(verdicts(comparison)))
    if len(ids) > 1 and (link := tracking.compare_link(config.tracking, ids)):
        print(f"compare: {link}")


def _people(context: Context, gold: Sequence[Sentence]) -> tuple[list[Contender], list[Issue]]:
    """The annotators' labels of the sentences that the runs were tested on."""
    if not context.config.annotators:
        return [], []
    people, issues = annotators.read(context)
    contenders = []
    for one in people:
        predictions, met = human.predictions_of(one.name, one.sentences, gold)
        if not predictions:
            found = f"{one.path} has labels of none of the {len(gold):,} sentences that the runs were tested on"
            raise UserError("annotators", found, "Name labels of the test set, with its ids or its texts.")
        issues += met
        contenders.append(Contender(one.name, human.labelled(gold, predictions), predictions))
    return contenders, issues


def _issues(comparison: RunComparison) -> list[Issue]:
    """What the scorer could not take, with the name of the run or of the person."""
    return [
        issue._replace(message=f"{name}: {issue.message}")
        for name, result in (*comparison.results.items(), *comparison.people.items())
        for issue in result.issues
    ]


def _publish(context: Context, comparison: RunComparison, sources: Sequence[Source], digest: str) -> None:
    differ = compared.config_differences(sources)
    sheets = build(comparison, differ)
    context.run.metrics(_metrics(comparison))
    context.run.file(write_json(context.folder / "comparison.json", comparison.to_json()))
    for name, sheet in sheets.items():
        write_text(context.folder / "tables" / f"compare_{name}.csv", sheet.table.to_csv())
        context.run.table(sheet.table.columns, sheet.table.rows, f"tables/compare_{name}.json")
        if set(sheet.kinds) != {TEXT}:  # the others hold whole sentences and values, which no paper prints
            path = context.folder / "latex" / f"compare_{name}.tex"
            context.run.file(write_text(path, latex(sheet, f"compare-{name}")), "latex")
    _figures(context, comparison)
    _texts(context, comparison, sheets, sources, digest)


def _metrics(comparison: RunComparison) -> dict[str, float]:
    values: dict[str, float] = {}
    for name, result in comparison.results.items():
        values[f"compare/{name}/f1"] = result.metrics.micro.f1
        values[f"compare/{name}/macro_f1"] = result.metrics.macro.f1
        values[f"compare/{name}/errors"] = sum(count.errors for count in result.errta.by_type.values())
    if comparison.people:
        for figure, found in human.to_json(comparison.people)[human.MICRO].items():
            values[f"compare/{human.HUMAN}/{figure}"] = found["mean"]
            values[f"compare/{human.HUMAN}/{figure}_deviation"] = found["deviation"]
    for versus in comparison.versus:
        for figure, row in versus.significance.figures.items():
            place = f"compare/{versus.name}/{figure.replace('.', '_')}"
            for what in ("difference", "low", "high", "p_randomisation", "p_bootstrap"):
                values[f"{place}_{what}"] = getattr(row, what)
        values[f"compare/{versus.name}/gained"] = len(versus.gained)
        values[f"compare/{versus.name}/lost"] = len(versus.lost)
    return values


def _figures(context: Context, comparison: RunComparison) -> None:
    from omniner.analysis.compare.figures import figures

    for name, png in figures(comparison).items():
        path = context.folder / "figures" / f"{name}.png"
        with writing(path, "wb") as file:
            file.write(png)
        context.run.file(path, "figures")


def _texts(
    context: Context,
    comparison: RunComparison,
    sheets: Mapping[str, Sheet],
    sources: Sequence[Source],
    digest: str,
) -> None:
    from omniner.analysis.compare.report import CompareFacts, html, method, notes

    details = {source.name: source.where for source in sources}
    details |= {"test set": f"{comparison.sentences:,} sentences, digest {digest}", "folder": str(context.folder)}
    details |= {"MLflow run": context.run.id or "not tracked"}
    created = time.strftime("%Y-%m-%d %H:%M:%S")
    unknown = any(not source.config for source in sources)
    page = html(comparison, sheets, CompareFacts(context.config.name, created, details, unknown))
    context.run.file(write_text(context.folder / "comparison.html", page))
    lines = [f"# {plain(context.config.name)}", *(f"- {plain(line)}" for line in verdicts(comparison))]
    lines += [f"- {plain(note)}" for note in notes(comparison)]
    lines += [markdown(sheets), "## How it was tested", *map(plain, method(comparison))]
    context.run.file(write_text(context.folder / "comparison.md", "\n\n".join(lines) + "\n"))
