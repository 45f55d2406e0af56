"""What `auto` becomes where neither data nor machine are needed: heads, tuning, the name of a run."""

from __future__ import annotations

from pathlib import Path

from omniner import schema


def resolve(config: schema.Config) -> schema.Config:
    """Settle the `auto` values that need neither data nor machine."""
    causal = isinstance(config.model, schema.CausalConfig)
    if config.head.kind == "auto":
        # A linear-chain CRF is the strongest of the three where mentions are flat, as in most corpora.
        config.head.kind = "none" if causal else "crf"
    if config.tuning.method == "auto":
        pretrained = isinstance(config.model, schema.CausalConfig) and config.model.path is not None
        config.tuning.method = "lora" if pretrained else "full"
    if config.name == "auto":
        config.name = "-".join(part for part in _name_parts(config) if part)
    return config


def _name_parts(config: schema.Config) -> list[str]:
    """What tells runs apart at a glance."""
    model = [config.model.name, config.head.kind]
    if isinstance(config.model, schema.CausalConfig):
        guided = config.decoding.kind if config.decoding.kind != "free" else ""
        own = f"{config.prompt.name}_own" if config.prompt.from_run else config.prompt.name
        model = [config.model.name, own, config.tuning.method, guided]
    elif config.decoding.engine == "openai":
        model = [config.decoding.model or "server", config.prompt.name]
    parts = {
        "train": [*model, config.data.name],
        "predict": ["predict", *([Path(config.checkpoint).stem] if config.checkpoint else model), config.data.name],
        "score": ["score", Path(config.predictions or "").stem],
        "compare": ["compare", *(_stem(entry) for entry in config.runs[:2])],
        "check": ["check", config.model.name, config.data.name],
        "adjudicate": ["adjudicate", *(_stem(entry) for entry in config.annotators)],
        "agreement": ["agreement", *(_stem(entry) for entry in config.annotators)],
        "guide": ["guide", Path(config.run or "").name, config.guide.split, config.teacher.kind],
        "stats": ["stats", *([_stem(entry) for entry in config.corpora[:3]] or [config.data.name])],
        "split": ["split", Path(config.input).stem if config.input else config.data.name],
        "filter": ["filter", Path(config.input).stem if config.input else config.data.name, *model],
        "search": ["search", *model, config.data.name],
        "convert": ["convert", Path(config.input or config.checkpoint or "").stem, config.to],
    }
    return parts[config.task.name]


def _stem(entry: str) -> str:
    """What a path, or "name=path", is called."""
    return Path(entry.partition("=")[0]).stem
