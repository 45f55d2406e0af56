"""The component of spaCy pipelines: found by name, right on characters, honest about tokens."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from omniner import api
from omniner.records import Entity, Prediction

spacy = pytest.importorskip("spacy", reason="needs spacy: pip install omniner[spacy]")

TEXT = "去北京大学喝小满👶🏻"
ENTITIES = [
    Entity("北京", "地点", 1, 3),
    Entity("北京大学", "机构", 1, 5),
    Entity("小满👶🏻", "品牌", 6, 10),
    Entity("x", "地点"),
]


class Answers:
    """Gives these entities to every text."""

    def predict(self, texts: Iterable[str]) -> list[Prediction]:
        return [Prediction(str(number), list(ENTITIES)) for number, _ in enumerate(texts)]


def pipeline(monkeypatch: pytest.MonkeyPatch, nlp: Any, asked: list[Any] | None = None) -> Any:
    pytest.importorskip("omniner.spacy_component")  # what the entry point of an installed package does
    monkeypatch.setattr(api, "load", lambda *given: (asked if asked is not None else []).append(given) or Answers())
    nlp.add_pipe("omniner", config={"model": "my_run", "overrides": ["decoding=free"]})
    return nlp


def test_entities_are_spans_and_those_that_do_not_overlap_are_ents(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    doc = pipeline(monkeypatch, spacy.blank("zh"), asked)(TEXT)
    assert asked == [("my_run", ["decoding=free"], [])]
    assert [(span.text, span.label_) for span in doc.spans["omniner"]] == [
        (entity.text, entity.category) for entity in ENTITIES[:3]
    ]
    assert [(span.text, span.label_) for span in doc.ents] == [("北京大学", "机构"), ("小满👶🏻", "品牌")]
    html = spacy.displacy.render(doc, style="ent", page=True)
    assert "北京大学" in html
    assert "品牌" in html


def test_many_documents_are_tagged_together(monkeypatch: pytest.MonkeyPatch) -> None:
    nlp = pipeline(monkeypatch, spacy.blank("zh"))
    documents = list(nlp.pipe([TEXT] * 5, batch_size=2))
    assert [len(doc.ents) for doc in documents] == [2] * 5


def test_a_token_is_taken_whole_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    nlp = pipeline(monkeypatch, spacy.blank("en"))  # its tokens: 去北京大学喝小满, and the emoji in two
    with pytest.warns(UserWarning, match="3 of 4 entities .* end within a token"):
        doc = nlp(TEXT)
    assert {span.text for span in doc.spans["omniner"]} == {"去北京大学喝小满", TEXT}
