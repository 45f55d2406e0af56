"""Build, store, load and merge a causal language model with its adapters, chat and prompt.

A checkpoint is a folder. `omniner.json` describes it: the method, the base and its quantisation, the chat template and
the whole prompt. The folder also holds the tokenizer and either all weights (full) or the adapters in peft's format
(lora, qlora). A pretrained base is only named, one with random weights is stored in the subfolder `base`. Folders are
written atomically.

`write_merged_model` makes an ordinary model folder of adapters and base, for servers that do not know this program.
Adapters that were trained on a quantised base are merged into the values of its 4-bit codes, not into the weights
before quantisation: the adapters correct those values, and so the merged model is the one that was evaluated.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch import Tensor, nn

from omniner import pretrained
from omniner.config.model_groups import CausalConfig, Method, TuningConfig
from omniner.errors import UserError
from omniner.files import check_new_folder, read_json, restore, write_json, writing_folder
from omniner.llm.chat_tokenizer import ChatTokenizer
from omniner.llm.loading import load_pretrained, load_weights, stored_dtype, tie_output
from omniner.llm.low_rank import fuse_adapters
from omniner.llm.prompts import Prompt
from omniner.llm.quantization import Quantization, dequantize, has_bitsandbytes, quantize
from omniner.llm.random_model import random_model
from omniner.llm.tuning import prepare_for_training
from omniner.model_files import DESCRIPTION, check_base, hub_commit, weights_digest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

log = logging.getLogger("omniner")

_VERSION = 1
_LATER = ("answer_rate", "longest_answer", "base_weights", "base_revision")  # what older descriptions lack
_SHARD = "4GB"  # largest size of one file of weights
_BASE = "base"  # subfolder of a base that is stored nowhere else
_FIX = "Name the checkpoints/best folder of a finished training run of a causal model."


@dataclass
class CausalModel:
    """A language model, ready for training or prediction.

    Attributes:
        model: `PreTrainedModel` (full) or `PeftModel` (lora, qlora).
        chat: its tokenizer and template.
        prompt: its prompt.
        method: full | lora | qlora; full for a model that is not trained, since it has no adapters.
        base: hub name, folder or GGUF file it came from; None for random weights.
        quantization: of the base; None if it has its ordinary precision.
        random_base: the weights of a random base of adapters, which no other file has; else None.
        answer_rate, longest_answer: see `samples.answer_limit`, of its training samples; None = unknown.
        base_weights: see `model_files.weights_digest`, of the base of adapters; None = unknown.
        base_revision: commit of a base from the hub, at which adapters load it again: its branch may move on.
    """

    model: Any
    chat: ChatTokenizer
    prompt: Prompt
    method: str
    base: str | None
    quantization: Quantization | None
    random_base: dict[str, Tensor] | None
    answer_rate: float | None = None
    longest_answer: int | None = None
    base_weights: str | None = None
    base_revision: str | None = None


def build_causal_model(
    config: CausalConfig,
    tuning: TuningConfig,
    prompt: Prompt,
    texts: Sequence[str],
    dtype: torch.dtype,
    seed: int,
    quantize_on: torch.device | str = "cpu",
    *,
    trains: bool,
) -> CausalModel:
    """Build the model of a configuration, on the CPU.

    Args:
        config: which model.
        tuning: which of its weights are trained; qlora quantises the others, whether it is trained or not.
        prompt: its prompt; a tokenizer made from the corpus knows its clauses and categories.
        texts: training sentences: a tokenizer made from the corpus knows their characters.
        dtype: of the weights; of the products with 4-bit weights.
        seed: of random weights.
        quantize_on: see `quantize`.
        trains: prepare it for training; if not, it has no adapters, which would change nothing before their training.

    Raises:
        UserError: the model cannot be loaded or built, or has no chat template.
    """
    method = tuning.method if trains else "full"
    if config.path is None:
        model, tokenizer = random_model(config, prompt, texts, dtype, seed)
    else:
        model, tokenizer = load_pretrained(config.path, dtype, config.revision)
    chat = ChatTokenizer(tokenizer, config.chat_template)
    if config.chat_template:
        tokenizer.chat_template = config.chat_template  # every folder it is saved to can then chat
    random_base = _copy_state(model) if config.path is None and method != "full" else None
    quantization = None
    if tuning.method == "qlora":  # without training, too: the model may fit only with 4-bit weights
        quantization = quantize(model, tuning.double_quantization, dtype, quantize_on)
    model = prepare_for_training(model, tuning, method, seed) if trains else model.eval()
    base = config.path
    if base and Path(base).exists():  # a path must be valid from any working directory; a hub name stays as it is
        base = str(Path(base).resolve())
    of_base: dict[str, Any] = {}
    if base and method != "full":
        commit = None if Path(base).exists() else hub_commit(base, config.revision)
        of_base = {"base_weights": weights_digest(base), "base_revision": commit}
    return CausalModel(model, chat, prompt, method, base, quantization, random_base, **of_base)


def save_causal_model(folder: Path, causal: CausalModel, weights: Mapping[str, Tensor] | None = None) -> None:
    """Write a checkpoint folder atomically.

    Args:
        folder: an existing one is replaced.
        causal: the model to store.
        weights: the trainable ones, by the names of `trainable_state`, if they are gathered from several processes;
            None = the model's own.
    """
    state = trainable_state(causal.model) if weights is None else dict(weights)
    with writing_folder(folder) as written:
        if causal.method == "full":
            _save_model(written, causal.model, state)
        else:
            _save_adapters(written, causal, state)
        _save_tokenizer(written, causal.chat.tokenizer)
        description = {
            "kind": "generative",
            "version": _VERSION,
            "method": causal.method,
            "base": causal.base,
            "quantization": causal.quantization and asdict(causal.quantization),
            "chat_template": causal.chat.template,
            "prompt": causal.prompt.to_json(),
            **{name: getattr(causal, name) for name in _LATER},
        }
        write_json(written / DESCRIPTION, description)


def load_causal_model(folder: Path, dtype: torch.dtype, device: torch.device | str) -> CausalModel:
    """Load the model of a checkpoint folder, ready to predict.

    Args:
        folder: written by `save_causal_model`.
        dtype: of the weights; adapters keep theirs.
        device: where to load it.

    Raises:
        UserError: the folder is not such a checkpoint, or its base is missing.
    """
    causal = _assemble(folder, read_description(folder), dtype, device, keep_codes=True)
    causal.model = causal.model.to(device)
    return causal


def merge_adapters(causal: CausalModel) -> None:
    """Merge adapters into their base weights, in memory: a layer is then one product instead of three.

    The answers are those of the folder that `write_merged_model` writes in the same precision. With bf16 weights the
    sum is rounded to bf16, so a few answers may differ from those of the evaluation during training. With 4-bit weights
    adapters are not merged: the sum would have to be rounded to 4 bits, which is another model.
    """
    if causal.method != "full" and causal.quantization is None:
        causal.model = causal.model.merge_and_unload()


def write_merged_model(folder: Path, output: Path, dtype: torch.dtype | None = None) -> None:
    """Write an ordinary model folder (weights, tokenizer, chat template) from a checkpoint folder.

    Args:
        folder: written by `save_causal_model`.
        output: must be new or empty.
        dtype: of the written weights; None = the base's own, so that the folder is the same on any machine.

    Raises:
        UserError: `output` is in use; see `load_causal_model`.
    """
    check_new_folder(output)
    description = read_description(folder)
    dtype = dtype or _stored_dtype(folder, description)
    quantize_on = "cuda" if description["quantization"] and torch.cuda.is_available() else "cpu"
    causal = _assemble(folder, description, dtype, quantize_on, keep_codes=False)
    model = causal.model if causal.method == "full" else causal.model.merge_and_unload()
    with writing_folder(output) as written, pretrained.quiet_libraries():
        model.to(dtype).save_pretrained(written)
        _save_tokenizer(written, causal.chat.tokenizer)


def write_plain_model(path: str, output: Path) -> None:
    """Write a pretrained model as an ordinary folder that loads in seconds: safetensors in bf16, memory-mapped.

    Args:
        path: hub name, folder or GGUF file.
        output: must be new or empty.

    Raises:
        UserError: `output` is in use; see `loading.load_pretrained`.
    """
    check_new_folder(output)
    model, tokenizer = load_pretrained(path, torch.bfloat16)
    tie_output(model)
    with writing_folder(output) as written, pretrained.quiet_libraries():
        model.save_pretrained(written, max_shard_size=_SHARD)
        _save_tokenizer(written, tokenizer)


def _save_model(folder: Path, model: Any, state: dict[str, Tensor]) -> None:
    """Write all weights: the trainable ones from `state`, persistent buffers from the model."""
    buffers = {name for name, _ in model.named_buffers()}
    unlearnt = {name: value.cpu() for name, value in model.state_dict().items() if name in buffers}
    with pretrained.quiet_libraries():
        model.save_pretrained(folder, state_dict={**state, **unlearnt})


def _save_adapters(folder: Path, causal: CausalModel, state: dict[str, Tensor]) -> None:
    """Write peft's two files, and a base that is stored nowhere else."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    # not with peft's own save, which asks the hub about the base
    found = get_peft_model_state_dict(causal.model, state_dict=state, save_embedding_layers=False)
    save_file({name: value.contiguous() for name, value in found.items()}, folder / "adapter_model.safetensors")
    settings = copy.copy(causal.model.peft_config["default"])
    settings.base_model_name_or_path, settings.inference_mode = causal.base or _BASE, True
    settings.save_pretrained(folder)
    if causal.random_base is not None:
        causal.model.get_base_model().config.save_pretrained(folder / _BASE)
        save_file(causal.random_base, folder / _BASE / "model.safetensors", metadata={"format": "pt"})


def _save_tokenizer(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    settings = read_json(file)
    if settings.get("tokenizer_class") == "TokenizersBackend":  # a name that only transformers 5 knows
        write_json(file, {**settings, "tokenizer_class": "PreTrainedTokenizerFast"})


def read_description(folder: Path) -> dict[str, Any]:
    """Read `omniner.json` of a folder, and check what `load_causal_model` relies on."""
    restore(folder)
    if not (folder / DESCRIPTION).is_file():
        raise UserError("checkpoint", f"{folder} is no folder with {DESCRIPTION}", _FIX)
    description = read_json(folder / DESCRIPTION)
    if not isinstance(description, dict) or description.get("kind") != "generative":
        raise UserError(folder / DESCRIPTION, "not the description of a causal model", _FIX)
    if description.get("version") != _VERSION:
        found = f"version {description.get('version')}, this program reads version {_VERSION}"
        raise UserError(folder / DESCRIPTION, found, "Use the program's version that wrote it.")
    missing = sorted({"method", "base", "quantization", "chat_template", "prompt"} - description.keys())
    if missing:
        raise UserError(folder / DESCRIPTION, f"incomplete ({', '.join(missing)})", _FIX)
    if description["method"] not in get_args(Method):
        found = f"unknown tuning method {description['method']!r}"
        raise UserError(folder / DESCRIPTION, found, "Use the program's version that wrote it.")
    return description


def load_chat(folder: Path, description: Mapping[str, Any]) -> ChatTokenizer:
    """Load template and tokenizer.json unchanged: AutoTokenizer rebuilds some families with their own normalisation."""
    from transformers import PreTrainedTokenizerFast

    with pretrained.explaining_load_errors("checkpoint", folder, _FIX):
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, **pretrained.load_options(True))
    return ChatTokenizer(tokenizer, description["chat_template"])


def _assemble(
    folder: Path,
    description: Mapping[str, Any],
    dtype: torch.dtype,
    quantize_on: torch.device | str,
    *,
    keep_codes: bool,
) -> CausalModel:
    """Assemble the model of a folder on the CPU.

    Args:
        folder: the checkpoint.
        description: from `read_description`.
        dtype: of the weights.
        quantize_on: see `quantize`.
        keep_codes: whether to quantise a base that was quantised; if not, it gets the values of its codes.
    """
    quantization = Quantization(**description["quantization"]) if description["quantization"] else None
    if quantization is not None and not has_bitsandbytes():
        log.warning(
            "bitsandbytes is not installed: %s runs on its base of full precision, not on the 4-bit one it was trained "
            "beside, and its answers may differ (pip install bitsandbytes)",
            folder,
        )
        quantization = None
    model = _load_weights(folder, description, dtype if quantization is None else quantization.source_dtype)
    random_base = _copy_state(model) if description["method"] != "full" and description["base"] is None else None
    if quantization is not None:
        quantize(model, quantization.double, dtype, quantize_on)
        if not keep_codes:
            dequantize(model)
    if description["method"] != "full":
        with pretrained.explaining_load_errors("checkpoint", folder, _FIX), pretrained.quiet_libraries():
            from peft import PeftModel

            # without a device peft would take the first GPU, even if the CPU is to be used
            model = PeftModel.from_pretrained(model.to(dtype), folder, torch_device="cpu")
        fuse_adapters(model)
    chat, prompt = load_chat(folder, description), Prompt.from_json(description["prompt"])
    later: dict[str, Any] = {name: description.get(name) for name in _LATER}
    method, base = description["method"], description["base"]
    return CausalModel(model.eval(), chat, prompt, method, base, quantization, random_base, **later)


def _stored_dtype(folder: Path, description: Mapping[str, Any]) -> torch.dtype:
    """Return the stored precision of a folder's weights, or of those of its adapters' base."""
    if description["quantization"]:
        return Quantization(**description["quantization"]).source_dtype
    if description["method"] == "full":
        return stored_dtype(str(folder))
    return stored_dtype(description["base"] or str(folder / _BASE), description.get("base_revision"))


def _load_weights(folder: Path, description: Mapping[str, Any], dtype: torch.dtype) -> Any:
    """Load all weights of a folder, or the base of its adapters."""
    if description["method"] != "full" and description["base"] is not None:
        check_base(folder, description)
        try:
            return load_weights(description["base"], dtype, description.get("base_revision"))
        except UserError as error:
            raise UserError(
                folder / DESCRIPTION,
                f"these adapters need the model they were trained beside, and {error.found}",
                "Put it back there, or write its new place as `base` in this file.",
            ) from error
    try:
        return load_weights(str(folder if description["method"] == "full" else folder / _BASE), dtype)
    except UserError as error:
        raise UserError("checkpoint", error.found, _FIX) from error


def _copy_state(model: Any) -> dict[str, Tensor]:
    """Copy a model's parameters to the CPU, tied ones once."""
    return {name: value.detach().to("cpu", copy=True) for name, value in model.named_parameters()}


def trainable_state(model: nn.Module) -> dict[str, Tensor]:
    """Copy the trainable weights to the CPU, by their names in the model."""
    return {
        name: value.detach().to("cpu", copy=True) for name, value in model.named_parameters() if value.requires_grad
    }
