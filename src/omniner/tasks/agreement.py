"""`task=agreement`: how well annotators agree and, where there is gold, how well people do. No model, no torch.

In: `annotators=[a.jsonl,b.jsonl,...]` and, for human performance, `gold=<file>`: each person is scored on the gold
sentences that they labelled. Out, in the run's folder and tracked: `agreement.md`, `agreement.json`, `tables/*.csv`,
and with gold `human/<name>.jsonl` beside `human/gold.jsonl`. Of who labelled all of gold, `task=compare
runs=[<model>,<folder>/human/a.jsonl]` takes that file as a run; people who labelled a part belong in `annotators=`
there, because a run answers for every sentence.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from omniner.analysis.pages.sheets import SHARE, Sheet, markdown, plain, shown
from omniner.analysis.people import agreement as measuring
from omniner.analysis.people import agreement_tables, human
from omniner.analysis.people.agreement import Agreement
from omniner.analysis.scores.predictions import collector_paused
from omniner.analysis.scores.results import ScoreResult
from omniner.analysis.scores.scoring import score
from omniner.corpus import sources
from omniner.corpus.curation.matching import match
from omniner.corpus.formats import is_unlabeled, jsonl
from omniner.errors import UserError
from omniner.files import make_folder, write_json, write_text, writing
from omniner.records import Issue, Prediction, prediction_to_json, to_line
from omniner.tasks import annotators
from omniner.tasks.annotators import Annotator
from omniner.tasks.context import Context, publish_issues

log = logging.getLogger("omniner")


def run(context: Context) -> None:
    """Read, match, measure, publish."""
    config = context.config
    with collector_paused():
        people, issues = annotators.read(context)
        names = [one.name for one in people]
        items, found = match(names, [one.sentences for one in people])
        issues += found
        if not config.gold:
            people = []  # the items hold all that is still needed
        agreement = measuring.measure(names, items, config.agreement)
        issues += agreement.issues
        sheets = agreement_tables.build(agreement)
    results: dict[str, ScoreResult] = {}
    verdicts = _verdicts(agreement)
    if config.gold:
        results, sentences, met = _human(context, people, Path(config.gold))
        issues += met
        sheets["human"] = human.sheet(results, sentences)
        verdicts += [_human_verdict(results), *human.partial(results, sentences)]
    _publish(context, agreement, sheets, results, verdicts)
    publish_issues(context, issues)
    print("\n".join(verdicts))


def _human(
    context: Context, people: Sequence[Annotator], path: Path
) -> tuple[dict[str, ScoreResult], int, list[Issue]]:
    """Score every annotator against gold, and write their labels as predictions files; how many sentences gold has."""
    read, issues = sources.read_sentences(path)
    gold = [sentence for sentence in read if not is_unlabeled(sentence)]
    if not gold:
        raise UserError("gold", f"{path} has no labels", "Name the file with the gold entities.")
    folder = make_folder(context.folder / "human")
    jsonl.write(folder / "gold.jsonl", gold)
    results = {}
    for one in people:
        predictions, met = human.predictions_of(one.name, one.sentences, gold)
        if not predictions:
            raise UserError("gold", f"{one.name} has labelled none of its sentences", "Name the gold of these files.")
        _write(folder / f"{one.name}.jsonl", predictions)
        theirs = human.labelled(gold, predictions)
        results[one.name] = score(theirs, predictions, context.config.metrics, context.config.errta, None)
        issues += met + [issue._replace(message=f"{one.name}: {issue.message}") for issue in results[one.name].issues]
    context.run.files(folder, "human")
    return results, len(gold), issues


def _write(path: Path, predictions: Sequence[Prediction]) -> None:
    with writing(path) as file:
        file.writelines(f"{to_line(prediction_to_json(prediction))}\n" for prediction in predictions)


def _publish(
    context: Context,
    agreement: Agreement,
    sheets: Mapping[str, Sheet],
    results: Mapping[str, ScoreResult],
    verdicts: Sequence[str],
) -> None:
    content: dict[str, Any] = agreement_tables.to_json(agreement)
    values = {
        f"agreement/{name.replace('.', '/')}": value
        for name, figure in agreement.figures.items()
        if (value := agreement_tables.number(figure.value)) is not None
    }
    if results:
        content["human"] = human.to_json(results)
        f1 = human.spread([result.metrics.micro.f1 for result in results.values()])
        values |= {"human/f1": f1.mean, "human/f1_deviation": f1.deviation}
        values |= {f"human/f1/{name}": result.metrics.micro.f1 for name, result in results.items()}
    context.run.metrics(values)
    context.run.file(write_json(context.folder / "agreement.json", content))
    for name, sheet in sheets.items():
        write_text(context.folder / "tables" / f"agreement_{name}.csv", sheet.table.to_csv())
        context.run.table(sheet.table.columns, sheet.table.rows, f"tables/agreement_{name}.json")
    lines = [f"# {plain(context.config.name)}", *(f"- {plain(line)}" for line in verdicts)]
    path = write_text(context.folder / "agreement.md", "\n".join(lines) + "\n\n" + markdown(sheets))
    context.run.file(path)


def _verdicts(agreement: Agreement) -> list[str]:
    """The main figures in words."""

    def said(name: str) -> str:
        value, low, high = (agreement_tables.number(value) for value in agreement.figures[name])
        if value is None:
            return "undefined"
        bounds = f" [{shown(low, SHARE)}, {shown(high, SHARE)}]" if low is not None and high is not None else ""
        return shown(value, SHARE) + bounds

    pairs = [f"f1.strict.{one}.{other}" for one, other in combinations(agreement.names, 2)]
    defined = sum(agreement_tables.number(agreement.figures[pair].value) is not None for pair in pairs)
    only = f" (of {defined} of {len(pairs)}: the others share no sentence with labels)" if defined < len(pairs) else ""
    return [
        f"{', '.join(agreement.names)}: {agreement.sentences:,} sentences, {agreement.complete:,} labelled by all",
        f"mean F1 of the pairs{only}: strict {said('f1.strict')}, boundary {said('f1.boundary')}, "
        f"relaxed {said('f1.relaxed')}",
        f"Krippendorff's alpha x 100: characters {said('alpha.characters')}, spans {said('alpha.spans')}, "
        f"unitizing {said('alpha.unitizing')}; "
        f"Fleiss' kappa x 100: {said('kappa.characters')}",
    ]


def _human_verdict(results: Mapping[str, ScoreResult]) -> str:
    f1 = human.spread([result.metrics.micro.f1 for result in results.values()])
    return f"human F1: mean {shown(f1.mean, SHARE)}, standard deviation {shown(f1.deviation, SHARE)}"
