"""People beside a model in one comparison: a quickly trained tagger and annotators who make known mistakes.

    python experiments/human_score/run.py [--epochs 12] [--seed 5] [--keep folder]

The tagger is trained on the generated corpus of data=sample; annotators label its test set with the rates of mistakes
of experiments/adjudication, so that their recall is known beforehand.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1] / "adjudication"))

from run import ANNOTATORS, labelled

from omniner.corpus.formats import jsonl
from omniner.corpus.sources import read_sentences


def omniner(folder: Path, *overrides: str) -> None:
    """Run a task in a process of its own."""
    subprocess.run([sys.executable, "-m", "omniner.run", "tracking=off", *overrides], cwd=folder, check=True)


def annotate(gold_file: Path, folder: Path, seed: int) -> list[str]:
    """Write what each annotator makes of the test set; gives the entries of `annotators`."""
    gold = read_sentences(gold_file)[0]
    categories = sorted({entity.category for sentence in gold for entity in sentence.entities})
    for number, (name, rates) in enumerate(ANNOTATORS.items()):
        rng = random.Random(1000 * seed + number)
        jsonl.write(folder / f"{name}.jsonl", [labelled(sentence, rates, categories, rng) for sentence in gold])
    return [f"{name}.jsonl" for name in ANNOTATORS]


def show(path: Path, columns: list[str], most: int) -> None:
    """The first rows of a table of shares, x 100, as Markdown."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    print(f"\n| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")
    for row in rows[:most]:
        cells = [
            row[name] if name in columns[:1] or not row[name] else f"{100 * float(row[name]):.2f}" for name in columns
        ]
        print(f"| {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--keep", type=Path, help="work in this folder and leave everything there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = (options.keep or Path(name)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        trained = ["trainer.threads=1", f"trainer.max_epochs={options.epochs}", "output_dir=model"]
        omniner(folder, "task=train", "data=sample", "data.size.test=1000", "model=char_bilstm", *trained)
        people = annotate(folder / "model" / "gold.jsonl", folder, options.seed)
        listed = f"annotators=[{','.join(people)}]"
        omniner(folder, "task=compare", 'runs=["char_bilstm=model"]', listed, "output_dir=compared")
        tables = folder / "compared" / "tables"
        scores = ["precision", "recall", "f1", "macro_f1"]
        show(tables / "compare_models.csv", ["run", *scores, *(f"{score}_deviation" for score in scores)], 5)
        of = [f"{who}: {score}" for who in ("char_bilstm", "human") for score in ("precision", "recall", "f1")]
        show(tables / "compare_primaries.csv", ["primary", *of, "human: f1_deviation"], 100)
        known = [100 * (1 - rates.boundary - rates.category - rates.missing) for rates in ANNOTATORS.values()]
        print(f"\nrecall of the people by their rates: mean {statistics.fmean(known):.2f}, ", end="")
        print(f"standard deviation {statistics.stdev(known):.2f}")
        show(tables / "compare_human.csv", ["primary", *(f"f1 {person}" for person in ANNOTATORS)], 1)


if __name__ == "__main__":
    main()
