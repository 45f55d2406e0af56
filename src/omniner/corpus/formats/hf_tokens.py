"""JSON with a list of tokens and one of their tags, as in data sets of Hugging Face.

    {"id": "0", "tokens": ["我", "爱", "北", "京"], "ner_tags": ["O", "O", "B-地点", "I-地点"]}

Tokens are under keys such as `tokens`, `words`, `text` or `sentence` (a string there has one tag per character), tags
under keys such as `ner_tags`, `tags`, `labels` or `label`, in any scheme (`tags`). Numeric tags are rejected, because
the file does not contain their meaning.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from omniner.corpus.formats import Format, Match, ReadOptions
from omniner.corpus.formats.fields import IssueLog, id_of, join_surrogates, json_records, post_of
from omniner.corpus.formats.tags import find_joiner, is_tag_list, notation_of, read_tags, tagged_sentence
from omniner.corpus.formats.tokens import token_list
from omniner.errors import UserError
from omniner.records import Issue, Sentence, unlabeled_sentence
from omniner.registry import first_line
from omniner.wording import counted

_TOKENS = ("tokens", "words", "token", "text", "sentence", "chars")
_TAGS = ("ner_tags", "tags", "labels", "label", "ner", "bio", "tag")


def read(path: Path, options: ReadOptions) -> tuple[list[Sentence], list[Issue]]:
    """Read one file; ids are empty if the file has none. Of `options`, the scheme and the joiner are used."""
    log = IssueLog(path)
    found: list[tuple[int, str, str | None, list[str], list[str] | None]] = []
    for line, record in json_records(path, log):
        tokens, tags = _lists(record)
        if tokens is None:
            log.add("bad-record", f"no list of tokens under any of {', '.join(_TOKENS[:4])}; left out", line)
            continue
        if isinstance(tags, list) and any(type(tag) is int for tag in tags):
            numbers = ", ".join(str(tag) for tag in tags[:8])
            message = f"tags are numbers ({numbers}), and their names do not stand in the file"
            fix = "Write the names instead: names = dataset.features['ner_tags'].feature.names gives them in order."
            raise UserError(f"{path}:{line}", message, fix)
        if tags is not None and (len(tags) != len(tokens) or not all(isinstance(tag, str) for tag in tags)):
            log.add(
                "bad-record",
                f"{counted(len(tokens), 'token')} and {counted(len(tags), 'tag')}, not one each; left out",
                line,
            )
            continue
        if not any(tokens):
            log.add("empty-text", "a sentence without a character; left out", line)
            continue
        clean = [join_surrogates(token, log, line) for token in tokens]
        found.append((line, id_of(record, log, line), post_of(record, log, line), clean, tags))
    known = read_tags(Counter(tag for one in found for tag in one[4] or ()), options.scheme, log)
    joiner = options.joiner
    if joiner is None:
        joiner = find_joiner([token for one in found[:400] for token in one[3]])
    sentences = []
    for line, log.id, post_id, tokens, tags in found:
        if tags is None:
            sentence = unlabeled_sentence(log.id, joiner.join(tokens))
        else:
            rows = [(line, token, tag) for token, tag in zip(tokens, tags, strict=True)]
            sentence = tagged_sentence(rows, known, joiner, log)
        sentence.id, sentence.post_id = log.id, post_id
        sentences.append(sentence)
    log.id = ""
    return sentences, log.items


def _lists(record: dict[str, Any]) -> tuple[list[str] | None, list[Any] | None]:
    """Return the tokens and the tags of a record."""
    tags = next((record[key] for key in _TAGS if isinstance(record.get(key), list)), None)
    if tags is None:  # in one string, separated by spaces
        tags = next((record[key].split() for key in _TAGS if _is_tag_text(record.get(key))), None)
    tokens = next((record[key] for key in _TOKENS if token_list(record.get(key))), None)
    if tokens is None and tags is not None:  # a string whose characters are the tokens
        texts = [record[key] for key in _TOKENS if isinstance(record.get(key), str)]
        tokens = next((list(text) for text in texts if len(text) == len(tags)), None) or next(
            (text.split() for text in texts if len(text.split()) == len(tags)), None
        )
    return tokens, tags


def _is_tag_text(value: object) -> bool:
    return isinstance(value, str) and is_tag_list(value)


def sniff_value(value: Any, is_list: bool) -> Match | None:
    """Recognise equally many tags and tokens."""
    if not isinstance(value, dict):
        return None
    tokens, tags = _lists(value)
    if tokens is None:
        return None
    if tags is None:
        if any(isinstance(item, (list, dict)) and item for item in value.values() if item is not tokens):
            return None  # perhaps labels in an unknown form
        key = next(key for key in _TOKENS if token_list(value.get(key)))
        return Match(35, f"with tokens under `{key}`, without tags") if key in ("tokens", "words") else None
    numbers = bool(tags) and all(type(tag) is int for tag in tags)
    names = all(isinstance(tag, str) for tag in tags) and bool(notation_of(Counter(tags)))
    return Match(72, "with tokens and a tag for each") if numbers or names else None


FORMAT = Format(
    name="hf_tokens", meaning=first_line(__doc__), read=read, write=None, suffix=".jsonl", sniff_value=sniff_value
)
