"""Load causal language models and their tokenizers from a hub name, a folder or a GGUF file.

`load_pretrained` returns a `PreTrainedModel` with a language modelling head and its fast tokenizer. A GGUF file (the
format of llama.cpp) is read into ordinary weights, whatever its quantisation. A model that cannot be used raises one
`UserError` about `model.path`: an encoder, a model without a tokenizer, one that needs its own code.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from omniner import pretrained
from omniner.config.model_groups import CausalConfig
from omniner.errors import UserError
from omniner.model_files import gguf_file, is_local_folder
from omniner.registry import MODEL_FAMILIES

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

log = logging.getLogger("omniner")

_FOLDER = "The folder must hold config.json, tokenizer.json and model.safetensors, or one .gguf file."
_HEADS = ("ForCausalLM", "LMHeadModel")
_ROUNDING = 0.15  # relative to the size of a matrix; 4 bits give 0.1, two different matrices 1.4
_ROWS = 8192  # compared at a time: in fp32 a whole vocabulary takes as much memory as a small model
_MIN_TOKENS = 256  # transformers makes an almost empty tokenizer for a folder without one


def load_pretrained(
    path: str, dtype: torch.dtype, revision: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Load the model of a hub name, a folder or a GGUF file, with its own tokenizer.

    Args:
        path: hub name, folder, or GGUF file.
        dtype: of the weights.
        revision: commit, tag or branch of a hub model; None = its main branch.

    Raises:
        UserError: it cannot be loaded, is not a causal language model, or its tokenizer does not fit.
    """
    model, found = load_weights(path, dtype, revision), load_tokenizer(path, revision)
    rows = model.get_input_embeddings().weight.shape[0]
    _check_tokenizer(path, found, rows)
    return model, found


def tie_output(model: PreTrainedModel) -> None:
    """Tie the output matrix to the embeddings if both are equal up to rounding.

    A GGUF file may contain a tied matrix twice, quantised in two ways, without saying so. The output's copy is kept,
    because llama.cpp rounds it less. This saves a fifth of the weights of a small model.
    """
    read, written = model.get_input_embeddings(), model.get_output_embeddings()
    if read is None or written is None or read.weight is written.weight or read.weight.shape != written.weight.shape:
        return
    difference = size = 0.0
    for rows, others in zip(read.weight.detach().split(_ROWS), written.weight.detach().split(_ROWS), strict=True):
        difference += float((rows.float() - others.float()).square().sum())
        size += float(others.float().square().sum())
    if difference < _ROUNDING**2 * size:
        read.weight = written.weight
        model.config.tie_word_embeddings = True


def load_settings(config: CausalConfig) -> Any:
    """Load the transformers configuration of a model: its sizes, without its weights.

    Raises:
        UserError: see `load_pretrained`.
    """
    from transformers import AutoConfig

    if config.path is not None:
        return _Source.find(config.path, config.revision).settings()
    values = {**config.architecture, "vocab_size": config.vocabulary}
    return AutoConfig.for_model(values.pop("model_type", "qwen2"), **values)


def stored_dtype(path: str, revision: str | None = None) -> torch.dtype:
    """Return the precision in which a hub name, a folder or a GGUF file stores its weights; bf16 for a GGUF file."""
    source = _Source.find(path, revision)
    return torch.bfloat16 if source.gguf else source.settings().dtype or torch.float32


def mapped_dtype(path: str, dtype: torch.dtype, revision: str | None = None) -> torch.dtype:
    """Return the precision in which a model is loaded without a copy; `dtype` for a GGUF file, which is unpacked
    anyway.

    Weights in their file's own precision are pages of that file, which all processes of a host share.
    """
    return dtype if _Source.find(path, revision).gguf else stored_dtype(path, revision)


def load_tokenizer(path: str, revision: str | None = None) -> PreTrainedTokenizerFast:
    """Load only the tokenizer, for counting; see `load_pretrained`."""
    from transformers import AutoTokenizer

    source = _Source.find(path, revision)
    with source.explaining_errors():
        return AutoTokenizer.from_pretrained(source.place, **source.options)


def load_weights(path: str, dtype: torch.dtype, revision: str | None = None) -> PreTrainedModel:
    """Load only the model, for example to add adapters to it; see `load_pretrained`.

    A hub model is read at the commit, tag or branch `revision`; None = its main branch.
    """
    from transformers import AutoModelForCausalLM

    source = _Source.find(path, revision)
    check_causal(path, source.settings())
    options: dict[str, Any] = {**source.options, "dtype": dtype, "output_loading_info": True}
    if source.gguf:
        options |= unpacked_gguf()
        log.info("unpacking %s takes a while; task=convert to=safetensors makes a folder that loads at once", path)
    with source.explaining_errors(), pretrained.quiet_libraries():
        model, report = AutoModelForCausalLM.from_pretrained(source.place, **options)
    pretrained.check_complete(path, report["missing_keys"], report["unexpected_keys"])
    if source.gguf:  # the weights are ordinary ones now; a model that is marked as quantised refuses to be saved
        for name in ("hf_quantizer", "quantization_method", "is_quantized"):
            vars(model).pop(name, None)
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
    return model


@dataclass(frozen=True)
class _Source:
    """The source of a model.

    Attributes:
        path: `model.path`.
        place: hub name or folder.
        local: whether that is a folder, which needs no network.
        gguf: name of the GGUF file in it; empty = it has ordinary weights.
        revision: commit, tag or branch of a hub model; None = its main branch.
    """

    path: str
    place: str
    local: bool
    gguf: str = ""
    revision: str | None = None

    @classmethod
    def find(cls, path: str, revision: str | None = None) -> _Source:
        """Return the source that a path means.

        Raises:
            UserError: the path does not exist, or is a GGUF file and gguf is not installed.
        """
        file = gguf_file(path)
        if file is None or not file.is_file():
            local = is_local_folder(path, _FOLDER)
            return cls(path, path, local, revision=None if local else revision)
        try:
            import gguf  # noqa: F401
        except ImportError as error:
            raise UserError("model.path", f"{file} is a GGUF file, which needs gguf", "pip install gguf") from error
        return cls(path, str(file.parent), True, file.name)

    @property
    def options(self) -> dict[str, Any]:
        """The arguments of every `from_pretrained`."""
        return pretrained.load_options(self.local, self.revision) | ({"gguf_file": self.gguf} if self.gguf else {})

    @contextlib.contextmanager
    def explaining_errors(self) -> Iterator[None]:
        """Convert what transformers raises in the block to one `UserError`."""
        fix = pretrained.load_advice(self.local, _FOLDER)
        with pretrained.explaining_load_errors("model.path", self.path, fix), explaining_code(self.path):
            yield

    def settings(self) -> Any:
        """Load the transformers configuration of the model; reject a model that needs its own code."""
        from transformers import AutoConfig

        if self.local and not self.gguf:
            check_code(self.path, Path(self.place))
        with self.explaining_errors():
            return AutoConfig.from_pretrained(self.place, **self.options)


def unpacked_gguf() -> dict[str, Any]:
    """Return options that make newer versions of transformers unpack the weights of a GGUF file."""
    try:
        from transformers import GgufConfig
    except ImportError:
        return {}
    return {"quantization_config": GgufConfig(dequantize=True)}


def check_code(path: str, folder: Path) -> None:
    """Reject a folder whose model needs code of its repository; some of these can be converted."""
    from transformers import CONFIG_MAPPING

    try:
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return  # transformers itself reports what is wrong with it
    if not isinstance(settings, dict):
        return
    kind = str(settings.get("model_type"))
    if kind in MODEL_FAMILIES:
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
def explaining_code(path: str) -> Iterator[None]:
    """Convert the error of a hub repository that needs its own code, which cannot be checked before loading."""
    try:
        yield
    except (ValueError, OSError) as error:
        if "trust_remote_code" not in str(error):
            raise
        convertible = ", ".join(MODEL_FAMILIES.meaning(name).rstrip(".") for name in MODEL_FAMILIES)
        raise UserError(
            "model.path",
            f"{path} needs code of its repository, which is never executed",
            f"{convertible}: download it (hf download), then task=convert input=<folder> output=<folder>. "
            "Otherwise choose a model that transformers knows itself.",
        ) from error


def check_causal(path: str, settings: Any) -> None:
    """Reject a model without a left-to-right language modelling head, which cannot write answers."""
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
    """Reject a tokenizer that is missing, not fast (exact decoding), or of another model (`rows` of embeddings)."""
    if len(tokenizer) < _MIN_TOKENS:
        raise UserError("model.path", f"{path} holds no tokenizer", "Put the model's tokenizer.json there.")
    if not tokenizer.is_fast:
        raise UserError("model.path", f"{path} has no fast tokenizer", "Put its tokenizer.json there.")
    if len(tokenizer) > rows:
        found = f"the tokenizer of {path} has {len(tokenizer)} entries, the model only {rows}"
        raise UserError("model.path", found, "Put the model's own tokenizer there.")
