"""Writing predictions as LLaMA-Factory does: `generated_predictions.jsonl`, which the official scripts score.

In go gold sentences and predictions, out comes one line `{"prompt", "label", "predict"}` per sentence, in their order.
`label` is the gold as a JSON list of pairs, `predict` what the model said, word for word; a tagger says nothing, so its
entities are written as such a list. The ERRTA script wants the sentences beside it, line by line the same: an alpaca
file of the same sentences (`corpus.formats.alpaca`) named `test.json`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from omniner.analysis.scores.official import texts
from omniner.files import writing
from omniner.records import Issue, Prediction, Sentence, to_line


def write_generated(path: str | Path, sentences: Sequence[Sentence], predictions: Sequence[Prediction]) -> list[Issue]:
    """Write one file, whole or not at all.

    Args:
        path: the file.
        sentences: with gold entities; `prompt` is the one their file gave, or else their text.
        predictions: matched by id, in any order.

    Returns:
        An issue for each sentence without a prediction (written as an empty list) and each prediction without a
        sentence (not written).
    """
    answers = {prediction.id: prediction for prediction in predictions}
    issues = []
    with writing(path) as file:
        for sentence in sentences:
            answer = answers.pop(sentence.id, None)
            if answer is None:
                issues.append(Issue("missing-prediction", "written as an empty answer", str(path), id=sentence.id))
            label, predict = texts(sentence, answer)
            prompt = sentence.meta.get("prompt", sentence.text)
            file.write(to_line({"prompt": prompt, "label": label, "predict": predict}) + "\n")
    issues += [Issue("unknown-id", "no gold sentence has this id; not written", str(path), id=id) for id in answers]
    return issues
