"""A model behind a server with an OpenAI-compatible API."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from omniner.config.groups import TeacherConfig
from omniner.guidance.questions import Question
from omniner.guidance.teacher import ANSWER_CUT, AskedModel, TeacherAnswer, TeacherCost, TeacherKind
from omniner.llm.serving.client import ChatClient, ChatRequest, ServerError, response_format
from omniner.llm.serving.responses import Refusal, Reply


class ServerTeacher:
    """Asks the model at `teacher.url`.

    Args:
        config: the group `teacher`.
    """

    def __init__(self, config: TeacherConfig) -> None:
        self._config = config
        self._client = ChatClient(config, "teacher")
        self._asked = 0

    @property
    def cost(self) -> TeacherCost:
        """See `Teacher`."""
        return TeacherCost(self._asked, self._client.usage.prompt_tokens, self._client.usage.completion_tokens)

    def ask(self, questions: Sequence[Question]) -> Iterator[list[TeacherAnswer]]:
        """See `Teacher`."""
        requests = ((question, self._request(question)) for question in questions)
        for batch in self._client.ask_all(requests):
            self._asked += len(batch)
            yield [read_outcome(question, outcome) for question, outcome in batch]

    def close(self) -> None:
        """See `Teacher`."""
        self._client.close()

    def _request(self, question: Question) -> ChatRequest:
        options: dict[str, Any] = {"max_tokens": self._config.max_new_tokens, "temperature": 0.0}
        if self._config.structured == "json_schema":
            options |= response_format(question.schema, "answer")
        messages = [{"role": "system", "content": question.system}, {"role": "user", "content": question.text}]
        return ChatRequest(messages, options)


def read_outcome(question: Question, outcome: Reply | Refusal | ServerError) -> TeacherAnswer:
    """Convert the server's outcome for a question to a `TeacherAnswer`."""
    if isinstance(outcome, Reply):
        return TeacherAnswer(question, outcome.text, ANSWER_CUT if outcome.finish == "length" else "")
    if isinstance(outcome, Refusal):
        return TeacherAnswer(question, None, f"refused: {outcome.reason}")
    return TeacherAnswer(question, None, f"no answer: {outcome}")


def served_model(config: TeacherConfig) -> str:
    """Return the name of the model on the server.

    If `teacher.model` names none, the server is asked, because it may have another model at another time.

    Raises:
        UserError: the server does not name its model.
    """
    if config.model:
        return config.model
    with contextlib.closing(ChatClient(config, "teacher")) as client:
        return client.model


TEACHER = TeacherKind(
    name="openai",
    description=__doc__,
    key="url",
    missing=("the server has no address", "Set teacher.url=http://host:port/v1."),
    teach=AskedModel(name=served_model, open=lambda config: ServerTeacher(config.teacher)),
)
