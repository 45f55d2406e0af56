"""Votes on sentences: worked cases, what holds for any annotations, and the files of the task."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omniner.corpus.adjudication import (
    AnnotatedSentence,
    annotation_of,
    check_shared,
    decide,
    match_annotators,
    overlap,
    quorum_of,
    score_practice,
)
from omniner.corpus.sample import generate_sample
from omniner.errors import UserError
from omniner.records import Entity, Sentence, with_score

TEXT = "我在上海迪士尼乐园吃冰淇淋"


def ent(start: int, end: int, category: str = "X") -> Entity:
    return Entity(TEXT[start:end], category, start, end)


def item(*annotations: list[Entity] | None) -> AnnotatedSentence:
    return AnnotatedSentence(
        Sentence("s", TEXT), tuple(None if one is None else annotation_of(one) for one in annotations)
    )


CASES = {
    "all agree": ([ent(2, 4)], [ent(2, 4)], [ent(2, 4)], "unanimous", [ent(2, 4)]),
    "nobody marks anything": ([], [], [], "unanimous", []),
    "two say exactly this": ([ent(2, 4)], [ent(2, 4)], [ent(2, 9)], "majority", [ent(2, 4)]),
    "two mark nothing": ([ent(2, 4)], [], [], "majority", []),
    "each entity has its two": (
        [ent(2, 4), ent(4, 9)],
        [ent(4, 9), ent(10, 13)],
        [ent(2, 4), ent(10, 13)],
        "vote",
        [ent(2, 4), ent(4, 9), ent(10, 13)],
    ),
    "span by two, category by another two": (
        [ent(2, 4, "X")],
        [ent(2, 4, "Y")],
        [ent(2, 9, "X")],
        "separate",
        [ent(2, 4, "X")],
    ),
    "the category that wins is not that of the first who gave the span": (
        [ent(2, 4, "X")],
        [ent(2, 4, "Y")],
        [ent(2, 9, "Y")],
        "separate",
        [ent(2, 4, "Y")],
    ),
    "two agree on the span, none on the category": (
        [ent(2, 4, "X")],
        [ent(2, 4, "Y")],
        [ent(2, 4, "Z")],
        "queued",
        [],
    ),
    "two agree on the category, none on the span": ([ent(2, 4)], [ent(2, 9)], [ent(4, 9)], "queued", []),
    "one against one, the third abstains": ([ent(2, 4)], [], None, "queued", []),
    "two of two who are there": ([ent(2, 4)], [ent(2, 4)], None, "majority", [ent(2, 4)]),
    "only one is there": ([ent(2, 4)], None, None, "queued", []),
    "only one is there, who marks nothing": ([], None, None, "queued", []),
    "winners overlap, and a third stands beside one": (
        [ent(2, 9), ent(10, 13)],
        [ent(2, 9), ent(4, 11)],
        [ent(4, 11)],
        "queued",  # whether 冰淇淋 is marked: one for it, one saw something else there, one saw nothing
        [],
    ),
    "nesting that two mean": (
        [ent(2, 9), ent(2, 4, "Y")],
        [ent(2, 9), ent(2, 4, "Y"), ent(10, 13)],
        [ent(2, 9)],
        "vote",
        [ent(2, 9), ent(2, 4, "Y")],
    ),
    "nesting that one means, in two ways": (
        [ent(2, 9), ent(2, 4, "Y")],
        [ent(2, 9), ent(2, 5, "Y")],
        [ent(2, 9)],
        "queued",
        [],
    ),
    "a category counts only where it overlaps the span": (
        [ent(2, 4, "X")],
        [ent(2, 4, "Y")],
        [ent(3, 6, "Z"), ent(5, 8, "X")],
        "queued",
        [],
    ),
    "a span that overlaps two winners is heard only from who gave both": (
        [ent(0, 3), ent(2, 6)],
        [ent(0, 3), ent(5, 8)],
        [ent(5, 8), ent(1, 4)],
        "vote",
        [ent(0, 3), ent(5, 8)],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_sentence_is_decided_as_the_rules_say(case: str) -> None:
    *annotations, how, entities = CASES[case]
    for order in permutations(annotations):
        decision = decide(item(*order))
        assert (decision.how, decision.entities) == (how, annotation_of(entities))


def test_of_two_overlapping_winners_the_longer_stays() -> None:
    decision = decide(item([ent(2, 9)], [ent(2, 9), ent(4, 10)], [ent(4, 10), ent(0, 1)]))
    assert decision.how == "vote"
    assert decision.entities == (ent(2, 9),)
    assert [vote.entity for vote in decision.rejected] == [ent(0, 1), ent(4, 10)]


def test_of_two_overlapping_winners_the_one_with_more_voters_stays_even_if_it_is_shorter() -> None:
    shorter, longer = ent(2, 5), ent(4, 10)
    decision = decide(item([shorter], [shorter], [shorter, longer], [shorter, longer], [longer]))
    assert decision.entities == (shorter,)


def test_the_votes_of_a_majority_and_of_two_who_differ() -> None:
    decision = decide(item([ent(2, 4), ent(4, 9)], [ent(2, 4), ent(4, 9)], [ent(0, 1), ent(4, 9)]))
    assert [vote.entity for vote in decision.accepted] == [ent(2, 4), ent(4, 9)]
    assert [vote.entity for vote in decision.rejected] == [ent(0, 1)]
    decision = decide(item([ent(2, 4)], [ent(2, 4), ent(4, 9)], None))
    assert [vote.entity for vote in decision.accepted] == [ent(2, 4)]
    assert [vote.entity for vote in decision.open] == [ent(4, 9)], "the one who is absent could have said so, too"


def test_an_annotation_stands_in_the_order_of_the_text() -> None:
    bare, later, longer, shorter = Entity("一", "X"), ent(4, 9), ent(2, 9), ent(2, 4)
    assert annotation_of([bare, later, shorter, longer, later]) == (longer, shorter, later, bare)


@pytest.mark.parametrize("first", ["model", "person"])
def test_gold_has_no_confidence_whoever_votes_first(first: str) -> None:
    sure, plain = [with_score(ent(2, 4), 0.42), with_score(ent(4, 9), 0.5)], [ent(2, 4)]
    votes = [sure, plain, plain] if first == "model" else [plain, plain, sure]
    decision = decide(item(*votes))
    assert [(entity, entity.score) for entity in decision.entities] == [(ent(2, 4), None)]
    assert [entity.score for entity in annotation_of(sure[:1])] == [None]


def test_a_surface_without_a_place_is_for_the_expert() -> None:
    bare = Entity("迪斯尼", "X")
    assert decide(item([bare], [bare], [bare])).how == "unanimous"
    assert decide(item([bare], [ent(2, 4)], [])).how == "queued"


ENTITIES = st.lists(
    st.tuples(st.integers(0, 7), st.integers(1, 4), st.sampled_from("XY")).map(
        lambda drawn: ent(drawn[0], drawn[0] + drawn[1], drawn[2])
    ),
    max_size=4,
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.none() | ENTITIES, min_size=2, max_size=5))
def test_whatever_is_proposed(annotations: list[list[Entity] | None]) -> None:
    decision = decide(item(*annotations))
    quorum = quorum_of(len(annotations))
    present = [set(one) for one in annotations if one is not None]
    # Whatever a quorum gave and nothing overlaps is accepted; whatever is accepted has a quorum behind its span and
    # its category; every annotation is accounted for; nothing depends on the order of the annotators.
    proposed = {entity for one in present for entity in one}
    behind = {entity: sum(entity in one for one in present) for entity in proposed}
    if decision.how != "queued":
        for entity in proposed:
            alone = not any(other != entity and overlap(entity, other) for other in proposed)
            assert not alone or (behind[entity] >= quorum) == (entity in decision.entities)
    for entity in decision.entities:
        span = sum(any(other[2:] == entity[2:] for other in one) for one in present)
        name = sum(
            any(other.category == entity.category and overlap(other, entity) for other in one) for one in present
        )
        assert min(span, name) >= quorum
    if decision.how not in ("unanimous",):
        listed = {vote.entity for votes in (decision.accepted, decision.rejected, decision.open) for vote in votes}
        assert proposed <= listed
    turned = decide(item(*reversed(annotations)))
    assert (turned.how, turned.entities) == (decision.how, decision.entities)


def test_files_are_matched_by_id_and_differing_texts_are_issues() -> None:
    a = [Sentence("1", "甲乙", [Entity("甲", "X", 0, 1)], "p"), Sentence("2", "丙"), Sentence("2", "丁")]
    b = [Sentence("1", "甲乙丙"), Sentence("3", "戊", meta={"unlabeled": True})]
    c = [Sentence("1", "甲乙", []), Sentence("2", "丙")]
    items, issues = match_annotators(["a", "b", "c"], [a, b, c])
    assert [(one.sentence.id, one.sentence.text) for one in items] == [("1", "甲乙"), ("2", "丙"), ("3", "戊")]
    assert items[0].sentence.post_id == "p"
    assert [one.sentence.meta for one in items] == [{}, {}, {}]
    turned, _ = match_annotators(["b", "c", "a"], [b, [replace(c[0], meta={"from": "x"})], a])
    assert (turned[0].sentence.text, turned[0].sentence.post_id) == ("甲乙", "p"), "of the text that two have"
    assert turned[0].sentence.meta == {"from": "x"}
    assert [one.annotations for one in items] == [((a[0].entities[0],), None, ()), ((), None, ()), (None, None, None)]
    found = sorted((issue.code, issue.id) for issue in issues)
    missing = [("not-annotated", "2"), *[("not-annotated", "3")] * 3]
    assert found == [("duplicate-id", "2"), *missing, ("text-mismatch", "1")]


def test_practice_counts_what_is_left_out() -> None:
    gold = [Sentence("1", TEXT, [ent(2, 4), ent(4, 9)]), Sentence("2", TEXT, [ent(2, 4)]), Sentence("9", TEXT)]
    right, lazy = [gold[0], gold[1]], [gold[1]]
    items, _ = match_annotators(["right", "lazy"], [right, lazy])
    (one, other), issues = score_practice(["right", "lazy"], items, gold)
    assert (one.f1, one.accuracy, one.labelled, one.passes("f1", 0.9)) == (1.0, 1.0, 2, True)
    assert (other.precision, other.recall, other.f1, other.accuracy) == (1.0, 1 / 3, 0.5, 0.5)
    assert not other.passes("f1", 0.9)
    assert [issue.code for issue in issues] == ["practice-unused"]
    assert not one.passes("f1", 1.0), "above, not at"


def test_practice_of_another_text_or_of_nobody_counts_nothing() -> None:
    items, _ = match_annotators(["a", "b"], [[Sentence("1", TEXT, [])], [Sentence("1", TEXT, [])]])
    scores, issues = score_practice(["a", "b"], items, [Sentence("1", "另一句", [Entity("另", "X", 0, 1)])])
    assert [(issue.code, issue.id) for issue in issues] == [("text-mismatch", "1")]
    assert [one[1:] for one in scores] == [(0, 0, 0.0, 0.0, 0.0, 0.0)] * 2


def test_practice_without_entities_is_passed_by_those_who_mark_none() -> None:
    empty = [Sentence("1", TEXT, []), Sentence("2", TEXT, [])]
    names = ["right", "lazy", "wrong"]
    items, _ = match_annotators(names, [empty, empty[:1], [Sentence("1", TEXT, [ent(2, 4)]), empty[1]]])
    scores, _ = score_practice(names, items, empty)
    assert [(one.f1, one.accuracy) for one in scores] == [(1.0, 1.0), (0.5, 0.5), (0.0, 0.5)]


def test_sentences_without_ids_of_their_own_are_matched_by_text() -> None:
    """The second has another order, the third another file's numbers; texts that stand twice are matched in order."""
    texts = ["甲乙", "丙丁", "甲乙", "戊己"]
    first = [Sentence(f"a-{n}", text, [Entity(text[0], str(n), 0, 1)]) for n, text in enumerate(texts)]
    second = [Sentence(f"a-{n}", texts[m], [Entity(texts[m][0], str(m), 0, 1)]) for n, m in enumerate((3, 0, 2, 1))]
    third = [Sentence(f"c-{n}", texts[n], [Entity(texts[n][0], str(n), 0, 1)]) for n in (0, 1)]
    other = [Sentence("a-1", "无关", [])]
    items, issues = match_annotators("abcd", [first, second, third, other])
    assert [one.sentence.text for one in items[:4]] == texts
    assert {decide(one).how for one in items[:2]} == {"majority"}
    assert items[2].annotations == (annotation_of(first[2].entities), annotation_of(second[2].entities), None, None)
    assert [issue.code for issue in issues].count("matched-by-text") == 2
    with pytest.raises(UserError, match="d has labelled no sentence that any of a, b, c has"):
        check_shared("abcd", items)
    check_shared("abc", [AnnotatedSentence(one.sentence, one.annotations[:3]) for one in items])


def mistaken(sentence: Sentence, draw: Random, rate: float) -> Sentence:
    """One in `1 / rate` mentions missing, cut short or of another category."""
    found = []
    for entity in sentence.entities:
        kind = draw.random() / rate
        if kind < 1 / 3 and len(entity.text) > 1 and entity.end:
            found.append(Entity(entity.text[:-1], entity.category, entity.start, entity.end - 1))
        elif 1 / 3 <= kind < 2 / 3:
            found.append(entity._replace(category="其他_x"))
        elif kind >= 1:
            found.append(entity)
    return Sentence(sentence.id, sentence.text, found)


def test_the_vote_is_nearer_to_the_truth_than_anyone() -> None:
    truth = generate_sample({"train": 300}, 8)["train"]
    for number, sentence in enumerate(truth):
        sentence.id = f"s{number}"
    annotations = [[mistaken(one, Random(f"{n} {one.id}"), 0.1) for one in truth] for n in range(3)]
    items, _ = match_annotators("abc", annotations)
    decisions = [decide(item) for item in items]
    known = [number for number, decision in enumerate(decisions) if decision.how != "queued"]
    assert len(known) > 200

    def wrong(answers: list[tuple[Entity, ...]]) -> int:
        return sum(len(set(truth[n].entities) ^ set(one)) for n, one in zip(known, answers, strict=True))

    voted = wrong([decisions[n].entities for n in known])
    alone = [wrong([tuple(sentences[n].entities) for n in known]) for sentences in annotations]
    assert voted * 5 < min(alone)
