"""`task=adjudicate`: merge several annotators' labels by vote, with a queue for an expert. No model, no torch.

It reads `annotators=[a.jsonl,b.jsonl,c.jsonl]`; `practice=<gold>`, which decides who may take part; and
`expert=<file>` with the answers to an earlier queue. It writes `gold.jsonl` (decided sentences), `queue.json` and
`queue.xml` (for the expert, in Label Studio: undecided sentences, or with `adjudicate.review=disputed` all that are not
unanimous), `decisions.jsonl` (how each sentence was decided) and `counts.json`. Every sentence of any annotator ends up
in `gold.jsonl` or in `queue.json`.
"""

# Other tasks read annotators' files with this module's `read_annotators`.

from __future__ import annotations

import logging
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from omniner.config.groups import Config, DataConfig
from omniner.corpus import adjudication, sources
from omniner.corpus.adjudication import (
    OUTCOMES,
    AnnotatedSentence,
    Decision,
    PracticeScore,
    annotation_of,
    decide,
    for_review,
    match_annotators,
    quorum_of,
)
from omniner.corpus.formats import FORMATS, jsonl, recognise
from omniner.errors import UserError
from omniner.files import write_json_lines
from omniner.progress import Progress, show
from omniner.records import Issue, Sentence, content_digest, is_unlabeled
from omniner.runs.context import Context, Input, Task, entry_label, split_entry
from omniner.scoring.predictions import garbage_collection_paused
from omniner.tracking.tracked_run import DataInput
from omniner.wording import counted

log = logging.getLogger("omniner")

ANNOTATORS_INPUT = Input(
    "annotators",
    required=True,
    fix="Set annotators=[a.jsonl,b.jsonl,...]: a file of labelled sentences of each, or one export of all.",
)


class Annotator(NamedTuple):
    """A person, or whatever else labelled sentences, with the file and the sentences in it."""

    name: str
    path: Path
    sentences: list[Sentence]


def run(context: Context) -> None:
    """Read and qualify the annotators, decide by vote, apply the expert's answers, and write the results."""
    with garbage_collection_paused():
        _adjudicate(context)


def _adjudicate(context: Context) -> None:
    config = context.config
    annotators, issues = read_annotators(context, fewest=2)
    names = [one.name for one in annotators]
    items, found = match_annotators(names, [one.sentences for one in annotators])
    issues += found
    adjudication.check_shared(names, items)
    scores: list[PracticeScore] = []
    practice: dict[str, Decision] = {}
    if config.practice:
        names, items, scores, practice, found = _qualify(config, Path(config.practice), names, items)
        issues += found
    progress = Progress("sentences decided", len(items))
    decisions = [practice.get(item.sentence.id) or decide(item) for item in progress.over(items)]
    if config.adjudicate.review == "disputed":
        decisions = [for_review(decision) for decision in decisions]
    if config.expert:
        answers, found = adjudication.read_expert_answers(Path(config.expert), config.data)
        decisions, more = adjudication.apply_expert_answers(decisions, answers)
        issues += found + more
    issues += _write(context, names, decisions)
    _report(context, names, decisions, scores)
    context.publish_issues(issues)


def _qualify(
    config: Config, path: Path, names: list[str], items: list[AnnotatedSentence]
) -> tuple[list[str], list[AnnotatedSentence], list[PracticeScore], dict[str, Decision], list[Issue]]:
    """Keep the annotators who are good enough on the practice sentences.

    Returns:
        Names of the qualified annotators, the items with only their annotations, the practice scores of all annotators,
        decisions of the practice sentences by sentence id (their gold), and issues.
    """
    settings = config.adjudicate
    gold, issues = sources.read_sentences(path, config.data)
    gold = [sentence for sentence in gold if not is_unlabeled(sentence)]
    scores, found = adjudication.score_practice(names, items, gold)
    if not scores or not scores[0].sentences:
        fix = "Name the gold of sentences that the annotators labelled, with the same ids and texts."
        raise UserError("practice", f"{path} shares no sentence with the annotators' files", fix)
    failed = [score for score in scores if not score.passes(settings.measure, settings.qualify)]
    for score in failed:
        value = f"{settings.measure} {getattr(score, settings.measure):.4f}"
        practised = counted(score.sentences, "practice sentence")
        message = f"{score.name}: {value} on {practised} is not above {settings.qualify:g}"
        if settings.unqualified == "fail":
            fix = "Leave this annotator out, or set adjudicate.unqualified=drop."
            raise UserError("adjudicate.qualify", message, fix)
        issues.append(Issue("unqualified", f"{message}; left out", str(path)))
    keep = [number for number, score in enumerate(scores) if score not in failed]
    if len(keep) < 2:
        listed = ", ".join(f"{score.name} {getattr(score, settings.measure):.4f}" for score in scores)
        fix = "A vote needs two: train the annotators again, or lower adjudicate.qualify."
        raise UserError("adjudicate.qualify", f"{len(keep)} annotators qualify ({listed})", fix)
    answers = {sentence.id: sentence for sentence in gold}
    kept = [replace(item, annotations=tuple(item.annotations[number] for number in keep)) for item in items]
    practice = {
        item.sentence.id: Decision(item, "practice", annotation_of(answers[item.sentence.id].entities))
        for item in kept
        if item.sentence.id in answers and answers[item.sentence.id].text == item.sentence.text
    }
    return [names[number] for number in keep], kept, scores, practice, issues + found


def _write(context: Context, names: Sequence[str], decisions: Sequence[Decision]) -> list[Issue]:
    """Write the decided sentences, the queue of undecided ones, and how each sentence was decided; return issues."""
    folder = context.folder
    done = (decision for decision in decisions if decision.how != "queued")
    sentences = [replace(one.item.sentence, entities=list(one.entities)) for one in done]
    jsonl.write(folder / "gold.jsonl", sentences)
    issues = adjudication.write_queue(folder / "queue.json", decisions, names, _categories(decisions))
    progress = Progress("decisions written", len(decisions))
    write_json_lines(folder / "decisions.jsonl", (one.to_json(names) for one in progress.over(decisions)))
    for name in ("gold.jsonl", "queue.json", "queue.xml", "decisions.jsonl"):
        context.publish_file(name)
    return issues


def _categories(decisions: Iterable[Decision]) -> list[str]:
    """Return all categories that anyone used; the expert can choose among them."""
    found = {entity.category for one in decisions for given in one.item.annotations if given for entity in given}
    return sorted(found | {entity.category for one in decisions for entity in one.entities})


def _report(
    context: Context, names: Sequence[str], decisions: Sequence[Decision], scores: Sequence[PracticeScore]
) -> None:
    """Write, track and print how many sentences were decided, and how."""
    how = Counter(decision.how for decision in decisions)
    counts: dict[str, Any] = {
        "annotators": list(names),
        "quorum": quorum_of(len(names)),
        "sentences": len(decisions),
        "decided": len(decisions) - how["queued"],
        "how": {name: how[name] for name in OUTCOMES},
        "entities": sum(len(decision.entities) for decision in decisions),
        "qualification": [score.to_json() for score in scores],
    }
    context.publish_json("counts.json", counts)
    values: dict[str, float] = {f"adjudicate/{name}": how[name] for name in OUTCOMES}
    values |= {"adjudicate/sentences": len(decisions), "adjudicate/entities": counts["entities"]}
    values |= {f"adjudicate/practice_f1/{score.name}": score.f1 for score in scores}
    context.run.metrics(values)
    context.run.tags({"adjudicate.annotators": ", ".join(names)})
    show(
        f"{counted(len(decisions), 'sentence')}: "
        + ", ".join(f"{name} {how[name]:,}" for name in OUTCOMES if how[name])
    )
    if how["queued"]:
        elsewhere = " and another output_dir" if context.config.output_dir else ""
        queue = context.folder / "queue.json"
        show(f"for the expert: {queue}; then the same command with expert=<export>{elsewhere}")
    if counts["decided"]:
        corpus = shlex.quote(f"input={context.folder / 'gold.jsonl'}")
        show(f"corpus: {context.folder / 'gold.jsonl'}; next: task=split {corpus} output=my_corpus")


def annotator_files(entries: Sequence[str]) -> dict[str, Path]:
    """Return the annotators' files by name.

    Args:
        entries: each `name=path`, or a path whose stem is the name.

    Raises:
        UserError: a file is missing, or a name is not allowed or occurs twice.
    """
    pairs = [(name or Path(path).stem, Path(path)) for name, path in map(split_entry, entries)]
    for name, path in pairs:
        if name in ("", "gold") or Path(name).name != name:  # files are named after annotators
            raise UserError("annotators", f"{name!r} is no name for an annotator", 'Give another name: "name=path".')
        if not path.exists():
            raise UserError("annotators", f"{path} does not exist", "Check the path.")
    if twice := [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]:
        raise UserError("annotators", f"two are called {twice[0]!r}", 'Give other names: "name=path".')
    return dict(pairs)


def _annotator_sources(config: Config) -> Iterator[tuple[str, Path, DataConfig]]:
    """Yield each annotator's name, file and the settings to read it; an export of several people yields each of them.

    People in an export keep their names in the file; with several files, the file's name and a hyphen precede them.
    """
    files = annotator_files(config.annotators)
    for name, path in files.items():
        format = sources.format_of_files(config.data)
        format = recognise(path)[0] if format == "auto" else format
        people = FORMATS[format].annotators(path) if config.data.annotator is None else []
        if len(people) < 2:
            yield name, path, config.data
        for person in people if len(people) > 1 else ():
            own = person.replace("/", "_")
            yield own if len(files) == 1 else f"{name}-{own}", path, replace(config.data, annotator=person)


def read_annotators(context: Context, fewest: int = 1) -> tuple[list[Annotator], list[Issue]]:
    """Read the files of `annotators` and record them in the tracked run.

    Args:
        context: the task's context.
        fewest: minimum number of annotators.

    Returns:
        The annotators in the order given, and issues.
    """
    found: list[Annotator] = []
    issues: list[Issue] = []
    for name, path, data in _annotator_sources(context.config):
        sentences, met = sources.read_sentences(path, data)
        if all(map(is_unlabeled, sentences)):
            raise UserError(path, "no labelled sentence could be read", "Name a file of labelled sentences.")
        issues += met
        found.append(Annotator(name, path, sentences))
    if len(found) < fewest:
        message = f"task={context.config.task.name} needs two or more, {len(found)} given"
        raise UserError("annotators", message, ANNOTATORS_INPUT.fix)
    if not any(sentence.entities for one in found for sentence in one.sentences):
        names, most = ", ".join(one.name for one in found), max(len(one.sentences) for one in found)
        message = f"none of {names} marked anything in {most:,} sentences"
        raise UserError("annotators", message, "Look at the files: were the labels exported?")
    context.run.datasets(
        DataInput(one.name, "annotator", content_digest(one.sentences), str(one.path), len(one.sentences))
        for one in found
    )
    return found, issues


TASK = Task(
    name="adjudicate",
    description=__doc__,
    run=run,
    label=lambda config: ["adjudicate", *(entry_label(entry) for entry in config.annotators)],
    inputs=[ANNOTATORS_INPUT, Input("practice"), Input("expert")],
    outputs=["gold.jsonl", "queue.json", "queue.xml", "decisions.jsonl", "counts.json"],
    settings=lambda config: ["metrics"],
    about_corpora=True,
)
