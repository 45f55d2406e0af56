"""Random gold and predictions for the scoring tests: small alphabets, so that everything that can collide does."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import strategies as st

from omniner.records import Entity

CATEGORIES = ("甲_一", "甲_二", "乙_一", "丙")
TEXT = "看2024奥运会 直播Nanci 来了啊啊啊啊"


@st.composite
def spans(draw: st.DrawFn, text: str = TEXT, categories: tuple[str, ...] = CATEGORIES) -> Entity:
    """One mention of `text` with its offsets."""
    start = draw(st.integers(0, len(text) - 1))
    end = draw(st.integers(start + 1, min(len(text), start + 8)))
    return Entity(text[start:end], draw(st.sampled_from(categories)), start, end)


@st.composite
def sides(draw: st.DrawFn, size: int = 7, text: str = TEXT) -> tuple[list[Entity], list[Entity]]:
    """Gold and prediction of a sentence; they may overlap, nest and repeat, the more so the shorter the text."""
    gold, predicted = draw(st.lists(spans(text), max_size=size)), draw(st.lists(spans(text), max_size=size))
    for entity in gold[: len(predicted)]:  # chance alone hardly meets a place twice
        answer = draw(st.sampled_from(["none", "right", "right but for the category"]))
        if answer != "none":
            category = entity.category if answer == "right" else draw(st.sampled_from(CATEGORIES))
            predicted.append(entity._replace(category=category))
    return gold, draw(st.permutations(predicted))


@st.composite
def flat(draw: st.DrawFn, text: str = TEXT) -> list[Entity]:
    """Mentions that do not overlap, left to right."""
    cuts = sorted(draw(st.sets(st.integers(0, len(text)), max_size=10)))
    found = []
    for start, end in pairwise(cuts):
        if draw(st.booleans()):
            found.append(Entity(text[start:end], draw(st.sampled_from(CATEGORIES)), start, end))
    return found


def bare(entities: list[Entity]) -> list[Entity]:
    """The same without offsets."""
    return [Entity(entity.text, entity.category) for entity in entities]
