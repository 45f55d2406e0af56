"""Counts from the training split, against counting by hand and by the slow way."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from tests.helpers import made_up

from omniner.guidance import clusters
from omniner.guidance.clusters import TrainingCounts
from omniner.guidance.lessons import BoundaryPiece, CategoryCount, Facts, SurfaceCount, SurfaceErrors
from omniner.records import Entity, Sentence
from omniner.scoring.metrics import ErrtaError

TRAIN = [
    Sentence("1", "小满奶茶好喝", [Entity("小满", "品牌", 0, 2), Entity("奶茶", "产品", 2, 4)]),
    Sentence("2", "今天小满", [Entity("小满", "时间", 2, 4)]),
    Sentence("3", "小满小满", [Entity("小满", "品牌", 0, 2)]),
    Sentence("4", "喝奶茶店的奶茶", [Entity("奶茶店", "品牌", 1, 4)]),
]


def of(error: ErrtaError, train: list[Sentence] = TRAIN) -> Facts:
    (found,) = clusters.cluster_errors([error])
    return TrainingCounts(train).facts(found, 5)


def test_surfaces_and_categories_by_hand() -> None:
    error = ErrtaError("classification", "x", (Entity("小满", "品牌", 0, 2),), (Entity("小满", "时间", 0, 2),))
    assert of(error) == Facts(
        [SurfaceCount("小满", 4, {"品牌": 2, "时间": 1})],
        [],
        [CategoryCount("品牌", 3, ["小满", "奶茶店"]), CategoryCount("时间", 1, ["小满"])],
    )
    assert of(error, []) == Facts(
        [SurfaceCount("小满", 0, {})], [], [CategoryCount("品牌", 0, []), CategoryCount("时间", 0, [])]
    )


def test_a_surface_does_not_reach_over_two_sentences() -> None:
    train = [Sentence("1", "小"), Sentence("2", "满")]
    assert TrainingCounts(train).surface("小满") == SurfaceCount("小满", 0, {})


def test_counts_are_those_of_the_slow_way() -> None:
    result = made_up.result(200, categories=["甲", "乙", "丙", "丁"])
    train = list(result.sentences.values())
    counts = TrainingCounts(train)
    checked = 0
    for found in clusters.cluster_errors(result.errta.errors):
        for surface in counts.facts(found, 100).surfaces:
            labels = [e.category for s in train for e in s.entities if e.text == surface.text]
            assert surface.places == sum(sentence.text.count(surface.text) for sentence in train)
            assert surface.labels == {name: labels.count(name) for name in set(labels)}
            assert list(surface.labels.values()) == sorted(surface.labels.values(), reverse=True)
            checked += 1
    assert checked > 50


def test_only_pieces_that_are_told_are_looked_for() -> None:
    """Thousands of pieces, each sought in thousands of mentions, took minutes for 200,000 sentences."""
    text = "喝奶茶店的奶茶"
    gold = Entity(text[1:4], "品牌", 1, 4)
    said = [Entity(text[a:b], "品牌", a, b) for a, b in ((0, 4), (1, 5), (1, 5), (1, 6), (1, 7))]
    (found,) = clusters.cluster_errors(ErrtaError("boundary", f"{n}", (gold,), (one,)) for n, one in enumerate(said))
    counts, looked = TrainingCounts(TRAIN), list[int]()

    class Noted(Counter[str]):
        def items(self) -> Any:
            looked.append(1)
            return super().items()

    counts._mentions["品牌"] = Noted({"奶茶店": 3})
    whole = counts.facts(found, 5).pieces
    assert [piece.text for piece in whole] == ["的", "喝", "的奶", "的奶茶"]
    looked.clear()
    assert counts.facts(found, 1).pieces == whole[:1]
    assert len(looked) == 2, "for one piece, and for what is typical of the category"


@pytest.mark.parametrize("located", [(True, True), (True, False), (False, True), (False, False)])
@pytest.mark.parametrize(
    ("gold", "predicted", "pieces"),
    [
        ((1, 4), (1, 3), [("right", "missing", "店")]),
        ((1, 4), (1, 5), [("right", "extra", "的")]),
        ((1, 4), (0, 4), [("left", "extra", "喝")]),
        ((1, 4), (2, 5), [("left", "missing", "奶"), ("right", "extra", "的")]),
        ((1, 4), (0, 3), [("left", "extra", "喝"), ("right", "missing", "店")]),
        ((1, 4), (0, 7), [("left", "extra", "喝"), ("right", "extra", "的奶茶")]),
        ((0, 1), (3, 4), []),
        ((3, 4), (0, 1), []),
        ((1, 4), (4, 5), []),
        ((4, 5), (1, 4), []),
    ],
)
def test_what_is_too_much_or_too_little(
    gold: tuple[int, int], predicted: tuple[int, int], pieces: list[tuple[str, str, str]], located: tuple[bool, bool]
) -> None:
    text = "喝奶茶店的奶茶"
    sides = [
        Entity(text[a:b], "品牌", *((a, b) if known else (None, None)))
        for (a, b), known in zip((gold, predicted), located, strict=True)
    ]
    if not all(located) and (len(pieces) == 2 and pieces[0][1] != pieces[1][1]):
        pieces = []  # without places only one that holds the other can be compared
    assert clusters.boundary_differences(*sides) == pieces


def test_an_empty_surface_has_no_ends() -> None:
    assert clusters.surface_differences("", "店") == clusters.surface_differences("店", "") == []


def test_words_of_a_split_are_its_pieces_too() -> None:
    whole, pieces = Entity("小满奶茶", "品牌", 0, 4), (Entity("小满", "品牌", 0, 2), Entity("奶茶", "产品", 2, 4))
    one = ErrtaError("boundary", "x", (whole,), pieces[:1])
    assert clusters.error_words([one]) == ["小满奶茶"]
    assert clusters.error_words([ErrtaError("split", "x", (whole,), pieces)]) == ["奶茶", "小满", "小满奶茶"]
    (found,) = clusters.cluster_errors([ErrtaError("split", "x", (whole,), pieces)])
    facts = TrainingCounts(TRAIN).facts(found, 2)
    assert [surface.text for surface in facts.surfaces] == ["奶茶", "小满"], "as many as are asked for"


def test_a_redundant_answer_is_named_by_its_words() -> None:
    (found,) = clusters.cluster_errors([ErrtaError("redundant", "x", (), (Entity("奶茶", "品牌", 2, 4),))])
    assert found.surfaces == [SurfaceErrors("奶茶", 1)]


def test_a_piece_says_how_many_mentions_have_it() -> None:
    error = ErrtaError("boundary", "x", (Entity("奶茶店", "品牌", 1, 4),), (Entity("奶茶", "品牌", 1, 3),))
    assert of(error).pieces == [BoundaryPiece("right", "missing", "店", 1, 1)]
    assert of(error).pieces[0].held == sum(e.text.endswith("店") for s in TRAIN for e in s.entities)
    error = ErrtaError("boundary", "x", (Entity("小满", "品牌", 0, 2),), (Entity("满", "品牌", 1, 2),))
    assert of(error).pieces == [BoundaryPiece("left", "missing", "小", 1, 2)]


def test_notes_say_the_counts_and_nothing_else() -> None:
    error = ErrtaError("classification", "x", (Entity("小满", "品牌", 0, 2),), (Entity("小满", "时间", 0, 2),))
    note = clusters.counted_note("confusion", "品牌", "时间", of(error))
    assert note.by == "counts"
    assert note.cause == {}
    assert note.rule == {
        "zh": "品牌容易误标为时间。训练集中，“小满”出现4处：品牌2次、时间1次、没有单独标注1处。",
        "en": "品牌 is easily labelled 时间. In the training split, “小满” occurs 4 times: 2 as 品牌, 1 as 时间, "
        "1 without a label of its own.",
    }
    error = ErrtaError("boundary", "x", (Entity("奶茶店", "品牌", 1, 4),), (Entity("奶茶", "品牌", 1, 3),))
    note = clusters.counted_note("boundary", "品牌", "品牌", of(error))
    assert note.rule == {
        "zh": "品牌的首尾容易多字或少字。训练集中，末尾少了“店”1次（3个品牌中1个以它结尾）。",
        "en": "品牌 easily gets a character too many or too few at its ends. In the training split, “店” too little at "
        "the end once (1 of 3 品牌 end with it).",
    }


def test_notes_on_beginnings() -> None:
    error = ErrtaError("boundary", "x", (Entity("奶茶店", "品牌", 1, 4),), (Entity("喝奶茶店", "品牌", 0, 4),))
    assert clusters.describe_facts(of(error), "品牌", "", "zh")[0] == "开头多了“喝”1次（3个品牌中0个以它开头）"
    assert clusters.counted_note("boundary", "品牌", "", of(error)).rule == {
        "zh": "品牌的首尾容易多字或少字。训练集中，开头多了“喝”1次（3个品牌中0个以它开头）。",
        "en": "品牌 easily gets a character too many or too few at its ends. In the training split, “喝” too much at "
        "the beginning once (0 of 3 品牌 begin with it).",
    }


def test_a_note_names_three_words_those_that_are_labelled_first() -> None:
    """All places of 时间 have a label, of 品牌 none; the last of them is one too many."""
    surfaces = [SurfaceCount(f"词{k}", 2, {"时间": 2} if k > 1 else {}) for k in range(5)]
    rule = clusters.counted_note("missing", "时间", "", Facts(surfaces, [], [])).rule
    assert rule["zh"].endswith("“词2”出现2处：时间2次；“词3”出现2处：时间2次；“词4”出现2处：时间2次。")
    rule = clusters.counted_note("missing", "时间", "", Facts(surfaces[:3], [], [])).rule
    assert rule["en"].endswith(
        "“词2” occurs 2 times: 2 as 时间; “词0” occurs 2 times: 2 without a label of its own; "
        "“词1” occurs 2 times: 2 without a label of its own."
    )
    rule = clusters.counted_note("redundant", "", "时间", Facts(surfaces[:3], [], [])).rule
    assert rule["zh"].endswith("“词0”出现2处：没有单独标注2处；“词1”出现2处：没有单独标注2处；“词2”出现2处：时间2次。")


def test_notes_on_unknown_words_name_known_ones() -> None:
    error = ErrtaError("missing", "x", (Entity("星巴克", "品牌", 0, 3),), ())
    assert (
        clusters.counted_note("missing", "品牌", "", of(error)).rule["zh"]
        == "品牌容易漏标。训练集中，常见的品牌有小满、奶茶店。"
    )
    assert clusters.counted_note("missing", "品牌", "", of(error, [])).rule["zh"] == "品牌容易漏标。"
    evidence = clusters.describe_facts(of(error), "品牌", "", "zh")
    assert evidence == ["“星巴克”没有出现", "品牌共3个实体，常见的有小满、奶茶店"]
    evidence = clusters.describe_facts(of(error), "品牌", "", "en")
    assert evidence == ["“星巴克” does not occur", "品牌 has 3 mentions, most often 小满, 奶茶店"]
    assert clusters.describe_facts(of(error, []), "品牌", "", "en")[1] == "品牌 has no mentions"
    assert clusters.describe_facts(of(error, []), "品牌", "", "zh")[1] == "品牌没有实体"
