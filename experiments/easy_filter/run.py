"""What the filter of easy sentences finds of what was planted, and what its removal does to a model.

    python experiments/easy_filter/run.py [--sentences 3000] [--seed 11] [--epochs 12] [--parallel 1] [--shares 195568]

Everything is generated. Into sentences of the packaged corpus go easy ones (six patterns with a few frequent words, in
posts of their own) and wrong labels (category or boundary of a frequent surface). The filter and the trainings run as
processes from the command line; `--sentences 0` leaves them out, `--shares 0` leaves out the measurement of splits.
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
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from omniner.corpus import splits
from omniner.corpus.formats import jsonl
from omniner.corpus.sample import generate_sample
from omniner.corpus.splits import Division, divide
from omniner.records import Entity, Sentence
from omniner.report.curation_tables import mentions_by_part

EASY = 400  # planted easy sentences
WRONG = 150  # planted wrong labels in sentences of the packaged corpus
WRONG_EASY = 30  # planted wrong labels in easy sentences
FREQUENT = 20  # mentions that make a surface a frequent one
PATTERNS = ("我今天在{}吃了{}", "周末想去{}吃{}", "{}的{}真多", "来{}一定要吃{}", "刚到{}就点了{}", "{}哪里有{}")
PLACES = ("上海", "杭州", "成都", "厦门", "青岛", "长沙")
FOODS = ("火锅", "奶茶", "烤鱼", "蛋糕", "汤圆", "米线", "肠粉", "披萨")
ENDS = ("", "。", "！", "～", "呀", "哈哈", "啦", "！！")
PLACE, FOOD = "aoi_其他", "品类_产品"


def easy_sentences(draw: random.Random) -> list[Sentence]:
    """Different texts of the patterns, two in a post."""
    texts = [(p, a, b, e) for p in PATTERNS for a in PLACES for b in FOODS for e in ENDS]
    found = []
    for number, (pattern, place, food, end) in enumerate(draw.sample(texts, EASY)):
        text = pattern.format(place, food) + end
        a, b = text.index(place), text.index(food)
        entities = [Entity(place, PLACE, a, a + len(place)), Entity(food, FOOD, b, b + len(food))]
        found.append(Sentence(f"easy-{number}", text, entities, f"easy-p{number // 2}"))
    return found


def spoil(sentences: list[Sentence], count: int, where: str, draw: random.Random) -> dict[str, str]:
    """Change the category or the boundary of one frequent surface in `count` sentences; id -> what was done where."""
    counts = Counter((entity.text, entity.category) for one in sentences for entity in one.entities)
    clean = [number for number, one in enumerate(sentences) if "noise" not in one.meta]
    can = [n for n in clean if any(counts[e.text, e.category] >= FREQUENT for e in sentences[n].entities)]
    categories = sorted({category for _, category in counts} | {"品牌", "成分", "数量"})
    done = {}
    for turn, number in enumerate(draw.sample(can, count)):
        one = sentences[number]
        place = draw.choice([n for n, e in enumerate(one.entities) if counts[e.text, e.category] >= FREQUENT])
        true = one.entities[place]
        kind = "boundary" if turn % 2 and len(true.text) > 1 else "category"
        if kind == "category":
            wrong = true._replace(category=draw.choice([name for name in categories if name != true.category]))
        else:
            wrong = true._replace(text=true.text[1:], start=(true.start or 0) + 1)
        sentences[number] = replace(one, entities=[*one.entities[:place], wrong, *one.entities[place + 1 :]])
        done[one.id] = f"{kind} {where}"
    return done


def task(folder: Path, *overrides: str) -> float:
    """Run a task in a process of its own; seconds."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "omniner.run", "tracking=off", "trainer.threads=1", *overrides]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return time.perf_counter() - start


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def quality(count: int, seed: int, epochs: int, parallel: int) -> None:
    """Plant, filter, look at what was found, and train on what is left."""
    draw = random.Random(seed)
    made = generate_sample({"train": count, "dev": 200, "test": 600}, seed)
    base = [replace(one, id=one.id or f"base-{number}") for number, one in enumerate(made["train"])]
    easy = easy_sentences(draw)
    wrong = spoil(base, WRONG, "in the packaged corpus", draw) | spoil(easy, WRONG_EASY, "in easy sentences", draw)
    corpus = [*base, *easy]
    draw.shuffle(corpus)
    noisy = {one.id for one in base if "noise" in one.meta}
    bare = [replace(one, meta={}) for one in corpus]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        jsonl.write(folder / "corpus.jsonl", bare)
        model = [f"trainer.max_epochs={epochs}", "trainer.batch_size=16", "metrics.bootstrap=0"]
        # The default average of the weights reaches back 1,000 steps, which is more than there are.
        model += ["trainer.weight_average=0.98"]
        places = ["input=corpus.jsonl", "output=done", "output_dir=run", f"children.parallel={parallel}"]
        seconds = task(folder, "task=filter", *places, *model)
        found = json.loads((folder / "run/filter.json").read_text(encoding="utf-8"))
        print(f"filter: {len(bare):,} sentences in {seconds:.0f} s, together by {found['together']}")
        print(f"right by 0..3 models: {found['votes']}; F1: {[round(100 * one['f1'], 1) for one in found['folds']]}")
        removed = {one["id"] for one in lines(folder / "done/removed.jsonl")}
        _removed(removed, {one.id for one in easy} - wrong.keys(), wrong, noisy, base)
        _doubted(lines(folder / "done/suspects.jsonl"), wrong, noisy)
        _trained(folder, bare, removed, made, model, draw)


def _removed(
    removed: set[str], easy: set[str], wrong: dict[str, str], noisy: set[str], base: Sequence[Sentence]
) -> None:
    bare = {one.id for one in base if not one.entities and one.id not in noisy}
    others = {one.id for one in base if one.entities} - wrong.keys() - noisy
    for what, ids in (
        ("planted easy", easy),
        ("without mentions", bare),
        ("other right ones", others),
        ("planted wrong", set(wrong)),
        ("wrong by the packaged corpus", noisy),
    ):
        print(f"removed of {what:30} {len(removed & ids):5} of {len(ids):5} ({len(removed & ids) / len(ids):.1%})")


def _doubted(suspects: list[dict[str, Any]], wrong: dict[str, str], noisy: set[str]) -> None:
    """Recall of each kind of wrong label, and precision of the list, of its parts and of its beginning."""
    ids = [one["id"] for one in suspects]
    kinds = {kind: {name for name, done in wrong.items() if done == kind} for kind in sorted(set(wrong.values()))}
    for kind, these in {**kinds, "wrong by the packaged corpus itself": noisy}.items():
        hit = these & set(ids)
        print(f"doubted of {kind:38} {len(hit):4} of {len(these):4} ({len(hit) / len(these):.1%})")
    bad = wrong.keys() | noisy
    parts = {
        "all models say the same": [one["id"] for one in suspects if one["doubt"] == "sentence"],
        "all models agree on a mention": [one["id"] for one in suspects if one["doubt"] == "mention"],
        "the first 100": ids[:100],
        "all": ids,
    }
    for what, these in parts.items():
        hits = sum(name in bad for name in these)
        print(f"suspects, {what:36} {len(these):4}, wrong {hits:4} ({hits / max(len(these), 1):.1%})")


def _trained(
    folder: Path,
    corpus: Sequence[Sentence],
    removed: set[str],
    made: dict[str, list[Sentence]],
    model: Sequence[str],
    draw: random.Random,
) -> None:
    """F1 on one test set of models trained on all, on what was kept, and on as many drawn by chance."""
    kept = [one for one in corpus if one.id not in removed]
    chosen = set(draw.sample(range(len(corpus)), len(kept)))
    trains = {"all": corpus, "kept": kept, "as many": [one for n, one in enumerate(corpus) if n in chosen]}
    for name, sentences in trains.items():
        root = folder / name.replace(" ", "_")
        root.mkdir()
        jsonl.write(root / "train.jsonl", sentences)
        for split in ("dev", "test"):
            jsonl.write(root / f"{split}.jsonl", [replace(one, id=f"{split}-{n}") for n, one in enumerate(made[split])])
        seconds = task(folder, "data=own", f"data.root={root}", f"output_dir={root}/run", *model)
        scores = json.loads((root / "run/metrics.json").read_text(encoding="utf-8"))
        print(
            f"trained on {name:8} {len(sentences):5} sentences, {seconds:4.0f} s: test F1 {100 * scores['test/f1']:.2f}"
        )


def shares(count: int) -> None:
    """Squared deviations of mentions over their expectation, mean over categories and parts, of three ways to deal."""
    sentences = generate_sample({"train": count}, 1)["train"]
    theirs = splits._Assignment._deviation

    def of_paper(deal: splits._Assignment, number: int, part: int) -> float:
        """The part that lacks most of the category that is dealt out, as Sechidis and others choose."""
        counts = deal.groups[number].counts
        rarest = min(counts, key=lambda name: (deal.left[name], name), default=None)
        return -deal.lacks[rarest][part] if rarest else -deal.room[part]

    for shown in ({"train": 0.8, "dev": 0.1, "test": 0.1}, {str(fold): 0.25 for fold in range(4)}):
        for name, way in (("ours", theirs), ("of the paper", of_paper)):
            splits._Assignment._deviation = way  # type: ignore[method-assign]
            start = time.process_time()
            division = divide(sentences, shown, "auto", 0, "shares")
            seconds = time.process_time() - start
            print(
                f"{len(shown)} parts, {name:13} {off(sentences, division):.4f}, sizes {division.sizes}, {seconds:.1f} s"
            )
        splits._Assignment._deviation = theirs  # type: ignore[method-assign]
        print(f"{len(shown)} parts, by chance     {off(sentences, by_chance(division)):.4f}")


def by_chance(division: Division) -> Division:
    """The same groups in an order drawn by chance, part after part."""
    groups, parts, room = list(division.groups), [0] * len(division.parts), list(division.targets)
    random.Random(0).shuffle(groups)
    part = 0
    for members in groups:
        while room[part] <= 0 and part < len(room) - 1:
            part += 1
        room[part] -= len(members)
        for member in members:
            parts[member] = part
    return replace(division, parts=parts)


def off(sentences: Sequence[Sentence], division: Division) -> float:
    found = [
        (count - share * sum(counts)) ** 2 / (share * sum(counts))
        for counts in mentions_by_part(sentences, division).values()
        for count, share in zip(counts, division.shares, strict=True)
    ]
    return sum(found) / len(found)


def cost(count: int) -> None:
    """Time and memory of `task=split` from file to files."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = [replace(one, id=f"s{n}") for n, one in enumerate(generate_sample({"train": count}, 1)["train"])]
        jsonl.write(folder / "corpus.jsonl", made)
        del made
        command = [sys.executable, "-m", "omniner.run", "tracking=off", "task=split", "input=corpus.jsonl"]
        start = time.perf_counter()
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        assert status == 0
        print(f"task=split, {count:,} sentences: {seconds:.1f} s, {usage.ru_utime + usage.ru_stime:.1f} s of CPU, "
              f"{usage.ru_maxrss / 1024:,.0f} MiB at the peak")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sentences", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--parallel", type=int, default=1)
    parser.add_argument("--shares", type=int, default=195_568)
    options = parser.parse_args()
    if options.shares:
        shares(options.shares)
        cost(options.shares)
    if options.sentences:
        quality(options.sentences, options.seed, options.epochs, options.parallel)


if __name__ == "__main__":
    main()
