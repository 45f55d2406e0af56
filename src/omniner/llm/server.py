"""Predictions of a model behind a server that speaks OpenAI's protocol.

In go a prompt and sentences, out come predictions, batch by batch as the answers arrive, in any order. Every sentence
gets exactly one, or the work ends with an error that says why; nothing is written for a sentence that only failed, so
that a restart asks for just those. What the server will never answer (a text that is too long, a content filter) is a
prediction that failed, with the server's reason; but a server that answers nothing else refuses us, not a sentence,
and that is an error too.

`decoding.kind=guided` needs a server that can be told what answers may look like (`decoding.structured`; see
`structured`). A server may ignore that without a word, as `transformers serve` does: the first answer out of form is
reported.

Telling a server what answers may look like: as a JSON schema, or as a grammar for vLLM.

In goes a prompt (its categories, its style of answers) and a sentence, out come fields of a chat request.

- `list_schema`: `response_format` with a list of `[text, one of the categories]`, the form that a trained model writes.
- `object_schema`: the same as `{"entities": [{"text", "category"}]}`: some servers, OpenAI's own among them, take only
  objects and no fixed pairs. `as_list` makes the list of it again, word for word.
- `grammar`: vLLM's `structured_outputs` with a Lark grammar in the dialect of llguidance. It is stricter than a schema:
  the bytes of the training format, and only words that stand in the sentence. It needs vLLM 0.12 or newer with its
  structured-outputs backend at `guidance`, or at `auto`, which falls back to it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from omniner.answers import STYLES, prediction_from_answer, strict_pairs
from omniner.config.model_groups import DecodingConfig
from omniner.errors import UserError
from omniner.llm.client import ChatClient, ChatRequest, Refusal, Reply, ServerError
from omniner.llm.prompts import Prompt
from omniner.records import Prediction, Sentence

log = logging.getLogger("omniner")

_TICK = 10.0  # seconds between reports of progress
_MOST_REFUSALS = 20  # without any answer: then it is not the sentences
_NAMED = 5  # ids named in a message
_CUT = "stopped by decoding.max_new_tokens"


def predict_with_server(
    config: DecodingConfig, prompt: Prompt, sentences: Sequence[Sentence], done: frozenset[str]
) -> Iterator[list[Prediction]]:
    """Ask for the sentences that are not `done`; their own entities are not looked at.

    Args:
        config: the server, and how it is to decode.
        prompt: what the model is told.
        sentences: with different ids.
        done: ids of sentences that have their predictions already.

    Raises:
        UserError: the server cannot be used, is gone, or left sentences without an answer. What had been answered by
            then was yielded before.
    """
    _check(config)
    left = [sentence for sentence in sentences if sentence.id not in done]
    with contextlib.closing(ChatClient(config, "decoding")) as client:
        asking = _Asking(client, config, prompt, resumed=bool(done))
        filled = [sentence for sentence in left if sentence.text]
        if len(filled) < len(left):
            yield [asking.empty(sentence) for sentence in left if not sentence.text]
        yield from asking.run(filled)


def _check(config: DecodingConfig) -> None:
    if config.kind == "guided" and config.structured == "none":
        found = "none with decoding.kind=guided: the server would not be told what answers may look like"
        raise UserError("decoding.structured", found, "Use vllm or json_schema, or decoding.kind=free.")


class _Asking:
    """One round of questions: what was answered, refused and failed so far."""

    def __init__(self, client: ChatClient, config: DecodingConfig, prompt: Prompt, resumed: bool) -> None:
        self.client, self.config, self.prompt = client, config, prompt
        self.engine = f"openai:{client.model}"
        self.resumed, self.answered = resumed, False  # whether it answered before, and now
        self.schema = list_schema
        self.refused: list[Prediction] = []  # held back until something is answered
        self.failed: list[tuple[str, str]] = []  # id, why
        self.out_of_form = False

    def run(self, sentences: Sequence[Sentence]) -> Iterator[list[Prediction]]:
        """The predictions of sentences that are not empty."""
        progress = _Progress(len(sentences), self.client)
        waiting = iter(sentences)
        if self.config.kind == "guided" and self.config.structured == "json_schema":
            for batch in self._settle_schema(waiting):
                progress.count(len(batch))
                yield batch
        requests = ((sentence, self._request(sentence)) for sentence in waiting)
        for outcomes in self.client.ask_all(requests, _TICK):
            batch = [prediction for outcome in outcomes for prediction in self._take(*outcome)]
            progress.count(len(batch))
            if batch:
                yield batch
        if self.refused and not self.resumed:
            self._refuse_all()
        if self.refused:  # the few that were left: those that it will not answer
            yield self.refused
        progress.end()
        if self.failed:
            self._report_failed()

    def empty(self, sentence: Sentence) -> Prediction:
        """Nobody has to be asked about an empty text."""
        return Prediction(
            sentence.id, reason="empty-text: nothing to ask", prompt_sha=self.prompt.sha, engine=self.engine
        )

    def _settle_schema(self, waiting: Iterator[Sentence]) -> Iterator[list[Prediction]]:
        """Ask about one sentence after the other until one is answered; refused with one schema, with the other."""
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
        if config.kind == "guided" and config.structured == "json_schema":
            options |= self.schema(prompt.categories)
        elif config.kind == "guided":
            options |= vllm_grammar(sentence.text, prompt.categories, prompt.answer)
        return ChatRequest(prompt.messages(sentence.text), options)

    def _take(self, sentence: Sentence, outcome: Reply | Refusal | ServerError) -> list[Prediction]:
        """The predictions that can be given now that this has come."""
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
        if len(self.refused) == _MOST_REFUSALS:
            self._refuse_all()
        return []

    def _prediction(self, sentence: Sentence, reply: Reply) -> Prediction:
        guided = self.config.kind == "guided"
        text = entities_as_list(reply.text, self.prompt.answer) if guided else reply.text
        prediction = prediction_from_answer(sentence, text, self.prompt.sha, self.engine)
        if reply.finish == "length":
            prediction.reason = "; ".join(filter(None, (_CUT, prediction.reason)))
        elif guided and not self.out_of_form and not self._in_form(prediction):
            self.out_of_form = True
            message = "the answer about %s is not in the form that decoding.structured=%s asks for: %s may not know it"
            log.warning(message, sentence.id, self.config.structured, self.client.url)
        return prediction

    def _in_form(self, prediction: Prediction) -> bool:
        known = set(self.prompt.categories)
        return prediction.parse == "ok" and all(entity.category in known for entity in prediction.entities)

    def _refuse_all(self) -> NoReturn:
        found = f"{self.client.url} refuses all requests; about {self.refused[0].id}: {self.refused[0].reason}"
        raise UserError("decoding", found, "Change what it does not take: a key of decoding, the prompt, or the input.")

    def _report_failed(self) -> NoReturn:
        names = ", ".join(name for name, _ in self.failed[:_NAMED]) + (", ..." if len(self.failed) > _NAMED else "")
        found = f"{len(self.failed)} sentences got no answer ({names}); the first: {self.failed[0][1]}"
        raise UserError("decoding.url", found, "Repeat the same command: it asks again about these only.")


class _Progress:
    """Says every now and then how far the work is."""

    def __init__(self, total: int, client: ChatClient) -> None:
        self.total, self.client, self.finished = total, client, 0
        self.start = self.said = time.monotonic()

    def count(self, finished: int) -> None:
        """Note finished sentences, and report if it is time."""
        self.finished += finished
        now = time.monotonic()
        if now - self.said < _TICK:
            return
        self.said = now
        rate = self.finished / (now - self.start)
        left = f"about {(self.total - self.finished) / rate / 60:.1f} min left" if rate else "none came yet"
        log.info("%d of %d sentences, %.1f per s, %s%s", self.finished, self.total, rate, left, self._trouble())

    def end(self) -> None:
        """Report what was used."""
        usage = self.client.usage
        counts = usage.requests, usage.prompt_tokens, usage.completion_tokens
        log.info("%d requests, %d prompt tokens, %d answer tokens%s", *counts, self._trouble())

    def _trouble(self) -> str:
        usage = self.client.usage
        return f"; {usage.retries} further attempts, the last after: {usage.last_trouble}" if usage.retries else ""


def list_schema(categories: Sequence[str]) -> dict[str, Any]:
    """Request fields for `[["text", "category"], ...]`."""
    pair = {
        "type": "array",
        "prefixItems": [{"type": "string"}, {"type": "string", "enum": list(categories)}],
        "items": False,
        "minItems": 2,
        "maxItems": 2,
    }
    return _response_format({"type": "array", "items": pair})


def object_schema(categories: Sequence[str]) -> dict[str, Any]:
    """Request fields for `{"entities": [{"text": "...", "category": "..."}, ...]}`."""
    entity = _object({"text": {"type": "string"}, "category": {"type": "string", "enum": list(categories)}})
    return _response_format(_object({"entities": {"type": "array", "items": entity}}))


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _response_format(schema: dict[str, Any]) -> dict[str, Any]:
    json_schema = {"name": "entities", "strict": True, "schema": schema}
    return {"response_format": {"type": "json_schema", "json_schema": json_schema}}


def entities_as_list(answer: str, style: str) -> str:
    """The list of pairs in an answer of `object_schema`'s form; any other answer as it is."""
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
    """Request fields for answers about the sentence `text` in the bytes of `write_answer`."""
    return {"structured_outputs": {"grammar": lark_grammar(text, categories, style)}}


def lark_grammar(text: str, categories: Sequence[str], style: str) -> str:
    """The grammar. A span is a run of the sentence's characters, each as JSON writes it, and has at least one."""
    between = STYLES[style][0]
    characters = [json.dumps(character, ensure_ascii=False)[1:-1] for character in text]
    names = " | ".join(_literal(json.dumps(name, ensure_ascii=False)) for name in categories)
    span = json.dumps({"substring_chunks": characters}, ensure_ascii=False)
    if not text or not categories:
        return 'start: "[]"\n'
    return (
        f'start: "[]" | "[" pair ({_literal(between)} pair)* "]"\n'
        f'pair: {_literal("[" + chr(34))} SPAN {_literal(chr(34) + between)} CATEGORY "]"\n'
        f"SPAN: %regex {span} & /(.|\\n)+/\n"
        f"CATEGORY: {names}\n"
    )


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
