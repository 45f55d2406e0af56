"""`task=predict`: tag sentences with a trained checkpoint; scored too where the sentences have gold entities.

In: `checkpoint=` (a run's folder or its checkpoint; none for a causal model as it was published, or a server) and the
sentences of `input=`, or of the split that `data` reports on; out: `predictions.jsonl`, and with gold everything of
`tasks.evaluation`.
"""

from __future__ import annotations

import logging
from pathlib import Path

from omniner.corpus import sources
from omniner.corpus.taxonomy import Taxonomy
from omniner.records import Issue, Sentence
from omniner.schema import Config
from omniner.tasks import prompting
from omniner.tasks.context import Context, publish_corpus, publish_issues
from omniner.tasks.evaluation import Extras, evaluate
from omniner.tasks.prediction import predict_file, write_gold

log = logging.getLogger("omniner")


def run(context: Context) -> None:
    """Read the sentences, tag them, score them if they have gold."""
    config, folder = context.config, context.folder
    checkpoint = _find(config.checkpoint) if config.checkpoint else None
    sentences, issues, taxonomy = _sentences(context)
    counts = publish_issues(context, issues)
    if config.prompt.from_run:
        known = sources.load(config.data, ["train"])
        reported = () if config.input else sentences
        prompting.use_guidance(context, known.taxonomy.active(known.splits["train"]), reported)
    predictions = predict_file(config, checkpoint, sentences, folder / "predictions.jsonl")
    context.run.file(folder / "predictions.jsonl")
    if any(sentence.entities for sentence in sentences):
        write_gold(folder / "gold.jsonl", sentences)
        context.run.file(folder / "gold.jsonl")
        evaluate(context, sentences, predictions, Extras(taxonomy, issues=counts))
    else:
        log.info("no gold entities in these sentences: nothing to score")


def _find(named: str) -> Path:
    from omniner.models import checkpoints  # torch; a server's answers need none of it

    return checkpoints.find(Path(named))


def _sentences(context: Context) -> tuple[list[Sentence], list[Issue], Taxonomy | None]:
    config: Config = context.config
    if config.input:
        sentences, issues = sources.read_sentences(Path(config.input))
        return sentences, issues, None
    corpus = sources.load(config.data, ["test"])
    publish_corpus(context, corpus)
    return corpus.splits["test"], corpus.issues, corpus.taxonomy
