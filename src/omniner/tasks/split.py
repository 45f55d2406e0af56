"""`task=split`: a corpus into train, dev and test, as in sections 3.3 and 3.4 of the OmniNER2025 paper. No model.

In: `input=<file or folder of any format>`, or the published train, dev and test of `data` joined. Out:
`train.jsonl`, `dev.jsonl` and `test.jsonl` in `output` (or in `corpus` in the run's folder), which `data=own
data.root=<that folder>` takes; `split.json`, `split.md` and `tables/` with the sizes and every category's share of each
split. Every sentence that has labels is in one split.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

from omniner.config.groups import Config
from omniner.corpus import splits
from omniner.corpus.formats import jsonl
from omniner.corpus.splits import Division
from omniner.errors import UserError
from omniner.files import writing_folder
from omniner.report import curation_tables
from omniner.report.tables import summary_markdown
from omniner.runs.context import Context
from omniner.runs.task import Input, Task
from omniner.tasks import corpora
from omniner.tasks.corpora import WholeCorpus

log = logging.getLogger("omniner")


def run(context: Context) -> None:
    """Read, divide, write, publish."""
    settings = context.config.split
    shares = {name: share for name, share in settings.shares.items() if share}
    output = corpora.corpus_output_folder(context, [f"{name}.jsonl" for name in shares])
    corpus = corpora.read_whole_corpus(context)
    start = time.perf_counter()
    division = splits.divide(corpus.sentences, shares, settings.together, settings.seed, "split.shares")
    log.info("divided in %.1f s", time.perf_counter() - start)
    found = [
        *splits.repeated_text_issues(corpus.sentences, division),
        *splits.absent_category_issues(corpus.sentences, division),
    ]
    context.publish_issues([*corpus.issues, *found])
    with writing_folder(output) as folder:
        for part, name in enumerate(division.names):
            jsonl.write(folder / f"{name}.jsonl", division.of(corpus.sentences, part))
    _publish(context, corpus, division, str(output))
    print("\n".join(curation_tables.split_summary(corpus.sentences, division)))
    if {"train", "test"} <= shares.keys():
        without = "" if "dev" in shares else " data.files.dev=[] data.dev_from_train=0.1"
        print(f"train on it: data=own data.root={output} data.taxonomy={corpus.taxonomy}{without}")


def _publish(context: Context, corpus: WholeCorpus, division: Division, output: str) -> None:
    sentences = corpus.sentences
    parts = {name: division.of(sentences, number) for number, name in enumerate(division.names)}
    context.track_splits(corpus.name, parts.items(), output)
    worst, part, name = curation_tables.worst_deviation(division, curation_tables.mentions_by_part(sentences, division))
    context.run.tags({"split.together": division.together, "split.output": output, "split.farthest": f"{name} {part}"})
    values: dict[str, float] = {
        f"split/{name}": size for name, size in zip(division.names, division.sizes, strict=True)
    }
    values |= {"split/posts": division.posts, "split/groups": len(division.groups), "split/farthest": worst}
    values |= {"split/largest_group": max(map(len, division.groups))}
    context.run.metrics(values)
    context.publish_json("split.json", curation_tables.split_json(sentences, division))
    tables = curation_tables.build_split_tables(sentences, division)
    context.publish_tables(tables, "split_")
    summary = curation_tables.split_summary(sentences, division)
    context.publish_text("split.md", summary_markdown(context.config.name, summary, tables))


def _check(config: Config) -> None:
    shares = [share for share in config.split.shares.values() if share]
    if len(shares) < 2 or abs(sum(shares) - 1) > 1e-9:
        listed = ", ".join(f"{name} {share:g}" for name, share in config.split.shares.items())
        fix = "Give two or more that add up to 1, for example split.shares={train: 0.8, dev: 0.1, test: 0.1}."
        raise UserError("split.shares", f"{listed} do not make a whole", fix)


TASK = Task(
    name="split",
    description=__doc__,
    run=run,
    label=lambda config: ["split", Path(config.input).stem if config.input else config.data.name],
    inputs=[Input("input")],
    check=_check,
    outputs=["split.json", "split.md", "tables", corpora.CORPUS_FOLDER],
)
