"""The last decoder layer gives only the rows that somebody reads.

After the last layer only places that predict an answer token are read. Others are needed there as keys and values, not
as queries, and need no output projection and no feed-forward pass. Hooks on the three modules that work place by place
compute the rows of `pack.keep` and leave the others zero: about half of that layer's work where the answers are half of
a pack.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from omniner.encoding.packs import Pack


class NeededRows:
    """Hooks on a decoder layer.

    The pack is met in the keyword arguments of the layer's attention, which gradient checkpointing repeats, and
    forgotten after the feed-forward module, the last of the three.

    Attributes:
        attention: the layer's attention, of which nobody reads the prefix's rows.
    """

    def __init__(self, attention: nn.Module, modules: tuple[nn.Module, ...]) -> None:
        self.attention = attention
        self._pack: Pack | None = None
        self._handles = [attention.register_forward_pre_hook(self._meet, with_kwargs=True)]
        for module in modules:
            self._handles.append(module.register_forward_pre_hook(self._select))
            self._handles.append(module.register_forward_hook(self._spread))
        self._handles.append(modules[-1].register_forward_hook(self._forget))

    @classmethod
    def of(cls, layer: Any) -> NeededRows | None:
        """The hooks of a layer as Llama has it; None for one that is built otherwise."""
        needed = ("self_attn.q_proj", "self_attn.o_proj", "mlp.down_proj")
        if not set(needed) <= {name for name, _ in layer.named_modules()}:
            return None
        return cls(layer.self_attn, (layer.self_attn.q_proj, layer.self_attn.o_proj, layer.mlp))

    def remove(self) -> None:
        """Take the hooks away."""
        for handle in self._handles:
            handle.remove()

    def _meet(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        self._pack = kwargs.get("pack")

    def _select(self, module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor] | None:
        """[1, T, D] to [1, K, D]."""
        return None if self._pack is None else (args[0].index_select(1, self._pack.keep),)

    def _spread(self, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        """[1, K, D] to [1, T, D], zero elsewhere."""
        if self._pack is None:
            return output
        size = (1, len(self._pack.ids), output.shape[2])
        return output.new_zeros(size).index_copy(1, self._pack.keep, output)

    def _forget(self, module: nn.Module, args: Any, output: Tensor) -> None:
        self._pack = None
