"""Shard a model: its weights, gradients and optimizer state are divided between processes by FSDP2.

This is for models too large for one device. A pretrained model is loaded as it is stored: memory pages of its files,
which the processes of a host share, until each has its part. (A model with random weights is created whole by each
process.) Then each layer is gathered when it is used and resharded again. Every process must run the same layers in the
same order, so all of them have equally many packs. To write answers, for which processes need different numbers of
steps, `unsharded` gathers all layers for a while; each device must then hold all weights, in the compute precision.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from pytorch_lightning.strategies import ModelParallelStrategy
from torch import Tensor, nn

from omniner.pretrained import base_model

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


class ShardedStrategy(ModelParallelStrategy):
    """Data parallel over all processes, with sharded weights; a checkpoint is one file with the trainable weights."""

    def __init__(self, world: int) -> None:
        super().__init__(data_parallel_size=world, tensor_parallel_size=1, save_distributed_checkpoint=False)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Return the gathered trainable weights on the first process; empty on the others."""
        assert self.model is not None
        return full_state_dict(self.model)


def shard_model(model: nn.Module, mesh: DeviceMesh, compute: torch.dtype) -> None:
    """Shard a model, layer by layer; its weights move to the devices of the mesh.

    Args:
        model: causal language model of transformers, or a peft model around it; equal on all processes.
        mesh: of one dimension.
        compute: dtype in which weights are gathered and used; gradients are summed in fp32.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    policy = MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=torch.float32)
    for layer in _layers(model):
        fully_shard(layer, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
    # the rest (embeddings, last norm, output) is needed first and last: it stays gathered until after the backward pass
    fully_shard(model, mesh=mesh, mp_policy=policy, reshard_after_forward=False)


def is_sharded(model: nn.Module) -> bool:
    """Return whether `shard_model` was called on this model."""
    return bool(_parts(model))


@contextmanager
def unsharded(model: nn.Module) -> Iterator[None]:
    """Gather all layers for the block, so that each process can run the model by itself.

    All processes must enter it, without gradients; the model must have run once before.
    """
    parts = _parts(model)
    for part in parts:
        part.unshard()
        part.set_reshard_after_forward(False, recurse=False)
    try:
        yield
    finally:
        for part in parts:
            part.set_reshard_after_forward(part is not model, recurse=False)
            part.reshard()


def full_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """Return the trainable weights by name, gathered on the CPU of the first process; empty on the others."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
    state: dict[str, Any] = get_model_state_dict(model, options=options)
    learning = {name for name, weight in model.named_parameters() if weight.requires_grad}  # tied ones once
    return {name: value for name, value in state.items() if name in learning}


def _layers(model: nn.Module) -> list[nn.Module]:
    """Return the layers that transformers declares as not to be split."""
    base = base_model(model)
    names = set(base._no_split_modules or ())
    return [module for module in base.modules() if type(module).__name__ in names]


def _parts(model: nn.Module) -> list[Any]:
    from torch.distributed.fsdp import FSDPModule

    return [module for module in model.modules() if isinstance(module, FSDPModule)]
