"""Clusters: every error in one of them, the same whatever the order, examples that are short and different."""

from __future__ import annotations

import random

import pytest
from tests.helpers import made_up

from omniner.guidance import clusters
from omniner.records import Entity
from omniner.scoring.metrics import ErrtaError, ScoreResult


@pytest.fixture(scope="module")
def result() -> ScoreResult:
    return made_up.result(500, categories=["甲_一", "甲_二", "乙", "丙"])


def texts(result: ScoreResult) -> dict[str, str]:
    return {name: sentence.text for name, sentence in result.sentences.items()}


def test_every_error_is_in_one_cluster(result: ScoreResult) -> None:
    found = clusters.cluster_errors(result.errta.errors)
    members = [error for cluster in found for error in cluster.errors]
    assert len(members) == len(result.errta.errors) > 300
    assert sorted(map(clusters._order, members)) == sorted(map(clusters._order, result.errta.errors))
    assert len({(c.kind, c.gold, c.predicted) for c in found}) == len(found)
    assert [len(c.errors) for c in found] == sorted((len(c.errors) for c in found), reverse=True)
    assert {c.kind for c in found} >= {"confusion", "boundary", "missing", "redundant", "split"}


def test_members_of_a_cluster_are_alike(result: ScoreResult) -> None:
    for found in clusters.cluster_errors(result.errta.errors):
        for error in found.errors:
            if found.kind == "confusion":
                assert (error.gold[0].category, error.predicted[0].category) == (found.gold, found.predicted)
                assert found.gold != found.predicted
            elif found.kind == "redundant":
                assert (found.gold, found.predicted) == ("", error.predicted[0].category)
            else:
                assert error.type == found.kind
                assert error.gold[0].category == found.gold
        assert sum(found.types.values()) == sum(surface.count for surface in found.surfaces) == len(found.errors)


def test_order_changes_nothing(result: ScoreResult) -> None:
    expected = clusters.cluster_errors(result.errta.errors)
    chosen = [clusters.cluster_examples(found, texts(result), 6) for found in expected]
    for seed in range(5):
        errors = list(result.errta.errors)
        random.Random(seed).shuffle(errors)
        again = clusters.cluster_errors(errors)
        assert again == expected
        assert [clusters.cluster_examples(found, texts(result), 6) for found in again] == chosen


def test_unknown_places_come_first() -> None:
    made = [ErrtaError("missing", "a", (Entity("北京", "地点", *place),), ()) for place in [(3, 5), (), (0, 2)]]
    [found] = clusters.cluster_errors(made)
    assert [error.gold[0].start for error in found.errors] == [None, 0, 3]


def test_a_wrong_category_is_one_kind_of_error_with_and_without_its_boundary() -> None:
    errors = [
        ErrtaError("classification", "a", (Entity("小满", "品牌", 0, 2),), (Entity("小满", "时间", 0, 2),)),
        ErrtaError("boundary_class", "b", (Entity("小满", "品牌", 0, 2),), (Entity("满", "时间", 1, 2),)),
        ErrtaError("boundary", "c", (Entity("小满", "品牌", 0, 2),), (Entity("满", "品牌", 1, 2),)),
    ]
    confusion, boundary = clusters.cluster_errors(errors)
    assert (confusion.kind, confusion.gold, confusion.predicted) == ("confusion", "品牌", "时间")
    assert confusion.types == {"boundary_class": 1, "classification": 1}
    assert (boundary.kind, boundary.gold) == ("boundary", "品牌")


def test_equally_large_clusters_stand_in_a_fixed_order() -> None:
    errors = [
        ErrtaError("redundant", "a", (), (Entity("x", "乙"),)),
        ErrtaError("missing", "a", (Entity("x", "乙"),), ()),
        ErrtaError("missing", "a", (Entity("x", "甲"),), ()),
        ErrtaError("classification", "a", (Entity("x", "甲"),), (Entity("x", "乙"),)),
    ]
    assert [(found.kind, found.gold, found.predicted) for found in clusters.cluster_errors(errors)] == [
        ("confusion", "甲", "乙"),
        ("missing", "乙", ""),
        ("missing", "甲", ""),
        ("redundant", "", "乙"),
    ]


def missing(name: str, surface: str) -> ErrtaError:
    return ErrtaError("missing", name, (Entity(surface, "甲"),), ())


def test_examples_show_the_commonest_surfaces_first_and_each_by_its_shortest_sentence() -> None:
    said = {"a": "天天天天", "b": "天天", "c": "天", "d": "地地", "e": "地", "f": "人"}
    errors = [missing("a", "天"), missing("b", "天"), missing("c", "天"), missing("d", "地"), missing("e", "地")]
    (found,) = clusters.cluster_errors([*errors, missing("f", "人")])
    assert [error.sentence_id for error in clusters.cluster_examples(found, said, 10)] == ["c", "e", "f", "b", "d", "a"]
    assert [error.sentence_id for error in clusters.cluster_examples(found, said, 2)] == ["c", "e"]


def test_no_sentence_is_an_example_twice() -> None:
    said = {"a": "天地", "b": "天地", "c": "天地人"}
    (found,) = clusters.cluster_errors([missing("a", "天"), missing("a", "地"), missing("b", "天"), missing("c", "地")])
    assert [error.sentence_id for error in clusters.cluster_examples(found, said, 10)] == ["a", "c"]
