"""`task=guide`: explain the errors of a finished run, on data that a prompt may learn from.

The model of `run=` tags `guide.split`, and its errors are clustered. The largest clusters get examples, counts from the
training split and a note; labels that look wrong are listed. Notes are written by a teacher if there is one, and
otherwise state counted facts. The results are `guidance.json` (read by `prompt.from_run`), `guidance.md` and
`guidance.html`. The reported split stays unseen: it is refused, and its sentences are skipped if they also occur in the
explained split. A killed run continues with the predictions and answers that it already has.

`questions.jsonl` holds the questions for the teacher, with its answers. A person, or a model elsewhere, can answer them
instead: `teacher=file` writes the questions, `teacher=file teacher.file=<the file>` takes the answers.

With `guide.trials` the teacher's rules are tested: the untuned model of `run=` answers some sentences anew with the
counted note and with each of the `teacher.answers` rules in the prompt that this command names (`prompt=errta`).
Lessons are made without these sentences. A lesson gets the rule with the fewest errors on one half of them, if it also
makes fewer than the counted note on the other half. The teacher's doubts about labels are checked on `guide.controls`
control labels, which are just as unusual, but which the model predicts, too. If the teacher judges three or more of
them and calls at least half of them wrong, its doubts are ignored.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omniner.config import run_config
from omniner.config.groups import Config, GuideConfig
from omniner.config.validate import short_json
from omniner.corpus import sources
from omniner.corpus.formats import jsonl
from omniner.corpus.sources import Corpus
from omniner.errors import UserError
from omniner.files import read_json, write_json, writing
from omniner.guidance.clusters import Cluster, TrainingCounts, build_lesson, cluster_errors
from omniner.guidance.lessons import (
    GUIDANCE_FILE,
    Guidance,
    Lesson,
    SuspectLabel,
    read_guidance,
    write_guidance,
)
from omniner.guidance.questions import (
    ANSWERS_ASIDE,
    QUESTIONS_FILE,
    Question,
    control_question,
    held_answers,
    lesson_question,
    set_answers_aside,
    suspect_question,
    write_questions,
)
from omniner.guidance.teacher import TEACHERS, check_teacher, with_note, with_verdicts
from omniner.llm.examples import choose_examples
from omniner.model_files import find_checkpoint
from omniner.predicting.engines import ChosenModel, PromptedModel, TrainedModel, prompted_model, trained_model
from omniner.predicting.prediction_file import PREDICTION_OUTPUTS, PROVENANCE, predict_file, provenance
from omniner.progress import show
from omniner.records import Issue, Sentence, content_digest
from omniner.report import guidance_page
from omniner.runs.context import Context, Input, Task
from omniner.runs.folder import GOLD, GUIDANCE_COPY, PREDICTIONS, TRAINED_ON, read_state
from omniner.runs.references import RunReference, find_trained_model, resolve_run
from omniner.scoring.metrics import ScoreResult
from omniner.scoring.scorer import score_records
from omniner.scoring.suspects import UnusualLabel, find_control_labels, find_suspected_labels
from omniner.tasks.prompting import build_unpublished_prompt, length_measure
from omniner.tasks.score import check_scored
from omniner.tasks.trials import TRIALS, TrialInputs, check_notes, check_prompt, choose_sentences, try_notes
from omniner.wording import counted, first_of

log = logging.getLogger("omniner")

# Sections taken from the explained run; the device, the scores and the teacher are settings of this run.
_THEIRS = ("model", "head", "tuning", "prompt", "decoding", "data", "encoding", "seed", "checkpoint")
_TEACHER_USAGE = "teacher_spent.jsonl"
_NAMED = 3  # categories named in an error


def run(context: Context) -> None:
    """Predict, score, cluster the errors, ask the teacher, and write the guidance."""
    config, guide = context.config, context.config.guide
    source, folder = _find_source(context)
    theirs = run_config.with_sections_of(config, folder / "config.yaml", _THEIRS)
    trained = bool(theirs.checkpoint) or read_state(folder)["task"] == "train"
    if guide.trials and trained:
        found = f"the model of {source.name} was trained, and keeps the prompt it was trained with"
        raise UserError("guide.trials", found, "Name a prediction run of an untuned model or a server, or set it to 0.")
    corpus = sources.load_corpus(theirs.data, None)
    context.publish_corpus(corpus)
    sentences, issues = _select_sentences(corpus, guide)
    context.publish_issues([*corpus.issues, *issues])
    sources.require_entities(f"guide.split ({guide.split})", sentences)
    if guide.trials:
        check_prompt(config.prompt, corpus)
    model, theirs = _prepare_model(context, theirs, folder, corpus)
    result = _predict_and_score(context, theirs, model, corpus, sentences)
    clusters = cluster_errors(result.errta.errors)
    large = _choose_clusters(clusters, guide)
    shown = _find_shown(context, theirs, model, corpus)
    trials = None
    if isinstance(model, PromptedModel) and guide.trials:
        trials = _prepare_trials(context, theirs, model, corpus, result, large, shown)
    lessons = _build_lessons(large, result, corpus.splits["train"], guide, trials)
    # a model's predictions on sentences it was trained on are no second opinion
    controlled = config.teacher.kind != "none" and not (trained and guide.split == "train")
    suspects, controls = _find_suspects(result, corpus.splits["train"], guide, controlled, shown)
    errors = len(result.errta.errors)
    guidance = Guidance(
        source={
            "run": source.run_id,
            "name": source.name,
            "folder": str(folder),
            "model": theirs.model.name,
            "data": theirs.data.name,
            "guide": context.run.id or context.folder.name,
        },
        split=guide.split,
        from_test=guide.split == "test",
        scores=_scores(result),
        types={name: count.errors for name, count in result.errta.by_type.items()},
        teacher={"kind": config.teacher.kind},
        lessons=lessons,
        suspects=suspects,
        controls=controls,
        rest={"clusters": len(clusters) - len(lessons), "errors": errors - sum(lesson.count for lesson in lessons)},
    )
    if trials:
        check_notes(trials, guidance)
    if config.teacher.kind != "none":
        guidance = _teach(context, guidance)
    if trials:
        guidance = replace(guidance, lessons=try_notes(trials, guidance, context.folder))
    _publish(context, guidance)


def _find_source(context: Context) -> tuple[RunReference, Path]:
    """Find the finished run that `run` names, and its folder on this machine."""
    source = resolve_run(str(context.config.run), context.config.tracking, "run")
    if source.folder is None:
        found = f"the folder of the run {source.name} ({source.run_id}), which holds its model, is not on this machine"
        raise UserError("run", found, "Copy the folder here and name it.")
    task = read_state(source.folder).get("task")
    if task not in ("train", "predict"):
        what = f"a run of task={task}" if task else "no run"
        raise UserError("run", f"{source.folder} is {what}: there is no model to predict with", "Name a training run.")
    if not source.has_results:
        fix = "Let it finish first: the same command goes on with it."
        raise UserError("run", f"the run in {source.folder} is {source.status}, not finished", fix)
    values = run_config.read_mapping(source.folder / "config.yaml", "Name a run of this version of OmniNER.")
    labelled = values.get("input") or values.get("text")
    if labelled and values.get("checkpoint"):  # it did not read `data`, which is another corpus
        found = f"{source.folder} labelled {short_json(labelled)}, no split of a corpus whose errors could be explained"
        fix = f"Name the run that trained {values['checkpoint']}, or predict with data=... in place of input or text."
        raise UserError("run", found, fix)
    return source, source.folder


def _select_sentences(corpus: Corpus, guide: GuideConfig) -> tuple[list[Sentence], list[Issue]]:
    """Return the sentences of `guide.split` without those whose text is in the reported split; and issues for those."""
    if guide.split not in corpus.splits:
        raise UserError("guide.split", f"{corpus.name} has no split {guide.split}", "Use guide.split=train.")
    sentences = corpus.splits[guide.split]
    if guide.split == "test":
        return sentences, []
    reported = {sentence.text for sentence in corpus.reported}
    message = f"the same text stands in the reported split: left out of {guide.split}"
    issues = [Issue("in-test", message, id=sentence.id) for sentence in sentences if sentence.text in reported]
    return [sentence for sentence in sentences if sentence.text not in reported], issues


def _prepare_model(context: Context, theirs: Config, folder: Path, corpus: Corpus) -> tuple[ChosenModel, Config]:
    """Find the model of the run in `folder`: its checkpoint, here or on a server, or the prompt of one without.

    Args:
        context: the context of this run.
        theirs: its configuration with the sections of the explained run (`_THEIRS`).
        folder: folder of the explained run.
        corpus: its train gives the examples of a prompt.

    Returns:
        The model; and the configuration that its predictions are made with.
    """
    checkpoint = _find_checkpoint(theirs, folder)
    if checkpoint is not None:
        _warn_of_other_train(checkpoint, corpus)
        return trained_model(theirs, checkpoint), theirs
    # without a checkpoint, nothing has saved the prompt: it is built again
    (context.folder / GUIDANCE_COPY).unlink(missing_ok=True)  # copied by an earlier attempt; their copy may be newer
    if theirs.prompt.from_run and (folder / GUIDANCE_COPY).is_file():
        theirs = replace(theirs, prompt=replace(theirs.prompt, from_run=str(folder / GUIDANCE_COPY)))
    prompt, theirs = build_unpublished_prompt(theirs, context.folder, corpus, corpus.reported)
    return prompted_model(theirs, prompt, [sentence.text for sentence in corpus.splits["train"]]), theirs


def _predict_and_score(
    context: Context, theirs: Config, model: ChosenModel, corpus: Corpus, sentences: Sequence[Sentence]
) -> ScoreResult:
    """Tag the sentences with the model of the run, score the predictions and sort their errors."""
    config = context.config
    if config.teacher.kind == "file":  # the run that writes the questions and the one that reads answers label alike
        theirs = replace(theirs, name="", teacher=replace(theirs.teacher, file=None, model=None))
    _take_predictions(context, provenance(theirs, model, sentences))
    predictions = predict_file(theirs, model, sentences, context.folder / PREDICTIONS)
    jsonl.write(context.folder / GOLD, sentences)
    context.publish_file(PREDICTIONS)
    context.publish_file(GOLD)
    named = {entity.category for prediction in predictions for entity in prediction.entities}
    if not named:
        found = f"it found no entity in the {counted(len(sentences), 'sentence')} of {config.guide.split}"
        fix = "Look at its learning curves and some answers first; train it longer, or name another run."
        raise UserError("run", found, fix)
    if isinstance(model, TrainedModel) and named.isdisjoint(corpus.taxonomy.categories):
        found = f"it names {first_of(sorted(named), _NAMED)}, none of which is a category of {corpus.name}"
        raise UserError("run", found, "Name a run whose model was trained on this corpus.")
    metrics = replace(config.metrics, bootstrap=0)  # no interval is shown
    result = score_records(sentences, predictions, metrics, config.errta)
    check_scored(result, context.folder / PREDICTIONS)
    if not result.errta.errors:
        found = f"it makes no error on the {counted(len(sentences), 'sentence')} of {config.guide.split}"
        raise UserError("run", found, "There is nothing to explain; try guide.split=train or another run.")
    return result


def _take_predictions(context: Context, wanted: Mapping[str, Any]) -> None:
    """Copy the predictions of the run whose questions were answered, so that no sentence is predicted twice.

    Args:
        wanted: what this run's predictions depend on; predictions of anything else are not taken.
    """
    answers, path = context.config.teacher.file, context.folder / PREDICTIONS
    if not answers or path.exists():
        return
    asked, note = Path(answers).parent, {}
    with contextlib.suppress(UserError):  # absent or damaged: nobody knows what its predictions depend on
        note = read_json(asked / PROVENANCE)
    if note == wanted and (asked / PREDICTIONS).is_file():
        log.info("taking the predictions of %s", asked)
        write_json(path.with_name(PROVENANCE), wanted)
        with writing(path, "wb") as file:
            file.write((asked / PREDICTIONS).read_bytes())


def _warn_of_other_train(checkpoint: Path, corpus: Corpus) -> None:
    """Warn if the model was trained on another train split than the current one: it may have seen some of dev."""
    note = checkpoint.with_name(Path(TRAINED_ON).name)
    learnt = read_json(note) if note.is_file() else {}
    if learnt and learnt.get("train") != content_digest(corpus.splits["train"]):
        log.warning(
            "%s was trained on another train than the one of %s now (%s): where it learnt sentences of dev, its errors "
            "on them are fewer and others than on new ones. Train it again after a new split",
            checkpoint, corpus.name, note,
        )  # fmt: skip


def _find_checkpoint(theirs: Config, folder: Path) -> Path | None:
    """Return the checkpoint of a training run, or the one that a prediction run used; None if it used none."""
    if read_state(folder)["task"] == "train":
        return find_checkpoint(folder)
    return find_trained_model(theirs.checkpoint, theirs.tracking) if theirs.checkpoint else None


def _find_shown(context: Context, theirs: Config, model: ChosenModel, corpus: Corpus) -> set[str]:
    """Return the texts of labelled sentences in the prompt of an untuned model."""
    if isinstance(model, TrainedModel):
        return set()
    their_prompt, notes = theirs.prompt, context.folder / GUIDANCE_COPY
    examples = choose_examples(corpus.splits["train"], their_prompt.examples, their_prompt.seed)
    shown = {sentence.text for sentence in examples}
    if notes.is_file():
        shown |= {example.text for lesson in read_guidance(notes).lessons for example in lesson.examples}
    return shown


def _prepare_trials(
    context: Context,
    theirs: Config,
    model: PromptedModel,
    corpus: Corpus,
    result: ScoreResult,
    clusters: Sequence[Cluster],
    shown: Collection[str],
) -> TrialInputs:
    """Hold out sentences for the trials, without those that the model was shown, or will be shown, with labels."""
    own_prompt = context.config.prompt
    examples = choose_examples(corpus.splits["train"], own_prompt.examples, own_prompt.seed)
    hidden = {sentence.text for sentence in examples}.union(shown)
    chosen = [choose_sentences(cluster, result, context.config.guide.trials, hidden) for cluster in clusters]
    return TrialInputs(theirs, own_prompt, model, corpus, result, chosen, length_measure(theirs)[1])


def _choose_clusters(clusters: Sequence[Cluster], guide: GuideConfig) -> list[Cluster]:
    """Return the largest clusters, which get a lesson."""
    large = [cluster for cluster in clusters[: guide.clusters] if len(cluster.errors) >= guide.min_errors]
    if not large:
        message = f"{guide.min_errors}, but none of {len(clusters)} kinds of error occurs so often"
        raise UserError("guide.min_errors", message, "Lower it, or use guide.split=train.")
    return large


def _build_lessons(
    clusters: Sequence[Cluster],
    result: ScoreResult,
    train: Sequence[Sentence],
    guide: GuideConfig,
    trials: TrialInputs | None,
) -> list[Lesson]:
    """Build a lesson per cluster without the sentences held out for its trial."""
    texts = {name: sentence.text for name, sentence in result.sentences.items()}
    chosen = trials.chosen if trials else [()] * len(clusters)
    aside = [{sentence.text for sort in sorts for sentence in sort} for sorts in chosen]
    unseen = set().union(*aside)
    counts = TrainingCounts([sentence for sentence in train if sentence.text not in unseen])
    return [
        build_lesson(cluster, counts, texts, guide.examples, guide.surfaces, own)
        for cluster, own in zip(clusters, aside, strict=True)
    ]


def _find_suspects(
    result: ScoreResult, train: Sequence[Sentence], guide: GuideConfig, controlled: bool, shown: Collection[str]
) -> tuple[list[SuspectLabel], list[SuspectLabel]]:
    """Return labels that differ from their surface's usual label, those the model contradicts first, and controls."""
    suspects = find_suspected_labels(result, train)[: guide.suspects]
    most = guide.controls if suspects and controlled else 0
    controls = find_control_labels(result, train, suspects, shown)[:most]
    return [_suspect(one, result) for one in suspects], [_suspect(one, result) for one in controls]


def _suspect(one: UnusualLabel, result: ScoreResult) -> SuspectLabel:
    return SuspectLabel(
        surface=one.surface,
        gold=one.gold,
        usual=one.usual,
        share=one.share,
        seen=one.seen,
        count=one.labelled,
        agreeing=one.agreeing,
        id=one.example,
        text=result.sentences[one.example].text,
        verdict="",
        reason="",
    )


def _teach(context: Context, guidance: Guidance) -> Guidance:
    """Ask the teacher about each lesson, suspect and control label, and add its answers to the guidance."""
    config, language = context.config, context.config.guide.language
    errors, rules = int(guidance.scores["errors"]), config.teacher.answers
    about_lessons = [lesson_question(lesson, errors, language, rules) for lesson in guidance.lessons]
    about_labels = [suspect_question(suspect, language) for suspect in guidance.suspects]
    about_labels += [control_question(control, language) for control in guidance.controls]
    listed = [
        *about_lessons,
        *sorted(about_labels, key=lambda question: question.sha),
    ]  # this order does not show which labels are controls
    path = context.folder / QUESTIONS_FILE
    _write_questions(path, listed, held_answers(path, listed))  # now: if the teacher fails, a person can answer
    taught = TEACHERS[config.teacher.kind].teach(
        config, [*about_lessons, *about_labels], context.folder / _TEACHER_USAGE
    )
    _write_questions(path, listed, taught.answers)
    context.publish_file(QUESTIONS_FILE)
    teacher = guidance.teacher | taught.said
    if rules > 1 and taught.teacher:
        teacher["dropped"] = taught.dropped
    suspects, controls = with_verdicts(guidance.suspects, guidance.controls, taught, language)
    return replace(
        guidance,
        teacher=teacher,
        lessons=[with_note(lesson, taught, language) for lesson in guidance.lessons],
        suspects=suspects,
        controls=controls,
        failures=taught.failures,
    )


def _write_questions(path: Path, questions: Sequence[Question], answers: Mapping[str, Any]) -> None:
    """Write the questions with these answers; other ones that a person has written into the file are set aside."""
    if lost := set_answers_aside(path, questions, answers):
        aside = path.with_name(ANSWERS_ASIDE)
        message = "%s in %s that this run does not use: kept in %s, which teacher=file teacher.file=%s takes"
        log.warning(message, counted(lost, "answer"), path, aside, aside)
    write_questions(path, questions, answers)


def _scores(result: ScoreResult) -> dict[str, Any]:
    micro = result.metrics.micro
    scores = {"precision": micro.precision, "recall": micro.recall, "f1": micro.f1}
    return {"sentences": result.parse.scored, **scores, "errors": len(result.errta.errors)}


def _publish(context: Context, guidance: Guidance) -> None:
    """Write and track the guidance, its pages and its metrics, and print a summary."""
    tracked = context.run
    write_guidance(context.folder / GUIDANCE_FILE, guidance)
    context.publish_file(GUIDANCE_FILE)
    questions = str(context.folder / QUESTIONS_FILE)
    context.publish_text("guidance.md", guidance_page.guidance_markdown(guidance, questions))
    language = context.page_language(example.text for lesson in guidance.lessons for example in lesson.examples)
    page = guidance_page.render_guidance_page(guidance, context.config.name, language, questions)
    context.publish_text("guidance.html", page)
    context.publish_tables(guidance_page.build_guidance_tables(guidance))
    tracked.metrics({f"guide/{name}": value for name, value in guidance.scores.items()})
    covered = 1 - guidance.rest["errors"] / guidance.scores["errors"]
    counts = {"lessons": len(guidance.lessons), "suspects": len(guidance.suspects), "covered": covered}
    if guidance.tried:
        counts |= {"tried": len(guidance.tried), "won": len(guidance.won)}
    tracked.metrics({f"guide/{name}": value for name, value in counts.items()})
    if guidance.alarms.judged:
        tracked.metrics({"teacher/false_alarms": guidance.alarms.wrong / guidance.alarms.judged})
    spent = {name: value for name, value in guidance.teacher.items() if isinstance(value, int)}
    tracked.metrics({f"teacher/{name}": value for name, value in (spent | {"failed": len(guidance.failures)}).items()})
    tracked.tags({f"guide.{name}": value for name, value in guidance.source.items()})
    tracked.tags({"guide.split": guidance.split, "guide.from_test": guidance.from_test, "guide.sha": guidance.sha})
    if tracked.url and guidance.source["run"]:
        tracked.tags({"guide.link": tracked.url.replace(tracked.id, guidance.source["run"])})
    for reason in dict.fromkeys(failure.reason for failure in guidance.failures):
        names = [failure.question for failure in guidance.failures if failure.reason == reason]
        log.warning("no answer to %s (%s): %s", counted(len(names), "question"), first_of(names, _NAMED), reason)
    summary = guidance_page.guidance_summary(guidance, questions)
    command = f"python -m omniner.run model=<causal model> prompt=errta prompt.from_run={context.folder}"
    total = counted(int(guidance.scores["errors"]), "error")
    headline = f"{counted(len(guidance.lessons), 'kind')} of errors on {guidance.split}, of {total}"
    pages = ["guidance.html", "guidance.md"]
    context.describe(headline, pages, command=command, details=summary.splitlines())
    show(summary)


def _check(config: Config) -> None:
    if not config.run:
        raise UserError("run", "task=guide needs it", "Set run=<MLflow run id, name of a run, or its folder>.")
    if config.guide.split == "test" and not config.guide.allow_test:
        found = "test is the split that is reported: a prompt made of its errors would have seen the answers"
        raise UserError("guide.split", found, "Use dev or train (guide.allow_test=true does it and marks the run).")
    if config.teacher.kind != "none":
        check_teacher(config.teacher)
    answers, folder = config.teacher.file, config.output_dir
    if answers and folder and Path(folder).resolve() in Path(answers).resolve().parents:
        found = f"{answers} stands in the folder of this run, which may replace it"
        raise UserError("teacher.file", found, "Name another output_dir, or a copy of the file elsewhere.")
    if answers and config.teacher.kind == "file":
        from omniner.guidance.teachers.file import check_answers_file

        check_answers_file(Path(answers))
    if config.guide.trials:
        _check_trials(config)


def _check_trials(config: Config) -> None:
    """Raise a `UserError` if `guide.trials` has no rules to try, or no prompt to try them in."""
    prompt, language = config.prompt, config.guide.language
    if config.teacher.kind == "none":
        found = "without a teacher there are only counted notes"
        raise UserError(
            "guide.trials", found, f"Set {' or '.join(f'teacher={kind}' for kind in TEACHERS)}, or it to 0."
        )
    if prompt.from_run:
        found = "each note is tried alone, without the lessons of another run"
        raise UserError("prompt.from_run", found, "Leave it out.")
    if "{errors}" not in prompt.system.get(language, "") + prompt.instruction.get(language, ""):
        found = f"guide.trials puts notes in the place of {{errors}}, and prompt={prompt.name} has none in {language}"
        raise UserError("prompt", found, "Set prompt=errta, or prompt=errta_fewshot.")
    if prompt.language != language:
        found = f"{prompt.language}, but the notes that are tried are in {language} (guide.language)"
        raise UserError("prompt.language", found, "Set both to the same.")


TASK = Task(
    name="guide",
    description=__doc__,
    run=run,
    label=lambda config: ["guide", Path(config.run or "").name, config.guide.split, config.teacher.kind],
    inputs=[Input("teacher.file", folder_allowed=False, by_content=True)],
    check=_check,
    outputs=(
        *PREDICTION_OUTPUTS,
        QUESTIONS_FILE,
        ANSWERS_ASIDE,
        GUIDANCE_FILE,
        "guidance.md",
        "guidance.html",
        _TEACHER_USAGE,
        TRIALS,
        "tables",
        GUIDANCE_COPY,
    ),
    resume_files=[PREDICTIONS],
    settings=lambda config: ["run", "teacher", "errta", *(["prompt"] if config.guide.trials else [])],
)
