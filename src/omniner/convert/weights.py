"""Convert a Baichuan2-7B or InternLM2 checkpoint folder to one that transformers loads without code from a hub.

A published folder (config.json, weights, tokenizer.model, tokenizer_config.json) becomes a folder with a Llama model
and a fast tokenizer: the same logits, the same token ids. It is built in a hidden folder beside the target and renamed
at the end, so it appears atomically. All mistakes in the input are found before a weight is written.

Tensors are read and written one at a time, from `model.safetensors` or, as Baichuan2 is published, `pytorch_model.bin`,
in one file or several with an index. The latter is read with `weights_only=True`, so a file cannot run code. Both are
mapped into memory: a tensor takes memory only when it is used. All names, shapes and precisions are known before the
first byte, so every file's header is written first (format: https://huggingface.co/docs/safetensors), followed by the
tensors. A model of any size takes the memory of its largest tensor, twice for a tensor that is computed.
"""

from __future__ import annotations

import json
import logging
import math
import pickle
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

import torch
from torch import Tensor

from omniner.convert import layouts, tokenizer
from omniner.convert.layouts import LlamaLayout, Rule, Shape, find_layout
from omniner.errors import UserError, first_line_of
from omniner.files import check_new_folder, explaining, write_json, writing, writing_folder

log = logging.getLogger("omniner")

SHARD_BYTES = 4 * 1024**3
_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_COPY_AGAIN = "Copy the whole checkpoint again."
# A table that follows from the configuration; older checkpoints stored it with the weights.
_DERIVED = re.compile(r"\.rotary_emb\.(inv_freq|cos_cached|sin_cached)$")
# Keys that only the families' own code reads from generation_config.json, and those that record a file's origin.
_FOREIGN = ("user_token_id", "assistant_token_id", "_from_model_config", "transformers_version")


class _File(Protocol):
    """An open file of tensors."""

    def names(self) -> list[str]: ...

    def kind(self, name: str) -> tuple[Shape, torch.dtype | None]: ...

    def tensor(self, name: str) -> Tensor: ...


class _Safetensors:
    def __init__(self, path: Path) -> None:
        from safetensors import safe_open

        self._file: Any = safe_open(path, framework="pt")

    def names(self) -> list[str]:
        return list(self._file.keys())

    def kind(self, name: str) -> tuple[Shape, torch.dtype | None]:
        part = self._file.get_slice(name)
        return tuple(part.get_shape()), _DTYPES.get(part.get_dtype())

    def tensor(self, name: str) -> Tensor:
        tensor: Tensor = self._file.get_tensor(name)
        return tensor


class _Pickled:
    def __init__(self, path: Path) -> None:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
            raise ValueError("it holds other things than tensors")
        self._content: dict[str, Tensor] = content

    def names(self) -> list[str]:
        return list(self._content)

    def kind(self, name: str) -> tuple[Shape, torch.dtype | None]:
        tensor = self._content[name]
        return tuple(tensor.shape), tensor.dtype if tensor.dtype in _NAMES else None

    def tensor(self, name: str) -> Tensor:
        return self._content[name]


class Tensors:
    """The tensors of a checkpoint folder by name; one file is open at a time.

    Raises:
        UserError: no weights, a file that is missing or cannot be read, a name in two files.
    """

    def __init__(self, folder: Path) -> None:
        self._path: Path | None = None
        self._open: _File
        self._where: dict[str, Path] = {}
        self._kinds: dict[str, tuple[Shape, torch.dtype | None]] = {}
        for path in _files(folder):
            file = self._file(path)
            for name in file.names():
                if name in self._where:
                    raise UserError(path, f"the tensor {name} is also in {self._where[name].name}", _COPY_AGAIN)
                self._where[name], self._kinds[name] = path, file.kind(name)

    def check(self, rules: Sequence[Rule]) -> None:
        """Check that the checkpoint holds exactly the tensors that the rules read, in the expected shapes."""
        expected = {rule.source: rule.source_shape for rule in rules}
        for name in sorted(expected.keys() | self._kinds.keys()):
            if name not in self._kinds:
                raise UserError("input", f"the checkpoint has no tensor {name}", _COPY_AGAIN)
            shape, dtype = self._kinds[name]
            where = self._where[name]
            if name not in expected:
                if not _DERIVED.search(name):
                    raise UserError(where, f"the tensor {name} has no place in the model", "Name a plain checkpoint.")
            elif shape != expected[name]:
                found = f"the tensor {name} has the shape {list(shape)}, not {list(expected[name])}"
                raise UserError(where, found, "Use the config.json that belongs to these weights.")
            elif dtype is None:
                found = f"the tensor {name} is neither float32, float16 nor bfloat16"
                raise UserError(where, found, "Name a checkpoint that is not quantized.")

    def dtype(self, name: str) -> torch.dtype:
        """Return the precision of a tensor that was checked."""
        dtype = self._kinds[name][1]
        assert dtype is not None
        return dtype

    def tensor(self, name: str) -> Tensor:
        """Return a tensor, mapped from its file."""
        return self._file(self._where[name]).tensor(name)

    def _file(self, path: Path) -> _File:
        if path != self._path:
            self._path, self._open = path, _open(path)
        return self._open


def write_weights(tensors: Tensors, rules: Sequence[Rule], folder: Path, shard_bytes: int) -> None:
    """Write the rules' tensors as `model-0000x-of-0000n.safetensors` with their index.

    Args:
        tensors: checked against the rules.
        rules: in output order.
        folder: an existing folder.
        shard_bytes: bytes of tensors per file; a larger single tensor has a file of its own.

    Raises:
        UserError: not enough space on the disk.
    """
    shards = list(_shards(tensors, rules, shard_bytes))
    total = sum(_bytes(tensors, rule) for rule in rules)
    if (free := shutil.disk_usage(folder).free) < total:
        found = f"{folder} has {free / 1e9:.1f} GB left and {total / 1e9:.1f} GB are to be written"
        raise UserError("output", found, "Free some space or choose another folder.")
    places: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        with writing(folder / name, "wb") as file:
            _write_shard(file, tensors, shard)
        places |= {rule.target: name for rule in shard}
        log.info("%s: %d tensors (%d of %d in all)", name, len(shard), len(places), len(rules))
    write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": places})


def _write_shard(file: IO[bytes], tensors: Tensors, shard: Sequence[Rule]) -> None:
    """Write a safetensors file: the header's length in 8 bytes, the header as JSON, the tensors' bytes."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for rule in shard:
        start, end = end, end + _bytes(tensors, rule)
        dtype = _NAMES[tensors.dtype(rule.source)]
        header[rule.target] = {"dtype": dtype, "shape": list(rule.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of eight
    file.write(len(text).to_bytes(8, "little") + text)
    for rule in shard:
        tensor = rule.take(tensors.tensor(rule.source))
        if tuple(tensor.shape) != rule.shape:
            raise AssertionError(f"{rule.target} became {tuple(tensor.shape)}, not {rule.shape}")
        file.write(tensor.contiguous().flatten().view(torch.uint8).numpy().data)


def _shards(tensors: Tensors, rules: Sequence[Rule], shard_bytes: int) -> Iterator[list[Rule]]:
    shard: list[Rule] = []
    filled = 0
    for rule in rules:
        size = _bytes(tensors, rule)
        if shard and filled + size > shard_bytes:
            yield shard
            shard, filled = [], 0
        shard.append(rule)
        filled += size
    yield shard


def _bytes(tensors: Tensors, rule: Rule) -> int:
    return math.prod(rule.shape) * tensors.dtype(rule.source).itemsize


def _files(folder: Path) -> list[Path]:
    """Return the files of weights: safetensors if there are any."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        index = folder / f"{name}.index.json"
        if index.is_file():
            names = sorted(set(map(str, layouts.read_settings(index).mapping("weight_map").values())))
            if strange := [name for name in names if Path(name).name != name]:
                raise UserError(index, f"it names {strange[0]}, which is not beside it", _COPY_AGAIN)
            return [folder / name for name in names]
        if (folder / name).is_file():
            return [folder / name]
    raise UserError("input", f"{folder} holds neither model.safetensors nor pytorch_model.bin", _COPY_AGAIN)


def _open(path: Path) -> _File:
    from safetensors import SafetensorError

    with explaining(path):
        try:
            return _Safetensors(path) if path.suffix == ".safetensors" else _Pickled(path)
        except (SafetensorError, RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError) as error:
            reason = first_line_of(error)
            raise UserError(path, f"the weights cannot be read ({reason})", _COPY_AGAIN) from error


def convert_checkpoint(source: Path, output: Path, shard_bytes: int = SHARD_BYTES) -> None:
    """Convert a checkpoint folder.

    Args:
        source: the published checkpoint.
        output: a folder that does not exist or is empty.
        shard_bytes: bytes of tensors in one file of weights.

    Raises:
        UserError: another model, a broken or incomplete checkpoint, an existing output, a full disk.
    """
    if not source.is_dir():
        raise UserError("input", f"{source} is not a folder", "Name the folder of a checkpoint.")
    plan = find_layout(layouts.read_settings(source / "config.json"))
    tensors = Tensors(source)
    tensors.check(plan.rules)
    log.info("%s: %s with %d layers", source, plan.family, plan.config["num_hidden_layers"])
    check_new_folder(output)
    with writing_folder(output.resolve()) as folder:
        words = tokenizer.write_tokenizer(source, folder, plan.special, plan.template, plan.add_bos)
        if words > plan.config["vocab_size"]:
            found = f"it has {words} tokens and the model has {plan.config['vocab_size']}"
            raise UserError(source / "tokenizer.model", found, "Use the files of one checkpoint.")
        dtype = str(tensors.dtype(plan.rules[0].source)).removeprefix("torch.")
        write_json(folder / "config.json", {**plan.config, "torch_dtype": dtype})
        write_json(folder / "generation_config.json", _generation(source, plan))
        write_weights(tensors, plan.rules, folder, shard_bytes)


def _generation(source: Path, plan: LlamaLayout) -> dict[str, Any]:
    """Return the checkpoint's settings for sampling and stopping; from its configuration if it has no such file."""
    path = source / "generation_config.json"
    if path.is_file():
        return {key: value for key, value in layouts.read_settings(path).values.items() if key not in _FOREIGN}
    keys = ("bos_token_id", "eos_token_id", "pad_token_id")
    return {key: plan.config[key] for key in keys if plan.config[key] is not None}
