"""Telling a server what answers may look like: as a JSON schema, or as a grammar for vLLM.

In goes a prompt (its categories, its style of answers) and a sentence, out come fields of a chat request.

- `list_schema`: `response_format` with a list of `[text, one of the categories]`, the form that a trained model writes.
- `object_schema`: the same as `{"entities": [{"text", "category"}]}`: some servers, OpenAI's own among them, take only
  objects and no fixed pairs. `as_list` makes the list of it again, word for word.
- `grammar`: vLLM's `structured_outputs` with a Lark grammar in the dialect of llguidance. It is stricter than a schema:
  the bytes of the training format, and only words that stand in the sentence. It needs vLLM 0.12 or newer with its
  structured-outputs backend at `guidance`, or at `auto`, which falls back to it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from omniner.analysis.scores.parse import strict_pairs
from omniner.encoding.answers import STYLES


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


def as_list(answer: str, style: str) -> str:
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


def grammar(text: str, categories: Sequence[str], style: str) -> dict[str, Any]:
    """Request fields for answers about the sentence `text` in the bytes of `write_answer`."""
    return {"structured_outputs": {"grammar": lark(text, categories, style)}}


def lark(text: str, categories: Sequence[str], style: str) -> str:
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
