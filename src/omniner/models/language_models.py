"""Causal language models and their tokenizers: from a hub name, a folder or a GGUF file, or random.

In comes `model.path`, or null with `model.architecture`; out come a `PreTrainedModel` with a language modelling head
and a fast tokenizer. A GGUF file (the format of llama.cpp) is read into ordinary weights, whatever its quantisation.
A model with random weights gets the tokenizer of its corpus (`corpus_tokenizer`). What cannot be used is one
`UserError` about `model.path`: an encoder, a model without a tokenizer, one that only its own code can run.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from omniner.encoding.prompts import Prompt
from omniner.errors import UserError
from omniner.models import corpus_tokenizer, loading
from omniner.schema import CausalConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

_FOLDER = "The folder must hold config.json, tokenizer.json and model.safetensors, or one .gguf file."
_CONVERTED = ("internlm2", "baichuan")  # model types that `task=convert` brings to the Llama layout
_HEADS = ("ForCausalLM", "LMHeadModel")
_MIN_TOKENS = 256  # transformers makes an almost empty tokenizer of a folder that has none


def random(
    config: CausalConfig, prompt: Prompt, texts: Iterable[str], dtype: torch.dtype, seed: int
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A model with random weights and a tokenizer made from `texts` and the prompt."""
    if "model_type" not in config.architecture:
        raise UserError(
            "model.architecture",
            "model.path is null and there is no model_type to build a random model of",
            "Set model.path to a pretrained model, or model.architecture.model_type (qwen2).",
        )
    tokenizer = corpus_tokenizer.build(texts, prompt, config.vocabulary)
    values = {
        **config.architecture,
        "vocab_size": len(tokenizer),
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            model = _from_values(values, dtype)
        except Exception as error:  # of many kinds: each configuration class checks in its own way
            raise UserError(
                "model.architecture",
                f"no language model can be built of it ({loading.one_line(error)})",
                "Use keys of the transformers configuration of that model_type.",
            ) from error
    return model, tokenizer


def pretrained(path: str, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """The model of a hub name, a folder or a GGUF file, with its own tokenizer."""
    model, found = weights(path, dtype), tokenizer(path)
    rows = model.get_input_embeddings().weight.shape[0]
    _check_tokenizer(path, found, rows)
    return model, found


def tokenizer(path: str) -> PreTrainedTokenizerFast:
    """The tokenizer alone, to count with."""
    from transformers import AutoTokenizer

    source, local, more = _place(path)
    with loading.explaining("model.path", path, loading.advice(local, _FOLDER)):
        return AutoTokenizer.from_pretrained(source, **loading.options(local), **more)


def weights(path: str, dtype: torch.dtype) -> PreTrainedModel:
    """The model alone: what adapters are put onto again."""
    from transformers import AutoConfig, AutoModelForCausalLM

    source, local, more = _place(path)
    if local and not more:
        _check_code(path, _settings(source))
    options, fix = {**loading.options(local), **more}, loading.advice(local, _FOLDER)
    with loading.explaining("model.path", path, fix), _explaining_code(path):
        settings = AutoConfig.from_pretrained(source, **options)
        _check_causal(path, settings)
    if more:
        options |= _unpacked()
    with loading.explaining("model.path", path, fix), loading.quiet():
        model, report = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, output_loading_info=True, **options)
    if missing := sorted(report["missing_keys"]):
        found = f"{path} lacks {len(missing)} of the model's weights, {missing[0]} first"
        raise UserError("model.path", found, "They would be random: name a complete model.")
    if more:
        _forget_packing(model)
    return model


def _from_values(values: dict[str, Any], dtype: torch.dtype) -> PreTrainedModel:
    from transformers import AutoConfig, AutoModelForCausalLM

    values = dict(values)
    settings = AutoConfig.for_model(values.pop("model_type"), **values)
    model = AutoModelForCausalLM.from_config(settings, dtype=dtype, trust_remote_code=False)
    with torch.no_grad():
        model(torch.zeros(1, 2, dtype=torch.long))  # sizes that do not fit together show only now
    return model


def _place(path: str) -> tuple[str, bool, dict[str, str]]:
    """Where to load from, whether that needs no network, and which GGUF file is meant, if any."""
    file = Path(path)
    if file.is_dir() and not (file / "config.json").exists():
        files = sorted(file.glob("*.gguf"))
        if len(files) > 1:
            names = ", ".join(item.name for item in files)
            raise UserError("model.path", f"{path} holds several GGUF files: {names}", "Name one of them.")
        file = files[0] if files else file
    if file.is_file() and file.suffix == ".gguf":
        try:
            import gguf  # noqa: F401
        except ImportError as error:
            raise UserError("model.path", f"{file} is a GGUF file, which needs gguf", "pip install gguf") from error
        return str(file.parent), True, {"gguf_file": file.name}
    return path, loading.is_local(path, _FOLDER), {}


def _unpacked() -> dict[str, Any]:
    """Newer versions of transformers may leave the weights of a GGUF file packed, unless told not to."""
    try:
        from transformers import GgufConfig
    except ImportError:
        return {}
    return {"quantization_config": GgufConfig(dequantize=True)}


def _forget_packing(model: Any) -> None:
    """The weights are ordinary ones now; a model that is marked as quantised refuses to be saved."""
    for name in ("hf_quantizer", "quantization_method", "is_quantized"):
        vars(model).pop(name, None)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config


def _settings(folder: str) -> dict[str, Any]:
    """config.json as it stands; transformers itself tells what is wrong with it."""
    try:
        found = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _check_code(path: str, settings: dict[str, Any]) -> None:
    """A model that only code of its repository can run: some can be converted."""
    from transformers import CONFIG_MAPPING

    kind = str(settings.get("model_type"))
    if kind in _CONVERTED:
        raise UserError(
            "model.path",
            f"{path} is a {kind} model, which only code of its repository can run",
            f"Convert it once: task=convert input={path} output=<folder>, then set model.path to that folder.",
        )
    if "auto_map" in settings and kind not in CONFIG_MAPPING:
        raise UserError(
            "model.path",
            f"{path} is a {kind} model, which only code of its repository can run; that is never executed",
            "Choose a model that transformers knows itself (Qwen2, Llama, ...).",
        )


@contextlib.contextmanager
def _explaining_code(path: str) -> Iterator[None]:
    """A hub repository with code of its own cannot be looked into before it is loaded: tell it afterwards."""
    try:
        yield
    except (ValueError, OSError) as error:
        if "trust_remote_code" not in str(error):
            raise
        raise UserError(
            "model.path",
            f"{path} needs code of its repository, which is never executed",
            "InternLM2 and Baichuan2: download it (hf download), then task=convert input=<folder> output=<folder>. "
            "Otherwise choose a model that transformers knows itself.",
        ) from error


def _check_causal(path: str, settings: Any) -> None:
    """Only a model with a left-to-right language modelling head can write answers."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    names = list(getattr(settings, "architectures", None) or [])
    kind = settings.model_type
    bare = kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    if not (any(name.endswith(_HEADS) for name in names) or (bare and not names)):
        raise UserError(
            "model.path",
            f"{path} is no causal language model ({', '.join(names) or kind})",
            "Name one that writes text, for example Qwen/Qwen2-0.5B-Instruct; for an encoder, use model=path.",
        )
    if getattr(settings, "quantization_config", None):
        found = f"{path} is quantised already"
        raise UserError("model.path", found, "Name the model in its ordinary precision; tuning=qlora quantises it.")


def _check_tokenizer(path: str, tokenizer: Any, rows: int) -> None:
    """It must be there, fast (which gives exact texts back), and that of the model (`rows` of embeddings)."""
    if len(tokenizer) < _MIN_TOKENS:
        raise UserError("model.path", f"{path} holds no tokenizer", "Put the model's tokenizer.json there.")
    if not tokenizer.is_fast:
        raise UserError("model.path", f"{path} has no fast tokenizer", "Put its tokenizer.json there.")
    if len(tokenizer) > rows:
        found = f"the tokenizer of {path} has {len(tokenizer)} entries, the model only {rows}"
        raise UserError("model.path", found, "Put the model's own tokenizer there.")
