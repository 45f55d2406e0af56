"""What every task is given: the checked configuration, the run's folder and its tracked run."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omniner.corpus.sources import Corpus
from omniner.files import write_text
from omniner.records import Issue, to_line
from omniner.schema import Config
from omniner.tracking import Run

log = logging.getLogger("omniner")


@dataclass
class Context:
    """The surroundings of one task; `resumed` says that the folder holds an unfinished run of this configuration."""

    config: Config
    folder: Path
    run: Run
    resumed: bool


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
    context.run.datasets(corpus)
    context.run.metrics({f"data/{split}_sentences": size for split, size in sizes.items()})
