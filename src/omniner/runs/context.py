"""What a task is given: its checked configuration, the run's folder and tracked run, and the ways to publish results.

To publish means to write a file into the run's folder and to keep it with the tracked run under the same relative path,
so that what a folder holds can be found in the tracking store as well, at the same place for every run.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from omniner.config.groups import Config
from omniner.corpus.sources import Corpus
from omniner.files import read_json, write_json, write_text, writing
from omniner.records import Issue, Sentence, content_digest, to_line
from omniner.report.figures import Chart
from omniner.report.tables import Table
from omniner.runs.folder import METRICS
from omniner.tracking.tracked_run import DataInput, Run

log = logging.getLogger("omniner")


@dataclass
class Context:
    """The surroundings of one task.

    Attributes:
        config: checked.
        folder: of the run; relative names below are relative to it.
        run: the tracked run; one that writes nothing where tracking is off.
        resumed: whether the folder holds an unfinished run of this configuration, which goes on.
    """

    config: Config
    folder: Path
    run: Run
    resumed: bool

    def publish_file(self, name: str) -> Path:
        """Keep a file of the folder with the tracked run; return its path."""
        path = self.folder / name
        parent = PurePosixPath(name).parent.as_posix()
        self.run.file(path, "" if parent == "." else parent)
        return path

    def publish_text(self, name: str, text: str) -> Path:
        """Write a text file and keep it with the tracked run; return its path."""
        write_text(self.folder / name, text)
        return self.publish_file(name)

    def publish_json(self, name: str, value: Any) -> Path:
        """Write a JSON file and keep it with the tracked run; return its path."""
        write_json(self.folder / name, value)
        return self.publish_file(name)

    def publish_table(self, name: str, table: Table) -> None:
        """Write `tables/<name>.csv` and keep the table with the tracked run, whose UI compares it between runs."""
        write_text(self.folder / "tables" / f"{name}.csv", table.to_csv())
        self.run.table(table.names, table.rows, f"tables/{name}.json")

    def publish_tables(self, tables: Mapping[str, Table], prefix: str = "") -> None:
        """Publish each table under the name `<prefix><its name>`."""
        for name, table in tables.items():
            self.publish_table(f"{prefix}{name}", table)

    def publish_figures(self, figures: Mapping[str, Chart]) -> None:
        """Draw each chart as `figures/<name>.png` and keep it with the tracked run."""
        for name, chart in figures.items():
            with writing(self.folder / "figures" / f"{name}.png", "wb") as file:
                file.write(chart.png())
            self.publish_file(f"figures/{name}.png")

    def publish_results(self, values: Mapping[str, float]) -> None:
        """Track what runs are compared by, and keep it in the folder, where a sweep or a search finds it."""
        path = self.folder / METRICS
        earlier = read_json(path) if path.exists() else {}
        write_json(path, {**earlier, **{name: value for name, value in values.items() if math.isfinite(value)}})
        self.run.metrics(values)

    def publish_issues(self, issues: Sequence[Issue]) -> dict[str, int]:
        """List in `issues.jsonl` what could not be taken as it was; return how many issues there are of each code."""
        counts = dict(sorted(Counter(issue.code for issue in issues).items()))
        lines = [to_line(issue._asdict()) for issue in issues]
        path = self.publish_text("issues.jsonl", "".join(f"{line}\n" for line in lines))
        self.run.metrics({f"issues/{code}": count for code, count in counts.items()})
        for code, count in counts.items():
            log.warning("issues: %d x %s (listed in %s)", count, code, path)
        return counts

    def publish_corpus(self, corpus: Corpus) -> None:
        """Say and track what the corpus is: sizes, digests, categories."""
        sizes = {split: len(sentences) for split, sentences in corpus.splits.items()}
        log.info(
            "data %s: %s; %d categories; reported on: %s",
            corpus.name,
            ", ".join(f"{split} {size:,}" for split, size in sizes.items()),
            len(corpus.taxonomy.categories),
            corpus.report,
        )
        self.track_splits(corpus.name, corpus.splits.items(), ", ".join(corpus.digests))
        self.run.tags({f"data.file.{name}": digest for name, digest in corpus.digests.items()})
        self.run.metrics({f"data/{split}_sentences": size for split, size in sizes.items()})

    def track_splits(self, name: str, splits: Iterable[tuple[str, Sequence[Sentence]]], source: str) -> None:
        """Tell the tracked run which splits of the corpus `name` it used, by their content.

        Args:
            name: of the corpus.
            splits: name and sentences of each.
            source: the path, or whatever else says where they are from.
        """
        self.run.datasets(
            DataInput(f"{name}-{split}", split, content_digest(sentences), source, len(sentences))
            for split, sentences in splits
        )
