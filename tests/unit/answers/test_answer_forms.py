"""Whatever form a model chooses: whole, it is read whole; cut anywhere, nothing is read that was not said."""

from __future__ import annotations

import answer_forms
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omniner.answers import parse_answer

CATEGORIES = ("人名", "地点_城市", "地点", "品牌", "PER")
SURFACES = ("北京", "北京大学", "王芳", "小满", "Nanci", "L'Oreal", "2024年", "iPhone 15", "A·B", "北")
SENTENCE = "，".join(SURFACES)

pair_sets = st.lists(
    st.tuples(st.sampled_from(SURFACES), st.sampled_from(CATEGORIES)), min_size=1, max_size=5, unique_by=lambda p: p[0]
)


@pytest.mark.parametrize("name", answer_forms.CERTAIN)
@settings(max_examples=30, deadline=None)
@given(pairs=pair_sets, at=st.floats(0, 1), known=st.booleans())
def test_forms_that_speak_for_themselves(name: str, pairs: list[tuple[str, str]], at: float, known: bool) -> None:
    text = answer_forms.CERTAIN[name](pairs)
    hints = {"categories": CATEGORIES, "sentence": SENTENCE} if known else {}
    whole = parse_answer(text, **hints)
    assert sorted(set(whole.pairs)) == sorted(set(pairs)), (text, whole)
    assert whole.status != "failed"
    hidden = (
        text.rfind("</think>") if name == "only the closing tag" else 0
    )  # nothing says before it that it is thought
    piece = text[: max(int(at * len(text)), hidden and hidden + len("</think>"))]
    cut = parse_answer(piece, **hints, cut=True)
    assert set(cut.pairs) <= set(pairs), (piece, cut)


@pytest.mark.parametrize("name", answer_forms.HINTED)
@settings(max_examples=30, deadline=None)
@given(pairs=pair_sets, at=st.floats(0, 1), placed=st.booleans())
def test_forms_that_need_the_categories(name: str, pairs: list[tuple[str, str]], at: float, placed: bool) -> None:
    text = answer_forms.HINTED[name](pairs)
    hints = {"categories": CATEGORIES, "sentence": SENTENCE if placed else ""}
    whole = parse_answer(text, **hints)
    assert sorted(set(whole.pairs)) == sorted(set(pairs)), (text, whole)
    piece = text[: int(at * len(text))]
    cut = parse_answer(piece, **hints, cut=True)
    assert set(cut.pairs) <= set(pairs), (piece, cut)
