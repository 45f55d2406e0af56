"""Prodigy's JSON lines: a text, its `spans`, and the `answer` to them; rejected and ignored ones are left out.

    {"text": "我爱北京", "spans": [{"start": 2, "end": 4, "label": "地点"}], "answer": "accept", "_input_hash": 1}

Offsets are half-open and count code points. Rejected and ignored answers are not labels of their texts: one issue for
each kind. Several accepted answers of one session to one input are merged to one sentence, which is an issue. With
`data.annotator` only the answers of one session are read (`_session_id` or `_annotator_id`); without it a text that
several sessions answered is read once, which is an issue.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omniner.corpus.formats import Format, Match, ReadOptions
from omniner.corpus.formats.fields import IssueLog, UnreadParts, id_of, json_records, list_of, meta_of, quote, text_of
from omniner.corpus.formats.regions import RegionPlacer, regions_of
from omniner.errors import UserError
from omniner.records import UNLABELED, Issue, Sentence
from omniner.registry import first_line

_SIGNS = ("_input_hash", "_task_hash", "answer")
_SESSIONS = ("_annotator_id", "_session_id")


def read(path: Path, options: ReadOptions) -> tuple[list[Sentence], list[Issue]]:
    """Read one file; ids are empty if the file has none. Of `options`, offsets and annotator are used."""
    log, unread = IssueLog(path), UnreadParts()
    placer = RegionPlacer(log, options.offsets)
    sentences = []
    sessions: dict[str, None] = {}
    seen: dict[object, tuple[str, Sentence]] = {}  # input -> its session and its sentence
    merged: list[int] = []  # lines of further answers
    for line, record in json_records(path, log):
        answer = record.get("answer", "accept")
        session = next((str(record[key]) for key in _SESSIONS if record.get(key) is not None), "")
        sessions[session] = None
        if answer != "accept":
            unread.note(f"answers {quote(answer)}", line)
            continue
        if options.annotator not in (None, session):
            continue
        text = text_of(record, "text", log, line)
        if text is None:
            continue
        number = record.get("_input_hash")
        key = (number if isinstance(number, (int, str)) else None), text
        first_session, before = seen.get(key, (session, None))
        if first_session != session:
            unread.note("answers of further sessions (data.annotator chooses one)", line)
            continue
        items = record.get("spans")
        listed = [] if items is None else list_of(items, "spans", log, line)
        if listed is None:
            continue
        if before is None or key[0] is None:
            sentence = Sentence(id_of(record, log, line), text, [], None, meta_of(record.get("meta"), log, line))
            if "spans" not in record and "answer" not in record:
                sentence.meta[UNLABELED] = True
            sentences.append(sentence)
        else:
            sentence = before
            merged.append(line)
        seen[key] = session, sentence
        placer.add(sentence, [region for item in listed for region in regions_of(item, log, line)], line)
    placer.finish()
    if merged:
        found = f"{len(merged):,} further answers to inputs that have one, first here; each input is one sentence"
        log.add("merged-answers", found, merged[0])
    unread.report(log)
    if options.annotator and options.annotator not in sessions:
        found = f"nobody is called {options.annotator!r} in {path}"
        raise UserError("data.annotator", found, f"Use one of: {', '.join(filter(None, sessions)) or 'none (null)'}.")
    return sentences, log.items


def sniff_value(value: Any, is_list: bool) -> Match | None:
    """Recognise the keys that Prodigy adds."""
    if not isinstance(value, dict) or not isinstance(value.get("text"), str):
        return None
    if found := next((key for key in _SIGNS if key in value), None):
        return Match(85 if "spans" in value else 45, f"with `text` and `{found}`, as Prodigy writes them")
    return None


FORMAT = Format(
    name="prodigy", meaning=first_line(__doc__), read=read, write=None, suffix=".jsonl", sniff_value=sniff_value
)
