"""Predictions of a causal model for encoded sentences: while it is trained, and when it is asked.

In come samples, out come predictions as the generator finishes them, with the model's own text in `raw`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from omniner.decoding.generate import Answer, Generator, Request
from omniner.decoding.guide import AnswerGuide, Guide
from omniner.encoding.answers import to_prediction
from omniner.encoding.samples import Sample
from omniner.models.causal import CausalModel
from omniner.records import Prediction, Sentence
from omniner.schema import DecodingConfig

_CUT = "stopped by decoding.max_new_tokens"


def build_guide(causal: CausalModel, config: DecodingConfig) -> Guide | None:
    """What keeps answers in form, if `decoding.kind` asks for it."""
    if config.kind != "guided":
        return None
    return AnswerGuide(causal.chat, causal.prompt.categories, causal.prompt.answer)


def engine(config: DecodingConfig) -> str:
    """The name that predictions made in this process carry."""
    return "hf-guided" if config.kind == "guided" else "hf"


def answers(
    causal: CausalModel,
    samples: Sequence[Sample],
    prefix: Sequence[int],
    config: DecodingConfig,
    guide: Guide | None,
    seed: int,
    done: frozenset[str],
) -> Iterator[list[Prediction]]:
    """Predictions for the samples that are not `done`, in the order in which the generator finishes them.

    Args:
        causal: in evaluation mode, on its device.
        samples: all of them, those that are done too: they decide which sentences are decoded together.
        prefix: token ids that all prompts begin with.
        config: how to decode.
        guide: what `build_guide` gave.
        seed: of drawn tokens.
        done: ids of samples.
    """
    generator = Generator(causal.model, causal.chat, list(prefix), config, guide, seed)
    texts = {sample.id: sample.text for sample in samples}
    requests = [Request(sample.id, sample.prompt, sample.text) for sample in samples]
    sha, name = causal.prompt.sha, engine(config)
    for batch in generator.run(requests, done):
        yield [_prediction(answer, texts[answer.id], sha, name) for answer in batch]


def _prediction(answer: Answer, text: str, sha: str, name: str) -> Prediction:
    prediction = to_prediction(Sentence(answer.id, text), answer.text, sha, name)
    if not answer.finished:
        prediction.reason = "; ".join(filter(None, (_CUT, prediction.reason)))
    return prediction
