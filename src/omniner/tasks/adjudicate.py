"""`task=adjudicate`: several annotators' files become one corpus, and a queue for the expert. No model, no torch.

In: `annotators=[a.jsonl,b.jsonl,c.jsonl]`, `practice=<gold>` for who may take part, `expert=<file>` with the answers to
an earlier queue. Out, in the run's folder: `gold.jsonl` (what is decided), `queue.json` with `queue.xml` (what is not,
for Label Studio), `decisions.jsonl` (how each sentence was decided) and `counts.json`. Every sentence of any annotator
is in `gold.jsonl` or in `queue.json`.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omniner.config.groups import AdjudicateConfig
from omniner.corpus import adjudication, sources
from omniner.corpus.adjudication import (
    OUTCOMES,
    AnnotatedSentence,
    Decision,
    PracticeScore,
    annotation_of,
    decide,
    match_annotators,
    quorum_of,
)
from omniner.corpus.formats import jsonl
from omniner.errors import UserError
from omniner.files import write_json_lines
from omniner.records import Issue, is_unlabeled
from omniner.runs.context import Context
from omniner.runs.task import Input, Task, entry_label
from omniner.scoring.predictions import garbage_collection_paused
from omniner.tasks import corpora

log = logging.getLogger("omniner")


def run(context: Context) -> None:
    """Read, qualify, vote, ask, write."""
    with garbage_collection_paused():
        _adjudicate(context)


def _adjudicate(context: Context) -> None:
    config = context.config
    people, issues = corpora.read_annotators(context)
    names = [one.name for one in people]
    items, found = match_annotators(names, [one.sentences for one in people])
    issues += found
    trials: list[PracticeScore] = []
    practice: dict[str, Decision] = {}
    if config.practice:
        names, items, trials, practice, found = _qualify(config.adjudicate, Path(config.practice), names, items)
        issues += found
    decisions = [practice.get(item.sentence.id) or decide(item) for item in items]
    if config.expert:
        answers, found = adjudication.read_expert_answers(Path(config.expert))
        decisions, more = adjudication.apply_expert_answers(decisions, answers)
        issues += found + more
    issues += _write(context, names, decisions)
    _report(context, names, decisions, trials)
    context.publish_issues(issues)


def _qualify(
    settings: AdjudicateConfig, path: Path, names: list[str], items: list[AnnotatedSentence]
) -> tuple[list[str], list[AnnotatedSentence], list[PracticeScore], dict[str, Decision], list[Issue]]:
    """Who takes part, their items, how all did, and the decisions of the practice sentences: their gold."""
    gold, issues = sources.read_sentences(path)
    gold = [sentence for sentence in gold if not is_unlabeled(sentence)]
    trials, found = adjudication.score_practice(names, items, gold)
    if not trials or not trials[0].sentences:
        fix = "Name the gold of sentences that the annotators labelled, with the same ids and texts."
        raise UserError("practice", f"{path} shares no sentence with the annotators' files", fix)
    failed = [trial for trial in trials if not trial.passes(settings.measure, settings.qualify)]
    for trial in failed:
        message = (
            f"{trial.name}: {settings.measure} {getattr(trial, settings.measure):.4f} on {trial.sentences} practice "
        )
        message += f"sentences is not above {settings.qualify:g}"
        if settings.unqualified == "fail":
            fix = "Leave this annotator out, or set adjudicate.unqualified=drop."
            raise UserError("adjudicate.qualify", message, fix)
        issues.append(Issue("unqualified", f"{message}; left out", str(path)))
    keep = [number for number, trial in enumerate(trials) if trial not in failed]
    if len(keep) < 2:
        listed = ", ".join(f"{trial.name} {getattr(trial, settings.measure):.4f}" for trial in trials)
        fix = "A vote needs two: train the annotators again, or lower adjudicate.qualify."
        raise UserError("adjudicate.qualify", f"{len(keep)} annotators qualify ({listed})", fix)
    answers = {sentence.id: sentence for sentence in gold}
    kept = [replace(item, annotations=tuple(item.annotations[number] for number in keep)) for item in items]
    practice = {
        item.sentence.id: Decision(item, "practice", annotation_of(answers[item.sentence.id].entities))
        for item in kept
        if item.sentence.id in answers and answers[item.sentence.id].text == item.sentence.text
    }
    return [names[number] for number in keep], kept, trials, practice, issues + found


def _write(context: Context, names: Sequence[str], decisions: Sequence[Decision]) -> list[Issue]:
    folder = context.folder
    done = (decision for decision in decisions if decision.how != "queued")
    sentences = [replace(one.item.sentence, entities=list(one.entities)) for one in done]
    jsonl.write(folder / "gold.jsonl", sentences)
    issues = adjudication.write_queue(folder / "queue.json", decisions, names, _categories(decisions))
    write_json_lines(folder / "decisions.jsonl", (decision.to_json(names) for decision in decisions))
    for name in ("gold.jsonl", "queue.json", "queue.xml", "decisions.jsonl"):
        context.publish_file(name)
    return issues


def _categories(decisions: Iterable[Decision]) -> list[str]:
    """All that anyone gave: the expert may choose any of them."""
    found = {entity.category for one in decisions for given in one.item.annotations if given for entity in given}
    return sorted(found | {entity.category for one in decisions for entity in one.entities})


def _report(
    context: Context, names: Sequence[str], decisions: Sequence[Decision], trials: Sequence[PracticeScore]
) -> None:
    how = Counter(decision.how for decision in decisions)
    counts: dict[str, Any] = {
        "annotators": list(names),
        "quorum": quorum_of(len(names)),
        "sentences": len(decisions),
        "decided": len(decisions) - how["queued"],
        "how": {name: how[name] for name in OUTCOMES},
        "entities": sum(len(decision.entities) for decision in decisions),
        "qualification": [trial.to_json() for trial in trials],
    }
    context.publish_json("counts.json", counts)
    values: dict[str, float] = {f"adjudicate/{name}": how[name] for name in OUTCOMES}
    values |= {"adjudicate/sentences": len(decisions), "adjudicate/entities": counts["entities"]}
    values |= {f"adjudicate/practice_f1/{trial.name}": trial.f1 for trial in trials}
    context.run.metrics(values)
    context.run.tags({"adjudicate.annotators": ", ".join(names)})
    print(f"{len(decisions):,} sentences: " + ", ".join(f"{name} {how[name]:,}" for name in OUTCOMES if how[name]))
    if how["queued"]:
        print(f"for the expert: {context.folder / 'queue.json'}; then the same command with expert=<export>")


TASK = Task(
    name="adjudicate",
    description=__doc__,
    run=run,
    label=lambda config: ["adjudicate", *(entry_label(entry) for entry in config.annotators)],
    inputs=[corpora.ANNOTATORS_INPUT, Input("practice"), Input("expert")],
    outputs=["gold.jsonl", "queue.json", "queue.xml", "decisions.jsonl", "counts.json"],
)
