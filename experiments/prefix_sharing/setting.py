"""What both programs train on: a model, and the same samples in the same order.

The model is a small Qwen2 with random weights, all of which learn sentences that OmniNER makes itself, or one that is
pretrained, whose LoRA adapters learn CLUENER in bf16.

Out come two things in a folder: `model/` (weights, and for a small model a byte-level BPE made from the texts, small
enough that its embeddings do not outweigh it), and `data/ner.json` with `dataset_info.json` as LLaMA-Factory reads
them, in the order in which OmniNER will train on them.
"""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from omniner.answers import render_answer
from omniner.config import compose as config_compose
from omniner.config.groups import Config
from omniner.corpus import sources
from omniner.corpus.formats import WriteOptions, alpaca
from omniner.files import make_folder, write_text
from omniner.llm.chat_tokenizer import ChatTokenizer
from omniner.llm.prompts import Prompt, build_prompt
from omniner.llm.samples import PromptEncoder
from omniner.llm.training.packs import suffix_length
from omniner.records import Sentence
from omniner.training.plans import plan_epoch

SYSTEM = "You are a helpful assistant."
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Qwen2's words: some versions of transformers put this in whatever tokenizer.json says, and both programs must agree.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
VOCABULARY = 2500  # entries: lengths are then about those of Qwen2's own tokenizer
KNOWN = 2000  # sentences that the vocabulary is made from
SIZES = {"hidden_size": 512, "num_attention_heads": 8, "num_key_value_heads": 2, "intermediate_size": 1408}
BATCH = 32  # samples of one optimizer step


SMALL = ["tuning=full", "model.learning_rate.full=1e-4", "prompt=fewshot", "prompt.examples=3"]
PRETRAINED = ["tuning=lora", "model.learning_rate.lora=1e-4", "prompt=errta", "data=cluener", "trainer.precision=auto"]


def compose(folder: Path, samples: int, further: list[str]) -> Config:
    """OmniNER's configuration: one epoch at a constant rate, 32 samples a step, nothing but training."""
    pretrained = is_pretrained(folder)
    counts = f"{{train: {samples}, dev: 8, test: 8}}"
    return config_compose.load(
        [
            "model=causal_path",
            f"model.path={folder / 'model'}",
            *(PRETRAINED if pretrained else SMALL),
            f"prompt.system.zh='{SYSTEM}'",
            "trainer=cpu",
            "trainer.max_epochs=1",
            "trainer.warmup=0",
            "trainer.schedule=constant",
            f"trainer.batch_size={BATCH}",
            "trainer.eval_sample=1",
            "trainer.threads=1",
            "decoding.max_new_tokens=1",
            f"data.limit={counts}" if pretrained else f"data.size={counts}",
            "tracking=off",
            *further,
        ]
    )


def is_pretrained(folder: Path) -> bool:
    """Whether the model in a folder is one that stands elsewhere."""
    return (folder / "model").is_symlink()


def make(folder: Path, samples: int, layers: int, weights: Path | None) -> str:
    """Write everything; a line that says what it is.

    Args:
        folder: an empty one.
        samples: of the epoch.
        layers: of a small model.
        weights: folder of a pretrained model, in place of a small one.
    """
    if weights is not None:
        (folder / "model").symlink_to(weights.resolve(), target_is_directory=True)
    config = compose(folder, samples, [])
    corpus = sources.load_corpus(config.data, None)
    train = corpus.splits["train"]
    prompt = build_prompt(config.prompt, corpus.active, train)
    if weights is None:
        known = sources.load_corpus(compose(folder, KNOWN, []).data, ["train"]).splits["train"]
        _write_model(folder / "model", prompt, known, layers)
    chat = ChatTokenizer(_load_tokenizer(folder / "model"), None)
    encoder = PromptEncoder(chat, prompt, config.encoding)
    encoded, _ = encoder.encode(train)
    prefix_length = encoder.prefix_length(encoded)
    lengths = [suffix_length(prefix_length)(sample) for sample in encoded]
    order = [position for batch in plan_epoch(lengths, BATCH, config.seed, 0) for position in batch]
    ordered = [train[position] for position in order]
    options = WriteOptions(prompt=prompt, answer=lambda entities: render_answer(entities, prompt.answer))
    alpaca.write(make_folder(folder / "data") / "ner.json", ordered, options)
    mean = sum(len(sample.prompt) + len(sample.answer) for sample in encoded) / len(encoded)
    answer = sum(len(sample.answer) for sample in encoded) / len(encoded)
    return (
        f"{samples} samples of {mean:.0f} tokens on average, of which {prefix_length} are the shared prefix and "
        f"{answer:.0f} the answer; vocabulary {len(chat.tokenizer)}, {weights or f'{layers} layers'}"
    )


def _load_tokenizer(folder: Path):  # type: ignore[no-untyped-def]
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def _write_model(folder: Path, prompt: Prompt, train: list[Sentence], layers: int) -> None:
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(WORDS), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=SPECIAL, initial_alphabet=alphabet)
    texts = [prompt.instruction, *(sentence.text for sentence in train), *map(_answer, train)]
    tokenizer.train_from_iterator(texts, trainer)
    write_text(folder / "tokenizer.json", tokenizer.to_str())
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "chat_template": TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 32768,
    }
    write_text(folder / "tokenizer_config.json", json.dumps(settings))
    torch.manual_seed(0)
    ends = {name: tokenizer.token_to_id(token) for name, token in zip(("pad", "bos", "eos"), SPECIAL, strict=True)}
    config = Qwen2Config(
        vocab_size=(tokenizer.get_vocab_size() + 63) // 64 * 64,
        num_hidden_layers=layers,
        max_position_embeddings=32768,
        tie_word_embeddings=True,
        eos_token_id=ends["eos"],
        pad_token_id=ends["pad"],
        **SIZES,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)


def _answer(sentence: Sentence) -> str:
    return render_answer(sentence.entities, "official")
