"""What every task is given: the checked configuration, the run's folder and its tracked run."""

from __future__ import annotations

import hashlib
import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from omniner.corpus.sources import Corpus
from omniner.files import read_json, write_json, write_text
from omniner.records import Issue, Sentence, sentence_to_json, to_line
from omniner.runfolder import METRICS
from omniner.schema import Config
from omniner.tracking import DataInput, Run

log = logging.getLogger("omniner")


@dataclass
class Context:
    """The surroundings of one task; `resumed` says that the folder holds an unfinished run of this configuration."""

    config: Config
    folder: Path
    run: Run
    resumed: bool

    def results(self, values: Mapping[str, float]) -> None:
        """Log what runs are compared by, and keep it in the folder, where a sweep finds it."""
        path = self.folder / METRICS
        earlier = read_json(path) if path.exists() else {}
        write_json(path, {**earlier, **{name: value for name, value in values.items() if math.isfinite(value)}})
        self.run.metrics(values)


def publish_issues(context: Context, issues: Sequence[Issue]) -> dict[str, int]:
    """Write and log what could not be taken as it was; gives the counts by code."""
    counts = dict(sorted(Counter(issue.code for issue in issues).items()))
    lines = [to_line(issue._asdict()) for issue in issues]
    path = write_text(context.folder / "issues.jsonl", "".join(f"{line}\n" for line in lines))
    context.run.file(path)
    context.run.metrics({f"issues/{code}": count for code, count in counts.items()})
    for code, count in counts.items():
        log.warning("issues: %d x %s (listed in %s)", count, code, path)
    return counts


def content_digest(sentences: Sequence[Sentence]) -> str:
    """A digest of what the sentences say, whatever file or generator they came from: equal splits, equal digest."""
    digest = hashlib.sha256()
    for sentence in sentences:
        digest.update(to_line(sentence_to_json(sentence)).encode())
    return digest.hexdigest()[:16]


def publish_corpus(context: Context, corpus: Corpus) -> None:
    """Say and log what the corpus is: sizes, digests, categories."""
    sizes = {split: len(sentences) for split, sentences in corpus.splits.items()}
    log.info(
        "data %s: %s; %d categories; reported on: %s",
        corpus.name,
        ", ".join(f"{split} {size:,}" for split, size in sizes.items()),
        len(corpus.taxonomy.categories),
        corpus.report,
    )
    source = ", ".join(corpus.digests)
    context.run.datasets(
        DataInput(f"{corpus.name}-{split}", split, content_digest(sentences), source, len(sentences))
        for split, sentences in corpus.splits.items()
    )
    context.run.tags({f"data.file.{name}": digest for name, digest in corpus.digests.items()})
    context.run.metrics({f"data/{split}_sentences": size for split, size in sizes.items()})
