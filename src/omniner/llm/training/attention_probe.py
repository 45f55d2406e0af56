"""Choose a correct attention back-end for this machine, by comparing a tiny model in packs and sentence by sentence.

The tiny model is random, has the same architecture, query heads per key head and head size, but only two layers. The
loss and the gradient of each weight are compared between transformers' own computation of separate sequences in fp32
and that of packs. So a back-end is judged by the final result, on this device and with these versions, and an
architecture that packs cannot express (soft-capped logits, for example) is detected as well. This takes some seconds at
the start of training.
"""

from __future__ import annotations

import copy
import logging
import math
import random
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from omniner.compute.precision import compute_dtype
from omniner.errors import UserError
from omniner.llm.decoding.prefix_cache import check_full_attention, head_sizes
from omniner.llm.samples import Sample
from omniner.llm.training.attention import ATTENTION_BACKENDS
from omniner.llm.training.packs import make_pack
from omniner.llm.training.shared_prefix import attach_attention, pack_loss
from omniner.pretrained import base_model

log = logging.getLogger("omniner")

_TOLERANCES = {torch.float32: 0.01, torch.bfloat16: 0.15}  # a wrong mask or a lost gradient gives 0.7 or more
_PREFIX, _VOCABULARY = 150, 64  # tokens; more than a block of any kernel
_SIZES = [(1, 1), (3, 40), (20, 24), (20, 24), (70, 90)]  # tokens of each sample: rest of the prompt, answer


def choose_attention(model: Any, wanted: str, device: torch.device, precision: str) -> str:
    """Choose a back-end that gives the loss and gradients of separate sequences on a tiny model of this kind.

    Args:
        model: causal language model of transformers, or a peft model around it.
        wanted: a name in `ATTENTION_BACKENDS`, or `auto` for the fastest correct one.
        device: where the model will be trained.
        precision: `32-true`, `bf16-mixed` or `bf16-true`.

    Returns:
        A name in `ATTENTION_BACKENDS`.

    Raises:
        UserError: the wanted one cannot run or is wrong, none is correct, or the model cannot be trained on packs.
    """
    config = base_model(model).config.get_text_config()
    check_packable(config)
    probe = AttentionProbe(config, device, precision)
    objections: list[str] = []
    for name in ATTENTION_BACKENDS if wanted == "auto" else [wanted]:
        objection = _objection(name, probe, device)
        if objection is None:
            log.info("attention of packs: %s%s", name, "".join(f"; {each}" for each in objections))
            return name
        objections.append(f"{name} {objection}")
    raise UserError(
        "tuning.attention", "; ".join(objections), "Choose auto." if wanted != "auto" else "Choose another model."
    )


def check_packable(config: Any) -> None:
    """Reject models with layers that packs cannot express.

    Args:
        config: of the model, from transformers.

    Raises:
        UserError: layers that do not attend to everything, or dropout of attention.
    """
    check_full_attention(config)
    if getattr(config, "attention_dropout", 0):
        raise UserError(
            "model.path",
            f"its config has attention_dropout={config.attention_dropout}, which packs cannot compute",
            "Set attention_dropout to 0 in its config.json.",
        )


def _objection(name: str, probe: AttentionProbe, device: torch.device) -> str | None:
    """Return why a back-end cannot be used; None = it is correct."""
    backend = ATTENTION_BACKENDS[name]
    if backend.device not in (None, device.type):
        return f"needs {backend.device}"
    if probe.dtype not in backend.dtypes:
        return f"does not compute in {str(probe.dtype).removeprefix('torch.')}"
    try:
        error = probe.error(name)
    except (RuntimeError, ImportError) as failure:  # compilers and kernels that are not installed
        return f"cannot run here ({type(failure).__name__}: {(str(failure).strip() or 'no message').splitlines()[0]})"
    if error > _TOLERANCES[probe.dtype]:
        return f"is wrong here: gradients differ by {error:.2g} of their size from those of separate sequences"
    return None


class _Measure(NamedTuple):
    """Loss and gradients (one per weight) of the probe's samples, in fp32."""

    loss: float
    gradients: list[Tensor]

    def error(self, expected: _Measure) -> float:
        """Return the largest relative error of the loss and the gradients; infinite if some are not finite."""
        errors = [abs(self.loss - expected.loss) / abs(expected.loss)]
        for gradient, other in zip(self.gradients, expected.gradients, strict=True):
            errors.append(float((gradient - other).norm() / other.norm().clamp_min(1e-20)))
        return max(errors) if all(map(math.isfinite, errors)) else math.inf


class AttentionProbe:
    """Compare back-ends with separate sequences on a tiny model like the given one.

    Args:
        config: of the model to be trained.
        device: where it will be trained.
        precision: `32-true`, `bf16-mixed` or `bf16-true`.
    """

    def __init__(self, config: Any, device: torch.device, precision: str) -> None:
        self._device = device
        self.dtype = compute_dtype(precision)
        self._mixed = precision == "bf16-mixed"
        chance = random.Random(0)
        prefix, *own = ([chance.randrange(_VOCABULARY) for _ in range(n)] for n in (_PREFIX, *map(sum, _SIZES)))
        self._samples = [
            Sample("", "", prefix, tokens[:rest], tokens[rest:], [])
            for (rest, _), tokens in zip(_SIZES, own, strict=True)
        ]
        # the run's own random numbers continue as if nothing had been drawn
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(0)
            self._exact = _tiny(config).to(device, torch.float32)
        if precision == "bf16-true":
            self._exact.bfloat16().float()  # the same weights in both precisions
        self._expected = _measure(self._exact, self._separate)

    def error(self, backend: str) -> float:
        """Return the largest relative error of a back-end: of the loss, and of each weight's gradient.

        Two packs are computed: one with all samples and, since kernels differ by size, one with the first.
        """
        model = copy.deepcopy(self._exact).to(torch.float32 if self._mixed else self.dtype)
        attach_attention(model, backend, self.dtype)
        autocast: AbstractContextManager[Any] = (
            torch.autocast(self._device.type, torch.bfloat16) if self._mixed else nullcontext()
        )

        def loss(model: Any) -> Tensor:
            packs = [make_pack(each, _PREFIX).to(self._device) for each in (self._samples, self._samples[:1])]
            with autocast:
                return pack_loss(model, packs[0]) + pack_loss(model, packs[1])

        return _measure(model, loss).error(self._expected)

    def _separate(self, model: Any) -> Tensor:
        """Compute the loss by one plain forward pass per sample."""
        losses = []
        for sample in [*self._samples, self._samples[0]]:
            ids = torch.tensor([sample.prompt + sample.answer], device=self._device)
            logits = model(input_ids=ids, use_cache=False).logits[0, len(sample.prompt) - 1 : -1]
            losses.append(cross_entropy(logits.float(), ids[0, len(sample.prompt) :], reduction="sum"))
        return torch.stack(losses).sum()


def _measure(model: Any, loss_of: Callable[[Any], Tensor]) -> _Measure:
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    loss = loss_of(model)
    gradients = torch.autograd.grad(loss, weights)
    return _Measure(loss.item(), [gradient.float() for gradient in gradients])


def _tiny(config: Any) -> Any:
    """Build a random model with the architecture, heads per key head and head size of `config`, otherwise small."""
    from transformers import AutoModelForCausalLM

    tiny = copy.deepcopy(config)
    heads = head_sizes(config)
    tiny.num_key_value_heads = min(2, heads.kv_heads)
    tiny.num_attention_heads = heads.group_size * tiny.num_key_value_heads
    tiny.hidden_size = tiny.num_attention_heads * heads.width
    tiny.intermediate_size, tiny.vocab_size, tiny.num_hidden_layers = 96, _VOCABULARY, 2
    tiny.initializer_range = tiny.hidden_size**-0.5  # so that attention is neither uniform nor on a single position
    tiny.pad_token_id = tiny.bos_token_id = tiny.eos_token_id = None
    if getattr(config, "layer_types", None) is not None:
        tiny.layer_types = config.layer_types[:2]
    if hasattr(tiny, "quantization_config"):
        del tiny.quantization_config
    return AutoModelForCausalLM.from_config(tiny, attn_implementation="sdpa").train()
