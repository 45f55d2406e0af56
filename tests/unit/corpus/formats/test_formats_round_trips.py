"""Whatever is written is read back as it was, or an issue says what is not; with awkward text, in every format."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers.reading import assert_offsets_hold, codes, read

from omniner import records
from omniner.corpus import formats
from omniner.corpus.formats import WriteOptions
from omniner.errors import UserError
from omniner.records import Entity, Issue, Sentence, own_meta
from omniner.registry import FORMATS

WRITERS = {name: entry for name, entry in FORMATS.items() if entry.write and not entry.needs_prompt}
WAYS = {"doccano": "half_open"}  # without surfaces an emoji leaves it open
OPTIONS = WriteOptions(scheme="bioes", separator="tab", joiner="")
# Astral and joined emoji, combining and byte order marks, whatever ends a line for someone, syntax of the formats.
AWKWARD = [
    *"京a é\t\r\"',\\|{}[]<&;#T0",
    "😀",
    "👩",
    "\u200d",
    "\u0301",
    "\ufeff",
    "\u2028",
    "\x85",
    "\x1c",
    "\x0b",
    "\ufffd",
]
ANY = st.characters(exclude_categories=["Cs"])
LINE = st.sampled_from(AWKWARD) | ANY.filter(lambda character: character != "\n")
NOT_XML = {chr(code) for code in range(32)} - set("\t\n\r") | {"\ufffe", "\uffff"}


@st.composite
def sentences(draw: st.DrawFn, characters: st.SearchStrategy[str], flat: bool, number: int) -> Sentence:
    """Placed entities, each once, and some without a place; `flat` ones neither touch a break nor each other."""
    text = draw(st.text(characters, min_size=1, max_size=12))
    categories = st.text(LINE, min_size=1, max_size=3)
    found: dict[tuple[int, int, str], Entity] = {}
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(text) - 1))
        end = draw(st.integers(start + 1, len(text)))
        category = draw(categories)
        overlaps = any(start < e and s < end for s, e, _ in found)
        if not (flat and overlaps):
            found[start, end, category] = Entity(text[start:end], category, start, end)
    entities = [found[key] for key in sorted(found)]
    if draw(st.booleans()):
        entities.append(Entity(draw(st.text(ANY, min_size=1, max_size=3)), draw(categories)))
    post = draw(st.none() | st.sampled_from(["p1", "p2"]))
    meta: dict[str, object] = draw(st.dictionaries(st.text(ANY, max_size=3), st.text(ANY, max_size=3), max_size=1))
    if draw(st.integers(0, 4)) == 0:
        return Sentence(f"s{number}", text, [], post, {**meta, "unlabeled": True})
    return Sentence(f"s{number}", text, entities, post, meta)


@st.composite
def corpora(draw: st.DrawFn, characters: st.SearchStrategy[str] = LINE, flat: bool = False) -> list[Sentence]:
    return [draw(sentences(characters, flat, number)) for number in range(draw(st.integers(0, 4)))]


def there_and_back(format: str, items: Sequence[Sentence]) -> tuple[list[Sentence], list[Issue], list[Issue]]:
    """The sentences read back, the issues of writing and those of reading."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"x{WRITERS[format].suffix}"
        written = formats.write(path, format, items, OPTIONS)
        if format == "brat" and not items:
            return [], written, []
        found, issues = read(path, format, separator="tab", scheme="bioes", offsets=WAYS.get(format, "auto"))
        return found, written, issues


def ordered(entities: Sequence[Entity]) -> list[Entity]:
    return sorted(entities, key=lambda e: (e.start is None, e.start or 0, e.end or 0, e.category, e.text))


def placed(sentence: Sentence) -> list[Entity]:
    return ordered([entity for entity in sentence.entities if entity.start is not None])


def test_a_format_that_is_not_there_cannot_be_written() -> None:
    with pytest.raises(UserError, match="xml"):
        formats.write(Path("x"), "xml", [], OPTIONS)


@given(items=corpora(st.sampled_from(AWKWARD) | ANY))
@settings(max_examples=60, deadline=None)
@pytest.mark.parametrize("format", ["jsonl", "cluener", "cmeee", "doccano", "label_studio"])
def test_json_formats_hold_any_text(format: str, items: list[Sentence]) -> None:
    found, written, issues = there_and_back(format, items)
    wanted = []
    for item in items:
        keeps = WRITERS[format].holds
        meta = item.meta if "meta" in keeps else {k: v for k, v in item.meta.items() if k == "unlabeled"}
        entities = ordered(item.entities) if format == "jsonl" else placed(item)
        wanted.append(replace(item, meta=meta, entities=entities))
    assert [replace(s, entities=ordered(s.entities)) for s in found] == wanted
    lost = 0 if format == "jsonl" else sum(e.start is None for s in items for e in s.entities)
    meta_lost = format in ("cluener", "cmeee") and any(map(own_meta, items))
    expected = Counter({"no-offsets": lost, "lost-meta": int(meta_lost)})
    if format == "label_studio":  # the configuration is XML
        categories = {entity.category for item in items for entity in item.entities}
        expected["unwritable-character"] = sum(not set(category).isdisjoint(NOT_XML) for category in categories)
    assert (Counter(codes(written)), issues) == (+expected, [])


def assert_table_held(
    items: Sequence[Sentence],
    kept: Sequence[Sentence],
    found: Sequence[Sentence],
    written: Sequence[Issue],
    issues: Sequence[Issue],
) -> None:
    """A table that finds entities without offsets by their words gave back what it `kept` of the sentences."""
    for item, back in zip(kept, found, strict=True):
        assert set(placed(item)) <= set(back.entities)
        # What had no place may have got one, unless it is the very entity that is there already.
        assert {(e.text, e.category) for e in back.entities} == {(e.text, e.category) for e in item.entities}
    counted = Counter(codes(written))
    assert counted["unlabeled"] == len(items) - len(kept)
    assert counted["no-offsets"] == sum(e.start is None for s in kept for e in s.entities)
    assert set(codes(issues)) <= {"unaligned", "duplicate-entity"}
    assert_offsets_hold(found)


@given(items=corpora(st.sampled_from(AWKWARD) | ANY))
@settings(max_examples=80, deadline=None)
def test_the_official_csv_holds_any_text(items: list[Sentence]) -> None:
    found, written, issues = there_and_back("omniner_csv", items)
    bare = all(map(records.is_unlabeled, items))
    kept = items if bare else [item for item in items if not records.is_unlabeled(item)]
    assert [(s.text, s.post_id, records.is_unlabeled(s)) for s in found] == [
        (s.text, s.post_id, records.is_unlabeled(s)) for s in kept
    ]
    assert_table_held(items, kept, found, written, issues)


@given(items=corpora(st.sampled_from(AWKWARD) | ANY))
@settings(max_examples=80, deadline=None)
def test_a_table_of_an_entity_a_row_holds_any_text(items: list[Sentence]) -> None:
    found, written, issues = there_and_back("entity_table", items)
    kept = [item for item in items if not records.is_unlabeled(item)]
    assert [(s.id, s.text, s.post_id) for s in found] == [(s.id, s.text, s.post_id) for s in kept]
    assert_table_held(items, kept, found, written, issues)


def test_a_table_of_an_entity_a_row_says_which_sentences_it_makes_one() -> None:
    items = [Sentence("a", "好", [Entity("好", "A", 0, 1)]), Sentence("b", "好"), Sentence("a", "好")]
    found, written, issues = there_and_back("entity_table", items)
    assert found == items[:2]
    assert (codes(written), codes(issues)) == ({"repeated-sentence": 1}, {})


@given(items=corpora(flat=True))
@settings(max_examples=100, deadline=None)
def test_columns_hold_flat_entities(items: list[Sentence]) -> None:
    found, written, issues = there_and_back("conll", items)
    kept = [item for item in items if not records.is_unlabeled(item)]
    writable = [
        replace(s, entities=[e for e in placed(s) if not set("\t\n\r") & set(e.category)], post_id=None, meta={})
        for s in kept
    ]
    assert [(s.text, s.entities) for s in found] == [(s.text, s.entities) for s in writable]
    counted = Counter(codes(written))
    assert counted["unlabeled"] == len(items) - len(kept)
    dropped = sum(len(s.entities) for s in kept) - sum(len(s.entities) for s in writable)
    assert counted["no-offsets"] + counted["unwritable-category"] == dropped
    assert [counted[f"lost-{name}"] for name in ("id", "post-id", "meta")] == [
        int(any(item.id for item in items)),
        int(any(item.post_id for item in items)),
        int(any(map(own_meta, items))),
    ]
    assert issues == []


@pytest.mark.parametrize("format", sorted(WRITERS))
def test_a_line_break_is_held_or_an_issue(tmp_path: Path, format: str) -> None:
    sentence = Sentence("a", "一\n二😀三", [Entity("一\n二", "A", 0, 3), Entity("三", "B", 4, 5)])
    found, written, issues = there_and_back(format, [sentence])
    if format == "conll":
        assert (found[0].text, codes(written)) == ("一\ufffd二😀三", {"lost-id": 1, "unwritable-character": 1})
        return
    assert (found[0].text, placed(found[0]), issues) == (sentence.text, sentence.entities, [])
    losses = {"brat": {"split-lines": 1}, "omniner_csv": {"lost-id": 1}}
    assert codes(written) == losses.get(format, {})


@pytest.mark.parametrize("format", sorted(WRITERS))
def test_a_lone_surrogate_becomes_a_replacement_character_and_an_issue(format: str) -> None:
    sentence = Sentence("a", "好\udc00坏", [Entity("坏", "A", 2, 3)])
    found, written, issues = there_and_back(format, [sentence, Sentence("b", "")])
    assert [(s.text, s.entities) for s in found] == [("好\ufffd坏", [Entity("坏", "A", 2, 3)])]
    counted = codes(written) | codes(issues)
    assert counted.get("unwritable-character", 0) + counted.get("surrogate", 0) == 1
    assert counted["empty-text"] == 1


BREAKS = set("\t\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029")


def standoff(items: Sequence[Sentence]) -> tuple[dict[str, list[Sentence]], Counter[str]]:
    """What brat should give back, by document, and the issues of writing; the obvious twin of both halves."""
    losses: Counter[str] = Counter()
    groups: dict[str, list[Sentence]] = {}
    for item in items:
        groups.setdefault(item.post_id or item.id, []).append(item)
    for name, group in groups.items():
        labeled = [item for item in group if not records.is_unlabeled(item)]
        losses["unlabeled"] += len(group) - len(labeled) if labeled else 0
        groups[name] = labeled or group
        for item in groups[name]:
            losses["no-offsets"] += sum(e.start is None for e in item.entities)
            losses["line-break"] += sum(bool({e.text[0], e.text[-1]} & BREAKS) for e in placed(item))
            losses["split-lines"] += "\n" in item.text or item.text.endswith("\r")
    categories = {e.category for item in items for e in item.entities}
    losses["category-renamed"] = sum(any(map(str.isspace, category)) for category in categories)
    losses["lost-meta"] = int(any(map(own_meta, items)))
    return groups, +losses


@given(items=corpora(LINE.filter(lambda character: character != "\r")))
@settings(max_examples=150, deadline=None)
def test_brat_gives_each_document_back(items: list[Sentence]) -> None:
    found, written, issues = there_and_back("brat", items)
    groups, losses = standoff(items)
    wanted = []
    for name, group in sorted(groups.items()):
        for number, item in enumerate(group):
            kept = [e for e in placed(item) if not {e.text[0], e.text[-1]} & BREAKS]
            clear = ["".join("_" if c.isspace() else c for c in e.category) for e in kept]
            entities = ordered([e._replace(category=c) for e, c in zip(kept, clear, strict=True)])
            one = len(group) == 1
            meta = {"unlabeled": True} if records.is_unlabeled(item) else {}
            new = Sentence(name if one else f"{name}-{number}", item.text, entities, None if one else name, meta)
            wanted.append(new)
    if "duplicate-entity" not in codes(issues):  # two categories may have become one
        assert [replace(s, entities=ordered(s.entities)) for s in found] == wanted
        assert issues == []
    assert Counter(codes(written)) == losses
    assert_offsets_hold(found)


@given(items=corpora(st.sampled_from(["\n", "\r", "\t", "一", "😀", " "])))
@settings(max_examples=100, deadline=None)
def test_brat_loses_no_mention_to_line_breaks(items: list[Sentence]) -> None:
    found, written, _ = there_and_back("brat", items)
    groups, losses = standoff(items)
    kept = [e for group in groups.values() for s in group for e in placed(s) if not {e.text[0], e.text[-1]} & BREAKS]
    renamed = Counter((e.text, "".join("_" if c.isspace() else c for c in e.category)) for e in kept)
    back = Counter((e.text, e.category) for s in found for e in s.entities)
    if "category-renamed" not in losses:
        assert back == renamed
    assert set(back) == set(renamed)
    assert Counter(codes(written)) == losses
    assert_offsets_hold(found)


FILES = {
    "cluener/dev.json": [*(set(WRITERS) - {"conll", "brat"})],
    "cluener/test.json": ["cluener", "omniner_csv"],
    "cmeee/CMeEE_dev.json": ["cmeee", "label_studio"],
    "cmeee/val_data.txt": ["cmeee", "doccano"],
    "weibo/weiboNER_2nd_conll.test": [*WRITERS],
    "weibo/weiboNER.conll.dev": ["conll", "brat"],
    "resume/test.char.bmes": ["conll", "omniner_csv"],
    "wnut17/emerging.dev.conll": ["label_studio", "brat"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_public_corpora_come_back(shared: Path, name: str) -> None:
    joiner = " " if "wnut" in name else ""
    given, _ = read(shared / "data" / name, "auto", glued_positions="2nd" in name, joiner=joiner)
    assert len(given) > 100
    for format in sorted(FILES[name]):
        found, written, issues = there_and_back(format, given)
        unplaced = sum(e.start is None for s in given for e in s.entities)
        assert {code: count for code, count in codes(written).items() if not code.startswith("lost")} == (
            {"no-offsets": unplaced} if unplaced else {}
        )
        if format == "brat":
            found.sort(key=lambda s: int(s.id.removeprefix("s-")))
        assert issues == []
        assert [(s.text, ordered(s.entities)) for s in found] == [(s.text, placed(s)) for s in given]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cluener/dev.json", "cluener/test.json", "cmeee/CMeEE_dev.json"])
def test_a_published_file_is_written_as_it_was(shared: Path, tmp_path: Path, name: str) -> None:
    """Item by item the same JSON, but for our ids and the order of entities."""
    source = shared / "data" / name
    format = name.partition("/")[0]
    given, _ = read(source, format)
    path = tmp_path / "x"
    formats.write(path, format, given, OPTIONS)

    def items(file: Path) -> list[dict[str, Any]]:
        text = file.read_text(encoding="utf-8")
        listed = json.loads(text) if format == "cmeee" else [json.loads(line) for line in text.splitlines() if line]
        for item in listed:
            item.pop("id", None)
            item.get("entities", []).sort(key=lambda e: (e["start_idx"], e["end_idx"], e["type"]))
            for surfaces in item.get("label", {}).values():
                for places in surfaces.values():
                    places.sort()
        return listed

    assert items(path) == items(source)
