"""A causal language model with its chat and its prompt: built for training, kept in a folder, loaded, merged.

A checkpoint is a folder. `omniner.json` says what it holds: the method, the base and how that was quantised, the chat
template and the whole prompt. Beside it stand the tokenizer and either all weights (full) or the adapters in peft's
format (lora, qlora). Adapters need their base: a pretrained one stays where it was and is named, one with random
weights is kept in the subfolder `base`. Folders are written whole or not at all.

`merge_adapters` makes an ordinary model folder of adapters and base, for servers that know nothing of this program.
Adapters that learnt beside a quantised base are merged into the values its 4-bit codes stand for, not into the weights
before quantisation: those are what the adapters corrected, and so the merged model is the one that was evaluated.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from omniner.config.model_groups import CausalConfig, TuningConfig
from omniner.errors import UserError
from omniner.files import explaining, read_json, restore, write_json, writing_folder
from omniner.llm.adapters import (
    TUNING_METHODS,
    Quantization,
    choose_method,
    dequantize,
    has_bitsandbytes,
    prepare_for_training,
    quantize,
    trainable_state,
)
from omniner.llm.chat import ChatTokenizer
from omniner.llm.loading import load_pretrained, load_weights, random_model
from omniner.llm.prompts import Prompt
from omniner.training import hub
from omniner.training.checkpoints import DESCRIPTION

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

log = logging.getLogger("omniner")

_VERSION = 1
_BASE = "base"  # subfolder of a base that stands nowhere else
_FIX = "Name the checkpoints/best folder of a finished training run of a causal model."


@dataclass
class CausalModel:
    """A language model, ready to learn or to answer.

    Attributes:
        model: `PreTrainedModel` (full) or `PeftModel` (lora, qlora).
        chat: its tokenizer and template.
        prompt: what it is told.
        method: full | lora | qlora.
        base: hub name, folder or GGUF file it came from; None for random weights.
        quantization: of the base; None where it has its ordinary precision.
        origin: parameters of a base with random weights beside which adapters learn; nobody else has them.
    """

    model: Any
    chat: ChatTokenizer
    prompt: Prompt
    method: str
    base: str | None
    quantization: Quantization | None
    origin: dict[str, Tensor] | None


def build_causal_model(
    config: CausalConfig, tuning: TuningConfig, prompt: Prompt, texts: Sequence[str], dtype: torch.dtype, seed: int
) -> CausalModel:
    """Build the model that a configuration asks for, on the CPU, in training mode.

    Args:
        config: which model.
        tuning: which of its weights learn.
        prompt: what it will be told; a tokenizer made from the corpus knows its clauses and categories.
        texts: training sentences: a tokenizer made from the corpus knows their characters.
        dtype: of the weights; of the products beside 4-bit weights.
        seed: of random weights.

    Raises:
        UserError: the model cannot be loaded or built, or has no chat template.
    """
    method = choose_method(tuning.method, config.path is not None)
    if config.path is None:
        model, tokenizer = random_model(config, prompt, texts, dtype, seed)
    else:
        model, tokenizer = load_pretrained(config.path, dtype)
    chat = ChatTokenizer(tokenizer, config.chat_template)
    if config.chat_template:
        tokenizer.chat_template = config.chat_template  # every folder it is saved to can then chat
    origin = _copy_state(model) if config.path is None and method != "full" else None
    kept = quantize(model, tuning.double_quantization, dtype) if method == "qlora" else None
    model = prepare_for_training(model, tuning, method, seed)
    path = config.path
    if (
        path and Path(path).exists()
    ):  # a hub name stays one; a place must be found wherever the program starts next time
        path = str(Path(path).resolve())
    return CausalModel(model, chat, prompt, method, path, kept, origin)


def save_causal_model(folder: Path, causal: CausalModel, weights: Mapping[str, Tensor] | None = None) -> None:
    """Write a checkpoint folder, whole or not at all.

    Args:
        folder: takes the place of one that is there.
        causal: what to keep.
        weights: of those that learn, by the names of `adapters.trainable_state`; None = the model's own. For weights
            that are gathered from several processes.
    """
    state = trainable_state(causal.model) if weights is None else dict(weights)
    with writing_folder(folder) as written:
        if causal.method == "full":
            _save_model(written, causal.model, state)
        else:
            _save_adapters(written, causal, state)
        _save_tokenizer(written, causal.chat)
        write_json(written / DESCRIPTION, _card(causal))


def load_causal_model(folder: Path, dtype: torch.dtype, device: torch.device | str) -> CausalModel:
    """Load the model of a checkpoint folder, ready to answer.

    Args:
        folder: as `save_causal_model` wrote it.
        dtype: of the weights; adapters keep theirs.
        device: where it shall be.

    Raises:
        UserError: the folder is no such checkpoint, or its base is not where it was.
    """
    causal = _assemble(folder, _read_card(folder), dtype, keep_codes=True)
    causal.model = causal.model.to(device)
    return causal


def merge_adapters(folder: Path, output: Path, dtype: torch.dtype) -> None:
    """Make an ordinary model folder (weights, tokenizer, chat template) of a checkpoint folder.

    Args:
        folder: as `save_causal_model` wrote it.
        output: must not hold anything yet.
        dtype: of the weights that are written.

    Raises:
        UserError: `output` is in use; see `load_causal_model`.
    """
    with explaining(output):
        if output.exists() and (not output.is_dir() or any(output.iterdir())):
            raise UserError("output", f"{output} exists already", "Name a new folder.")
    causal = _assemble(folder, _read_card(folder), dtype, keep_codes=False)
    model = causal.model if causal.method == "full" else causal.model.merge_and_unload()
    with writing_folder(output) as written, hub.quiet_libraries():
        model.to(dtype).save_pretrained(written)
        _save_tokenizer(written, causal.chat)


def _save_model(folder: Path, model: Any, state: dict[str, Tensor]) -> None:
    """Write all weights; `state` has those that learn, the model the buffers that are kept beside them."""
    buffers = {name for name, _ in model.named_buffers()}
    kept = {name: value.cpu() for name, value in model.state_dict().items() if name in buffers}
    with hub.quiet_libraries():
        model.save_pretrained(folder, state_dict={**state, **kept})


def _save_adapters(folder: Path, causal: CausalModel, state: dict[str, Tensor]) -> None:
    """Write peft's two files, and a base that stands nowhere else."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    # not by peft's own save: that asks the hub about the base
    found = get_peft_model_state_dict(causal.model, state_dict=state, save_embedding_layers=False)
    save_file({name: value.contiguous() for name, value in found.items()}, folder / "adapter_model.safetensors")
    settings = copy.copy(causal.model.peft_config["default"])
    settings.base_model_name_or_path, settings.inference_mode = causal.base or _BASE, True
    settings.save_pretrained(folder)
    if causal.origin is not None:
        causal.model.get_base_model().config.save_pretrained(folder / _BASE)
        save_file(causal.origin, folder / _BASE / "model.safetensors", metadata={"format": "pt"})


def _save_tokenizer(folder: Path, chat: ChatTokenizer) -> None:
    chat.tokenizer.save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    settings = read_json(file)
    if settings.get("tokenizer_class") == "TokenizersBackend":  # a name that only transformers 5 knows
        write_json(file, {**settings, "tokenizer_class": "PreTrainedTokenizerFast"})


def _card(causal: CausalModel) -> dict[str, Any]:
    return {
        "kind": "generative",
        "version": _VERSION,
        "method": causal.method,
        "base": causal.base,
        "quantization": asdict(causal.quantization) if causal.quantization else None,
        "chat_template": causal.chat.template,
        "prompt": causal.prompt.to_json(),
    }


def _read_card(folder: Path) -> dict[str, Any]:
    """Read `omniner.json` of a folder, and check it as far as `load_causal_model` relies on it."""
    restore(folder)
    if not (folder / DESCRIPTION).is_file():
        raise UserError("checkpoint", f"{folder} is no folder with {DESCRIPTION}", _FIX)
    card = read_json(folder / DESCRIPTION)
    if not isinstance(card, dict) or card.get("kind") != "generative":
        raise UserError(folder / DESCRIPTION, "not the description of a causal model", _FIX)
    if card.get("version") != _VERSION:
        found = f"version {card.get('version')}, this program reads version {_VERSION}"
        raise UserError(folder / DESCRIPTION, found, "Use the program's version that wrote it.")
    missing = sorted({"method", "base", "quantization", "chat_template", "prompt"} - card.keys())
    if missing or card["method"] not in TUNING_METHODS:
        raise UserError(folder / DESCRIPTION, f"incomplete ({', '.join(missing) or card['method']})", _FIX)
    return card


def _load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Load tokenizer.json as it stands: AutoTokenizer builds some families anew, with their own normalisation."""
    from transformers import PreTrainedTokenizerFast

    with hub.explaining_load_errors("checkpoint", folder, _FIX):
        return PreTrainedTokenizerFast.from_pretrained(folder, **hub.pretrained_options(True))


def _assemble(folder: Path, card: Mapping[str, Any], dtype: torch.dtype, keep_codes: bool) -> CausalModel:
    """Put the model of a folder together on the CPU.

    Args:
        folder: the checkpoint.
        card: its description.
        dtype: of the weights.
        keep_codes: quantise a base that was quantised; else it gets the values that its codes stand for.
    """
    kept = Quantization(**card["quantization"]) if card["quantization"] else None
    if kept is not None and not has_bitsandbytes():
        log.warning(
            "bitsandbytes is not installed: %s runs on its base of full precision, not on the 4-bit one it was trained "
            "beside, and its answers may differ (pip install bitsandbytes)",
            folder,
        )
        kept = None
    model = _load_weights(folder, card, dtype if kept is None else kept.source_dtype)
    origin = _copy_state(model) if card["method"] != "full" and card["base"] is None else None
    if kept is not None:
        quantize(model, kept.double, dtype)
        if not keep_codes:
            dequantize(model)
    if card["method"] != "full":
        with hub.explaining_load_errors("checkpoint", folder, _FIX), hub.quiet_libraries():
            from peft import PeftModel

            model = PeftModel.from_pretrained(model.to(dtype), folder)
    chat = ChatTokenizer(_load_tokenizer(folder), card["chat_template"])
    prompt = Prompt.from_json(card["prompt"])
    return CausalModel(model.eval(), chat, prompt, card["method"], card["base"], kept, origin)


def _load_weights(folder: Path, card: Mapping[str, Any], dtype: torch.dtype) -> Any:
    """Load all weights of a folder, or the model that its adapters belong to."""
    if card["method"] != "full" and card["base"] is not None:
        try:
            return load_weights(card["base"], dtype)
        except UserError as error:
            raise UserError(
                folder / DESCRIPTION,
                f"these adapters need the model they were trained beside, and {error.found}",
                "Put it back there, or write its new place as `base` in this file.",
            ) from error
    try:
        return load_weights(str(folder if card["method"] == "full" else folder / _BASE), dtype)
    except UserError as error:
        raise UserError("checkpoint", error.found, _FIX) from error


def _copy_state(model: Any) -> dict[str, Tensor]:
    """Copy a model's parameters to the CPU, tied ones once."""
    return {name: value.detach().to("cpu", copy=True) for name, value in model.named_parameters()}
