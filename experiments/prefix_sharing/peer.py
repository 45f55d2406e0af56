"""One epoch of LLaMA-Factory in a process of its own, with the settings that its users choose between.

Its training loop's wall time is what it reports itself (`train_runtime`). CPU seconds are those of the whole process,
less those of a run of two samples, which is what starting and loading cost.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import tempfile
from pathlib import Path
from typing import Any

NO_CHECKPOINTING = {"disable_gradient_checkpointing": True}
# What its documentation offers for throughput; every variant makes one optimizer step per 32 samples.
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},  # batch 2, gradient checkpointing on
    "batch2": NO_CHECKPOINTING,
    "batch8": {**NO_CHECKPOINTING, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 4},
    "batch32": {**NO_CHECKPOINTING, "per_device_train_batch_size": 32, "gradient_accumulation_steps": 1},
    "neat2048": {**NO_CHECKPOINTING, "neat_packing": True, "cutoff_len": 2048, "per_device_train_batch_size": 1},
}
FULL = {"finetuning_type": "full"}
# the shape of `tuning=lora`
LORA = {"finetuning_type": "lora", "lora_target": "all", "lora_rank": 16, "lora_alpha": 32, "bf16": True}
START = {"max_samples": 2, "gradient_accumulation_steps": 1, **NO_CHECKPOINTING}


def train(cli: str, folder: Path, variant: dict[str, Any], samples: int) -> dict[str, Any]:
    """Wall and CPU seconds of an epoch, and the loss of each step."""
    settings = {
        "model_name_or_path": str(folder / "model"),
        "template": "qwen",
        "stage": "sft",
        "do_train": True,
        "dataset_dir": str(folder / "data"),
        "dataset": "ner",
        "cutoff_len": 4096,
        "overwrite_cache": True,
        "preprocessing_num_workers": 1,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 16,
        "learning_rate": 1.0e-4,
        "num_train_epochs": 1.0,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "max_grad_norm": 1.0,
        "weight_decay": 0.0,
        "flash_attn": "sdpa",
        "use_cpu": True,
        "disable_shuffling": True,
        "seed": 0,
        **variant,
    }
    stub = Path(__file__).parent / "stubs"
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(stub),
    }
    with tempfile.TemporaryDirectory() as out:
        config = Path(out) / "settings.yaml"
        config.write_text(json.dumps({**settings, "output_dir": out}), encoding="utf-8")  # JSON is YAML
        before = _children()
        done = subprocess.run([cli, "train", str(config)], env=environment, capture_output=True, text=True)
        cpu = _children() - before
        if done.returncode:
            raise RuntimeError(f"LLaMA-Factory failed:\n{done.stdout[-1500:]}\n{done.stderr[-3000:]}")
        wall = json.loads((Path(out) / "train_results.json").read_text())["train_runtime"]
        history = json.loads((Path(out) / "trainer_state.json").read_text())["log_history"]
    return {"wall": wall, "cpu": cpu, "losses": [item["loss"] for item in history if "loss" in item]}


def _children() -> float:
    """CPU seconds of all finished child processes."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
