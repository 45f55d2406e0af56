"""Try each candidate note of a lesson in the prompt, and keep a teacher's rule only if it lowers errors.

Each note is tried alone in the prompt, with the lesson's usual corrections. The model of the run answers sentences with
errors of the cluster anew, and as many that it answered without any error. They are held out: neither the lesson's
examples nor its counts use them. One half of them chooses the note with the fewest errors; among equally good notes the
counted note wins, then the teacher's earlier one. A rule replaces the counted note only if it makes fewer errors on the
other half, too, because the best of several notes is partly chosen by luck.

The weights are loaded once for all prompts, and the fixed beginning of a prompt is computed once for its sentences.
Answers are appended to `trials/answers.jsonl` as they arrive, so that a killed run continues after them.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from omniner.config.groups import Config, ErrtaConfig, MetricsConfig
from omniner.config.model_groups import PromptConfig
from omniner.corpus.sources import Corpus
from omniner.errors import UserError
from omniner.files import append_lines, make_folder, whole_records, write_json_lines
from omniner.guidance.clusters import Cluster
from omniner.guidance.lessons import NOT_TRIED, Candidate, Guidance, Lesson, Note, Tried
from omniner.guidance.prompt_errors import LengthFunction, render_errors_text, with_errors_text
from omniner.llm.prompts import Prompt, build_prompt
from omniner.predicting.engines import PromptedModel
from omniner.predicting.prediction_file import remove_stale
from omniner.progress import Progress
from omniner.records import Prediction, Sentence, prediction_to_json, to_line
from omniner.scoring.metrics import ScoreResult
from omniner.scoring.predictions import prediction_from_line
from omniner.scoring.scorer import choose_scale, score_records
from omniner.wording import counted

log = logging.getLogger("omniner")

TRIALS = "trials"
"""The folder with the answers of all trials."""

_ANSWERS = "answers.jsonl"
_FEWEST = 2  # sentences with errors of a cluster that a trial needs: one for each half


class TrialSentences(NamedTuple):
    """The held-out sentences of a lesson's trial: some with errors of its cluster, and as many without any error."""

    on_cluster: list[Sentence]
    on_right: list[Sentence]


@dataclass(frozen=True)
class TrialInputs:
    """The inputs of all trials.

    Attributes:
        config: configuration of the run whose errors are explained; `guide.trials` is this run's.
        prompt: configuration of the prompt that the notes are put into.
        model: the model that answers.
        corpus: its train gives the prompt's examples, its active categories are named in the prompt.
        result: the scored sentences, with the errors that are explained.
        chosen: the held-out sentences, for each lesson.
        count: measures the length of notes for `prompt.max_tokens`.
    """

    config: Config
    prompt: PromptConfig
    model: PromptedModel
    corpus: Corpus
    result: ScoreResult
    chosen: Sequence[TrialSentences]
    count: LengthFunction


@dataclass(frozen=True)
class _Trial:
    """A note, the prompt with it, and the sentences to answer."""

    candidate: Candidate
    prompt: Prompt
    chosen: TrialSentences

    @property
    def sentences(self) -> list[Sentence]:
        return self.chosen.on_cluster + self.chosen.on_right


def check_prompt(prompt: PromptConfig, corpus: Corpus) -> None:
    """Build the prompt with a placeholder for the note, before any prediction is made or paid for.

    Raises:
        UserError: the prompt cannot be built, whatever the notes are.
    """
    errors = {**prompt.errors, prompt.language: "…"}
    build_prompt(replace(prompt, errors=errors), corpus.active, corpus.splits["train"], corpus.definitions)


def check_notes(inputs: TrialInputs, guidance: Guidance) -> None:
    """Check that there will be something to try, before a teacher is asked.

    Raises:
        UserError: no lesson's counted note fits into the prompt, so that there is nothing to compare rules with.
    """
    reasons = []
    for lesson, chosen in zip(guidance.lessons, inputs.chosen, strict=True):
        if chosen.on_cluster:
            try:
                _prompt_with(inputs, lesson, lesson.note, guidance)
            except UserError as error:
                reasons.append(error)
            else:
                return
    if reasons:
        raise reasons[0]


def try_notes(inputs: TrialInputs, guidance: Guidance, folder: Path) -> list[Lesson]:
    """Try the candidates of all lessons.

    Args:
        inputs: the model, the prompt, and the sentences.
        guidance: its lessons hold the candidates.
        folder: the run's folder, for the answers.

    Returns:
        The lessons, each with the best of its notes.
    """
    planned = _plan(inputs, guidance)
    answers = _answer(list(planned.values()), inputs, folder / TRIALS / _ANSWERS)
    scale = _scale(inputs)
    judged = {place: _judge(trial, answers, scale) for place, trial in planned.items()}
    lessons = []
    for number, lesson in enumerate(guidance.lessons):
        candidates = [judged.get((number, place), one) for place, one in enumerate(lesson.candidates)]
        lessons.append(choose_note(lesson, candidates) if candidates else lesson)
    return lessons


def choose_note(lesson: Lesson, candidates: Sequence[Candidate]) -> Lesson:
    """Give a lesson the note with the fewest errors on one half, if it beats the counted note on the other half, too.

    Args:
        lesson: the lesson that gets the note.
        candidates: the counted note first; it stays if no rule is better on both halves, or if none was tried.
    """
    counted_note, tried = candidates[0], [one for one in candidates if one.on_cluster.sentences]
    best = min(tried, key=lambda one: one.choosing.errors, default=counted_note)  # the first of equals
    if best.confirming.errors >= counted_note.confirming.errors:
        best = counted_note
    return replace(lesson, note=best.note, candidates=[replace(one, chosen=one is best) for one in candidates])


def choose_sentences(cluster: Cluster, result: ScoreResult, most: int, hidden: Collection[str] = ()) -> TrialSentences:
    """Choose the held-out sentences for the notes on a cluster; the choice is deterministic.

    Args:
        cluster: at most half of its sentences are taken: its lesson is made of the others.
        result: all scored sentences.
        most: maximum number of sentences with errors, and of sentences without.
        hidden: texts to leave out: those that the model was shown, or will be shown, with their labels.

    Returns:
        Sentences with errors of the cluster; and at most as many without any error, those with a category of the
        cluster first. Both lists are empty if there are too few to choose by one half and to confirm by the other.
    """

    def drawn(names: Iterable[str]) -> list[Sentence]:
        by_text = {result.sentences[name].text: result.sentences[name] for name in sorted(names)}
        return sorted((one for text, one in by_text.items() if text not in hidden), key=_rank)

    on_cluster = drawn({error.sentence_id for error in cluster.errors})
    on_cluster = on_cluster[: min(most, len(on_cluster) // 2)]
    if len(on_cluster) < _FEWEST:
        return TrialSentences([], [])
    wrong = {error.sentence_id for error in result.errta.errors} | {issue.id for issue in result.errta.crashes}
    wrong |= {failure.sentence_id for failure in result.parse.failures}
    right, categories = drawn(set(result.scored) - wrong), {cluster.gold, cluster.predicted}
    right.sort(key=lambda one: categories.isdisjoint(entity.category for entity in one.entities))
    return TrialSentences(on_cluster, right[: len(on_cluster)])


def _rank(sentence: Sentence) -> bytes:
    return hashlib.blake2b(sentence.id.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _plan(inputs: TrialInputs, guidance: Guidance) -> dict[tuple[int, int], _Trial]:
    """Decide which notes are tried on which sentences; log why others are not tried.

    Returns:
        Trials by (index of the lesson, index of the candidate in it).
    """
    found: dict[tuple[int, int], _Trial] = {}
    for number, (lesson, chosen) in enumerate(zip(guidance.lessons, inputs.chosen, strict=True)):
        if not lesson.candidates:
            continue
        if not chosen.on_cluster:
            message = (
                "%s: too few sentences have such errors to set some aside and try its notes: the counted one stays"
            )
            log.warning(message, lesson.question_id)
            continue
        for place, candidate in enumerate(lesson.candidates):
            try:
                prompt = _prompt_with(inputs, lesson, candidate.note, guidance)
            except UserError as error:  # control tokens, a category not in train, or no room for the note
                log.warning("%s: a note of %s is not tried: %s", lesson.question_id, candidate.note.by, error.found)
                if place == 0:  # nothing to compare the others with
                    break
                continue
            found[number, place] = _Trial(candidate, prompt, chosen)
    return found


def _prompt_with(inputs: TrialInputs, lesson: Lesson, note: Note, guidance: Guidance) -> Prompt:
    """Build the prompt with this note as its only one.

    Raises:
        UserError: the note cannot be part of a prompt.
    """
    corpus, alone = inputs.corpus, replace(lesson, note=note)
    shown = replace(guidance, lessons=[alone], suspects=[], failures=[])
    text = render_errors_text(shown, inputs.prompt, corpus.active, inputs.count)
    filled = with_errors_text(inputs.prompt, shown, text)
    return build_prompt(filled, corpus.active, corpus.splits["train"], corpus.definitions)


def _answer(trials: Sequence[_Trial], inputs: TrialInputs, path: Path) -> dict[tuple[str, str], Prediction]:
    """Let the model answer all trials, continuing where an earlier attempt stopped.

    Returns:
        Its answers by (hash of the prompt, id of the sentence).
    """
    config = inputs.config
    make_folder(path.parent)
    remove_stale(path, config, inputs.model, list(inputs.result.sentences.values()))
    kept = whole_records(path, prediction_from_line, "Remove this line, or the file: it is answered again.")
    if trials:
        config, now = inputs.model.settled(config)  # a server may have another model by now
        kept = [one for one in kept if one.engine == now or not now]
    answers = {(one.prompt_sha, one.id): one for one in kept}
    wanted = [(trial.prompt.sha, sentence.id) for trial in trials for sentence in trial.sentences]
    done = sum(key in answers for key in wanted)
    if trials:
        notes, asked_for = counted(len(trials), "note"), counted(len(wanted), "answer")
        log.info("trying %s: %s (%d kept from before)", notes, asked_for, done)
    else:
        log.info("there is no note to try beside the counted ones")
    if done < len(wanted):
        progress = Progress("answers of trials", len(wanted), done=done, at_once=True)
        with inputs.model.open_prompts(config) as tell:
            for trial in trials:
                sha, asked = trial.prompt.sha, trial.sentences
                before = frozenset(sentence.id for sentence in asked if (sha, sentence.id) in answers)
                for batch in tell(trial.prompt)(asked, before) if len(before) < len(asked) else ():
                    for one in batch:
                        one.prompt_sha = sha  # also if no model read the sentence
                        answers[sha, one.id] = one
                    append_lines(path, [to_line(prediction_to_json(one)) for one in batch])
                    progress.add(len(batch))
    write_json_lines(path, (prediction_to_json(answers[key]) for key in wanted))
    return answers


def _scale(inputs: TrialInputs) -> tuple[MetricsConfig, ErrtaConfig]:
    """Return the settings that count errors in the same way as the errors that are explained.

    One setting differs: an unreadable answer counts as an empty one. Leaving it out, as some settings do, would hide
    its errors.
    """
    metrics, errta = inputs.config.metrics, inputs.config.errta
    unit, mode = choose_scale(list(inputs.result.sentences.values()), metrics, errta)
    metrics = replace(metrics, unit=unit, profile="own", on_parse_failure="empty", bootstrap=0)
    return metrics, replace(errta, mode=mode)


def _judge(
    trial: _Trial, answers: dict[tuple[str, str], Prediction], scale: tuple[MetricsConfig, ErrtaConfig]
) -> Candidate:
    """Count errors on sentences with cluster errors, on error-free ones, and on two halves.

    The halves are the sentences at even and at odd positions of both lists.
    """
    sha, (wrong, right) = trial.prompt.sha, trial.chosen

    def tried(sentences: Sequence[Sentence]) -> Tried:
        if not sentences:
            return NOT_TRIED
        given = [answers[sha, sentence.id] for sentence in sentences]
        return Tried(len(sentences), len(score_records(sentences, given, *scale).errta.errors))

    return replace(
        trial.candidate,
        on_cluster=tried(wrong),
        on_right=tried(right),
        choosing=tried(wrong[::2] + right[::2]),
        confirming=tried(wrong[1::2] + right[1::2]),
    )
