"""A prompt, a corpus and configurations of causal models so small that each test can build one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import chats
import torch
from torch import Tensor, nn

from omniner.config.model_groups import CausalConfig, TuningConfig
from omniner.llm import language_model
from omniner.llm.language_model import CausalModel
from omniner.llm.prompts import Prompt

CATEGORIES = ("地点_城市", "食物_小吃/零食", "人名", "name")
TEXTS = ["我在北京吃🍜，很好吃。", "北京的🍜好吃 Hello", "张三说：“上海没有🍜”", "上海的张三"]
ANSWER = '[["北京", "地点_城市"], ["🍜", "食物_小吃/零食"]]'
PROMPT = Prompt(
    name="small",
    version="1",
    language="zh",
    system="你是抽取实体的助手。",
    instruction="请从句子里抽取实体，类别有：\n" + "、".join(CATEGORIES) + '。\n只回答列表，例如[["李四", "人名"]]。',
    input="句子：{sentence}",
    answer="official",
    categories=CATEGORIES,
)
ARCHITECTURE = {
    "model_type": "qwen2",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "tie_word_embeddings": True,
}
# every linear layer but the output
INNER = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def model_config(path: str | Path | None = None, **changes: Any) -> CausalConfig:
    """Random by default."""
    values: dict[str, Any] = {
        "kind": "causal",
        "name": "small",
        "path": None if path is None else str(path),
        "architecture": {} if path else ARCHITECTURE,
        "vocabulary": 0 if path else 700,
        "chat_template": None,
        "entity_replacement": 0.0,
        "learning_rate": {"full": 1e-3},
        "weight_decay": 0.0,
        "recipe": {},
    }
    return CausalConfig(**values | changes)


def tuning_config(method: str, **changes: Any) -> TuningConfig:
    values: dict[str, Any] = {
        "method": method,
        "rank": 4,
        "alpha": 8,
        "dropout": 0.0,
        "targets": ["all-linear"],
        "double_quantization": True,
        "optimizer": "auto",
        "gradient_checkpointing": False,
        "attention": "masked",
        "pack_tokens": 512,
    }
    return TuningConfig(**values | changes)


def build(method: str, path: Path | None = None, dtype: torch.dtype = torch.float32, **changes: Any) -> CausalModel:
    """A small causal model; `changes` are of its tuning."""
    return language_model.build_causal_model(
        model_config(path), tuning_config(method, **changes), PROMPT, TEXTS, dtype, seed=3, trains=True
    )


def save(folder: Path) -> None:
    """An ordinary model folder, as a hub would have it, of random weights."""
    save_model(build("full"), folder)


def save_model(causal: CausalModel, folder: Path) -> None:
    """Any full model in this way."""
    causal.model.save_pretrained(folder)
    causal.chat.tokenizer.save_pretrained(folder)


def sample(model: CausalModel) -> Tensor:
    """Token ids [1, T] of a whole example."""
    chat = model.chat
    return torch.tensor(
        [chat.prompt_ids(chats.chat_text(chat, PROMPT, TEXTS[0])) + chat.answer_ids(ANSWER) + list(chat.end)]
    )


def loss(model: Any, ids: Tensor) -> Tensor:
    found: Tensor = model(input_ids=ids, labels=ids).loss
    return found


def logits(model: Any, ids: Tensor) -> Tensor:
    """[1, T, V], evaluated."""
    model.eval()
    with torch.no_grad():
        found: Tensor = model(input_ids=ids).logits
    return found


def train(model: Any, ids: Tensor, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    """Losses of plain steps on one example."""
    losses = []
    for _ in range(steps):
        value = loss(model, ids)
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(value.item())
    return losses


def learning(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weights that learn, by name."""
    return {name: value for name, value in model.named_parameters() if value.requires_grad}
