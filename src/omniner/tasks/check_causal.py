"""What `task=check` shows of a causal model: the first sample as the model meets it, the arithmetic of packs, memory.

In come the module and data that training would use, out come lines to print. Memory of weights and optimizer is exact;
activations are counted where the model is small enough to run the largest pack once on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from omniner.schema import Config

if TYPE_CHECKING:
    from omniner.encoding.generative_data import GenerativeData
    from omniner.models.generative import GenerativeModule

_MIB = 2**20
_LARGE = 500_000_000  # parameters; above, one pass on a CPU takes minutes


def sections(config: Config, module: GenerativeModule, data: GenerativeData) -> dict[str, Sequence[str]]:
    """Titles and lines."""
    return {
        "First training sample, as the model meets it": list(_example(module, data)),
        "Prompt": list(_prompt(module, data)),
        "Packs": list(_packs(config, data)),
        "Memory": list(_memory(config, module, data)),
    }


def _example(module: GenerativeModule, data: GenerativeData) -> Iterator[str]:
    from omniner.encoding.samples import describe

    yield from describe(data.train_samples[0], module.causal.chat, len(data.prefix))


def _prompt(module: GenerativeModule, data: GenerativeData) -> Iterator[str]:
    prompt = module.causal.prompt
    yield f"{prompt.name} version {prompt.version} ({prompt.language}, {prompt.answer} answers), hash {prompt.sha}"
    yield f"{len(prompt.categories)} categories; {len(data.prefix):,} tokens are the same for every sentence"


def _packs(config: Config, data: GenerativeData) -> Iterator[str]:
    trainer = config.trainer
    ranks = max(trainer.devices, 1) * trainer.nodes
    survey = data.survey(ranks)
    total = survey.steps * trainer.max_epochs
    if trainer.max_steps >= 0:
        total = min(total, trainer.max_steps)
    samples = len(data.train_samples)
    yield f"{samples:,} sentences in steps of {trainer.batch_size}: {survey.steps:,} steps an epoch"
    yield f"{total:,} steps in at most {trainer.max_epochs} epochs, the first {round(total * trainer.warmup):,} warm up"
    yield (
        f"{survey.packs:,} packs an epoch on {ranks} process{'es' if ranks > 1 else ''}, "
        f"{samples / survey.packs:.1f} sentences each, the largest of {survey.largest:,} tokens"
    )
    yield (
        f"{survey.pack_tokens:,} tokens computed instead of {survey.sample_tokens:,} "
        f"({survey.sample_tokens / survey.pack_tokens:.1f} times fewer), {survey.answer_tokens:,} of them learnt"
    )
    yield f"each evaluation answers {len(data.dev_samples):,} dev sentences"


def _memory(config: Config, module: GenerativeModule, data: GenerativeData) -> Iterator[str]:
    parameters = list(module.model.parameters())
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    weights = sum(parameter.numel() * parameter.element_size() for parameter in parameters)
    # gradient and AdamW's two moments, which follow the type of the weight
    learning = 3 * sum(parameter.numel() * parameter.element_size() for parameter in trained)
    count = sum(parameter.numel() for parameter in trained)
    size = sum(parameter.numel() for parameter in parameters)
    yield f"parameters: {size:,}, of which {count:,} are trained ({config.tuning.method})"
    yield f"weights: {weights / _MIB:,.1f} MiB; gradients and optimizer: {learning / _MIB:,.1f} MiB with adamw"
    if size > _LARGE:
        yield "activations: not measured, the model is too large to try on a CPU"
        return
    kept, tokens = _kept_for_backward(config, module, data)
    yield f"activations of the largest pack of the first step ({tokens:,} tokens): {kept / _MIB:,.1f} MiB in 32 bit"
    yield f"together: about {(weights + learning + kept) / _MIB:,.0f} MiB, beside what torch itself takes"


def _kept_for_backward(config: Config, module: GenerativeModule, data: GenerativeData) -> tuple[int, int]:
    """Bytes that autograd keeps of the first step's largest pack, and that pack's tokens."""
    import torch

    from omniner.encoding.packs import StepLoader
    from omniner.models.shared_prefix import attach, pack_loss
    from omniner.tasks.check import kept_for_backward

    size, seed, count = config.trainer.batch_size, config.seed, len(data.train_samples)
    loader = StepLoader(data.epoch_samples, count, len(data.prefix), size, data.pack_tokens, seed, 0, 1, lambda: 0)
    pack = max(next(iter(loader)).packs, key=lambda pack: len(pack.ids))
    attach(module.model, "masked" if config.tuning.attention == "auto" else config.tuning.attention)
    with torch.enable_grad():
        return kept_for_backward(module, lambda: pack_loss(module.model, pack)), len(pack.ids)
