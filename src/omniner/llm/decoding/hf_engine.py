"""Predict with a causal model in this process: connects the decoder with predictions (`decoding.engine=hf`).

Evaluation during training and prediction afterwards call the same function: with the same weights they get the same
answers. (Prediction first merges adapters into their base weights, see `language_model.merge_adapters`.) Nothing of
Lightning is imported here, so prediction does not wait for it.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Generator, Sequence
from contextlib import closing

from omniner.answers import CUT, REPEATED, item_ends, prediction_from_answer
from omniner.config.model_groups import DecodingConfig
from omniner.llm.chat_tokenizer import ChatTokenizer
from omniner.llm.decoding.constraint import AnswerConstraint, Constraint
from omniner.llm.decoding.decoder import Answer, AnswerEnd, Decoder, DecodingRequest
from omniner.llm.language_model import CausalModel
from omniner.llm.samples import Sample, answer_limit
from omniner.records import Prediction, Sentence

_ENDED_BY: dict[AnswerEnd, str] = {"model": "", "limit": CUT, "loop": REPEATED}  # the wording of predictions


def build_constraint(causal: CausalModel, config: DecodingConfig) -> Constraint | None:
    """Return the constraint that keeps answers in form, or None if `decoding.kind` does not request one."""
    if config.kind != "guided":
        return None
    return AnswerConstraint(causal.chat, causal.prompt.categories, causal.prompt.answer)


def engine_name(config: DecodingConfig) -> str:
    """Return the engine name of predictions that are made in this process."""
    return "hf-guided" if config.kind == "guided" else "hf"


def predict_answers(
    causal: CausalModel, decoder: Decoder, samples: Sequence[Sample], done: frozenset[str]
) -> Generator[list[Prediction]]:
    """Let the model answer the samples that are not `done`.

    Args:
        causal: in evaluation mode, on its device.
        decoder: of its answers, for a prefix that all prompts share.
        samples: all of them, including finished ones: they determine which sentences are decoded together.
        done: ids of finished samples.

    Yields:
        Predictions, in the order in which the decoder finishes them; sometimes an empty list, see `Decoder.run`.
    """
    constraint = decoder.constraint
    sentences = {sample.id: Sentence(sample.id, sample.text) for sample in samples}
    ending = constraint.reserve if isinstance(constraint, AnswerConstraint) else 0
    rate, longest = causal.answer_rate, causal.longest_answer
    requests = [
        DecodingRequest(one.id, one.prompt, one.text, answer_limit(one.text, rate, ending, longest)) for one in samples
    ]
    prompt, engine = causal.prompt, engine_name(decoder.config)
    with closing(decoder.run(requests, done)) as answers:
        for batch in answers:
            yield [
                prediction_from_answer(
                    sentences[each.id],
                    each.text,
                    prompt.sha,
                    engine,
                    _ENDED_BY[each.end],
                    prompt.categories,
                    score_items(causal.chat, each),
                )
                for each in batch
            ]


def score_items(chat: ChatTokenizer, answer: Answer) -> list[float]:
    """Return the probability of each item in an answer, given what precedes it.

    The tokens after the category of the item before, up to the category of this item, are its own: the decision to go
    on with an item, its surface and its category. So the probabilities of all items and of the end multiply to that of
    the answer. A token that crosses a border belongs to the item in which it begins.

    Args:
        chat: the tokenizer of the answer.
        answer: with log-probabilities; without them there are no scores.

    Returns:
        The probabilities of the complete items from the beginning of an answer in the requested form on.
    """
    if not answer.log_probabilities:
        return []
    ends = item_ends(answer.text)
    sums = [0.0] * len(ends)
    for number, log_probability in enumerate(answer.log_probabilities):
        before = chat.decode(answer.tokens[:number])
        # a character whose last bytes follow is shown as U+FFFD
        begin = len(before if answer.text.startswith(before) else before.rstrip("\ufffd"))
        if (item := bisect_right(ends, begin)) == len(ends):
            break
        sums[item] += log_probability
    return [math.exp(value) for value in sums]
