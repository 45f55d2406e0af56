"""What is decoded: prompts and gold answers of the built-in corpus, and a small Qwen2 with random weights.

The tokenizer is a byte-level BPE made from the texts, with so few entries that prompts are about as long as with
Qwen2's own, or it is that of a folder. The ids that occur are numbered anew, so that a vocabulary of 150,000 does not
outweigh a model of this size; token counts stay what they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from omniner.answers import render_answer
from omniner.config import compose
from omniner.config.model_groups import DecodingConfig
from omniner.corpus import sources
from omniner.llm.chat_tokenizer import ChatTokenizer
from omniner.llm.decoding.decoder import DecodingRequest
from omniner.llm.prompts import build_prompt
from omniner.llm.samples import PromptEncoder

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
VOCABULARY = 1600
SIZES = {"hidden_size": 512, "num_attention_heads": 8, "num_key_value_heads": 2, "intermediate_size": 1408}


@dataclass
class Setting:
    """Everything a contestant needs.

    Attributes:
        model: in float32, in evaluation mode.
        requests: in the order of the corpus.
        prefix: tokens that all prompts begin with.
        gold: id -> tokens of the gold answer, the one that ends it included.
        end: the token that ends an answer.
        config: greedy decoding.
    """

    model: Any
    requests: list[DecodingRequest]
    prefix: list[int]
    gold: dict[str, list[int]]
    end: int
    config: DecodingConfig

    def __str__(self) -> str:
        count = len(self.requests)
        mean = sum(len(request.prompt) for request in self.requests) / count
        answer = sum(map(len, self.gold.values())) / count
        weights = sum(weight.numel() for weight in self.model.parameters()) / 1e6
        return (
            f"{count} sentences, prompt {mean:.0f} tokens on average ({len(self.prefix)} of them shared), answer "
            f"{answer:.0f} (at most {max(map(len, self.gold.values()))}); {weights:.1f} M parameters"
        )


def make(sentences: int, layers: int, prompt_name: str, tokenizer: str | None) -> Setting:
    """The setting of a measurement.

    Args:
        sentences: how many.
        layers: of the model.
        prompt_name: of `conf/prompt`.
        tokenizer: a folder; None = make one.
    """
    size = f"data.size={{train: 200, dev: 1, test: {sentences}}}"
    config = compose.load(["model=qwen2_tiny", f"prompt={prompt_name}", size])
    splits = sources.load_corpus(config.data, None)
    train, test = splits.splits["train"], splits.splits["test"][:sentences]
    prompt = build_prompt(config.prompt, splits.active, train)
    turns = [f"user\n{one.text}\nassistant\n{render_answer(one.entities, prompt.answer)}\n" for one in train]
    chat = _chat(tokenizer, [prompt.instruction, *turns])
    encoder = PromptEncoder(chat, prompt, config.encoding)
    samples, _ = encoder.encode(test)
    used = {token for sample in samples for token in (*sample.prompt, *sample.answer)}
    number = {token: place for place, token in enumerate(sorted(used))}
    asked = [DecodingRequest(sample.id, [number[token] for token in sample.prompt], sample.text) for sample in samples]
    gold = {sample.id: sample.answer[: sample.answer.index(chat.end[0]) + 1] for sample in samples}
    gold = {name: [number[token] for token in answer] for name, answer in gold.items()}
    model = _model(len(number), layers)
    prefix = asked[0].prompt[: encoder.prefix_length(samples)]
    return Setting(model, asked, prefix, gold, number[chat.end[0]], config.decoding)


def _chat(folder: str | None, texts: list[str]) -> ChatTokenizer:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    if folder is not None:
        return ChatTokenizer(AutoTokenizer.from_pretrained(folder), TEMPLATE)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return ChatTokenizer(
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=SPECIAL[2], pad_token=SPECIAL[0]), TEMPLATE
    )


def _model(vocabulary: int, layers: int) -> Any:
    """Random weights, doubled, so that the likeliest token stands out."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    entries = -(-vocabulary // 64) * 64
    config = Qwen2Config(
        vocab_size=entries,
        num_hidden_layers=layers,
        max_position_embeddings=32768,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
        **SIZES,
    )
    model = Qwen2ForCausalLM(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.mul_(2)
    return model
