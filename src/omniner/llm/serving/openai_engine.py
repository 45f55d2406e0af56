"""Predict with a model behind a server that speaks OpenAI's protocol (`decoding.engine=openai`).

Every sentence gets exactly one prediction, as its answer arrives, or the work ends with an error that says why. Nothing
is written for a sentence whose request only failed, so that a restart asks for exactly those. A request that the server
will never answer (a text that is too long, a content filter) gives a failed prediction with the server's reason. But if
the server answers nothing else, it rejects all our requests, and that is an error, too.

`decoding.kind=guided` needs a server that can restrict the form of answers (`decoding.structured`). The second half of
this module builds the request fields for that:

- `list_schema`: `response_format` with a list of `[text, one of the categories]`, the form that a trained model writes.
- `object_schema`: the same as `{"entities": [{"text", "category"}]}`: some servers, OpenAI's own among them, accept
  only objects and no fixed pairs. `entities_as_list` converts it back to the list, word for word.
- `vllm_grammar`: vLLM's `structured_outputs` with a Lark grammar in the dialect of llguidance. It is stricter than a
  schema: the bytes of the training format, and only surfaces that occur in the sentence. It needs vLLM 0.12 or newer
  with its structured-outputs backend `guidance`, or `auto`, which falls back to it.

A server may silently ignore all this, as `transformers serve` does: the first answer in another form is reported.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from omniner.answers import CUT, STYLES, prediction_from_answer, strict_pairs
from omniner.answers.final_answer import BEHIND_THINKING, MODEL_THINKS
from omniner.config.model_groups import DecodingConfig
from omniner.errors import UserError
from omniner.llm.prompts import TEMPLATE_OPTIONS, Prompt
from omniner.llm.serving.client import ChatClient, ChatRequest, ServerError, response_format
from omniner.llm.serving.responses import ONLY_THOUGHT, Refusal, Reply
from omniner.progress import Progress
from omniner.records import Prediction, Sentence
from omniner.wording import counted, first_of, shortened

log = logging.getLogger("omniner")

_EMPTY = "empty-text"  # begins the reason of a prediction without a request
# Reasons why an answer cannot be parsed, in addition to `ONLY_THOUGHT`:
_LIMIT, _REFUSED, _NO_ANSWER = "cut at its limit of tokens", "refused", "no text at all"
_OUT_OF_FORM = "no list of entities"
_MOST_REFUSALS = 20  # without any answer: then the cause is not the sentences
_NAMED = 5  # ids named in a message
_FIRST_LOOK = 20  # number of answers after which unreadable ones are reported
_EXAMPLES = 3  # unreadable answers shown
_SHOWN = 60  # characters of each


def predict_with_server(
    config: DecodingConfig,
    prompt: Prompt,
    sentences: Sequence[Sentence],
    done: frozenset[str],
    quiet: bool = False,
    system_role: bool = True,
) -> Iterator[list[Prediction]]:
    """Ask a server about the sentences that are not `done`; their own entities are ignored.

    Args:
        config: the server, and its decoding settings.
        prompt: the model's prompt.
        sentences: with different ids.
        done: ids of sentences that already have their predictions.
        quiet: log neither progress nor cost, because this is a part of work that logs its own.
        system_role: whether the model's chat template has the role; if not, its text is put before the user's.

    Yields:
        Predictions, batch by batch as the answers arrive, in any order.

    Raises:
        UserError: the server cannot be used, is gone, or left sentences without an answer. Earlier answers were yielded
            before.
    """
    if config.kind == "guided" and config.structured == "none":
        found = "none with decoding.kind=guided: the server would not be told what answers may look like"
        raise UserError("decoding.structured", found, "Use vllm or json_schema, or decoding.kind=free.")
    left = [sentence for sentence in sentences if sentence.id not in done]
    filled = [sentence for sentence in left if sentence.text]
    with contextlib.closing(ChatClient(config, "decoding")) as client:
        predictor = _Predictor(client, config, prompt, bool(done), quiet, system_role)
        if len(filled) < len(left):
            yield [predictor.empty(sentence) for sentence in left if not sentence.text]
        yield from predictor.run(filled)


def with_template_options(config: DecodingConfig) -> DecodingConfig:
    """Return settings whose requests tell the chat template what it is told in this process (`TEMPLATE_OPTIONS`).

    For servers of models that we know, which accept this field; `extra_body` overrides it.
    """
    own = config.extra_body.get("chat_template_kwargs", {})
    options = {**TEMPLATE_OPTIONS, **own} if isinstance(own, dict) else own
    return dataclasses.replace(config, extra_body={**config.extra_body, "chat_template_kwargs": options})


def ask_for_model(config: DecodingConfig) -> str:
    """Return the name of the model to use: the configured one, or the only one that the server has.

    Raises:
        UserError: the server does not name one.
    """
    with contextlib.closing(ChatClient(config, "decoding")) as client:
        return client.model


def engine_name(model: str) -> str:
    """Return the engine name in predictions of a server's model."""
    return f"openai:{model}"


class _Predictor:
    """Send requests about sentences, and keep what was answered, refused and failed so far."""

    def __init__(
        self,
        client: ChatClient,
        config: DecodingConfig,
        prompt: Prompt,
        resumed: bool,
        quiet: bool,
        system_role: bool,
    ) -> None:
        self.client, self.config, self.prompt, self.quiet, self.system_role = client, config, prompt, quiet, system_role
        self.engine = engine_name(client.model)
        self.resumed, self.answered = resumed, False  # whether the server answered before, and now
        self.guided = config.kind == "guided"
        self.schema = list_schema
        self.refused: list[Prediction] = []  # held back until something is answered
        self.failed: list[tuple[str, str]] = []  # id, reason
        self.refused_role = False  # whether the model has no system role
        self.out_of_form = False
        self.unread: list[Prediction] = []  # answers that could not be parsed
        self.reported = 0  # number of these of which the log says so already

    def run(self, sentences: Sequence[Sentence]) -> Iterator[list[Prediction]]:
        """Predict sentences that are not empty."""
        what, tick = "sentences answered", self.client.tick
        progress = Progress(what, len(sentences), seconds=tick, quiet=self.quiet, note=self._trouble)
        waiting = iter(sentences)
        if self.guided and self.config.structured == "json_schema":
            for batch in self._choose_schema(waiting):
                progress.add(len(batch))
                yield batch
        requests = ((sentence, self._request(sentence)) for sentence in waiting)
        for outcomes in self.client.ask_all(requests):
            batch = [prediction for outcome in outcomes for prediction in self._take(*outcome)]
            progress.add(len(batch))
            if batch:
                yield batch
        if self.refused and not self.resumed:
            self._refuse_all()
        if self.refused:  # the few that were left: those that the server will not answer
            yield self.refused
        self._tell_unread(self.client.usage.requests, last=True)
        if not self.quiet:
            self._tell_cost()
        if self.failed:
            names = first_of([name for name, _ in self.failed], _NAMED)
            without = f"{counted(len(self.failed), 'sentence')} without an answer ({names})"
            found = f"{without}; the first: {self.failed[0][1]}"
            raise UserError("decoding.url", found, "Repeat the same command: it asks again about these only.")

    def _tell_cost(self) -> None:
        usage, trouble = self.client.usage, self._trouble()
        cost = [
            (usage.requests, "request"),
            (usage.prompt_tokens, "prompt token"),
            (usage.completion_tokens, "answer token"),
        ]
        log.info("%s%s", ", ".join(counted(*each) for each in cost), f"; {trouble}" if trouble else "")

    def empty(self, sentence: Sentence) -> Prediction:
        """Predict nothing for an empty text, without a request."""
        return Prediction(
            sentence.id, reason=f"{_EMPTY}: nothing to ask", prompt_sha=self.prompt.sha, engine=self.engine
        )

    def _choose_schema(self, waiting: Iterator[Sentence]) -> Iterator[list[Prediction]]:
        """Ask about sentences one by one until one is answered; if one schema is refused, try the other."""
        for sentence in waiting:
            for schema in (list_schema, object_schema):
                self.schema = schema
                outcome = self.client.ask(self._request(sentence))
                if not isinstance(outcome, Refusal) or outcome.filtered:
                    break
            if predictions := self._take(sentence, outcome):
                yield predictions
            if isinstance(outcome, Reply):
                return

    def _request(self, sentence: Sentence) -> ChatRequest:
        config, prompt = self.config, self.prompt
        options: dict[str, Any] = {
            "max_tokens": config.max_new_tokens,
            "temperature": config.temperature,
            "top_p": config.top_p,
        }
        if self.guided and config.structured == "json_schema":
            options |= self.schema(prompt.categories)
        elif self.guided:
            options |= vllm_grammar(sentence.text, prompt.categories, prompt.answer)
        options |= config.extra_body
        options = {name: value for name, value in options.items() if value is not None}
        return ChatRequest(prompt.messages(sentence.text, self.system_role), options)

    def _take(self, sentence: Sentence, outcome: Reply | Refusal | ServerError) -> list[Prediction]:
        """Record an outcome, and return the predictions that can be yielded now."""
        if isinstance(outcome, ServerError):
            self.failed.append((sentence.id, str(outcome)))
            return []
        if isinstance(outcome, Reply):
            held, self.refused, self.answered = self.refused, [], True
            return [*held, self._prediction(sentence, outcome)]
        prediction = Prediction(
            sentence.id,
            parse="failed",
            reason=f"refused: {outcome.reason}",
            prompt_sha=self.prompt.sha,
            engine=self.engine,
        )
        if self.answered or outcome.filtered:
            return [prediction]
        self.refused.append(prediction)
        self.refused_role = self._lacks_system_role(outcome)
        if len(self.refused) == _MOST_REFUSALS or self.refused_role:
            self._refuse_all()
        return []

    def _lacks_system_role(self, refusal: Refusal) -> bool:
        """Return whether the model's chat template refuses the prompt's system role, as that of Gemma 2 does."""
        said = refusal.reason.lower()
        sent = bool(self.prompt.system) and self.system_role
        return sent and "role" in said and ("system" in said or "alternate" in said)

    def _prediction(self, sentence: Sentence, reply: Reply) -> Prediction:
        """Parse an answer; report the first one that is not in the requested form."""
        text = entities_as_list(reply.text, self.prompt.answer) if self.guided else reply.text
        known, ended_by = self.prompt.categories, CUT if reply.finish == "length" else ""
        prediction = prediction_from_answer(sentence, text, self.prompt.sha, self.engine, ended_by, known)
        in_form = prediction.parse == "ok" and all(entity.category in known for entity in prediction.entities)
        if self.guided and not (in_form or ended_by or self.out_of_form):
            self.out_of_form = True
            message = "the answer about %s is not in the form that decoding.structured=%s asks for: %s may not know it"
            log.warning(message, sentence.id, self.config.structured, self.client.url)
        if reply.note:
            prediction.reason = f"{reply.note}; {prediction.reason}"
        if prediction.parse == "failed":
            self.unread.append(prediction)
        self._tell_unread(self.client.usage.requests)
        return prediction

    def _tell_unread(self, answers: int, last: bool = False) -> None:
        """Log how many answers could not be parsed, why, and what helps: early, and at the end if there are more."""
        count = len(self.unread)
        if count > self.reported and (last or (answers >= _FIRST_LOOK and not self.reported)):
            self.reported = count
            reasons, _, fix = explain_unread(self.unread, self.config)
            log.warning("%d of %d answers could not be read: %s. %s", count, answers, reasons, fix)

    def _refuse_all(self) -> NoReturn:
        found = f"{self.client.url} refuses all requests; about {self.refused[0].id}: {self.refused[0].reason}"
        if self.refused_role:
            fix = "The model takes no system role: leave its text empty, and begin prompt.instruction with it."
            raise UserError("prompt.system", found, fix)
        raise UserError("decoding", found, "Change what it does not take: a key of decoding, the prompt, or the input.")

    def _trouble(self) -> str:
        usage = self.client.usage
        if not usage.retries:
            return ""
        return f"{counted(usage.retries, 'further attempt')}, the last after: {usage.last_trouble}"


def refuse_unread(predictions: Sequence[Prediction], config: DecodingConfig) -> None:
    """Reject predictions if no answer at all could be parsed.

    Raises:
        UserError: with the reasons, examples and the remedy.
    """
    asked = [prediction for prediction in predictions if not prediction.reason.startswith(_EMPTY)]
    if asked and all(prediction.parse == "failed" for prediction in asked):
        reasons, key, fix = explain_unread(asked, config)
        fix = f"{fix} If the change is the server's, resume=never asks again."
        raise UserError(key, f"none of {len(asked)} answers could be read: {reasons}", fix)


def explain_unread(unread: Sequence[Prediction], config: DecodingConfig) -> tuple[str, str, str]:
    """Describe why answers could not be parsed.

    Returns:
        The reasons with their counts and the first examples, the key that helps with the most frequent one, and how.
    """
    kinds, limit = Counter(map(_kind_of, unread)), config.max_new_tokens or "what the server allows"
    answers = [(p.id, shortened(" ".join(p.raw.split()), _SHOWN) or p.reason[:_SHOWN]) for p in unread[:_EXAMPLES]]
    examples = "; ".join(f"{name}: {answer}" for name, answer in answers)
    reasons = ", ".join(f"{count} x {kind}" for kind, count in kinds.most_common())
    key, fix = {
        ONLY_THOUGHT: (
            "decoding.max_new_tokens",
            f"Raise decoding.max_new_tokens (now {limit}), or switch thinking off:"
            " +decoding.extra_body.chat_template_kwargs.enable_thinking=false (the name is the chat template's).",
        ),
        _LIMIT: (
            "decoding.max_new_tokens",
            f"Raise decoding.max_new_tokens (now {limit}).",
        ),
        _REFUSED: ("decoding", "Change what it does not take: a key of decoding, the prompt, or the input."),
        _NO_ANSWER: ("decoding.model", "See which decoding.model the server has, and that its chat template fits."),
        _OUT_OF_FORM: ("decoding.model", "Try another decoding.model, prompt=fewshot, or decoding.kind=guided."),
    }[kinds.most_common(1)[0][0]]
    return f"{reasons} (the first: {examples})", key, fix


def _kind_of(prediction: Prediction) -> str:
    """Return why an answer could not be parsed, in a few words."""
    reason = prediction.reason
    if reason.startswith("refused: "):
        return _REFUSED
    if any(thought in reason for thought in (ONLY_THOUGHT, MODEL_THINKS, BEHIND_THINKING)):
        return ONLY_THOUGHT
    if reason.startswith(CUT):
        return _LIMIT
    return _OUT_OF_FORM if prediction.raw.strip() else _NO_ANSWER


def list_schema(categories: Sequence[str]) -> dict[str, Any]:
    """Return the request fields for answers like `[["text", "category"], ...]`."""
    pair = {
        "type": "array",
        "prefixItems": [{"type": "string"}, {"type": "string", "enum": list(categories)}],
        "items": False,
        "minItems": 2,
        "maxItems": 2,
    }
    return response_format({"type": "array", "items": pair}, "entities")


def object_schema(categories: Sequence[str]) -> dict[str, Any]:
    """Return the request fields for answers like `{"entities": [{"text": "...", "category": "..."}, ...]}`."""

    def strict(properties: dict[str, Any]) -> dict[str, Any]:
        return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}

    entity = strict({"text": {"type": "string"}, "category": {"type": "string", "enum": list(categories)}})
    return response_format(strict({"entities": {"type": "array", "items": entity}}), "entities")


def entities_as_list(answer: str, style: str) -> str:
    """Convert an answer of `object_schema`'s form to the list of pairs; return any other answer unchanged."""
    try:
        value = json.loads(answer)
    except (ValueError, RecursionError):
        return answer
    if not isinstance(value, dict) or value.keys() != {"entities"} or not isinstance(value["entities"], list):
        return answer
    items = value["entities"]
    if not all(isinstance(item, dict) and item.keys() == {"text", "category"} for item in items):
        return answer
    pairs = strict_pairs([[item["text"], item["category"]] for item in items])
    return answer if pairs is None else json.dumps(pairs, ensure_ascii=False, separators=STYLES[style])


def vllm_grammar(text: str, categories: Sequence[str], style: str) -> dict[str, Any]:
    """Return the request fields for answers about the sentence `text` in the bytes of `render_answer`."""
    return {"structured_outputs": {"grammar": lark_grammar(text, categories, style)}}


def lark_grammar(text: str, categories: Sequence[str], style: str) -> str:
    """Return the grammar: a span is a non-empty run of the sentence's characters, each as JSON writes it."""
    if not text or not categories:
        return 'start: "[]"\n'

    def literal(value: str) -> str:
        return json.dumps(value, ensure_ascii=False)

    between = STYLES[style][0]
    span = json.dumps({"substring_chunks": [literal(each)[1:-1] for each in text]}, ensure_ascii=False)
    names = " | ".join(literal(literal(name)) for name in categories)
    return (
        f'start: "[]" | "[" pair ({literal(between)} pair)* "]"\n'
        f'pair: {literal("[" + chr(34))} SPAN {literal(chr(34) + between)} CATEGORY "]"\n'
        f"SPAN: %regex {span} & /(.|\\n)+/\n"
        f"CATEGORY: {names}\n"
    )
