"""How a file may spell one mention, and what becomes of pairs and regions that are not as they should be."""

from __future__ import annotations

from pathlib import Path

import pytest

from omniner.corpus.formats.fields import IssueLog
from omniner.corpus.formats.regions import Region, RegionPlacer, regions_of, sort_entities, without_repeats
from omniner.corpus.formats.surfaces import PairPlacer, pairs_of
from omniner.records import Entity, Sentence

TEXT = "王芳在北京，王芳在上海"
FANG = Entity("王芳", "人名", 0, 2)


def log() -> IssueLog:
    return IssueLog(Path("f.json"))


@pytest.mark.parametrize(
    ("item", "regions", "issues"),
    [
        ([0, 2, "X"], [Region(None, ["X"], 0, 2)], []),
        ([0, 2, "X", "王芳"], [Region("王芳", ["X"], 0, 2)], []),
        ([0, 2, "X", ""], [Region(None, ["X"], 0, 2)], []),
        ([0, 2, "X", 7], [Region(None, ["X"], 0, 2)], []),
        (["X", 0, 2], [Region(None, ["X"], 0, 2)], []),
        (["X", "0", 2], [], ["bad-entity"]),
        ([0, 2, "X", "王芳", "y"], [], ["bad-entity"]),
        ({"label": ["X", "Y"], "start": 0, "end": 2}, [Region(None, ["X", "Y"], 0, 2)], []),
        ({"label": "X", "start": "0", "end": 2.0}, [Region(None, ["X"], 0, 2)], []),
        ({"label": "X", "start": 0.5, "end": 2}, [Region(None, ["X"], 0.5, 2)], []),
        ({"label": "X", "offset": 3, "length": 2}, [Region(None, ["X"], 3, 5)], []),
        ({"label": "X", "pos": [[3, 5]]}, [Region(None, ["X"], 3, 5)], []),
        ({"label": "X", "pos": {"start": 3, "end": 5}}, [Region(None, ["X"], 3, 5)], []),
        ({"entity": "X", "value": "王芳"}, [Region("王芳", ["X"], None, None)], []),
        (
            {"label": "X", "points": [{"start": 0, "end": 1, "text": "王芳"}, {"start": 6, "end": 7}]},
            [Region("王芳", ["X"], 0, 1), Region(None, ["X"], 6, 7)],
            [],
        ),
        ({"label": "X", "text": "王芳", "id": 7, "user_id": 7, "score": 1}, [Region("王芳", ["X"], None, None)], []),
        ({"label": "X", "text": "王芳", "share": 0.5, "checked": True}, [Region("王芳", ["X"], None, None)], []),
        ({"label": "X", "text": "王芳", "where": 7}, [Region("王芳", ["X"], None, None)], ["unknown-offsets"]),
        ({"label": "X", "text": "王芳", "where": "0-2"}, [Region("王芳", ["X"], None, None)], ["unknown-offsets"]),
        ({"label": "X", "where": [0, 2]}, [], ["unknown-offsets", "bad-entity"]),
        ({"label": "X"}, [], ["bad-entity"]),
        ("王芳", [], ["bad-entity"]),
    ],
)
def test_a_mention_is_spelt_in_many_ways(item: object, regions: list[Region], issues: list[str]) -> None:
    found = log()
    assert regions_of(item, found, 3) == regions
    assert [(issue.code, issue.line) for issue in found.items] == [(code, 3) for code in issues]


@pytest.mark.parametrize(
    ("items", "pairs"),
    [
        ([["王芳", "人名"]], [("王芳", "人名")]),
        ({"人名": ["王芳", "李雷"], "地点": ["北京"]}, [("王芳", "人名"), ("李雷", "人名"), ("北京", "地点")]),
        ({"人名": ["王芳"], "地点": "北京"}, None),
        ([["王芳", "人名"], ["北京"]], None),
        ([["王芳", ""]], None),
        ([], None),
        ({}, None),
        ("王芳", None),
    ],
)
def test_pairs_are_a_list_or_lists_by_category(items: object, pairs: list[tuple[str, str]] | None) -> None:
    assert pairs_of(items) == pairs


@pytest.mark.parametrize("turned", [False, True])
def test_which_side_is_the_surface_follows_from_the_whole_file(turned: bool) -> None:
    found = log()
    placer, sentences = PairPlacer(found), [Sentence("a", "北京"), Sentence("b", TEXT)]
    # The first sentence has neither side of its pair, and tells nothing.
    for line, (sentence, pairs) in enumerate(zip(sentences, [[("她", "人名")], [("王芳", "人名")]], strict=True), 1):
        placer.add(sentence, [pair[::-1] if turned else pair for pair in pairs], line, item=line)
    placer.finish()
    assert [sentence.entities for sentence in sentences] == [[Entity("她", "人名")], [FANG]]
    messages = [(issue.code, issue.line, issue.message) for issue in found.items]
    if turned:
        assert messages.pop(0)[:2] == ("turned-pairs", 2)
    assert messages == [
        ("unaligned", 1, "item 1: 人名 '她' does not stand in the text; no offsets"),
        (
            "placed-by-words", 1,
            "2 entities have words, but no places: looked for from left to right; 1 of them stand more often in their "
            "text than they are listed",
        ),
    ]  # fmt: skip


def test_a_mention_that_is_listed_twice_is_one() -> None:
    found, sentence = log(), Sentence("a", TEXT)
    placer = RegionPlacer(found)
    placer.add(sentence, [Region("王芳", ["人名"], 0, 2), Region("王芳", ["人名"], 0, 2)], 4)
    placer.finish()
    assert sentence.entities == [FANG]
    assert [(issue.code, issue.line) for issue in found.items] == [("duplicate-entity", 4)]


@pytest.mark.parametrize(("way", "start", "end"), [("half_open", 1, 3), ("inclusive", 1, 2), ("utf16", 2, 4)])
def test_a_mention_keeps_its_confidence_however_offsets_are_counted(way: str, start: int, end: int) -> None:
    sentence = Sentence("a", "😀王芳")
    placer = RegionPlacer(log(), way)
    placer.add(sentence, [Region("王芳", ["人名"], start, end, 0.5)], 1)
    placer.finish()
    assert [(entity, entity.score) for entity in sentence.entities] == [(Entity("王芳", "人名", 1, 3), 0.5)]


def test_where_no_way_of_counting_fits_all_mentions_each_takes_the_one_that_fits_it() -> None:
    found, sentence = log(), Sentence("a", TEXT)
    placer = RegionPlacer(found, fixed=False)
    placer.add(sentence, [Region("王芳", ["人名"], 0, 2), Region("北京", ["地点"], 3, 4)], 1)
    placer.finish()
    assert sentence.entities == [FANG, Entity("北京", "地点", 3, 5)]
    assert [issue.code for issue in found.items] == ["offset-units"]


def test_mentions_without_a_place_come_last_and_may_repeat() -> None:
    found, loose = log(), Entity("她", "人名")
    assert sort_entities([loose, FANG, loose]) == [FANG, loose, loose]
    assert without_repeats([FANG, loose, loose], found, 1) == [FANG, loose, loose]
    assert found.items == []
