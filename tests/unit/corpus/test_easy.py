"""Votes of models on sentences that they did not see."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omniner.corpus import easy
from omniner.corpus.easy import contradicted_labels, drop_rare_categories, review
from omniner.records import Entity, Prediction, Sentence

TEXT = "我在上海迪士尼乐园吃冰淇淋"
SHANGHAI, PARK, ICE = Entity("上海", "城市", 2, 4), Entity("迪士尼乐园", "景点", 4, 9), Entity("冰淇淋", "食品", 10, 13)


def said(*answers: list[Entity] | None) -> list[dict[str, Prediction]]:
    """What four models say of sentence s, which is in the first fold."""
    return [{}, *({} if one is None else {"s": Prediction("s", one)} for one in answers)]


def verdict(gold: list[Entity], *answers: list[Entity] | None, unit: str = "span") -> easy.ReviewedSentence:
    (found,) = review([Sentence("s", TEXT, gold)], [0], said(*answers), unit)
    return found


@pytest.mark.parametrize(
    ("gold", "answers", "what", "right"),
    [
        ([SHANGHAI], ([SHANGHAI], [SHANGHAI], [SHANGHAI]), "removed", 3),
        ([SHANGHAI, ICE], ([ICE, SHANGHAI], [SHANGHAI, ICE, ICE], [SHANGHAI, ICE]), "removed", 3),
        ([], ([], [], []), "removed", 3),
        ([SHANGHAI], ([SHANGHAI], [SHANGHAI], []), "kept", 2),
        ([SHANGHAI], ([SHANGHAI], [SHANGHAI], None), "kept", 2),
        ([], ([], [], None), "kept", 2),
        ([SHANGHAI], ([PARK], [PARK], [PARK]), "suspect", 0),
        ([SHANGHAI], ([], [], []), "suspect", 0),
        ([], ([ICE], [ICE], [ICE]), "suspect", 0),
        ([SHANGHAI], ([PARK], [PARK], [ICE]), "kept", 0),
        ([SHANGHAI], ([PARK], [PARK, SHANGHAI], [PARK, ICE]), "suspect", 0),
        ([SHANGHAI, ICE], ([ICE], [ICE], [SHANGHAI]), "kept", 0),
        ([SHANGHAI], ([PARK], [PARK], None), "kept", 0),
        ([SHANGHAI], (None, None, None), "kept", 0),
    ],
)
def test_worked_cases(gold: list[Entity], answers: Any, what: str, right: int) -> None:
    found = verdict(gold, *answers)
    assert (found.to_json()["verdict"], found.right) == (what, right)
    assert (len(easy.missing_answer_issues([found])) == 1) == (None in answers)


def test_a_line_of_the_votes_numbers_folds_from_1() -> None:
    assert verdict([SHANGHAI], [SHANGHAI], [], []).to_json() == {
        "id": "s",
        "fold": 1,
        "right": 1,
        "answers": 3,
        "verdict": "kept",
    }


def test_an_unreadable_answer_is_no_empty_one() -> None:
    opinions = said([], [], [])
    opinions[2]["s"] = Prediction("s", [], "???", "failed", "no JSON")
    (found,) = review([Sentence("s", TEXT, [])], [0], opinions, "pair")
    assert (found.is_easy, found.right, found.answers[1]) == (False, 2, None)


def test_a_model_has_no_say_about_its_own_fold() -> None:
    opinions = said([SHANGHAI], [SHANGHAI], [SHANGHAI])
    opinions[0]["s"] = Prediction("s", [PARK])
    (found,) = review([Sentence("s", TEXT, [SHANGHAI])], [0], opinions, "span")
    assert found.is_easy


def test_the_unit_decides_what_is_right() -> None:
    elsewhere = SHANGHAI._replace(start=5, end=7)
    assert not verdict([SHANGHAI], *[[elsewhere]] * 3).is_easy
    assert verdict([SHANGHAI], *[[elsewhere]] * 3, unit="pair").is_easy


def test_doubts_that_come_often_come_first() -> None:
    sentences = [Sentence(f"s{n}", TEXT, [SHANGHAI] if n != 1 else [ICE]) for n in range(4)]
    answer = [[PARK], [PARK], [SHANGHAI._replace(category="国家")], [SHANGHAI._replace(category="国家")]]
    opinions = [{}, *[{one.id: Prediction(one.id, answer[n]) for n, one in enumerate(sentences)}] * 2]
    found = contradicted_labels(review(sentences, [0] * 4, opinions, "span"))
    assert [(one.review.sentence.id, one.times) for one in found] == [("s2", 2), ("s3", 2), ("s0", 1), ("s1", 1)]
    line = found[0].to_json()
    assert [item["category"] for item in line["missing"]] == ["城市"]
    assert [item["category"] for item in line["extra"]] == ["国家"]
    decision = found[0].to_decision()
    assert decision.how == "queued"
    assert decision.item.annotations == ((SHANGHAI,), (SHANGHAI._replace(category="国家"),))
    assert decision.item.sentence.entities == []


def test_the_expert_sees_answers_without_offsets_in_their_places() -> None:
    answer = [Entity("迪士尼乐园", "景点"), Entity("不在句中", "景点")]
    found = verdict([SHANGHAI], *[answer] * 3, unit="pair")
    annotations = easy.ContradictedLabel(found, 1).to_decision().item.annotations
    assert annotations == ((SHANGHAI,), (PARK, Entity("不在句中", "景点")))


def test_votes_count_every_number_of_right_models_even_if_no_sentence_has_it() -> None:
    verdicts = [verdict([SHANGHAI], [SHANGHAI], [SHANGHAI], [SHANGHAI]), verdict([SHANGHAI], [SHANGHAI], [], [])]
    result = easy.FilterResult(verdicts, [], [], [], folds=[{}] * 4, unit="span", together="texts")
    assert result.votes == [0, 1, 0, 1]


def test_rare_categories_are_dropped_and_listed() -> None:
    kept = [Sentence("a", TEXT, [SHANGHAI, ICE]), Sentence("b", TEXT, [ICE, PARK])]
    whole = [*kept, Sentence("c", TEXT, [SHANGHAI, Entity("我", "人", 0, 1)])]
    left, dropped = drop_rare_categories(kept, whole, 2)
    assert [one.entities for one in left] == [[ICE], [ICE]]
    assert [(one.category, one.before, one.mentions) for one in dropped] == [
        ("人", 1, []),
        ("城市", 2, [("a", SHANGHAI)]),
        ("景点", 1, [("b", PARK)]),
    ]
    same, gone = drop_rare_categories(kept, whole, 1)
    assert [one.entities for one in same] == [one.entities for one in kept]
    assert [one.category for one in gone] == ["人"]


entities = st.lists(st.sampled_from([SHANGHAI, PARK, ICE, ICE._replace(category="甜点")]), max_size=3)
answers = st.one_of(st.none(), entities.map(lambda e: ("ok", e)), st.just(("failed", [])))
alike_or_nearly = st.tuples(entities, st.just([[]] * 4) | st.lists(entities, min_size=4, max_size=4)).map(
    lambda drawn: tuple(("ok", [*drawn[0], *more]) for more in drawn[1])
)


@given(st.lists(st.tuples(entities, st.integers(0, 3), st.tuples(*[answers] * 4) | alike_or_nearly), max_size=8))
@settings(max_examples=150, deadline=None)
def test_the_vote_is_what_counting_by_hand_gives(rows: list[tuple[list[Entity], int, Any]]) -> None:
    sentences = [Sentence(f"s{n}", TEXT, gold) for n, (gold, _, _) in enumerate(rows)]
    folds = [fold for _, fold, _ in rows]
    opinions: list[dict[str, Prediction]] = [{} for _ in range(4)]
    for n, (_, _, given_answers) in enumerate(rows):
        for model, one in enumerate(given_answers):
            if one is not None:
                opinions[model][f"s{n}"] = Prediction(f"s{n}", one[1], parse=one[0])
    for (gold, fold, given_answers), found in zip(rows, review(sentences, folds, opinions, "span"), strict=True):
        others = [one for model, one in enumerate(given_answers) if model != fold]
        readable = [set(one[1]) for one in others if one is not None and one[0] == "ok"]
        right = sum(one == set(gold) for one in readable)
        assert found.right == right
        assert found.is_easy == (right == 3)
        alike = len(readable) == 3 and readable[0] == readable[1] == readable[2] != set(gold)
        assert (found.doubt == "sentence") == alike
        if alike:
            assert (set(found.missing), set(found.extra)) == (set(gold) - readable[0], readable[0] - set(gold))
        elif found.doubt:
            assert found.extra
            for entity in found.extra:
                assert entity not in gold
                assert all(entity in one for one in readable)
                assert not any(
                    one.start < entity.end and entity.start < one.end for one in set(gold) - {*found.missing}
                )  # type: ignore[operator]
            for entity in found.missing:
                assert entity in gold
                assert not any(entity in one for one in readable)


def test_doubted_mentions_stand_where_gold_has_what_no_model_gives() -> None:
    dessert = ICE._replace(category="甜点")
    found = verdict([SHANGHAI, PARK, ICE], [dessert, SHANGHAI], [dessert, PARK], [dessert])
    assert (found.doubt, found.missing, found.extra) == ("mention", (ICE,), (dessert,))
    # One model gives what gold has: no doubt about it.
    assert verdict([SHANGHAI, ICE], [dessert, SHANGHAI], [dessert, ICE], [dessert]).doubt == ""
    # Without places, surfaces that contain each other are about the same thing.
    pair, longer = Entity("冰淇淋", "食品"), Entity("吃冰淇淋", "食品")
    found = verdict([pair], [longer], [longer, Entity("上海", "城市")], [longer], unit="pair")
    assert (found.doubt, found.missing, found.extra) == ("mention", (pair,), (longer,))
    found = verdict([longer], [pair], [pair, Entity("上海", "城市")], [pair], unit="pair")
    assert (found.doubt, found.missing, found.extra) == ("mention", (longer,), (pair,))
    found = verdict([ICE], [longer], [longer, Entity("上海", "城市")], [longer], unit="pair")
    assert (found.doubt, found.missing, found.extra) == ("mention", (ICE,), (longer,)), "one place is not enough"


def test_sure_doubts_come_before_mentions() -> None:
    dessert = ICE._replace(category="甜点")
    sentences = [Sentence(f"s{n}", TEXT, [SHANGHAI, ICE]) for n in range(3)]
    first = {one.id: Prediction(one.id, [dessert]) for one in sentences}
    second = {**first, "s0": Prediction("s0", [dessert, SHANGHAI]), "s2": Prediction("s2", [dessert, SHANGHAI])}
    found = contradicted_labels(review(sentences, [2] * 3, [first, second, {}], "span"))
    assert [(one.review.sentence.id, one.review.doubt) for one in found] == [
        ("s1", "sentence"),
        ("s0", "mention"),
        ("s2", "mention"),
    ]


def test_of_doubted_mentions_a_simple_difference_comes_before_one_that_comes_often() -> None:
    dessert = ICE._replace(category="甜点")
    gold = {"s0": [SHANGHAI, ICE], "s1": [SHANGHAI, ICE], "s2": [SHANGHAI]}
    first = {"s0": [dessert], "s1": [dessert], "s2": [SHANGHAI, PARK]}
    second = {"s0": [dessert, SHANGHAI], "s1": [dessert, SHANGHAI], "s2": [PARK]}
    opinions = [{name: Prediction(name, said) for name, said in answers.items()} for answers in (first, second, {})]
    sentences = [Sentence(name, TEXT, entities) for name, entities in gold.items()]
    found = contradicted_labels(review(sentences, [2] * 3, opinions, "span"))
    assert [(one.review.sentence.id, len(one.review.difference), one.times) for one in found] == [
        ("s2", 1, 1),
        ("s0", 2, 2),
        ("s1", 2, 2),
    ]


def test_in_the_unit_pair_every_mention_is_missing_and_every_one_extra() -> None:
    text = "上海人爱上海"
    first, last = Entity("上海", "城市", 0, 2), Entity("上海", "城市", 4, 6)
    others = [one._replace(category="国家") for one in (first, last)]
    person = Entity("上海人", "人", 0, 3)

    def one(gold: list[Entity], *answers: list[Entity]) -> easy.ReviewedSentence:
        (found,) = review([Sentence("s", text, gold)], [0], said(*answers), "pair")
        return found

    found = one([first, last], others, others, others)
    assert (found.doubt, found.missing, found.extra) == ("sentence", (first, last), tuple(others))
    assert found.proposed == tuple(others)
    # Models that mean different places of one surface agree; the first of them says which.
    assert one([], others[:1], others[1:], others[1:]).extra == (others[0],)
    # The doubted mention is the first of two: it is found, and the other one stays.
    found = one([first, last], [person], [person], [person, Entity("爱", "情", 3, 4)])
    assert (found.doubt, found.missing, found.extra) == ("mention", (first,), (person,))
    assert found.proposed == (person, last)
