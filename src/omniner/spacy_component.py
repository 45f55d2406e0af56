"""A trained tagger as a component of a spaCy pipeline: `nlp.add_pipe("omniner", config={"model": "my_run"})`.

spaCy finds it by its entry point. Entities go to `doc.ents` where they do not overlap; all of them, nested ones too, go
to `doc.spans["omniner"]`. `spacy.blank("zh")` makes every character a token, so every entity fits. One that ends within
a token takes all of it, and a warning counts such entities.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from spacy.language import Language
from spacy.tokens import Doc, Span
from spacy.util import filter_spans

from omniner import api
from omniner.records import Prediction

SPANS = "omniner"
"""The key of `doc.spans` that holds all entities."""


@Language.factory("omniner", default_config={"overrides": [], "categories": []}, assigns=["doc.ents", "doc.spans"])
def make_component(
    nlp: Language, name: str, model: str, overrides: Sequence[str], categories: Sequence[str]
) -> TaggerComponent:
    """Make the component.

    Args:
        nlp: the pipeline.
        name: of the component in it.
        model: what `omniner.load` takes: a run, a checkpoint, the folder of a published model, the address of a server.
        overrides: words of the command line, as `omniner.load` takes them.
        categories: those that a model is asked about that was not trained here.
    """
    return TaggerComponent(api.load(model, overrides, categories))


class TaggerComponent:
    """Puts the entities of a model into documents.

    Args:
        model: what answers.
    """

    def __init__(self, model: api.Model) -> None:
        self.model = model

    def __call__(self, doc: Doc) -> Doc:
        """Tag one document."""
        return next(self.pipe([doc]))

    def pipe(self, stream: Iterable[Doc], batch_size: int = 64) -> Iterator[Doc]:
        """Tag documents, `batch_size` of them at a time."""
        documents = iter(stream)
        while batch := list(islice(documents, batch_size)):
            for doc, prediction in zip(batch, self.model.predict([doc.text for doc in batch]), strict=True):
                _add_entities(doc, prediction)
                yield doc


def _add_entities(doc: Doc, prediction: Prediction) -> None:
    """Put the entities that have a place into a document, one span for those that end up as the same tokens."""
    spans: dict[tuple[int, int, str], Span] = {}
    cut = 0
    for entity in prediction.entities:
        if entity.start is None or entity.end is None:
            continue  # an answer's words that are not in the sentence
        span = doc.char_span(entity.start, entity.end, label=entity.category, alignment_mode="expand")
        assert span is not None, "a prediction's places are those of its text"
        cut += (span.start_char, span.end_char) != (entity.start, entity.end)
        spans[span.start, span.end, entity.category] = span
    if cut:
        warnings.warn(
            f"{cut} of {len(prediction.entities)} entities of {doc.text[:20]!r} end within a token and now take all of "
            'it; spacy.blank("zh") makes every character a token',
            stacklevel=3,
        )
    doc.spans[SPANS] = list(spans.values())
    doc.ents = filter_spans([*doc.ents, *spans.values()])
