"""An untuned language model in this process.

It decodes greedily and, with `teacher.structured=json_schema`, only answers of the required form. The weights are
loaded when the teacher is created, which happens only if some answer is not cached yet.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from functools import partial

from omniner.compute.devices import choose_devices, use_own_cores
from omniner.compute.torch_settings import settings_for
from omniner.config.groups import Config
from omniner.config.model_groups import DecodingConfig, EncodingConfig
from omniner.errors import UserError
from omniner.guidance.questions import Question
from omniner.guidance.teacher import ANSWER_CUT, AskedModel, TeacherAnswer, TeacherCost, TeacherKind
from omniner.llm.chat_tokenizer import ChatTokenizer
from omniner.llm.decoding.constraint import SchemaConstraint
from omniner.llm.decoding.decoder import Decoder, DecodingRequest
from omniner.llm.loading import load_pretrained
from omniner.llm.prompts import SENTENCE, Prompt
from omniner.llm.samples import PromptEncoder
from omniner.model_files import layer_sizes
from omniner.records import Sentence

_WHOLE = EncodingConfig(max_length=1_000_000, on_too_long="fail")  # a question is never cut


class LocalTeacher:
    """Asks the model of `teacher.path`.

    Args:
        config: `teacher` and `trainer` (for the device) are read.
    """

    def __init__(self, config: Config) -> None:
        settings = config.teacher
        use_own_cores(config.trainer)
        devices = choose_devices(config.trainer, large=True, layer=layer_sizes(settings.path), trains=False)
        self._within = partial(settings_for, devices)
        try:
            model, tokenizer = load_pretrained(str(settings.path), devices.dtype(learns=False))
            self._chat = ChatTokenizer(tokenizer, None)
        except UserError as error:
            raise UserError(error.where.replace("model.", "teacher."), error.found, error.fix) from error
        self._model = model.to(devices.device).eval()
        self._decoding: DecodingConfig = dataclasses.replace(
            config.decoding,
            max_new_tokens=settings.max_new_tokens,
            slots=settings.slots,
            temperature=0.0,
        )
        self._structured = settings.structured == "json_schema"
        self.cost = TeacherCost()

    def ask(self, questions: Sequence[Question]) -> Iterator[list[TeacherAnswer]]:
        """See `teacher.Teacher`."""
        for system in dict.fromkeys(question.system for question in questions):
            yield from self._ask(system, [question for question in questions if question.system == system])

    def close(self) -> None:
        """See `teacher.Teacher`."""
        del self._model

    def _ask(self, system: str, questions: Sequence[Question]) -> Iterator[list[TeacherAnswer]]:
        """Answer questions that have the same system text."""
        prompt = Prompt(
            name="teacher",
            version="1",
            language="",
            system="",  # not every template has a system role
            instruction=system,
            input=SENTENCE,
            answer="official",
            categories=(),
        )
        encoder = PromptEncoder(self._chat, prompt, _WHOLE)
        samples, _ = encoder.encode(Sentence(question.id, question.text) for question in questions)
        prefix = samples[0].prompt[: encoder.prefix_length(samples)]
        lengths = {sample.id: len(sample.prompt) for sample in samples}
        constraint = None
        if self._structured:
            constraint = SchemaConstraint(self._chat, {question.text: question.schema for question in questions})
        decoder = Decoder(self._model, self._chat, prefix, self._decoding, constraint, 0, self._within)
        by_id = {question.id: question for question in questions}
        for batch in decoder.run([DecodingRequest(sample.id, sample.prompt, sample.text) for sample in samples]):
            prompt_tokens, tokens = sum(lengths[each.id] for each in batch), sum(len(each.tokens) for each in batch)
            self.cost += TeacherCost(len(batch), prompt_tokens, tokens)
            yield [
                TeacherAnswer(by_id[each.id], each.text, "" if each.end == "model" else ANSWER_CUT) for each in batch
            ]


TEACHER = TeacherKind(
    name="hf",
    description=__doc__,
    key="path",
    missing=("no model is named", "Set teacher.path=<hub name or folder>."),
    teach=AskedModel(name=lambda config: str(config.path), open=LocalTeacher),
)
