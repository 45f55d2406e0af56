"""UIE's JSON lines of PaddleNLP: one line for each text and category; the category is the `prompt`.

    {"content": "我爱北京", "result_list": [{"text": "北京", "start": 2, "end": 4}], "prompt": "地点"}

Lines with the same `content` become one sentence. Offsets are half-open and count code points. Prompts of relations
(`北京的人口`: a surface of the text, 的, a relation) are not read, which is an issue.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omniner.corpus.formats import Format, Match, ReadOptions
from omniner.corpus.formats.fields import IssueLog, UnreadParts, json_records, quote, text_of
from omniner.corpus.formats.regions import Region, RegionPlacer, regions_of
from omniner.records import Issue, Sentence
from omniner.registry import first_line


def read(path: Path, options: ReadOptions) -> tuple[list[Sentence], list[Issue]]:
    """Read one file; ids are empty. Of `options`, the meaning of offsets is used."""
    log, unread = IssueLog(path), UnreadParts()
    placer = RegionPlacer(log, options.offsets)
    sentences: dict[str, Sentence] = {}
    regions: dict[str, list[Region]] = {}
    lines: dict[str, int] = {}
    for line, record in json_records(path, log):
        text = text_of(record, "content", log, line)
        if text is None:
            continue
        prompt, items = record.get("prompt"), record.get("result_list")
        if not isinstance(prompt, str) or not prompt or not isinstance(items, list):
            log.add("bad-record", f"the prompt is {quote(prompt)}, the result {quote(items)}; left out", line)
            continue
        sentences.setdefault(text, Sentence("", text))
        lines.setdefault(text, line)
        if _is_relation(prompt, text):
            unread.note("prompts of relations", line)
            continue
        listed = [{**item, "label": prompt} if isinstance(item, dict) else item for item in items if item != {}]
        regions.setdefault(text, []).extend(region for item in listed for region in regions_of(item, log, line))
    for text, sentence in sentences.items():
        placer.add(sentence, regions.get(text, []), lines[text])
    placer.finish()
    unread.report(log)
    return list(sentences.values()), log.items


def _is_relation(prompt: str, text: str) -> bool:
    subject, of, relation = prompt.rpartition("的")
    return bool(of and relation and subject and subject in text)


def sniff_value(value: Any, is_list: bool) -> Match | None:
    """Recognise the three keys."""
    if isinstance(value, dict) and {"content", "result_list", "prompt"} <= value.keys():
        return Match(80, "with `content`, `result_list` and `prompt`, as for UIE")
    return None


FORMAT = Format(name="uie", meaning=first_line(__doc__), read=read, write=None, suffix=".txt", sniff_value=sniff_value)
