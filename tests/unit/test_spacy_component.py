"""The component of spaCy pipelines: found by name, right on characters, honest about tokens."""

from __future__ import annotations

import math
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest

from omniner import api
from omniner.errors import UserError
from omniner.records import Entity, Prediction, Sentence, with_score

spacy = pytest.importorskip("spacy", reason="needs spacy: pip install omniner[spacy]")

TEXT = "去北京大学喝小满👶🏻"
ENTITIES = [
    Entity("北京", "地点", 1, 3),
    Entity("北京大学", "机构", 1, 5),
    Entity("小满👶🏻", "品牌", 6, 10),
    Entity("x", "地点"),
]


class Answers:
    """Gives these entities to every text, but for those that are too long."""

    categories = ("品牌", "地点", "机构")

    def __init__(self, scores: bool) -> None:
        self.config = SimpleNamespace(decoding=SimpleNamespace(gives_scores=scores))

    def predict(self, texts: str | Iterable[Sentence]) -> Prediction | list[Prediction]:
        if isinstance(texts, str):
            return self._answer(Sentence("text-0", texts))
        return [self._answer(sentence) for sentence in texts]

    def _answer(self, sentence: Sentence) -> Prediction:
        if len(sentence.text) > 40:
            raise UserError("encoding.max_length", f"1 sentence longer than 40: {sentence.id}", "Raise it.")
        return Prediction(sentence.id, list(ENTITIES))


def pipeline(monkeypatch: pytest.MonkeyPatch, nlp: Any, asked: list[Any] | None = None, scores: bool = False) -> Any:
    pytest.importorskip("omniner.spacy_component")  # what the entry point of an installed package does
    monkeypatch.setattr(
        api, "load", lambda *given: (asked if asked is not None else []).append(given) or Answers(scores)
    )
    nlp.add_pipe("omniner", config={"model": "my_run", "overrides": ["decoding=free"]})
    return nlp


def test_spans_have_the_confidence_of_their_entities(monkeypatch: pytest.MonkeyPatch) -> None:
    bare = pipeline(monkeypatch, spacy.blank("zh"))(TEXT)
    assert "scores" not in bare.spans["omniner"].attrs
    nlp = pipeline(monkeypatch, spacy.blank("zh"), scores=True)
    unsure = nlp(TEXT).spans["omniner"].attrs["scores"]
    assert [math.isnan(score) for score in unsure] == [True] * 3, "a repaired answer"
    scored = [with_score(entity, 0.5 + number / 8) for number, entity in enumerate(ENTITIES)]
    monkeypatch.setattr(Answers, "_answer", lambda self, sentence: Prediction(sentence.id, scored))
    doc = nlp(TEXT)
    spans = doc.spans["omniner"]
    assert [span.text for span in spans] == ["北京", "北京大学", "小满👶🏻"]
    assert spans.attrs["scores"].tolist() == [0.5, 0.625, 0.75]
    monkeypatch.setattr(Answers, "_answer", lambda self, sentence: Prediction(sentence.id))
    (empty,) = nlp.pipe([TEXT])
    assert empty.spans["omniner"].attrs["scores"].tolist() == []


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


def test_a_document_that_is_refused_goes_to_the_error_handler_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    nlp = pipeline(monkeypatch, spacy.blank("zh"))
    texts = [TEXT, TEXT, TEXT * 9, TEXT]
    with pytest.raises(UserError, match="document 2"):
        list(nlp.pipe(texts, batch_size=2))
    failed: list[tuple[str, list[str], str]] = []
    nlp.set_error_handler(lambda name, _, docs, error: failed.append((name, [doc.text for doc in docs], str(error))))
    assert [len(doc.ents) for doc in nlp.pipe(texts, batch_size=2)] == [2] * 3
    assert failed == [("omniner", [TEXT * 9], "encoding.max_length: 1 sentence longer than 40: document 2. Raise it.")]


def test_what_no_text_is_to_blame_for_is_asked_once_and_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    nlp = pipeline(monkeypatch, spacy.blank("zh"))
    asked: list[int] = []

    def gone(self: Answers, texts: Iterable[Sentence]) -> list[Prediction]:
        asked.append(len(list(texts)))
        raise UserError("decoding.url", "no answer from http://x/v1", "Start the server.")

    monkeypatch.setattr(Answers, "predict", gone)
    nlp.set_error_handler(lambda *_: None)
    with pytest.raises(UserError, match=r"^decoding\.url: no answer"):
        list(nlp.pipe([TEXT] * 4, batch_size=4))
    assert asked == [4]


def test_it_names_its_labels_and_is_evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    nlp = pipeline(monkeypatch, spacy.blank("zh"))
    assert nlp.pipe_labels["omniner"] == ["品牌", "地点", "机构"]
    gold = {"entities": [(1, 5, "机构"), (6, 10, "地点")]}
    scores = nlp.evaluate([spacy.training.Example.from_dict(nlp.make_doc(TEXT), gold)])
    assert (scores["ents_f"], scores["ents_per_type"]["机构"]["f"]) == (0.5, 1)


def test_a_token_is_taken_whole_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    nlp = pipeline(monkeypatch, spacy.blank("en"))  # its tokens: 去北京大学喝小满, and the emoji in two
    with pytest.warns(UserWarning, match="3 of 4 entities .* end within a token"):
        doc = nlp(TEXT)
    assert {span.text for span in doc.spans["omniner"]} == {"去北京大学喝小满", TEXT}
