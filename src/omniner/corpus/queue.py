"""The expert's queue: what a vote did not settle, as tasks that Label Studio imports, and the answers read back.

Each task carries the proposals of all annotators as predictions, with the annotator as `model_version`, so that the
expert sees them side by side and starts from any of them. The labelling configuration with all categories stands beside
the file (`.xml`). Answers come back as Label Studio's JSON export, or in any other format of corpora. A task that was
exported before it was done still has its predictions: that is no answer, whatever they say.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from omniner.corpus import sources
from omniner.corpus.formats import label_studio, recognise
from omniner.corpus.formats.fields import IssueLog, json_records, write_list
from omniner.corpus.votes import Decision, in_order
from omniner.files import write_text
from omniner.records import Issue, Sentence, is_unlabeled


def write(path: Path, decisions: Iterable[Decision], names: Sequence[str], categories: Sequence[str]) -> list[Issue]:
    """Write the queued sentences as a list of tasks, whole or not at all.

    Args:
        path: the JSON file; the labelling configuration gets its name with `.xml`.
        decisions: those that are not queued are passed over.
        names: of the annotators.
        categories: what the expert can choose from.

    Returns:
        An issue for each proposed entity that has no place: Label Studio cannot show it.
    """
    log = IssueLog(path)
    write_text(path.with_suffix(".xml"), label_studio.configuration(categories, log))
    write_list(path, (_task(decision, names, log) for decision in decisions if decision.how == "queued"))
    return log.items


def _task(decision: Decision, names: Sequence[str], log: IssueLog) -> dict[str, Any]:
    sentence = decision.item.sentence
    task = label_studio.task(
        Sentence(sentence.id, sentence.text, [], sentence.post_id, {**sentence.meta, "unlabeled": True}), log
    )
    task["predictions"] = [
        {
            "model_version": name,
            "result": label_studio.results(Sentence(sentence.id, sentence.text, list(proposal)), log),
        }
        for name, proposal in zip(names, decision.item.proposals, strict=True)
        if proposal is not None
    ]
    return task


def read_answers(path: Path) -> tuple[list[Sentence], list[Issue]]:
    """The sentences that the expert has labelled, and what could not be read. Undone tasks are no sentences."""
    sentences, issues = sources.read_sentences(path)
    undone: set[str] = set()
    if recognise(path)[0] == "label_studio":
        undone = _undone(path)
        issues = [issue for issue in issues if issue.code != "only-predictions"]
    return [item for item in sentences if not is_unlabeled(item) and item.id not in undone], issues


def _undone(path: Path) -> set[str]:
    """Ids of the tasks without a finished annotation."""
    found = set()
    for _, record in json_records(path, IssueLog(path)):
        data = record.get("data")
        if not isinstance(data, dict):
            continue
        annotations = record.get("annotations") or record.get("completions") or []
        done = isinstance(annotations, list) and any(
            isinstance(item, dict) and not item.get("was_cancelled") for item in annotations
        )
        if not done:
            found.add(str(data.get(label_studio.ID, record.get("id"))))
    return found


def answered(decisions: Sequence[Decision], answers: Sequence[Sentence]) -> tuple[list[Decision], list[Issue]]:
    """The decisions with the expert's answers in them; an answer counts for whatever sentence it is about.

    Answers to unknown sentences or other texts are issues, and change nothing; so is the second of two answers.
    """
    issues: list[Issue] = []
    given: dict[str, Sentence] = {}
    known = {decision.item.sentence.id: decision.item.sentence.text for decision in decisions}
    for answer in answers:
        if answer.id not in known:
            issues.append(Issue("unknown-id", "the expert's sentence is none of the annotators'", id=answer.id))
        elif answer.text != known[answer.id]:
            issues.append(Issue("text-mismatch", "the expert's answer is about another text; not used", id=answer.id))
        elif answer.id in given:
            issues.append(Issue("duplicate-id", "a second answer of the expert; the first one counts", id=answer.id))
        else:
            given[answer.id] = answer
    done = []
    for decision in decisions:
        name = decision.item.sentence.id
        if name not in given:
            done.append(decision)
            continue
        if decision.how != "queued":
            message = f"decided by the annotators ({decision.how}); the expert's answer counts"
            issues.append(Issue("expert-overrules", message, id=name))
        votes = decision.accepted, decision.rejected, decision.open
        done.append(Decision(decision.item, "expert", in_order(given[name].entities), *votes))
    return done, issues
