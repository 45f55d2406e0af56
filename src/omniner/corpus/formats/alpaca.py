"""Instruction data of LLaMA-Factory, read and written: alpaca items and ShareGPT or OpenAI conversations.

    [{"instruction": "找出实体…", "input": "我爱北京", "output": "[[\\"北京\\", \\"地点_城市\\"]]"}]
    {"conversations": [{"from": "human", "value": "找出实体…\\n我爱北京"}, {"from": "gpt", "value": "[]"}]}

A file is one JSON list or has one item per line. The answer is a JSON list of `[surface, category]` pairs in a string.
It is read strictly. Also accepted are objects with both under known keys (`regions`), an object of categories with
lists of surfaces (`{"人名": ["王芳"]}`), either of them under a known key (`{"entities": ...}`), and each outside a
string. An answer in any other form has no usable labels, so its item is left out with an issue that gives its number.
An item with an absent or empty answer is a sentence without labels.

The sentence is the `input`. If that is empty, and in a conversation, it is the text after the last line break of the
user's (last) text, or all of it if there is no line break. An opening that all texts without a line break share, up to
a colon or full stop, is the instruction: it is left out, which is an issue (`shared-opening`), and an item without
more than it is left out, too. It stays if there are fewer than three such texts, or if labels stand in it; an opening
that stays in nearly all texts is an issue (`kept-opening`).

Surfaces are located in reading order (`align.locate_listed`), unless they are grouped by category; an absent one keeps
its surface, has no offsets and is an issue. If most pairs that reveal the order have it reversed, and they are no
few, all are read as `[category, surface]`. Earlier rounds (`history`) and system texts are no sentences and not read.

Writing does the reverse and lists the file in the `dataset_info.json` beside it. Keys that LLaMA-Factory ignores keep
what its own cannot: `id`, `post_id`, and `sentence` if a prompt puts words around it; reading prefers `sentence` to
`input`. Offsets that aligning would not find again are issues; `meta` is not written.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from omniner.corpus.align import locate_listed
from omniner.corpus.formats import Format, Match, PromptTexts, ReadOptions, WriteOptions
from omniner.corpus.formats.excerpt import Excerpt
from omniner.corpus.formats.fields import (
    IssueLog,
    id_of,
    join_surrogates,
    json_records,
    parse_whole_json,
    post_hint,
    post_of,
    quote,
    text_of,
)
from omniner.corpus.formats.regions import regions_of
from omniner.corpus.formats.spellings import CATEGORIES, LISTS, SURFACES
from omniner.corpus.formats.surfaces import PairPlacer, count_orders, is_turned
from omniner.errors import UserError
from omniner.files import read_json, write_json, writing
from omniner.records import Entity, Issue, Sentence, is_unlabeled, to_line, unlabeled_sentence
from omniner.registry import first_line

DATASET_INFO = "dataset_info.json"
COLUMNS = {"prompt": "instruction", "query": "input", "response": "output", "system": "system"}
_ITEM_KEYS = frozenset({*COLUMNS.values(), "id", "post_id", "sentence"})
_CHAT_KEYS = frozenset({"conversations", "messages", "system", "id", "post_id"})
_SIGNS = ("instruction", "output", "conversations", "messages")  # every item has one of these keys
_USERS, _ASSISTANTS, _SYSTEMS = ("human", "user"), ("gpt", "assistant"), ("system",)
_OPENING_END = re.compile(r"。|(?<!\d)：|：(?!\d)|:(?![\d/])")  # no part of a time or an address
_FEWEST_TEXTS = 3  # that show what is an instruction: any two texts may begin alike
_LABELED_SHARE = 0.05  # of texts with labels in the opening, from which on it belongs to the sentences
_NEARLY_ALL = 0.9
_TOOLS = ("function_call", "observation", "function", "tool")  # their text is neither a sentence nor an answer


def read(path: Path, options: ReadOptions) -> tuple[list[Sentence], list[Issue]]:
    """Read one file; ids are empty if the file has none. `options` are ignored."""
    log = IssueLog(path)
    foreign: set[str] = set()  # keys already reported, one issue per key
    items: list[_Labeled] = []
    asked: list[_Labeled] = []  # the instruction may stand on the line of the sentence
    for number, (line, record) in enumerate(json_records(path, log), 1):
        found = len(log.items)
        sentence, answer, on_one_line = _sentence(record, foreign, log, line)
        log.number(found, number)
        if sentence is not None:
            items.append(_Labeled(sentence, answer, line, number))
            if on_one_line:
                asked.append(items[-1])
    _leave_out_opening(asked, log)
    items = [item for item in items if item.sentence.text]
    placer = PairPlacer(log, answers=True)
    for sentence, answer, line, number in items:
        placer.add(sentence, answer.pairs, line, number, grouped=answer.grouped)
    placer.finish()
    return [item.sentence for item in items], sorted(log.items, key=lambda issue: issue.line)


class _Answer(NamedTuple):
    """The pairs of an answer, and whether they are grouped by category, not in reading order."""

    pairs: list[tuple[str, str]]
    grouped: bool = False


class _Labeled(NamedTuple):
    """A sentence without its entities, its answer, and the line and number of its item."""

    sentence: Sentence
    answer: _Answer
    line: int
    number: int


def _leave_out_opening(asked: Sequence[_Labeled], log: IssueLog) -> None:
    """Remove the instruction that all texts begin with; one that is nothing else becomes empty, with an issue."""
    texts = {one.sentence.text for one in asked}
    end = _opening_end(texts) if len(texts) >= _FEWEST_TEXTS else 0
    if not end or _has_labels(asked, end):
        _report_opening(asked, log)
        return
    opening = asked[0].sentence.text[:end]
    found = f"all {len(asked):,} texts begin with {quote(opening)}, the instruction; left out"
    log.add("shared-opening", found, asked[0].line)
    for sentence, _, line, number in asked:
        sentence.text = sentence.text[end:].lstrip()
        if not sentence.text:
            first = len(log.items)
            log.add("empty-text", "the instruction without a sentence; left out", line)
            log.number(first, number)


def _opening_end(texts: set[str]) -> int:
    """Return where the longest opening ends that all texts share; 0 if there is none."""
    first, last = min(texts), max(texts)  # what these two share, all share
    shared = next((at for at, pair in enumerate(zip(first, last, strict=False)) if len({*pair}) > 1), len(first))
    ends = ({match.end() for match in _OPENING_END.finditer(text, 0, shared + 1)} for text in texts)
    return max((end for end in set.intersection(*ends) if end <= shared), default=0)


def _has_labels(asked: Sequence[_Labeled], end: int) -> bool:
    """Whether surfaces of more than a few texts need the opening; categories often stand in an instruction."""
    rests = [one.sentence.text[end:] for one in asked]
    pairs = [one.answer.pairs for one in asked]
    surface = int(is_turned(*count_orders(zip(rests, pairs, strict=True))))
    needing = 0
    for one, rest in zip(asked, rests, strict=True):
        listed = Counter(pair[surface] for pair in one.answer.pairs)
        needing += any(min(count, one.sentence.text.count(name)) > rest.count(name) for name, count in listed.items())
    return needing > 0 and needing >= _LABELED_SHARE * sum(map(bool, pairs))


def _report_opening(asked: Sequence[_Labeled], log: IssueLog) -> None:
    """Add an issue if nearly all texts begin alike, as they do if an instruction stands before each sentence."""
    ends = (_OPENING_END.search(one.sentence.text) for one in asked)
    openings = Counter(match.string[: match.end()] for match in ends if match)
    for opening, count in openings.most_common(1):
        if count >= _NEARLY_ALL * len(asked):
            found = f"{count:,} of {len(asked):,} texts begin with {quote(opening)}, which may be an instruction; kept"
            log.add("kept-opening", found, asked[0].line)


def _is_chat(record: dict[str, Any]) -> bool:
    return "conversations" in record or "messages" in record


def _sentence(
    record: dict[str, Any], foreign: set[str], log: IssueLog, line: int
) -> tuple[Sentence | None, _Answer, bool]:
    """Return the sentence of an item without its entities, its answer, and whether it may begin with an instruction."""
    is_chat = _is_chat(record)
    for key in record:
        if key not in (_CHAT_KEYS if is_chat else _ITEM_KEYS) and key not in foreign:
            foreign.add(key)
            log.add("unknown-key", f"{quote(key)} (first seen here) is not read{post_hint(key)}", line)
    user, answer = _of_chat(record, log, line) if is_chat else _of_item(record, log, line)
    on_one_line = is_chat or not (record.get("sentence") or record.get("input"))
    if user is not None and on_one_line:
        _, line_break, user = user.rstrip("\r\n").rpartition("\n")
        on_one_line = not line_break
    text = None if user is None else text_of({"text": user}, "text", log, line)
    if text is None:
        return None, _Answer([]), False
    name = id_of(record, log, line)
    post_id = post_of(record, log, line)
    if answer is None or answer == "":
        sentence = unlabeled_sentence(name, text)
        sentence.post_id = post_id
        return sentence, _Answer([]), on_one_line
    read_answer = _pairs(answer, log, line)
    if read_answer is None:
        return None, _Answer([]), False
    return Sentence(name, text, [], post_id), read_answer, on_one_line


def _of_item(record: dict[str, Any], log: IssueLog, line: int) -> tuple[str | None, Any]:
    """Return the text with the sentence, and the answer of an alpaca item; no text (and an issue) if it is none."""
    texts = []
    for key in ("sentence", "input", "instruction"):
        value = record.get(key)
        if value is not None and not isinstance(value, str):
            log.add("bad-record", f"{quote(value)} under {key!r} where a text belongs; left out", line)
            return None, None
        texts.append(value or "")
    return texts[0] or texts[1] or texts[2], record.get("output")


def _of_chat(record: dict[str, Any], log: IssueLog, line: int) -> tuple[str | None, Any]:
    """Return the text of the last user turn, and the assistant's answer to it."""
    turns = record.get("conversations", record.get("messages"))
    user: str | None = None
    answer: Any = None
    for turn in turns if isinstance(turns, list) else [turns]:
        fields = turn if isinstance(turn, dict) else {}
        role, value = fields.get("from", fields.get("role")), fields.get("value", fields.get("content"))
        if role in _TOOLS:
            continue
        if not isinstance(value, str) or role not in (*_USERS, *_ASSISTANTS, *_SYSTEMS):
            log.add("bad-record", f"{quote(turn)} is no turn of a user or an assistant; left out", line)
            return None, None
        if role in _USERS:
            user, answer = value, None
        elif role in _ASSISTANTS:
            answer = value
    if user is None:
        log.add("bad-record", "a conversation in which no user speaks; left out", line)
        return None, None
    return user, answer


def _pairs(answer: object, log: IssueLog, line: int) -> _Answer | None:
    """Return the listed pairs; None if the answer cannot be read, as a sentence with unknown labels is useless."""
    value: Any = answer
    if isinstance(answer, str):
        stripped = answer.strip(" \t\r\n")
        try:
            value = parse_whole_json(stripped)
        except ValueError as error:
            log.add("bad-answer", f"the answer {quote(answer)} is no JSON list of pairs ({error}); left out", line)
            return None
    if isinstance(value, dict) and len(value) == 1 and isinstance(next(iter(value.values())), (list, dict)):
        value = next((value[key] for key in LISTS if key in value), value)
    grouped = isinstance(value, dict)
    if isinstance(value, dict) and not value.keys().isdisjoint(SURFACES) and not value.keys().isdisjoint(CATEGORIES):
        found = f"the answer {quote(answer)} lists surfaces and categories apart, not as pairs; left out"
        log.add("bad-answer", found, line)
        return None
    items = _ungrouped(value) if isinstance(value, dict) else value
    if not isinstance(items, list):
        log.add("bad-answer", f"the answer {quote(answer)} is no JSON list of pairs; left out", line)
        return None
    pairs = []
    for item in items:
        known = regions_of(item, IssueLog(Path()), line) if isinstance(item, dict) else []
        if isinstance(item, list) and len(item) == 2 and all(isinstance(part, str) and part for part in item):
            pairs.append((join_surrogates(item[0], log, line), join_surrogates(item[1], log, line)))
        elif known and known[0].surface and all(isinstance(name, str) and name for name in known[0].categories):
            pairs += [(known[0].surface, join_surrogates(str(name), log, line)) for name in known[0].categories]
        else:
            log.add("bad-entity", f"{quote(item)} is no [surface, category]; the entity is left out", line)
    return _Answer(pairs, grouped)


def _ungrouped(groups: dict[str, Any]) -> list[list[str]] | None:
    """Return the pairs of an object of categories with lists of surfaces, or null; None if it is something else."""
    lists = {category: [] if surfaces is None else surfaces for category, surfaces in groups.items()}
    if not all(isinstance(surfaces, list) for surfaces in lists.values()):
        return None
    if not all(isinstance(surface, str) for surfaces in lists.values() for surface in surfaces):
        return None
    return [[surface, category] for category, surfaces in lists.items() for surface in surfaces]


def write(path: Path, sentences: Sequence[Sentence], options: WriteOptions) -> list[Issue]:
    """Write an alpaca file and list it in the `dataset_info.json` beside it, under its name without the suffix.

    Args:
        path: `.jsonl` gives one item per line, anything else one JSON list.
        sentences: one without labels gets an empty answer.
        options: with the prompt (LLaMA-Factory puts a line break between instruction and input), and with the function
            that formats the entities of a sentence as a JSON list of pairs.

    Returns:
        An issue for each entity that will be read with other offsets or none (`place-lost`).

    Raises:
        UserError: there is no prompt, `dataset_info.json` is broken, or its entry of this name is about another file.
    """
    prompt, answer = options.prompt, options.answer
    if prompt is None or answer is None:
        raise UserError("prompt", "instruction data cannot be written without one", "Give the prompt and the answer.")
    info = _dataset_info(path)
    issues: list[Issue] = []
    opening, separator, closing = ("", "\n", "\n") if path.suffix == ".jsonl" else ("[\n", ",\n", "\n]\n")
    with writing(path) as file:
        before = opening
        for sentence in sentences:
            item = _item(sentence, prompt, answer)
            issues += _lost(sentence, item["output"], str(path))
            file.write(before + to_line(item))
            before = separator
        file.write((opening if before == opening else "") + closing)
    columns = {name: column for name, column in COLUMNS.items() if prompt.system or name != "system"}
    info[path.stem] = {"file_name": path.name, "columns": columns}
    write_json(path.with_name(DATASET_INFO), info)
    return issues


def _dataset_info(path: Path) -> dict[str, Any]:
    """Read an existing `dataset_info.json`, whose other entries are kept."""
    source = path.with_name(DATASET_INFO)
    info = read_json(source) if source.exists() else {}
    if not isinstance(info, dict):
        raise UserError(source, f"{quote(info)} where an object of data sets belongs", "Repair or remove the file.")
    entry = info.get(path.stem)
    if entry is not None and (not isinstance(entry, dict) or entry.get("file_name") != path.name):
        fix = "Choose another file name, or remove this entry."
        raise UserError(source, f"the entry {path.stem!r} is about another file", fix)
    return info


def _item(sentence: Sentence, prompt: PromptTexts, answer: Callable[[Sequence[Entity]], str]) -> dict[str, Any]:
    item = {"instruction": prompt.instruction, "input": prompt.filled_inputs([sentence.text])[0]}
    item["output"] = "" if is_unlabeled(sentence) else answer(sentence.entities)
    if prompt.system:
        item["system"] = prompt.system
    item["id"] = sentence.id
    if sentence.post_id is not None:
        item["post_id"] = sentence.post_id
    if item["input"] != sentence.text:
        item["sentence"] = sentence.text
    return item


def _lost(sentence: Sentence, output: str, file: str) -> Iterator[Issue]:
    """Yield an issue for each entity whose offsets differ from those that a reader of the answer will find."""
    pairs = [(surface, category) for surface, category in json.loads(output)] if output else []
    found = set(locate_listed(sentence.text, pairs))
    for entity in sentence.entities:
        if entity.start is not None and entity not in found:
            message = (
                f"{entity.category} {quote(entity.text)} at [{entity.start}, {entity.end}) will not be found there"
            )
            yield Issue("place-lost", message, file, id=sentence.id)


def sniff_value(value: Any, is_list: bool) -> Match | None:
    """Recognise a key of an item or a conversation."""
    found = next((name for name in _SIGNS if isinstance(value, dict) and name in value), None)
    return Match(50, f"with `{found}`") if found else None


def sniff_lines(excerpt: Excerpt) -> Match | None:
    """Recognise a truncated list of items."""
    found = next((name for name in _SIGNS if name in excerpt.keys and not excerpt.values), None)
    return Match(98, f"a JSON list of objects with `{found}`") if found else None


FORMAT = Format(
    name="alpaca",
    meaning=first_line(__doc__),
    read=read,
    write=write,
    suffix=".json",
    companions=(DATASET_INFO,),
    needs_prompt=True,
    holds=frozenset({"id", "post_id", "unlabeled", "nested"}),
    sniff_value=sniff_value,
    sniff_lines=sniff_lines,
)
