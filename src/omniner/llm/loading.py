"""Load causal language models and their tokenizers from a hub name, a folder or a GGUF file, or build them.

`load_pretrained` returns a `PreTrainedModel` with a language modelling head and its fast tokenizer. A GGUF file (the
format of llama.cpp) is read into ordinary weights, whatever its quantisation. A model that cannot be used raises one
`UserError` about `model.path`: an encoder, a model without a tokenizer, one that needs its own code.

`random_model` returns a model with random weights, and `build_corpus_tokenizer` its tokenizer, made from the training
sentences and the prompt. Such a model must learn to copy characters and to choose a category, so its byte-level BPE
tokenizer splits texts for that task:

- a character of a sentence is one token, never merged with its neighbours: copying is then one token at a time, and a
  mention has the same tokens in the sentence and in the answer. Characters seen once are left to the bytes, so that
  spelling by bytes is learnt as well and an unknown character of the test set can be copied, too;
- a category with its quotes is one token, and so is each run of brackets and commas between the strings of an answer;
- a clause of the prompt is one token (unless a training sentence contains it): the prompt is the same for every
  sentence, so its length only adds cost.

It has the ordinary format of GPT-2 and Qwen (vocabulary, merges of bytes within one character, added tokens), because
some loaders keep only those parts of `tokenizer.json` and replace our pre-tokenizer by that of the model's family: the
tokens do not depend on it. Decoding its tokens always gives the original text.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from omniner import pretrained
from omniner.config.model_groups import CausalConfig
from omniner.errors import UserError, one_line
from omniner.llm.prompts import SENTENCE, Prompt
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


def random_model(
    config: CausalConfig, prompt: Prompt, texts: Iterable[str], dtype: torch.dtype, seed: int
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Build a model with random weights, and its tokenizer from a corpus.

    Args:
        config: `architecture` holds keys of a transformers configuration; `vocabulary` limits the tokenizer.
        prompt: its texts and categories get tokens.
        texts: training sentences.
        dtype: of the weights.
        seed: of the weights.

    Raises:
        UserError: the architecture is not valid, or the vocabulary is too small.
    """
    if "model_type" not in config.architecture:
        raise UserError(
            "model.architecture",
            "model.path is null and there is no model_type to build a random model of",
            "Set model.path to a pretrained model, or model.architecture.model_type (qwen2).",
        )
    tokenizer = build_corpus_tokenizer(texts, prompt, config.vocabulary)
    values = {
        **config.architecture,
        "vocab_size": len(tokenizer),
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    with torch.random.fork_rng(devices=[]):  # the model is created on the CPU: no GPU's generator is used
        torch.default_generator.manual_seed(seed)
        try:
            model = build_from_config(values, dtype)
        except Exception as error:  # of many types: each configuration class checks in its own way
            raise UserError(
                "model.architecture",
                f"no language model can be built of it ({one_line(error)})",
                "Use keys of the transformers configuration of that model_type.",
            ) from error
    return model, tokenizer


def load_pretrained(path: str, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Load the model of a hub name, a folder or a GGUF file, with its own tokenizer.

    Args:
        path: hub name, folder, or GGUF file.
        dtype: of the weights.

    Raises:
        UserError: it cannot be loaded, is not a causal language model, or its tokenizer does not fit.
    """
    model, found = load_weights(path, dtype), load_tokenizer(path)
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
        return _Source.find(config.path).settings()
    values = {**config.architecture, "vocab_size": config.vocabulary}
    return AutoConfig.for_model(values.pop("model_type", "qwen2"), **values)


def stored_dtype(path: str) -> torch.dtype:
    """Return the precision in which a hub name, a folder or a GGUF file stores its weights; bf16 for a GGUF file."""
    source = _Source.find(path)
    return torch.bfloat16 if source.gguf else source.settings().dtype or torch.float32


def mapped_dtype(path: str, dtype: torch.dtype) -> torch.dtype:
    """Return the precision in which a model is loaded without a copy; `dtype` for a GGUF file, which is unpacked
    anyway.

    Weights in their file's own precision are pages of that file, which all processes of a host share.
    """
    return dtype if _Source.find(path).gguf else stored_dtype(path)


def load_tokenizer(path: str) -> PreTrainedTokenizerFast:
    """Load only the tokenizer, for counting; see `load_pretrained`."""
    from transformers import AutoTokenizer

    source = _Source.find(path)
    with source.explaining_errors():
        return AutoTokenizer.from_pretrained(source.place, **source.options)


def load_weights(path: str, dtype: torch.dtype) -> PreTrainedModel:
    """Load only the model, for example to add adapters to it; see `load_pretrained`."""
    from transformers import AutoModelForCausalLM

    source = _Source.find(path)
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


def build_from_config(values: dict[str, Any], dtype: torch.dtype) -> PreTrainedModel:
    """Build a model with random weights from the values of its configuration, and run it once."""
    from transformers import AutoConfig, AutoModelForCausalLM

    values = dict(values)
    settings = AutoConfig.for_model(values.pop("model_type"), **values)
    model = AutoModelForCausalLM.from_config(settings, dtype=dtype, trust_remote_code=False)
    with torch.no_grad():
        model(torch.zeros(1, 2, dtype=torch.long))  # sizes that do not match raise only here
    return model


@dataclass(frozen=True)
class _Source:
    """The source of a model.

    Attributes:
        path: `model.path`.
        place: hub name or folder.
        local: whether that is a folder, which needs no network.
        gguf: name of the GGUF file in it; empty = it has ordinary weights.
    """

    path: str
    place: str
    local: bool
    gguf: str = ""

    @classmethod
    def find(cls, path: str) -> _Source:
        """Return the source that a path means.

        Raises:
            UserError: the path does not exist, or is a GGUF file and gguf is not installed.
        """
        file = gguf_file(path)
        if file is None or not file.is_file():
            return cls(path, path, is_local_folder(path, _FOLDER))
        try:
            import gguf  # noqa: F401
        except ImportError as error:
            raise UserError("model.path", f"{file} is a GGUF file, which needs gguf", "pip install gguf") from error
        return cls(path, str(file.parent), True, file.name)

    @property
    def options(self) -> dict[str, Any]:
        """The arguments of every `from_pretrained`."""
        return {**pretrained.load_options(self.local), **({"gguf_file": self.gguf} if self.gguf else {})}

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


PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CHATML_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

_JSON = ('[["', '", ', '], ["', "]]", '",', '],["')  # both answer styles; a category's token has its own quotes
_ROLES = ("system\n", "user\n", "assistant\n")
_MIN_COUNT = 2  # number of occurrences from which a character gets its own token
_MIN_CLAUSE = 4  # characters: a shorter clause may well occur in a sentence
_CLAUSE_SHARE = 4  # clauses take at most this fraction (1 / 4) of the entries left for them and the characters
_CLAUSE = re.compile(r"[^，。；：、！？,.;:!?\n]*[，。；：、！？,.;:!?\n]*")
_BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)

Merge = tuple[str, str]


def build_corpus_tokenizer(texts: Iterable[str], prompt: Prompt, vocabulary: int) -> PreTrainedTokenizerFast:
    """Build the tokenizer of a corpus; the same input always gives the same tokenizer.

    Args:
        texts: training sentences.
        prompt: its texts and categories get tokens.
        vocabulary: largest number of entries; more frequent ones come first.

    Raises:
        UserError: `vocabulary` has no room for the bytes, the control tokens and the parts of an answer.
    """
    from transformers import PreTrainedTokenizerFast

    texts = list(texts)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    categories = (json.dumps(category, ensure_ascii=False) for category in prompt.categories)  # as in an answer
    fixed = list(dict.fromkeys([*_JSON, *_ROLES, *categories]))
    needed = len(alphabet) + len(fixed) + len((PAD, START, END))
    if vocabulary < needed:
        raise UserError(
            "model.vocabulary",
            f"{vocabulary}, but bytes, control tokens and {len(prompt.categories)} categories alone are {needed}",
            f"Set it to {needed} and as many as characters shall be known; a few thousand for Chinese.",
        )
    # the whole prompt except the sentence
    told = [prompt.system, prompt.instruction + "\n", *prompt.input.split(SENTENCE)]
    clauses = find_clauses(told, texts)[: (vocabulary - needed) // _CLAUSE_SHARE]
    room = vocabulary - needed - len(clauses)
    tokenizer = byte_level_tokenizer(alphabet, character_merges(frequent_characters(texts, [*fixed, *told]), room))
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in (PAD, START, END)])
    tokenizer.add_tokens([AddedToken(item, normalized=False) for item in [*fixed, *clauses] if is_decodable(item)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        chat_template=CHATML_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def byte_level_tokenizer(alphabet: Sequence[str], merges: Sequence[Merge]) -> Tokenizer:
    """Build BPE over the 256 bytes (`alphabet`, in GPT-2's printable form) with these merges."""
    entries = [*alphabet, *(left + right for left, right in merges)]
    tokenizer = Tokenizer(models.BPE({entry: number for number, entry in enumerate(entries)}, list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated"), _BYTES]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def frequent_characters(texts: Iterable[str], prompt_texts: Iterable[str]) -> list[str]:
    """Return characters of several bytes, the most frequent first; those of the prompt count as frequent enough."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    for character in set("".join(prompt_texts)):
        counts[character] += _MIN_COUNT
    known = (item for item, count in counts.items() if count >= _MIN_COUNT and item >= "\x80")
    encodable = [item for item in known if not "\ud800" <= item <= "\udfff"]  # half of a surrogate pair has no bytes
    return sorted(encodable, key=lambda item: (-counts[item], item))


def character_merges(characters: Iterable[str], room: int) -> list[Merge]:
    """Return merges that make each character one token, byte by byte from the left; at most `room` of them.

    No merge crosses the end of a character: the right part of each is a byte that never begins one.
    """
    merges: dict[Merge, None] = {}
    for character in characters:
        spelt = _BYTES.pre_tokenize_str(character)[0][0]
        steps = [(spelt[:size], spelt[size]) for size in range(1, len(spelt))]
        new = [step for step in steps if step not in merges]
        if len(merges) + len(new) <= room:
            merges.update(dict.fromkeys(new))
    return list(merges)


def find_clauses(prompt_texts: Iterable[str], texts: Sequence[str]) -> list[str]:
    """Return clauses of the prompt, the longest first; none that a training sentence contains, where it would be
    merged.
    """
    corpus = "\n".join(texts)
    pieces = {piece for text in prompt_texts for piece in _CLAUSE.findall(text)}
    # a quote: part of an example answer, whose mention must have the same tokens as in a sentence
    fit = [item for item in pieces if len(item) >= _MIN_CLAUSE and '"' not in item and item.strip() not in corpus]
    return sorted(fit, key=lambda piece: (-len(piece), piece))


def is_decodable(token: str) -> bool:
    """Return whether the byte-level decoder restores an added token; it would treat text of only Latin-1 letters as
    bytes.
    """
    decoded: str = decoders.ByteLevel().decode([token])
    return decoded == token
