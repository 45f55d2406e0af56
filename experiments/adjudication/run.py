"""How much of the truth three annotators' adjudicated labels recover, and what it costs at the size of the corpus.

    python experiments/adjudication/run.py [--sentences 3000] [--seed 5] [--large 195568]

Everything is generated: sentences with exact gold from the packaged corpus, annotators by making known mistakes in it.
Adjudication and agreement run as the tasks do, from files to files; `--large 0` leaves out the measurement of cost.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

from omniner.corpus.adjudication import read_expert_answers
from omniner.corpus.formats import jsonl
from omniner.corpus.sample import generate_sample
from omniner.corpus.sources import read_sentences
from omniner.records import Entity, Sentence


class Rates(NamedTuple):
    """Shares of gold mentions that an annotator gets wrong in each way, and of mentions invented."""

    boundary: float
    category: float
    missing: float
    redundant: float


ANNOTATORS = {
    "careful": Rates(0.02, 0.02, 0.02, 0.02),
    "usual": Rates(0.04, 0.03, 0.04, 0.03),
    "hasty": Rates(0.05, 0.05, 0.07, 0.03),
}


def labelled(sentence: Sentence, rates: Rates, categories: Sequence[str], rng: random.Random) -> Sentence:
    """The sentence as an annotator of these rates labels it; mistakes of different kinds exclude each other."""
    found = []
    for entity in sentence.entities:
        start, end, category = entity.start or 0, entity.end or 0, entity.category
        kind = rng.random()
        if kind < rates.missing:
            continue
        if kind < rates.missing + rates.category:
            category = rng.choice([name for name in categories if name != category])
        elif kind < rates.missing + rates.category + rates.boundary:
            start, end = shifted(start, end, len(sentence.text), rng)
        found.append(Entity(sentence.text[start:end], category, start, end))
        if rng.random() < rates.redundant:
            start = rng.randrange(len(sentence.text))
            end = min(len(sentence.text), start + rng.randrange(1, 5))
            found.append(Entity(sentence.text[start:end], rng.choice(categories), start, end))
    return replace(sentence, entities=found)


def shifted(start: int, end: int, length: int, rng: random.Random) -> tuple[int, int]:
    """One boundary moved by one character, so that the span is another one and stays in the text."""
    ways = [(start - 1, end), (start, end + 1), (start + 1, end), (start, end - 1)]
    return rng.choice([(a, b) for a, b in ways if 0 <= a < b <= length])


def f1(gold: Sequence[Sentence], answers: dict[str, list[Entity]]) -> tuple[float, float, float]:
    """Span micro P, R and F1 over all gold sentences; one without an answer counts as empty."""
    right = given = wanted = 0
    for sentence in gold:
        ours, theirs = set(sentence.entities), set(answers.get(sentence.id, ()))
        right, given, wanted = right + len(ours & theirs), given + len(theirs), wanted + len(ours)
    return right / max(given, 1), right / max(wanted, 1), 2 * right / max(given + wanted, 1)


class Cost(NamedTuple):
    """What a process took: seconds of the clock and of the CPU, MiB of memory at its peak."""

    seconds: float
    cpu: float
    memory: float


def task(folder: Path, *overrides: str) -> Cost:
    """Run a task in a process of its own."""
    command = [sys.executable, "-m", "omniner.run", "tracking=off", *overrides]
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    errors = process.stderr.read() if process.stderr else ""
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(errors)
    return Cost(time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def prepare(folder: Path, count: int, seed: int) -> tuple[list[Sentence], dict[str, list[Sentence]]]:
    """Write the files of the annotators and of the truth."""
    gold = generate_sample({"train": count}, seed)["train"]
    for number, sentence in enumerate(gold):
        sentence.id = sentence.id or f"train-{number}"
    categories = sorted({entity.category for sentence in gold for entity in sentence.entities})
    jsonl.write(folder / "truth.jsonl", gold)
    people = {}
    for number, (name, rates) in enumerate(ANNOTATORS.items()):
        rng = random.Random(1000 * seed + number)
        people[name] = [labelled(sentence, rates, categories, rng) for sentence in gold]
        jsonl.write(folder / f"{name}.jsonl", people[name])
    return gold, people


FILES = "annotators=[" + ",".join(f"{name}.jsonl" for name in ANNOTATORS) + "]"


def quality(count: int, seed: int) -> None:
    """Adjudicate, let an expert who knows the truth answer the queue, and score every stage."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        gold, people = prepare(folder, count, seed)
        for person, sentences in people.items():
            show(person, f1(gold, {one.id: one.entities for one in sentences}))
        task(folder, "task=adjudicate", FILES, "output_dir=voted")
        counts = json.loads((folder / "voted/counts.json").read_text(encoding="utf-8"))
        print(json.dumps(counts["how"]))
        voted = {one.id: one.entities for one in read_sentences(folder / "voted/gold.jsonl")[0]}
        show("vote, of the decided sentences", f1([one for one in gold if one.id in voted], voted))
        show("vote, the queue counted as empty", f1(gold, voted))
        for person, sentences in people.items():
            decided = {one.id: one.entities for one in sentences if one.id in voted}
            show(f"{person}, same sentences", f1([one for one in gold if one.id in voted], decided))
        assert not read_expert_answers(folder / "voted/queue.json")[0], "an unanswered queue answers nothing"
        # An expert who makes no mistakes.
        jsonl.write(folder / "answers.jsonl", [one for one in gold if one.id not in voted])
        task(folder, "task=adjudicate", FILES, "expert=answers.jsonl", "output_dir=done")
        done = {one.id: one.entities for one in read_sentences(folder / "done/gold.jsonl")[0]}
        assert len(done) == len(gold), "nothing may be lost"
        show("vote and expert", f1(gold, done))


def show(name: str, scores: tuple[float, float, float]) -> None:
    precision, recall, score = (100 * value for value in scores)
    print(f"{name:36} P {precision:6.2f}  R {recall:6.2f}  F1 {score:6.2f}", flush=True)


def cost(count: int, seed: int) -> None:
    """Time and peak memory of both tasks, reading and writing included."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, count, seed)
        for overrides in (["task=adjudicate"], ["task=agreement", "agreement.bootstrap=1000"]):
            found = task(folder, *overrides, FILES, f"output_dir={overrides[0].removeprefix('task=')}")
            print(f"{overrides[0]}: {count:,} sentences x {len(ANNOTATORS)}", end=" ")
            print(f"in {found.seconds:.1f} s, {found.cpu:.1f} s of CPU", end=" ")
            print(f"({count / found.cpu:,.0f} sentences per CPU s), peak {found.memory:,.0f} MiB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sentences", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--large", type=int, default=195_568)
    options = parser.parse_args()
    if options.sentences:
        quality(options.sentences, options.seed)
    if options.large:
        cost(options.large, options.seed)


if __name__ == "__main__":
    main()
