"""One epoch of OmniNER in a process of its own: `ours.py FOLDER SAMPLES [key=value ...]` prints its times as JSON.

The clock runs from the first step's start to the last step's end, as LLaMA-Factory's own does; what Lightning and our
callbacks do around the steps is inside.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from setting import compose

from omniner.corpus import sources
from omniner.llm.prompts import build_prompt
from omniner.models import fit


class Clock(pl.Callback):
    """Wall and CPU seconds of the training loop, and the loss of each step."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.started: tuple[float, float] | None = None
        self.wall = self.cpu = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Have every step's loss logged."""
        trainer.log_every_n_steps = 1  # type: ignore[attr-defined]

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        """Start the clock, once."""
        if self.started is None:
            self.started = time.perf_counter(), time.process_time()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        """Read the clock and the loss."""
        assert self.started is not None
        self.wall, self.cpu = time.perf_counter() - self.started[0], time.process_time() - self.started[1]
        self.losses.append(float(trainer.callback_metrics["train/loss"]))


def main() -> None:
    folder, samples, *further = sys.argv[1:]
    config, clock = compose(Path(folder), int(samples), further), Clock()
    corpus = sources.load_corpus(config.data, None)
    with tempfile.TemporaryDirectory() as run:
        prompt = build_prompt(config.prompt, corpus.active, corpus.splits["train"])
        fit(config, corpus, prompt, Path(run), logger=False, callbacks=[clock])
    print(json.dumps({"wall": clock.wall, "cpu": clock.cpu, "losses": clock.losses}))


if __name__ == "__main__":
    main()
