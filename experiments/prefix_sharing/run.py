"""Generative training with a shared prefix against LLaMA-Factory: the same samples, model, steps and losses.

Each round trains one epoch with every contestant, in turn, each in a process of its own with one thread, so that all
meet the same machine; a ratio is taken per round, for the wall time of the training loop and for CPU seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import peer
from setting import BATCH, make

HERE = Path(__file__).resolve().parent
OURS = {"OmniNER": [], "OmniNER, gradient checkpointing": ["tuning.gradient_checkpointing=true"]}


def train_ours(folder: Path, samples: int, further: Sequence[str]) -> dict[str, Any]:
    """Times and losses of one epoch of OmniNER."""
    command = [sys.executable, str(HERE / "ours.py"), str(folder), str(samples), *further]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", help="llamafactory-cli of an environment of its own; without it only we run")
    parser.add_argument("--variants", nargs="+", choices=sorted(peer.VARIANTS), default=sorted(peer.VARIANTS))
    parser.add_argument("--samples", type=int, default=2 * BATCH)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--weights", type=Path, help="folder of a pretrained Qwen2, whose adapters learn CLUENER")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(make(folder, options.samples, options.layers, options.weights), flush=True)
        contestants: dict[str, Callable[[], dict[str, Any]]] = {
            name: lambda further=further: train_ours(folder, options.samples, further) for name, further in OURS.items()
        }
        start = 0.0
        if options.peer:
            tuning = peer.LORA if options.weights else peer.FULL
            start = peer.train(options.peer, folder, {**tuning, **peer.START}, 2)["cpu"]
            for name in options.variants:
                variant = {**tuning, **peer.VARIANTS[name]}
                contestants[f"LLaMA-Factory {name}"] = lambda variant=variant: peer.train(
                    options.peer, folder, variant, options.samples
                )
        report(contestants, options.rounds, options.samples, start)


def report(contestants: dict[str, Callable[[], dict[str, Any]]], rounds: int, samples: int, start: float) -> None:
    """Run the rounds and print a line per contestant: rates, ratios to us, losses."""
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, train in contestants.items():
            result = train()
            if name.startswith("LLaMA"):
                result["cpu"] -= start
            results[name].append(result)
            print(f"  {name}: {result['wall']:.1f} s wall, {result['cpu']:.1f} CPU s", flush=True)
    ours = results["OmniNER"]
    for name, theirs in results.items():
        rates = [statistics.median(samples / item[key] for item in theirs) for key in ("wall", "cpu")]
        line = f"{name}: {rates[0]:.2f} samples/s wall, {rates[1]:.2f} per CPU s"
        for key in ("wall", "cpu"):
            ratios = sorted(their[key] / our[key] for their, our in zip(theirs, ours, strict=True))
            line += f"; {key} ratio {ratios[0]:.1f}-{ratios[-1]:.1f}, median {statistics.median(ratios):.2f}"
        print(f"{line}; losses {[round(loss, 4) for loss in theirs[0]['losses']]}", flush=True)


if __name__ == "__main__":
    main()
