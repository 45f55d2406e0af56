"""`task=agreement`: how well annotators agree and, if there is gold, how accurate they are. No model, no torch.

It reads `annotators=[a.jsonl,b.jsonl,...]` and, to score people, `gold=<file>`: each person is scored on the gold
sentences that they labelled. It writes `agreement.html`, `agreement.md`, `agreement.json`, `tables/*.csv` and, with
gold, `human/<name>.jsonl` and `human/gold.jsonl`. `task=compare runs=[<model>,<folder>/human/a.jsonl]` takes such a
file as a run if the person labelled all of gold. People who labelled a part belong in `annotators=` of that task,
because a run must answer every sentence.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from omniner.annotators import reliability
from omniner.annotators.reliability import Agreement
from omniner.corpus import sources
from omniner.corpus.adjudication import check_shared, match_annotators
from omniner.corpus.formats import jsonl
from omniner.errors import UserError
from omniner.files import make_folder, write_json_lines
from omniner.progress import show
from omniner.records import Issue, is_unlabeled, prediction_to_json
from omniner.report import curation_tables
from omniner.report.page import render_summary_page
from omniner.report.tables import SHARE, Table, format_cell, summary_markdown
from omniner.runs.context import Context, Input, Task, entry_label
from omniner.scoring import comparison
from omniner.scoring.comparison import System
from omniner.scoring.metrics import ScoreResult
from omniner.scoring.predictions import garbage_collection_paused
from omniner.tasks.adjudicate import ANNOTATORS_INPUT, Annotator, read_annotators
from omniner.wording import Wording

log = logging.getLogger("omniner")


def run(context: Context) -> None:
    """Read the annotators, match their sentences, measure agreement, and publish the results."""
    config = context.config
    with garbage_collection_paused():
        annotators, issues = read_annotators(context, fewest=2)
        names = [one.name for one in annotators]
        items, found = match_annotators(names, [one.sentences for one in annotators])
        issues += found
        check_shared(names, items)
        if not config.gold:
            annotators = []  # frees memory: the items hold all that is still needed
        agreement = reliability.measure_agreement(names, items, config.agreement)
        issues += agreement.issues
        tables = curation_tables.build_agreement_tables(agreement)
    results: dict[str, ScoreResult] = {}
    verdicts = _verdicts(agreement)
    if config.gold:
        results, sentences, met = _score_people(context, annotators, Path(config.gold))
        issues += met
        tables["human"] = curation_tables.build_human_table(results, sentences)
        f1 = comparison.summarise_scores([result.metrics.micro.f1 for result in results.values()])
        mean, deviation = format_cell(f1.mean, SHARE), format_cell(f1.deviation, SHARE)
        verdicts += [
            Wording("human F1: mean {mean}, standard deviation {deviation}", mean=mean, deviation=deviation),
            *comparison.coverage_notes(results, sentences),
        ]
    language = context.page_language(item.sentence.text for item in items)
    _publish(context, agreement, tables, results, verdicts, language)
    context.publish_issues(issues)
    show("\n".join(verdicts))


def _score_people(
    context: Context, annotators: Sequence[Annotator], path: Path
) -> tuple[dict[str, ScoreResult], int, list[Issue]]:
    """Score every annotator against gold, and write their labels as predictions files.

    Returns:
        The scores by name, the number of gold sentences, and issues.
    """
    read, issues = sources.read_sentences(path, context.config.data)
    gold = [sentence for sentence in read if not is_unlabeled(sentence)]
    if not gold:
        raise UserError("gold", f"{path} has no labels", "Name the file with the gold entities.")
    folder = make_folder(context.folder / "human")
    jsonl.write(folder / "gold.jsonl", gold)
    systems = []
    for one in annotators:
        predictions, met = comparison.human_predictions(one.name, one.sentences, gold)
        if not predictions:
            raise UserError("gold", f"{one.name} has labelled none of its sentences", "Name the gold of these files.")
        write_json_lines(folder / f"{one.name}.jsonl", map(prediction_to_json, predictions))
        systems.append(System(one.name, comparison.labelled_gold(gold, predictions), predictions))
        issues += met
    scored = comparison.score_alike(gold, systems, context.config.metrics, context.config.errta)
    results = {system.name: result for system, result in zip(systems, scored, strict=True)}
    for name, result in results.items():
        issues += [issue._replace(message=f"{name}: {issue.message}") for issue in result.issues]
    context.run.files(folder, "human")
    return results, len(gold), issues


def _publish(
    context: Context,
    agreement: Agreement,
    tables: Mapping[str, Table],
    results: Mapping[str, ScoreResult],
    verdicts: Sequence[str],
    language: str,
) -> None:
    """Track the metrics, and write and track the tables and pages."""
    content: dict[str, Any] = curation_tables.agreement_json(agreement)
    values = {
        f"agreement/{name.replace('.', '/')}": value
        for name, figure in agreement.estimates.items()
        if (value := curation_tables.none_if_nan(figure.value)) is not None
    }
    if results:
        content["human"] = comparison.human_json(results)
        f1 = comparison.summarise_scores([result.metrics.micro.f1 for result in results.values()])
        values |= {"human/f1": f1.mean, "human/f1_deviation": f1.deviation}
        values |= {f"human/f1/{name}": result.metrics.micro.f1 for name, result in results.items()}
    context.run.metrics(values)
    context.publish_json("agreement.json", content)
    context.publish_tables(tables, "agreement_")
    context.publish_text("agreement.md", summary_markdown(context.config.name, verdicts, tables))
    page = render_summary_page("agreement", context.config.name, verdicts, tables, [], language)
    context.publish_text("agreement.html", page)
    context.describe(verdicts[0], ["agreement.html"], points=verdicts[1:])


def _verdicts(agreement: Agreement) -> list[str]:
    """Return the main results as sentences."""

    def estimate(name: str) -> str:
        value, low, high = (curation_tables.none_if_nan(value) for value in agreement.estimates[name])
        if value is None:
            return Wording("undefined")
        bounds = (
            f" [{format_cell(low, SHARE)}, {format_cell(high, SHARE)}]" if low is not None and high is not None else ""
        )
        return format_cell(value, SHARE) + bounds

    pairs = [f"f1.strict.{one}.{other}" for one, other in combinations(agreement.names, 2)]
    defined = sum(curation_tables.none_if_nan(agreement.estimates[pair].value) is not None for pair in pairs)
    only: str = ""
    if defined < len(pairs):
        only = Wording(
            " (of {defined} of {pairs}: the others share no sentence with labels)", defined=defined, pairs=len(pairs)
        )
    return [
        Wording(
            "{names}: {sentences:sentence}, {complete:,} labelled by all",
            names=Wording.joined(", ", agreement.names), sentences=agreement.sentences, complete=agreement.complete,
        ),
        Wording(
            "mean F1 of the pairs{only}: strict {strict}, boundary {boundary}, relaxed {relaxed}",
            only=only, strict=estimate("f1.strict"), boundary=estimate("f1.boundary"), relaxed=estimate("f1.relaxed"),
        ),
        Wording(
            "Krippendorff's alpha x 100: characters {characters}, spans {spans}, unitizing {unitizing}; Fleiss' kappa "
            "x 100: {kappa}",
            characters=estimate("alpha.characters"), spans=estimate("alpha.spans"),
            unitizing=estimate("alpha.unitizing"), kappa=estimate("kappa.characters"),
        ),
    ]  # fmt: skip


TASK = Task(
    name="agreement",
    description=__doc__,
    run=run,
    label=lambda config: ["agreement", *(entry_label(entry) for entry in config.annotators)],
    inputs=[ANNOTATORS_INPUT, Input("gold", folder_allowed=False)],
    outputs=["agreement.html", "agreement.json", "agreement.md", "tables", "human"],
    about_corpora=True,
)
