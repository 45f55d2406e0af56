"""What tracking adds to a run: the same small training with tracking off and local, in turn, in fresh processes.

    python experiments/tracking_cost/run.py [pairs] [steps]

Prints one line per process (`opening` and `closing` in CPU seconds, `resting` as share of a core) and, at the end,
the ratio of the sums. CPU seconds are those of the whole process, imports and the opening of the store included; the
store exists already, as it does from the second run on.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

EVERY = 10  # steps between two logged losses
EPOCH = 200  # steps between two evaluations
CATEGORIES = 90
REST = 20  # seconds without work at the end: what is used then are system metrics and the sending of the rest


def train(kind: str, steps: int, folder: Path) -> dict[str, float]:
    """One process: a character BiLSTM on random text, tracked as the train task does it."""
    import pytorch_lightning  # noqa: F401  a real training has it loaded, and it shares packages with MLflow
    import torch

    from omniner import tracking
    from omniner.config.groups import TrackingConfig

    torch.manual_seed(0)
    torch.set_num_threads(1)
    config = TrackingConfig(kind, None, str(folder / "mlruns"), "cost", True, False, 60)
    begun = time.process_time()
    run = tracking.start_run(config, name=kind, folder=folder / kind, parent=None, resume_id=None, tags={})
    run.params({f"group.key{n}": n for n in range(100)})
    opening = time.process_time() - begun
    embed, lstm = torch.nn.Embedding(4000, 64), torch.nn.LSTM(64, 128, batch_first=True, bidirectional=True)
    head = torch.nn.Linear(256, 41)
    optimizer = torch.optim.AdamW([*embed.parameters(), *lstm.parameters(), *head.parameters()])
    for step in range(steps):
        text, tags = torch.randint(4000, (16, 40)), torch.randint(41, (16 * 40,))
        loss = torch.nn.functional.cross_entropy(head(lstm(embed(text))[0]).flatten(0, 1), tags)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % EVERY == 0:
            run.metrics({"train/loss": loss.item(), "train/lr": 1e-3}, step)
        if step % EPOCH == EPOCH - 1:
            run.metrics({f"val/f1/类别{n}": n / (step + 1) for n in range(CATEGORIES)}, step)
    rows = [[f"类别{n}", n / CATEGORIES] for n in range(CATEGORIES)]
    for name in ("categories", "errta_counts", "confusion_pairs"):
        run.table(["category", "f1"], rows, f"tables/{name}.json")
    run.text("<p>report</p>" * 20_000, "report.html")
    begun = time.process_time()
    time.sleep(REST)
    resting = time.process_time() - begun
    begun = time.process_time()
    run.finish("finished")
    return {"opening": opening, "resting": resting / REST, "closing": time.process_time() - begun}


def measure(kind: str, steps: int, folder: Path) -> dict[str, float]:
    """CPU and wall seconds of one process."""
    command = [sys.executable, __file__, "--one", kind, str(steps), str(folder)]
    before, begun = os.times(), time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    after, wall = os.times(), time.perf_counter() - begun
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    parts: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    print(
        f"{kind:6} {cpu:8.2f} CPU s {wall:8.2f} s  " + "  ".join(f"{k} {v:.4f}" for k, v in parts.items()), flush=True
    )
    return {"cpu": cpu, "wall": wall}


def main() -> None:
    if sys.argv[1:2] == ["--one"]:
        which, count, place = sys.argv[2:]
        print(json.dumps(train(which, int(count), Path(place))))
        return
    given = [int(value) for value in sys.argv[1:]]
    pairs, steps = given + [3, 4000][len(given) :]
    with tempfile.TemporaryDirectory() as name:
        measure("local", 1, Path(name))  # makes the store
        sums = {"off": {"cpu": 0.0, "wall": 0.0}, "local": {"cpu": 0.0, "wall": 0.0}}
        for pair in range(pairs):
            for kind in ("off", "local") if pair % 2 else ("local", "off"):
                folder = Path(name) / str(pair)
                folder.mkdir(exist_ok=True)
                if not (folder / "mlruns").exists():
                    (folder / "mlruns").symlink_to(Path(name) / "mlruns")
                for unit, value in measure(kind, steps, folder).items():
                    sums[kind][unit] += value
    for unit in ("cpu", "wall"):
        off, local = sums["off"][unit] / pairs, sums["local"][unit] / pairs
        print(f"{unit}: off {off:.2f} s, local {local:.2f} s, added {local - off:.2f} s = {local / off - 1:+.2%}")


if __name__ == "__main__":
    main()
