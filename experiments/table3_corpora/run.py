"""What the statistics of a corpus as large as the paper's cost: CPU seconds by step and peak memory.

    python experiments/table3_corpora/run.py [--share 1.0]

Everything is generated: 195,568 sentences in the paper's proportions. Reading and writing are not in it: the figures
are those of `corpus.stats` and of the checks and tables made of it, and the generation of the corpus stands apart.
"""

from __future__ import annotations

import argparse
import os
import resource
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

from omniner.config import compose
from omniner.corpus import taxonomy
from omniner.corpus.sample import generate_sample
from omniner.corpus.stats.checks import SurveyedCorpus, run_checks
from omniner.corpus.stats.measure import measure_corpus
from omniner.report import corpus_tables

SIZE = {"train": 156454, "dev": 19557, "test": 19557}


def memory() -> int:
    """Peak of this process in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=1.0, help="of the sentences")
    arguments = parser.parse_args()
    settings = compose.load(["task=stats"]).stats
    start = time.process_time()
    splits = generate_sample({split: round(arguments.share * count) for split, count in SIZE.items()}, 42)
    print(f"generated: {time.process_time() - start:.2f} CPU s, peak {memory()} MiB")
    start = time.process_time()
    statistics = measure_corpus("sample", splits, settings)
    for step, seconds in statistics.seconds.items():
        print(f"  {step}: {seconds:.2f}")
    surveyed = SurveyedCorpus(statistics, "", [], taxonomy.load_taxonomy(taxonomy.OFFICIAL), 510, settings)
    verdicts = {"sample": run_checks(surveyed)}
    corpus_tables.build_corpus_tables([surveyed], verdicts, settings)
    print(f"measured, judged, tabulated: {time.process_time() - start:.2f} CPU s, peak {memory()} MiB")
    near = statistics.near
    pairs = "not looked for" if near is None else f"{near.pairs:,} pairs"
    flat = statistics.flat
    print(f"{len(flat.sentences):,} sentences, {len(flat.owner):,} mentions, near duplicates: {pairs}")


if __name__ == "__main__":
    main()
