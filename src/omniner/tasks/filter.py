"""`task=filter`: remove sentences that are too easy, and list labels that look wrong (section 3.3 of the paper).

The corpus is `input=` (a file or folder of any format), or the published train, dev and test of `data` together. It is
divided into `filter.folds` folds by post. A model is trained on each fold, in a run of its own under `children/`, and
predicts all other folds. What the models agree on decides (`corpus.easy`).

`output` (by default `corpus/` in the run's folder) receives `kept.jsonl` and `removed.jsonl`, which together are the
corpus; `dropped.jsonl` with the mentions of too rare categories that were removed from the kept sentences;
`votes.jsonl`; and `suspects.jsonl`, also as a queue for Label Studio. To turn an expert's answers to that queue into
labels, use `task=adjudicate annotators=['a=kept.jsonl','b=kept.jsonl'] expert=<export>`: the two copies agree, and the
expert's answers replace them.

The cost is `folds` trainings on 1/folds of the corpus each, and folds - 1 predictions of every sentence. When the same
command continues an interrupted run, finished folds are not trained again.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from omniner.config.groups import Config
from omniner.corpus import adjudication, easy, splits
from omniner.corpus.easy import FilterResult
from omniner.corpus.formats import jsonl
from omniner.corpus.sources import LABELED
from omniner.errors import UserError
from omniner.files import make_folder, read_json, whole_records, write_json, write_json_lines, writing_folder
from omniner.progress import show
from omniner.records import Issue, Prediction, Sentence
from omniner.report import curation_tables
from omniner.report.tables import summary_markdown
from omniner.runs import children, outputs
from omniner.runs.children import Job, Outcome
from omniner.runs.context import Context, Input, Task, always, model_label, model_settings, path_label
from omniner.runs.folder import PREDICTIONS, other_corpus
from omniner.scoring.comparison import SCORES
from omniner.scoring.predictions import prediction_from_line
from omniner.scoring.scorer import choose_scale, settle_scale
from omniner.scoring.units import locate_predictions
from omniner.tasks import split
from omniner.tasks.split import WholeCorpus

log = logging.getLogger("omniner")

FOLDS, STATE = "folds", "folds.json"
FILES = ("kept.jsonl", "removed.jsonl", "dropped.jsonl", "votes.jsonl", "suspects.jsonl", "queue.json", "queue.xml")


def run(context: Context) -> None:
    """Read and divide the corpus, train and predict in child runs, decide by vote, and write the results."""
    output = split.corpus_output_folder(context, FILES)
    with outputs.replacing(context, output):
        _filter(context, output)


def _filter(context: Context, output: Path) -> None:
    config = context.config
    corpus = split.read_whole_corpus(context)
    count = config.filter.folds
    names = {f"fold_{number}": 1 / count for number in range(1, count + 1)}
    division = splits.divide(corpus.sentences, names, config.filter.together, config.filter.seed, "filter.folds")
    _check_same_corpus(context, corpus)
    folder = make_folder(context.folder / FOLDS)
    for part, name in enumerate(division.names):
        jsonl.write(folder / f"{name}.jsonl", division.of(corpus.sentences, part))
    outcomes = _train(context, [_job(config, corpus, context.folder, name, list(names)) for name in names])

    opinions = [_predictions(outcomes[name].folder) for name in names]
    unit, _ = choose_scale(corpus.sentences, config.metrics, config.errta)
    if unit == "span":
        opinions = [_with_places(corpus.sentences, said) for said in opinions]
    verdicts = easy.review(corpus.sentences, division.parts, opinions, unit)
    hard = [verdict.sentence for verdict in verdicts if not verdict.is_easy]
    kept, dropped = easy.drop_rare_categories(hard, corpus.sentences, config.filter.min_mentions)
    scores = [{score: outcomes[name].metrics[f"test/micro_{score}"] for score in SCORES} for name in names]
    filtered = FilterResult(
        verdicts, kept, dropped, easy.contradicted_labels(verdicts), scores, unit, division.together
    )
    issues = [
        *corpus.issues,
        *splits.repeated_text_issues(corpus.sentences, division),
        *easy.missing_answer_issues(verdicts),
    ]
    issues += _write(output, filtered)
    context.publish_issues(issues)
    _publish(context, filtered, output)
    show("\n".join(curation_tables.filter_summary(filtered)))
    if filtered.suspects:
        show(f"for the expert: {output / 'queue.json'}")
    show(f"kept: {output / FILES[0]}; divide it with task=split input={output / FILES[0]}")


def _check_same_corpus(context: Context, corpus: WholeCorpus) -> None:
    """Raise a `UserError` if the corpus has changed since the folds of this unfinished run were trained."""
    path = context.folder / STATE
    if path.exists() and read_json(path) != {"digest": corpus.digest}:
        raise other_corpus(context.folder, "the corpus is not the one that this unfinished run began with")
    write_json(path, {"digest": corpus.digest})


def _job(config: Config, corpus: WholeCorpus, folder: Path, name: str, names: Sequence[str]) -> Job:
    """Return the training job of one fold: the fold is `train`, from which dev is cut, and the other folds are `test`.

    All jobs use the unit and mode that are chosen from the whole corpus, so that their scores can be averaged.
    """
    child = copy.deepcopy(config)
    child.task.name, child.name, child.input, child.output = "train", f"{config.name}-{name}", None, None
    child.metrics, child.errta = settle_scale(corpus.sentences, config.metrics, config.errta)
    others = [f"{other}.jsonl" for other in names if other != name]
    child.data = children.data_of_parent(
        config.data,
        folder / FOLDS,
        {"train": [f"{name}.jsonl"], "test": others},
        name=f"{corpus.name}_{name}",
        taxonomy=corpus.taxonomy,
        report="test",
        dev_from_train=config.filter.dev_from_train,
        seed=config.filter.seed,
    )
    return Job(name, child)


def _train(context: Context, jobs: Sequence[Job]) -> dict[str, Outcome]:
    """Run the jobs that are not finished; return all outcomes by name.

    Raises:
        UserError: one or more jobs failed; the message shows the first.
    """
    outcomes: dict[str, Outcome] = {}
    for outcome in children.run_jobs(jobs, context.folder, context.run.id, context.config.children):
        outcomes[outcome.name] = outcome
        log.info("%s %s", outcome.name, f"failed: {outcome.error}" if outcome.error else "is done")
    failed = [outcomes[job.name] for job in jobs if outcomes[job.name].error]
    if failed:
        log_file = failed[0].folder.with_suffix(".log")
        others = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        fix = "The same command goes on; what is finished is not trained again."
        raise UserError(log_file, f"{failed[0].name} failed{others}: {failed[0].error}", fix)
    return outcomes


def _predictions(folder: Path) -> dict[str, Prediction]:
    fix = "Remove the folder of this fold: the same command trains it again."
    found = whole_records(folder / PREDICTIONS, prediction_from_line, fix)
    return {prediction.id: prediction for prediction in found}


def _with_places(sentences: Sequence[Sentence], said: Mapping[str, Prediction]) -> dict[str, Prediction]:
    """Return a model's predictions with offsets for the surfaces that have none."""
    asked = [sentence for sentence in sentences if sentence.id in said]
    placed, _ = locate_predictions(asked, [said[sentence.id].entities for sentence in asked])
    return {
        sentence.id: replace(said[sentence.id], entities=list(found))
        for sentence, found in zip(asked, placed, strict=True)
    }


def _write(output: Path, filtered: FilterResult) -> list[Issue]:
    """Write the corpus folder atomically; return issues."""
    categories = {entity.category for one in filtered.verdicts for entity in one.sentence.entities}
    categories |= {entity.category for one in filtered.suspects for entity in one.review.extra}
    with writing_folder(output) as folder:
        jsonl.write(folder / "kept.jsonl", filtered.kept)
        jsonl.write(folder / "removed.jsonl", filtered.removed)
        write_json_lines(folder / "dropped.jsonl", curation_tables.dropped_to_json(filtered.dropped))
        write_json_lines(folder / "votes.jsonl", (verdict.to_json() for verdict in filtered.verdicts))
        write_json_lines(folder / "suspects.jsonl", (one.to_json() for one in filtered.suspects))
        decisions = (one.to_decision() for one in filtered.suspects)
        found = adjudication.write_queue(folder / "queue.json", decisions, easy.QUEUE_NAMES, sorted(categories))
    return [issue._replace(file=str(output / "queue.json")) for issue in found]


def _publish(context: Context, filtered: FilterResult, output: Path) -> None:
    context.run.metrics(curation_tables.filter_metrics(filtered))
    context.run.tags({"filter.output": str(output), "filter.together": filtered.together, "filter.unit": filtered.unit})
    context.publish_json("filter.json", curation_tables.filter_json(filtered))
    tables = curation_tables.build_filter_tables(filtered)
    context.publish_tables(tables, "filter_")
    summary = curation_tables.filter_summary(filtered)
    context.publish_text("filter.md", summary_markdown(context.config.name, summary, tables))
    for name in ("suspects.jsonl", "queue.json", "queue.xml", "dropped.jsonl"):
        context.run.file(output / name, "corpus")


def _check(config: Config) -> None:
    if config.filter.folds < 2:
        raise UserError("filter.folds", f"{config.filter.folds} leaves no other model to ask", "Give 2 or more.")


TASK = Task(
    name="filter",
    description=__doc__,
    run=run,
    label=lambda config: [
        "filter",
        path_label(config.input) if config.input else config.data.name,
        *model_label(config),
    ],
    inputs=[Input("input")],
    check=_check,
    outputs=["filter.json", "filter.md", "tables", split.CORPUS_FOLDER, FOLDS, STATE, children.FOLDER],
    resume_files=[STATE],
    trains=True,
    prompts=True,
    uses_model=always,
    splits=lambda config: () if config.input else LABELED,
    settings=lambda config: ["output", *model_settings(config)],
)
