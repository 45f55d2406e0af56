"""What a training step of a pretrained model costs, and what share of this machine's product rate it reaches.

    export OMP_NUM_THREADS=1 OMNINER_DATA=<folder with cluener/>
    python experiments/real_models/step.py --causal pretrained/qwen05 --encoder pretrained/e5_small [--rounds 3]

32 sentences of CLUENER are trained on again and again: by LoRA with `prompt=errta` (a language model), in all weights
with a CRF (an encoder). A round runs each precision that is quick here in turn (bf16-mixed only on CPUs that multiply
bf16): a step to warm up, whose products are counted, then `--steps` steps whose CPU seconds are taken, in three parts.
After each of them the product rate is measured: fp32 or bf16 products of the step's tokens with the two matrices of a
feed-forward layer. The share is the step's products per CPU second to that rate. With `--profile` the last round goes
on for one more step and lists its operations by their own CPU time.

Products are those that torch calls mm, addmm, bmm and baddbmm, and attention; of causal attention half is counted.
"""

from __future__ import annotations

import argparse
import gc
import logging
import resource
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils import flop_counter
from torch.utils.flop_counter import FlopCounterMode

from omniner import models
from omniner.compute.precision import compute_dtype
from omniner.config import compose
from omniner.config.groups import Config
from omniner.corpus import sources
from omniner.llm.prompts import build_prompt
from omniner.llm.training.packs import PackedStep
from omniner.machine import processor
from omniner.model_files import layer_sizes

CAUSAL = ["model=causal_path", "model.name=causal", "tuning=lora", "prompt=errta"]
ENCODER = ["model=e5_small", "head=crf"]
SENTENCES = 32
PARTS = ["forward", "backward", "clipping and optimizer"]
MEASURED = 0.5  # CPU seconds of products at least


def sum_flop(summand: Any, one: Any, two: Any, **rest: Any) -> int:
    """Count the product that is added in place."""
    return 2 * one[0] * one[1] * two[1]


def attention_flop(query: Any, key: Any, value: Any, dropout: float = 0, causal: bool = False, **rest: Any) -> int:
    """Count what the CPU's attention multiplies."""
    return flop_counter.sdpa_flop_count(query, key, value) // (2 if causal else 1)


def attention_backward_flop(
    grad: Any, query: Any, key: Any, value: Any, out: Any, sums: Any, dropout: float, causal: bool, **rest: Any
) -> int:
    """Count what its backward pass multiplies."""
    return flop_counter.sdpa_backward_flop_count(grad, query, key, value) // (2 if causal else 1)


# products that torch's counter does not know; it hands over shapes
FURTHER = {
    torch.ops.aten.addmm_: sum_flop,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention_flop,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: attention_backward_flop,
}


def configure(kind: list[str], folder: Path, precision: str, steps: int) -> Config:
    """Compose the training of a model on the same sentences in each of some steps."""
    return compose.load(
        [
            *kind,
            f"model.path={folder}",
            "data=cluener",
            f"data.limit={{train: {SENTENCES}, dev: 1, test: 1}}",
            f"trainer.batch_size={SENTENCES}",
            f"trainer.max_epochs={steps}",
            f"trainer.precision={precision}",
            "trainer=cpu",
            "trainer.threads=1",
            "tracking=off",
        ]
    )


def tokens_of(batch: Any) -> int:
    """Count the tokens of a step, padding included."""
    if isinstance(batch, PackedStep):
        return sum(len(pack.ids) for pack in batch.packs)
    return int(batch.inputs["tokens"].numel())


@dataclass
class Cost:
    """What was measured of a step.

    Attributes:
        flops: of the first step, by the name of the operation.
        tokens, loss: of the first step.
        seconds: CPU seconds of the `PARTS` of each step that is timed.
        rates: products per CPU second, by 2 for each factor, measured after each of these steps.
    """

    flops: dict[str, int] = field(default_factory=dict)
    tokens: int = 0
    loss: float = 0.0
    seconds: list[list[float]] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)


class Clock(pl.Callback):
    """Counts the products of the first step, and takes the time of the parts of some that follow.

    Args:
        steps: whose time is taken.
        layer: numbers per token, and inside a layer.
        dtype: of the products.

    Attributes:
        cost: what came of it; Lightning lets the callback itself hold the model.
    """

    def __init__(self, steps: int, layer: tuple[int, int], dtype: torch.dtype) -> None:
        self.steps, self.layer, self.dtype, self.cost = steps, layer, dtype, Cost()
        self._counter = FlopCounterMode(display=False, custom_mapping=FURTHER)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        """Start a step."""
        if trainer.global_step == 0:
            self._counter.__enter__()
        self._parts, self._since = [0.0] * len(PARTS), time.process_time()

    def on_before_backward(self, *args: Any) -> None:
        """Add to the forward passes."""
        self._add(0)

    def on_after_backward(self, *args: Any) -> None:
        """Add to the backward passes."""
        self._add(1)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """End a step."""
        self._add(2)
        cost = self.cost
        if trainer.global_step == 1:
            self._counter.__exit__(None, None, None)
            cost.flops = {str(name): count for name, count in self._counter.get_flop_counts()["Global"].items()}
            cost.tokens, cost.loss = tokens_of(batch), float(trainer.callback_metrics["train/loss"])
        elif trainer.global_step <= 1 + self.steps:
            cost.seconds.append(self._parts)
            cost.rates.append(product_rate(cost.tokens, *self.layer, self.dtype))

    def _add(self, part: int) -> None:
        now = time.process_time()
        self._parts[part] += now - self._since
        self._since = now


@torch.no_grad()
def product_rate(rows: int, width: int, inner: int, dtype: torch.dtype) -> float:
    """Measure how much is multiplied in a CPU second: rows by the two matrices of a feed-forward layer, in turn."""
    narrow, wide = torch.randn(rows, width).to(dtype), torch.randn(rows, inner).to(dtype)
    into, out = torch.randn(width, inner).to(dtype), torch.randn(inner, width).to(dtype)
    narrow @ into, wide @ out
    rounds, begin = 0, time.process_time()
    while (spent := time.process_time() - begin) < MEASURED:
        narrow @ into, wide @ out
        rounds += 1
    return rounds * 4 * rows * width * inner / spent


class Profiler(pl.Callback):
    """Lists the operations of a step by the CPU time that is their own.

    Args:
        step: its number, from 0.
    """

    def __init__(self, step: int) -> None:
        self.step, self._profile = step, profile(activities=[ProfilerActivity.CPU])

    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        """Start with the step."""
        if trainer.global_step == self.step:
            self._profile.__enter__()

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        """End with it, and print the list."""
        if trainer.global_step == self.step + 1:
            self._profile.__exit__(None, None, None)
            print(self._profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=25), flush=True)


def train(config: Config, callbacks: list[pl.Callback]) -> None:
    """Take the steps of a configuration, without evaluations and checkpoints."""
    corpus, machine = sources.load_corpus(config.data, None), models.prepare_devices(config)
    module: Any
    if config.llm is None:
        module, data = models.prepare_tagger(config, corpus)
    else:
        prompt = build_prompt(config.prompt, corpus.active, corpus.splits["train"])
        module, data = models.prepare_causal(config, machine, corpus, prompt)
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        precision=machine.precision,
        max_epochs=config.trainer.max_epochs,
        callbacks=callbacks,
        limit_val_batches=0,
        log_every_n_steps=1,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    trainer.fit(module.train(), datamodule=data)


def precisions() -> list[str]:
    """List those that this CPU is quick in."""
    bf16 = {"amx_bf16", "avx512_bf16", "bf16"} & processor()[1]
    return ["32-true", *(["bf16-mixed"] if bf16 else [])]


def measure(kind: list[str], folder: Path, options: argparse.Namespace) -> Iterator[str]:
    """Run the rounds of a model; give a line for each precision."""
    layer = layer_sizes(str(folder))
    if layer is None:
        raise SystemExit(f"{folder} is no folder of a model: see fetch.py")
    costs: dict[str, list[Cost]] = {precision: [] for precision in precisions()}
    for number in range(options.rounds):
        last = [Profiler(1 + options.steps)] if options.profile and number == options.rounds - 1 else []
        for precision, done in costs.items():
            clock = Clock(options.steps, layer, compute_dtype(precision))
            train(configure(kind, folder, precision, 1 + options.steps + len(last)), [clock, *last])
            done.append(clock.cost)
            del clock
            gc.collect()  # a model and its trainer hold each other
    for precision, done in costs.items():
        yield f"{folder.name}, {precision}, {done[0].tokens:,} tokens, loss {done[0].loss:.4f}: {describe(done)}"


def describe(costs: list[Cost]) -> str:
    """Say what the steps of a precision cost."""
    flops = sum(costs[0].flops.values())
    attention = sum(count for name, count in costs[0].flops.items() if "attention" in name)
    rates = [rate for cost in costs for rate in cost.rates]
    steps = [seconds for cost in costs for seconds in cost.seconds]
    wholes = [sum(seconds) for seconds in steps]
    shares = [flops / whole / rate for whole, rate in zip(wholes, rates, strict=True)]
    parts = [f"{name} {statistics.median(seconds[at] for seconds in steps):.2f}" for at, name in enumerate(PARTS)]
    whole, rate = statistics.median(wholes), statistics.median(rates)
    return (
        f"{whole:.2f} CPU s ({min(wholes):.2f} - {max(wholes):.2f}; {', '.join(parts)}), "
        f"{flops / 1e9:,.0f} GFLOP ({attention / flops:.0%} attention), {flops / whole / 1e9:.1f} a CPU s; "
        f"products alone {rate / 1e9:.1f} ({min(rates) / 1e9:.1f} - {max(rates) / 1e9:.1f}), "
        f"share {statistics.median(shares):.0%} ({min(shares):.0%} - {max(shares):.0%})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--causal", type=Path, help="folder of a language model")
    parser.add_argument("--encoder", type=Path, help="folder of an encoder")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1, help="that are timed in each round")
    parser.add_argument("--profile", action="store_true", help="list the operations of a step")
    options = parser.parse_args()
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    print(f"{processor()[0]}, torch {torch.__version__}", flush=True)
    for kind, folder in ((ENCODER, options.encoder), (CAUSAL, options.causal)):
        if folder is not None:
            for line in measure(kind, folder, options):
                print(line, flush=True)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            print(f"peak memory so far: {peak / 2**20:.1f} GiB", flush=True)


if __name__ == "__main__":
    main()
