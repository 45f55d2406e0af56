"""What every task is given: the checked configuration, the run's folder and its tracked run.

Which run is meant: a folder, or what the tracking store knows it by, its id or its name.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from omniner import tracking
from omniner.config.groups import Config, TrackingConfig
from omniner.corpus.sources import Corpus
from omniner.files import read_json, write_json, write_text
from omniner.records import Issue, content_digest, to_line
from omniner.runs import folder as runfolder
from omniner.runs.folder import METRICS
from omniner.tracking.tracked_run import DataInput, Run

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


class Located(NamedTuple):
    """A run: `folder` is None where it is not on this machine, `run_id` empty where it is not tracked."""

    folder: Path | None
    run_id: str
    name: str


def locate(text: str, settings: TrackingConfig, where: str) -> Located:
    """Find the run that `text` means.

    Args:
        text: a folder, the name of one in `outputs`, a run id, or the name of a run.
        settings: the store in which ids and names are looked up.
        where: the config key that holds `text`.

    Raises:
        UserError: there is none, or there are several of that name.
    """
    for folder in (Path(text), runfolder.ROOT / text):
        if text and folder.is_dir():
            return Located(folder, state(folder).get("run_id", ""), folder.resolve().name)
    found = tracking.find_run(settings, text, where)
    folder = Path(found.folder)
    # A folder that was used again holds another run now.
    mine = bool(found.folder) and state(folder).get("run_id") == found.id
    return Located(folder if mine else None, found.id, found.name)


def state(folder: Path) -> dict[str, Any]:
    """What a run's folder says of itself; empty where it is none."""
    path = folder / runfolder.STATE
    return dict(read_json(path)) if path.is_file() else {}
