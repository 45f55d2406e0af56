"""Let a causal model answer sentences: connects the generator with predictions, without the parts of training.

Evaluation during training and prediction afterwards call the same function: with the same weights they get the same
answers. (Prediction first merges adapters into their base weights, see `language_model.merge_adapters`.) Nothing of
Lightning is imported here, so prediction does not wait for it.
"""

from __future__ import annotations

from collections.abc import Generator as Batches
from collections.abc import Sequence
from contextlib import closing

from omniner.answers import CUT, REPEATED, prediction_from_answer
from omniner.config.model_groups import DecodingConfig
from omniner.llm.constraint import AnswerConstraint, Constraint
from omniner.llm.generate import AnswerEnd, GenerationRequest, Generator
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
    causal: CausalModel, generator: Generator, samples: Sequence[Sample], done: frozenset[str]
) -> Batches[list[Prediction]]:
    """Let the model answer the samples that are not `done`.

    Args:
        causal: in evaluation mode, on its device.
        generator: of its answers, for a prefix that all prompts share.
        samples: all of them, including finished ones: they determine which sentences are decoded together.
        done: ids of finished samples.

    Yields:
        Predictions, in the order in which the generator finishes them; sometimes an empty list, see `Generator.run`.
    """
    constraint = generator.constraint
    sentences = {sample.id: Sentence(sample.id, sample.text) for sample in samples}
    ending = constraint.reserve if isinstance(constraint, AnswerConstraint) else 0
    rate, longest = causal.answer_rate, causal.longest_answer
    requests = [
        GenerationRequest(one.id, one.prompt, one.text, answer_limit(one.text, rate, ending, longest))
        for one in samples
    ]
    prompt, engine = causal.prompt, engine_name(generator.config)
    with closing(generator.run(requests, done)) as answers:
        for batch in answers:
            yield [
                prediction_from_answer(
                    sentences[each.id], each.text, prompt.sha, engine, _ENDED_BY[each.end], prompt.categories
                )
                for each in batch
            ]
