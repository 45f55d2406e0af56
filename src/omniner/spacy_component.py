"""A spaCy pipeline component for a trained tagger: `nlp.add_pipe("omniner", config={"model": "my_run"})`.

spaCy finds it by its entry point. Entities that do not overlap go to `doc.ents`; all entities, nested ones too, go to
`doc.spans["omniner"]`, whose `attrs["scores"]` are their confidences if `decoding.scores` asks for them
(NaN for an entity without one). `spacy.blank("zh")` makes every character a token, so every entity fits. An entity that
begins or ends within a token is extended to the whole token, and a warning counts such entities.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
from spacy.language import Language
from spacy.pipeline import Pipe
from spacy.scorer import get_ner_prf
from spacy.tokens import Doc, Span
from spacy.util import filter_spans

from omniner import api
from omniner.errors import UserError
from omniner.records import Prediction, Sentence

SPANS = "omniner"
"""The key of `doc.spans` that holds all entities."""


@Language.factory(
    "omniner",
    default_config={"overrides": [], "categories": []},
    assigns=["doc.ents", "doc.spans"],
    default_score_weights={"ents_f": 1.0, "ents_p": 0.0, "ents_r": 0.0, "ents_per_type": None},
)
def make_component(
    nlp: Language, name: str, model: str, overrides: Sequence[str], categories: Sequence[str]
) -> TaggerComponent:
    """Make the component.

    Args:
        nlp: the pipeline.
        name: name of the component in the pipeline.
        model: as for `omniner.load`: a run, a checkpoint, the folder of a published model, or the address of a server.
        overrides: arguments of the command line, as for `omniner.load`.
        categories: as for `omniner.load`: the categories that a model not trained here is asked for.
    """
    return TaggerComponent(api.load(model, overrides, categories), name)


class TaggerComponent(Pipe):
    """Adds the entities that a model predicts to documents.

    Args:
        model: the model that predicts.
        name: name of the component in its pipeline.
    """

    def __init__(self, model: api.Model, name: str = "omniner") -> None:
        self.model, self.name = model, name

    @property
    def labels(self) -> tuple[str, ...]:
        """The categories that the model can predict."""
        return self.model.categories

    def score(self, examples: Iterable[Any], **_: Any) -> dict[str, Any]:
        """Score `doc.ents`; `nlp.evaluate` calls this."""
        scores: dict[str, Any] = get_ner_prf(examples)
        return scores

    def __call__(self, doc: Doc) -> Doc:
        """Tag one document."""
        _add_entities(doc, self.model.predict(doc.text), self.model.config.decoding.gives_scores)
        return doc

    def pipe(self, stream: Iterable[Doc], *, batch_size: int = 64) -> Iterator[Doc]:
        """Tag documents, `batch_size` of them at a time.

        For each refused text, spaCy's error handler is called; the others are tagged.

        Raises:
            UserError: no document can be tagged, because a server or a GPU fails, for example.
        """
        documents = enumerate(stream)
        while batch := list(islice(documents, batch_size)):
            for (_, doc), prediction in zip(batch, self._predict(batch), strict=True):
                if prediction is not None:
                    _add_entities(doc, prediction, self.model.config.decoding.gives_scores)
                    yield doc

    def _predict(self, batch: Sequence[tuple[int, Doc]]) -> list[Prediction | None]:
        """Return the predictions of numbered documents; None for a document whose text is refused.

        Raises:
            UserError: no document can be tagged, because a server or a GPU fails, for example.
        """
        try:
            return [*self.model.predict([Sentence(f"document {number}", doc.text) for number, doc in batch])]
        except UserError as error:
            if not error.refuses_text:
                raise
            if len(batch) > 1:
                return [prediction for one in batch for prediction in self._predict([one])]
            handle: Callable[..., object] = self.get_error_handler()
            handle(self.name, self, [batch[0][1]], error)
            return [None]


def _add_entities(doc: Doc, prediction: Prediction, with_scores: bool) -> None:
    """Add the entities with offsets to a document; those of one category that cover the same tokens become one span."""
    spans: dict[tuple[int, int, str], Span] = {}
    scores: dict[tuple[int, int, str], float] = {}
    cut = 0
    for entity in prediction.entities:
        if entity.start is None or entity.end is None:
            continue  # the answer named words that are not in the sentence
        span = doc.char_span(entity.start, entity.end, label=entity.category, alignment_mode="expand")
        assert span is not None, "a prediction's places are those of its text"
        cut += (span.start_char, span.end_char) != (entity.start, entity.end)
        place = span.start, span.end, entity.category
        spans[place] = span
        scores[place] = math.nan if entity.score is None else entity.score
    if cut:
        warnings.warn(
            f"{cut} of {len(prediction.entities)} entities of {doc.text[:20]!r} end within a token and now take all of "
            'it; spacy.blank("zh") makes every character a token',
            stacklevel=3,
        )
    doc.spans[SPANS] = list(spans.values())
    if with_scores:
        doc.spans[SPANS].attrs["scores"] = np.array(list(scores.values()), dtype=np.float32)  # as spaCy's spancat does
    doc.ents = filter_spans([*doc.ents, *spans.values()])
