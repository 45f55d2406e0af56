"""`convert`: a Baichuan2-7B or InternLM2 checkpoint folder to one that transformers loads without code from a hub.

In goes a folder as published (config.json, weights, tokenizer.model, tokenizer_config.json), out comes a folder with a
Llama model and a fast tokenizer: the same logits, the same token ids. What each tensor becomes is in `layouts`, how
they travel in `weights`, the tokenizer in `tokenizer`. The output is built in a hidden folder beside its place and
renamed at the end: it is whole or absent. All that can be wrong with the input is found before a weight is written.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omniner.errors import UserError
from omniner.files import explaining, make_folder, write_json
from omniner.models.conversion import settings, tokenizer, weights
from omniner.models.conversion.layouts import Layout, layout

log = logging.getLogger("omniner")

# What the families' own code reads from generation_config.json, and where a file came from.
_FOREIGN = ("user_token_id", "assistant_token_id", "_from_model_config", "transformers_version")


def convert(source: Path, output: Path, shard_bytes: int = weights.SHARD_BYTES) -> None:
    """Convert a checkpoint folder.

    Args:
        source: the checkpoint as published.
        output: a folder that does not exist or is empty.
        shard_bytes: bytes of tensors in one file of weights.

    Raises:
        UserError: another model, a broken or incomplete checkpoint, an output that exists, a full disk.
    """
    if not source.is_dir():
        raise UserError("input", f"{source} is not a folder", "Name the folder of a checkpoint.")
    plan = layout(settings.read(source / "config.json"))
    tensors = weights.Tensors(source)
    tensors.check(plan.rules)
    log.info("%s: %s with %d layers", source, plan.family, plan.config["num_hidden_layers"])
    with _whole_folder(output) as folder:
        words = tokenizer.write(source, folder, plan.special, plan.template, plan.add_bos)
        if words > plan.config["vocab_size"]:
            found = f"it has {words} tokens and the model has {plan.config['vocab_size']}"
            raise UserError(source / "tokenizer.model", found, "Use the files of one checkpoint.")
        dtype = str(tensors.dtype(plan.rules[0].source)).removeprefix("torch.")
        write_json(folder / "config.json", {**plan.config, "torch_dtype": dtype})
        write_json(folder / "generation_config.json", _generation(source, plan))
        weights.write(tensors, plan.rules, folder, shard_bytes)


def _generation(source: Path, plan: Layout) -> dict[str, Any]:
    """How the checkpoint wants to be sampled and where it stops; from its configuration where it does not say."""
    path = source / "generation_config.json"
    if path.is_file():
        return {key: value for key, value in settings.read(path).values.items() if key not in _FOREIGN}
    keys = ("bos_token_id", "eos_token_id", "pad_token_id")
    return {key: plan.config[key] for key in keys if plan.config[key] is not None}


@contextmanager
def _whole_folder(output: Path) -> Iterator[Path]:
    """A temporary neighbour of `output`; it takes its place when the block ends without an error, or is removed."""
    with explaining(output):
        if output.exists() and (not output.is_dir() or any(output.iterdir())):
            raise UserError("output", f"{output} exists and is no empty folder", "Name a new folder.")
        parent = make_folder(output.absolute().parent)
        temporary = Path(tempfile.mkdtemp(prefix=f".{output.name}.", suffix=".tmp", dir=parent))
        try:
            yield temporary
            # mkdtemp makes the folder private; give it the permissions any other new folder would have.
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o777 & ~umask)
            temporary.replace(output)
        except BaseException:
            shutil.rmtree(temporary)
            raise
