"""Human performance: annotators' labels of a test set against its gold, as the paper's section 4.2 reports it.

An annotator's labels take the form of a model's predictions and are scored as those are. An annotator is scored on the
gold sentences that they labelled: one that they were never given says nothing of them; `coverage_notes` says how many
these are where it is not all. Where gold was made from the labels of the same annotators, they agree with it more than
others would.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from omniner.records import Issue, Prediction, Sentence, is_unlabeled
from omniner.scoring.results import ScoreResult, ScoreRow

HUMAN = "human"  # what the mean over annotators is called beside runs
SCORES = ("precision", "recall", "f1")
MICRO, MACRO = "all (micro)", "all (macro)"


class Spread(NamedTuple):
    """A score over several annotators: mean, sample standard deviation (0 for one), lowest, highest."""

    mean: float
    deviation: float
    lowest: float
    highest: float


def human_predictions(
    name: str, sentences: Sequence[Sentence], gold: Sequence[Sentence]
) -> tuple[list[Prediction], list[Issue]]:
    """Take an annotator's labels of the gold sentences for predictions.

    Sentences are the same if their ids are. Where no id is (readers number sentences that bring none), texts that stand
    once on both sides tell.

    Args:
        name: of the annotator.
        sentences: that they labelled, those of the test set among them.
        gold: the test set.

    Returns:
        The predictions, and an issue for each sentence with another text or without labels.
    """
    texts = {sentence.id: sentence.text for sentence in gold}
    predictions, issues = [], []
    for sentence in sentences if any(sentence.id in texts for sentence in sentences) else _by_text(sentences, gold):
        if sentence.id not in texts:
            continue  # an annotator's file may hold more than the test set
        if sentence.text != texts[sentence.id]:
            issues.append(Issue("text-mismatch", f"{name} labelled another text; not scored", id=sentence.id))
        elif is_unlabeled(sentence):
            issues.append(Issue("not-annotated", f"{name} has the sentence without labels", id=sentence.id))
        else:
            predictions.append(Prediction(sentence.id, sentence.entities, engine=f"human {name}"))
    return predictions, issues


def _by_text(sentences: Sequence[Sentence], gold: Sequence[Sentence]) -> list[Sentence]:
    """The sentences whose text stands once here and once in gold, with the ids of gold."""
    ours, theirs = (Counter(sentence.text for sentence in side) for side in (gold, sentences))
    ids = {sentence.text: sentence.id for sentence in gold if ours[sentence.text] == 1}
    return [replace(one, id=ids[one.text]) for one in sentences if one.text in ids and theirs[one.text] == 1]


def labelled_gold(gold: Sequence[Sentence], predictions: Sequence[Prediction]) -> list[Sentence]:
    """Give the gold sentences that an annotator has labelled: those that they are scored on."""
    done = {prediction.id for prediction in predictions}
    return [sentence for sentence in gold if sentence.id in done]


def coverage_notes(results: Mapping[str, ScoreResult], sentences: int) -> list[str]:
    """Say what each annotator is scored on who has not labelled all of so many gold sentences."""
    return [
        f"{name} labelled {len(result.predictions):,} of {sentences:,} sentences and is scored on those alone"
        for name, result in results.items()
        if len(result.predictions) < sentences
    ]


def summarise_scores(values: Sequence[float]) -> Spread:
    """Give mean and spread of one score over annotators."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return Spread(statistics.fmean(values), deviation, min(values), max(values))


def human_rows(results: Mapping[str, ScoreResult]) -> dict[str, dict[str, ScoreRow]]:
    """Give the scores of every annotator for the whole and for every primary.

    Returns:
        `MICRO`, `MACRO` or a primary -> name -> score; a primary only of those who met or marked it.
    """
    found = {MICRO: {name: result.metrics.micro for name, result in results.items()}}
    found[MACRO] = {name: result.metrics.macro for name, result in results.items()}
    for primary in sorted({name for result in results.values() for name in result.metrics.primaries}):
        rows = {name: result.metrics.primaries.get(primary) for name, result in results.items()}
        found[primary] = {name: row.strict for name, row in rows.items() if row is not None}
    return found


def human_json(results: Mapping[str, ScoreResult]) -> dict[str, dict[str, dict[str, float]]]:
    """Give `agreement.json`'s part: the whole and every primary -> score -> mean and spread over the annotators."""
    return {
        name: {score: summarise_scores([getattr(row, score) for row in rows.values()])._asdict() for score in SCORES}
        for name, rows in human_rows(results).items()
    }
