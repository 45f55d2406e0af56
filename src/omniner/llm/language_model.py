"""Build, store, load and merge a causal language model with its adapters, chat and prompt.

LoRA (Hu et al. 2021) freezes a linear layer W and trains an update B A of rank r in addition, scaled by alpha / r; B
starts at zero, so training starts from the unchanged model. QLoRA (Dettmers et al. 2023) does this with 4-bit weights.
An adapter costs two thin products per layer; in return, only about one weight in a hundred needs gradients and
optimizer state. In models with random weights all weights are trained, since there is nothing to adapt.

The 4-bit weights (nf4 with double quantisation) are created in memory, and undone by `dequantize`: all linear layers
but the output become `bitsandbytes` layers. This works for any model: from a folder, a GGUF file, or random. Its cost:
the whole model passes through main memory in its ordinary precision. The same weights always give the same codes, so a
checkpoint need not store them: it names the base and how it was quantised.

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
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, assert_never, cast, get_args

import torch
from torch import Tensor, nn

from omniner import pretrained
from omniner.config.model_groups import CausalConfig, Method, OptimizerName, TuningConfig, WantedOptimizer
from omniner.errors import UserError, one_line
from omniner.files import check_new_folder, read_json, restore, write_json, writing_folder
from omniner.llm.loading import load_pretrained, load_weights, random_model, stored_dtype, tie_output
from omniner.llm.low_rank import fuse_adapters
from omniner.llm.prompts import Prompt
from omniner.llm.samples import ChatTokenizer
from omniner.model_files import DESCRIPTION, check_base, weights_digest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

log = logging.getLogger("omniner")

_VERSION = 1
_LATER = ("answer_rate", "longest_answer", "base_weights")  # what older descriptions lack
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
        method: full | lora | qlora.
        base: hub name, folder or GGUF file it came from; None for random weights.
        quantization: of the base; None if it has its ordinary precision.
        random_base: the weights of a random base of adapters, which no other file has; else None.
        answer_rate, longest_answer: see `samples.answer_limit`, of its training samples; None = unknown.
        base_weights: see `model_files.weights_digest`, of the base of adapters; None = unknown.
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


def build_causal_model(
    config: CausalConfig,
    tuning: TuningConfig,
    prompt: Prompt,
    texts: Sequence[str],
    dtype: torch.dtype,
    seed: int,
    quantizer: torch.device | str = "cpu",
) -> CausalModel:
    """Build the model of a configuration, on the CPU, in training mode.

    Args:
        config: which model.
        tuning: which of its weights are trained.
        prompt: its prompt; a tokenizer made from the corpus knows its clauses and categories.
        texts: training sentences: a tokenizer made from the corpus knows their characters.
        dtype: of the weights; of the products with 4-bit weights.
        seed: of random weights.
        quantizer: see `quantize`.

    Raises:
        UserError: the model cannot be loaded or built, or has no chat template.
    """
    method = tuning.method
    if config.path is None:
        model, tokenizer = random_model(config, prompt, texts, dtype, seed)
    else:
        model, tokenizer = load_pretrained(config.path, dtype)
    chat = ChatTokenizer(tokenizer, config.chat_template)
    if config.chat_template:
        tokenizer.chat_template = config.chat_template  # every folder it is saved to can then chat
    random_base = _copy_state(model) if config.path is None and method != "full" else None
    quantization = quantize(model, tuning.double_quantization, dtype, quantizer) if method == "qlora" else None
    model = prepare_for_training(model, tuning, method, seed)
    base = config.path
    if base and Path(base).exists():  # a path must be valid from any working directory; a hub name stays as it is
        base = str(Path(base).resolve())
    weights = weights_digest(base) if base and method != "full" else None
    return CausalModel(model, chat, prompt, method, base, quantization, random_base, base_weights=weights)


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
    causal = _assemble(folder, read_description(folder), dtype, True, device)
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
    quantizer = "cuda" if description["quantization"] and torch.cuda.is_available() else "cpu"
    causal = _assemble(folder, description, dtype, False, quantizer)
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


def _load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Load tokenizer.json unchanged: AutoTokenizer rebuilds some families with their own normalisation."""
    from transformers import PreTrainedTokenizerFast

    with pretrained.explaining_load_errors("checkpoint", folder, _FIX):
        return PreTrainedTokenizerFast.from_pretrained(folder, **pretrained.load_options(True))


def _assemble(
    folder: Path, description: Mapping[str, Any], dtype: torch.dtype, keep_codes: bool, quantizer: torch.device | str
) -> CausalModel:
    """Assemble the model of a folder on the CPU.

    Args:
        folder: the checkpoint.
        description: from `read_description`.
        dtype: of the weights.
        keep_codes: whether to quantise a base that was quantised; if not, it gets the values of its codes.
        quantizer: see `quantize`.
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
        quantize(model, quantization.double, dtype, quantizer)
        if not keep_codes:
            dequantize(model)
    if description["method"] != "full":
        with pretrained.explaining_load_errors("checkpoint", folder, _FIX), pretrained.quiet_libraries():
            from peft import PeftModel

            # without a device peft would take the first GPU, even if the CPU is to be used
            model = PeftModel.from_pretrained(model.to(dtype), folder, torch_device="cpu")
        fuse_adapters(model)
    chat = ChatTokenizer(_load_tokenizer(folder), description["chat_template"])
    prompt = Prompt.from_json(description["prompt"])
    later: dict[str, Any] = {name: description.get(name) for name in _LATER}
    method, base = description["method"], description["base"]
    return CausalModel(model.eval(), chat, prompt, method, base, quantization, random_base, **later)


def _stored_dtype(folder: Path, description: Mapping[str, Any]) -> torch.dtype:
    """Return the stored precision of a folder's weights, or of those of its adapters' base."""
    if description["quantization"]:
        return Quantization(**description["quantization"]).source_dtype
    if description["method"] == "full":
        return stored_dtype(str(folder))
    return stored_dtype(description["base"] or str(folder / _BASE))


def _load_weights(folder: Path, description: Mapping[str, Any], dtype: torch.dtype) -> Any:
    """Load all weights of a folder, or the base of its adapters."""
    if description["method"] != "full" and description["base"] is not None:
        check_base(folder, description)
        try:
            return load_weights(description["base"], dtype)
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


_LARGE = 1_000_000_000  # trainable weights from which on 8-bit optimizer states are worth their noise: 6 GB saved


def prepare_for_training(model: Any, tuning: TuningConfig, method: str, seed: int) -> Any:
    """Prepare a causal model for training by a method.

    Args:
        model: `PreTrainedModel`, already quantised for qlora. It is changed.
        tuning: the shape of adapters, and whether activations are recomputed.
        method: full | lora | qlora.
        seed: of the random initial values of adapters.

    Returns:
        The model itself (full), or a peft model around it, in training mode.

    Raises:
        UserError: `tuning.targets` names no layer of the model.
    """
    if method != "full":
        model = add_adapters(model, tuning, seed)
    if tuning.gradient_checkpointing is True:
        base = model if method == "full" else model.get_base_model()
        enable = getattr(base, "activation_checkpointing_enable", None) or base.gradient_checkpointing_enable
        enable({"use_reentrant": False})  # the reentrant kind needs inputs with gradients and runs hooks elsewhere
        if method != "full":
            base.enable_input_require_grads()
    return model.train()


def add_adapters(model: Any, tuning: TuningConfig, seed: int) -> Any:
    """Wrap a `PreTrainedModel` in peft's adapters, with initial values from the seed."""
    with pretrained.quiet_libraries():  # peft imports bitsandbytes
        from peft import LoraConfig, TaskType, get_peft_model

    targets = "all-linear" if tuning.targets == ["all-linear"] else list(tuning.targets)
    settings = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=tuning.rank,
        lora_alpha=tuning.alpha,
        lora_dropout=tuning.dropout,
        target_modules=targets,
    )
    with torch.random.fork_rng(devices=[]):  # adapters are created on the CPU: no GPU's generator is used
        torch.default_generator.manual_seed(seed)
        try:
            with pretrained.quiet_libraries():
                adapted = get_peft_model(model, settings)
        except ValueError as error:
            linear = (name for name, part in model.named_modules() if isinstance(part, nn.Linear))
            layers = sorted({name.rpartition(".")[2] for name in linear})
            raise UserError(
                "tuning.targets",
                f"{tuning.targets} cannot be adapted ({one_line(error)})",
                f"Linear layers of this model: {', '.join(layers)}; [all-linear] takes all but the output.",
            ) from error
    fuse_adapters(adapted)
    return adapted


def build_optimizer(
    model: Any, name: OptimizerName, learning_rate: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Build an optimizer over the trainable weights; norms and biases get no weight decay.

    Args:
        model: the model to train.
        name: from `choose_optimizer`.
        learning_rate: of all weights.
        weight_decay: of the weights that have it.
    """
    learning = [value for value in model.parameters() if value.requires_grad]
    groups = [
        {"params": [value for value in learning if value.ndim >= 2], "weight_decay": weight_decay},
        {"params": [value for value in learning if value.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    match name:
        case "adamw":
            return torch.optim.AdamW(groups, lr=learning_rate, fused=True)
        case "adamw_8bit":
            return cast(torch.optim.Optimizer, import_bitsandbytes().optim.AdamW8bit(groups, lr=learning_rate))
        case _:
            assert_never(name)


def choose_optimizer(model: Any, wanted: WantedOptimizer, accelerator: str, strategy: str) -> OptimizerName:
    """Resolve `tuning.optimizer` for a model, see `optimizer_name`.

    Raises:
        UserError: adamw_8bit without bitsandbytes.
    """
    learning = sum(value.numel() for value in model.parameters() if value.requires_grad)
    name = optimizer_name(wanted, learning, accelerator, strategy)
    if name != "adamw_8bit" or has_bitsandbytes():
        return name
    if wanted == "auto":
        log.warning("bitsandbytes is not installed: the optimizer keeps its states in full precision")
        return "adamw"
    raise UserError(
        "tuning.optimizer",
        "adamw_8bit, but bitsandbytes is not installed",
        "pip install bitsandbytes where it has wheels, or choose adamw.",
    )


def optimizer_name(wanted: WantedOptimizer, learning: float, accelerator: str, strategy: str) -> OptimizerName:
    """Return the optimizer that `tuning.optimizer` means, assuming that bitsandbytes is installed.

    8-bit states (Dettmers et al. 2022) on a GPU if a billion weights are trained, otherwise torch's fused AdamW: for
    the few weights of adapters 8 bits save little, and bitsandbytes waits for the GPU after each of hundreds of
    matrices. Sharded states cannot have 8 bits.

    Args:
        wanted: auto | adamw | adamw_8bit.
        learning: number of trainable weights.
        accelerator: cpu | gpu.
        strategy: of the training, `fsdp` or another one.
    """
    match wanted:
        case "auto":
            small_states = accelerator == "gpu" and learning >= _LARGE
        case "adamw":
            small_states = False
        case "adamw_8bit":
            small_states = True
        case _:
            assert_never(wanted)
    return "adamw_8bit" if small_states and strategy != "fsdp" else "adamw"


@dataclass(frozen=True)
class Quantization:
    """How a base was quantised, as stored in a checkpoint.

    Attributes:
        kind: nf4, the only one.
        double: whether the blocks' constants are quantised, too.
        source: previous precision of the weights, as torch names it (`bfloat16`).
    """

    kind: str
    double: bool
    source: str

    @property
    def source_dtype(self) -> torch.dtype:
        """The previous precision as a torch dtype."""
        return cast(torch.dtype, getattr(torch, self.source))


def quantize(model: Any, double: bool, compute: torch.dtype, quantizer: torch.device | str = "cpu") -> Quantization:
    """Replace the linear layers of a `PreTrainedModel`, except the output, by 4-bit ones.

    Args:
        model: is changed; everything but its linear layers stays the same.
        double: quantise the constants, too.
        compute: precision of the products.
        quantizer: device that computes the codes, a GPU a hundred times as fast as a CPU; the weights stay where they
            are.

    Returns:
        How it was quantised.

    Raises:
        UserError: bitsandbytes is not installed.
    """
    if not has_bitsandbytes():
        raise UserError(
            "tuning.method",
            "qlora, but bitsandbytes is not installed",
            "pip install bitsandbytes where it has wheels, or choose lora.",
        )
    source = model.dtype
    output = model.get_output_embeddings()
    # subclasses of nn.Linear do more and are not replaced
    names = [name for name, layer in model.named_modules() if type(layer) is nn.Linear and layer is not output]
    for name in names:
        replace_layer(model, name, to_4bit(model.get_submodule(name), double, compute, quantizer))
    model.is_loaded_in_4bit = True  # peft asks for it
    return Quantization("nf4", double, str(source).removeprefix("torch."))


def dequantize(model: Any) -> None:
    """Undo `quantize`: ordinary linear layers with the values of the 4-bit codes."""
    bnb = import_bitsandbytes()
    for name in [name for name, layer in model.named_modules() if isinstance(layer, bnb.nn.Linear4bit)]:
        layer = model.get_submodule(name)
        weight = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias=layer.bias is not None, device="meta")
        linear.weight = nn.Parameter(weight, requires_grad=False)
        if layer.bias is not None:
            linear.bias = nn.Parameter(layer.bias.data, requires_grad=False)
        replace_layer(model, name, linear)
    model.is_loaded_in_4bit = False


def to_4bit(linear: nn.Linear, double: bool, compute: torch.dtype, quantizer: torch.device | str) -> nn.Module:
    """Return the 4-bit version of a linear layer, see `quantize`."""
    bnb = import_bitsandbytes()
    size = linear.in_features, linear.out_features
    layer = bnb.nn.Linear4bit(
        *size, bias=linear.bias is not None, compute_dtype=compute, compress_statistics=double, quant_type="nf4"
    )
    # on CPUs with avx512_bf16 one evaluation would repack the codes permanently, and later training would have no
    # gradients
    layer.support_avx512bf16_for_cpu = False
    weight = bnb.nn.Params4bit(
        linear.weight.data, requires_grad=False, compress_statistics=double, quant_type="nf4", module=layer
    )
    device = torch.device(quantizer)
    if device.type == "cuda":  # each process of a node has its own
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    layer.weight = weight.to(device).to(linear.weight.device)  # quantised by the first move
    if linear.bias is not None:
        layer.bias = nn.Parameter(linear.bias.data, requires_grad=False)
    return cast(nn.Module, layer)


def replace_layer(model: nn.Module, name: str, layer: nn.Module) -> None:
    """Replace a layer, given by its name in `named_modules`."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, layer)


def has_bitsandbytes() -> bool:
    """Return whether bitsandbytes can be imported."""
    try:
        with pretrained.quiet_libraries():
            import bitsandbytes  # noqa: F401
    except ImportError:
        return False
    return True


def import_bitsandbytes() -> Any:
    """Import bitsandbytes as `Any`, because its own types are too loose to be checked."""
    import bitsandbytes

    return bitsandbytes
