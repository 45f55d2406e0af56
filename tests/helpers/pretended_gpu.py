"""A GPU that is only pretended, for machines without one.

Inside `pretended_gpu` a tensor can be on `cuda:0`. It says so wherever Python asks, but the CPU computes. What a real
GPU refuses is refused: operations on tensors of two devices, reading numbers without copying them, kernels that only
CPUs have. Speed, memory, rounding and the kernels themselves remain for a real one.

Such a tensor wraps the numbers; torch itself takes it for one on its `meta` device, since autograd needs a device that
exists.
"""

from __future__ import annotations

import contextlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from flash_kernel import kernel_backward, kernel_forward
from torch import Tensor
from torch._C import _TorchDispatchModeKey
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

GPU = torch.device("cuda:0")
_aten = torch.ops.aten
_COPIES = {_aten._to_copy.default, _aten.copy_.default}
# Python's indexing moves places to the numbers' device by itself.
_INDEXING = {_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default, _aten._index_put_impl_.default}
# What they give has a size that the host must ask for.
_SIZED_BY_NUMBERS = {_aten.nonzero.default, _aten.masked_select.default, _aten._unique2.default}
_SIZED_BY_NUMBERS |= {_aten.repeat_interleave.Tensor, _aten._local_scalar_dense.default, _aten.equal.default}
# Kernels that only a GPU has.
_KERNELS = {
    _aten._flash_attention_forward.default: kernel_forward,
    _aten._flash_attention_backward.default: kernel_backward,
}
# In what autocast computes; the operations that matter here, by their names in Python.
_NARROW = {"linear", "matmul", "__matmul__", "mm", "bmm", "addmm", "baddbmm", "einsum", "scaled_dot_product_attention"}
_WIDE = {"softmax", "log_softmax", "layer_norm", "cross_entropy", "nll_loss", "exp", "log", "pow", "__pow__", "rsqrt"}
_WIDE |= {"cumsum", "sum", "norm", "softplus", "reciprocal", "prod"}
_PRODUCTS = {_aten.mm.default, _aten.bmm.default, _aten.addmm.default, _aten.baddbmm.default}


class OnGpu(Tensor):
    """A tensor that is said to be on the GPU; `held` has its numbers."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> OnGpu:
        made = Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device="meta",
        )
        made.held = held
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return GPU

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    @property
    def is_meta(self) -> bool:  # type: ignore[override]
        return False

    def __reduce_ex__(self, protocol: Any) -> Any:  # files of it hold the numbers
        return self.held.__reduce_ex__(protocol)

    def __repr__(self, **_: Any) -> str:
        return f"OnGpu({self.held})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})


def _on_gpu(device: Any) -> bool:
    """Whether an operation makes its result there: torch's own code knows `meta` where Python reads `cuda:0`."""
    return device is not None and torch.device(device).type in ("cuda", "meta")


def _check(func: Any, args: Any, kwargs: Any) -> None:
    """Raise what CUDA would."""
    given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
    there = [each for each in given if isinstance(each, OnGpu)]
    if any(each.is_meta for each in given):
        raise NotImplementedError(f"{func}: torch made a tensor on its own device, which has no numbers")
    if not there or func in _COPIES:
        return
    if func in _INDEXING:  # numbers and new values, not places
        given = [each for at, each in enumerate(args) if at != 1 and isinstance(each, Tensor)]
        if not isinstance(args[0], OnGpu):
            raise RuntimeError(f"{func}: places are on the GPU, the numbers are not")
    if any(each.dim() for each in given if not isinstance(each, OnGpu)):
        shapes = [(tuple(each.shape), "gpu" if isinstance(each, OnGpu) else "cpu") for each in given]
        raise RuntimeError(f"{func}: tensors on two devices: {shapes}")
    if "for_cpu" in str(func) or "mkldnn" in str(func):
        raise RuntimeError(f"{func}: only CPUs have this kernel")
    if func in _PRODUCTS and not args[0].dtype.is_floating_point:
        raise RuntimeError(f"{func}: CUDA multiplies no matrices of {args[0].dtype}")


def _waits(func: Any, args: Any, kwargs: Any) -> bool:
    """Whether the host waits until the GPU has done all that it was told."""
    there = [isinstance(each, OnGpu) for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
    if func is _aten._to_copy.default:
        device = kwargs.get("device")
        return device is not None and _on_gpu(device) != there[0] and not kwargs.get("non_blocking", False)
    if func is _aten.copy_.default:
        return there[0] != there[1] and not (args[2] if len(args) > 2 else kwargs.get("non_blocking", False))
    if func in _INDEXING and there[0]:
        places = [each for each in args[1] if each is not None]
        filled = func is not _aten.index.Tensor and args[2].dim() == 0 and len(places) == 1  # by the mask itself
        sized = any(each.dtype == torch.bool for each in places) and not filled
        return sized or not all(isinstance(each, OnGpu) for each in places)
    return func in _SIZED_BY_NUMBERS and any(there) and kwargs.get("output_size") is None


def _compute(func: Any, args: Any, kwargs: Any) -> Any:
    """Do an operation on the CPU, and say of its results where they would be."""
    _check(func, args, kwargs)
    there = [each for each in tree_leaves((args, kwargs)) if isinstance(each, OnGpu)]
    device = kwargs.get("device")
    settings = {name: value for name, value in kwargs.items() if name != "pin_memory"}
    if device is not None:
        settings["device"] = "cpu"
    found = _KERNELS.get(func, func)(*_numbers(args), **_numbers(settings))
    if func is _aten.copy_.default:
        return args[0]
    if not (_on_gpu(device) if device is not None else there):
        return found
    same = {id(each.held): each for each in there}  # what was changed in place stays itself
    return tree_map_only(Tensor, lambda each: same[id(each)] if id(each) in same else OnGpu(each), found)


def _numbers(given: Any) -> Any:
    return tree_map_only(OnGpu, lambda each: each.held, given)


class _Operations(TorchDispatchMode):
    """Makes tensors on the pretended GPU, which torch believes in because of the key; counts when the host waits."""

    _mode_key = _TorchDispatchModeKey.FAKE

    def __init__(self, waits: Counter[str]) -> None:
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if _waits(func, args, kwargs or {}):
            self.waits[func.overloadpacket.__name__] += 1
        return _compute(func, args, kwargs or {})


class _Calls(TorchFunctionMode):
    """Says which GPU where a call does not, and counts what makes the host wait."""

    def __init__(self, waits: Counter[str]) -> None:
        super().__init__()
        self.waits = waits

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if args and isinstance(args[0], OnGpu):
            if name in ("tolist", "item", "__bool__", "__int__", "__float__", "__index__"):
                self.waits[name] += 1
                return getattr(args[0].held.detach(), name)()
            if name in ("numpy", "__array__"):
                raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")
            if name == "cpu":
                return args[0].to("cpu")
            if name == "new_tensor":
                return torch.tensor(args[1], **{"dtype": args[0].dtype, "device": GPU, **kwargs})
        if name in ("__getitem__", "__setitem__") and isinstance(args[1], list):
            args = (args[0], torch.tensor(args[1]), *args[2:])  # torch would make it on its own device
        if func is torch.device:
            return func(*args, **kwargs)
        if name == "pin_memory":
            return args[0]
        args = tuple(GPU if _without_number(each) else each for each in args)
        kwargs = {key: GPU if _without_number(each) else each for key, each in kwargs.items()}
        if torch.is_autocast_enabled("cuda") and name in _NARROW | _WIDE and "out" not in kwargs:
            args, kwargs = _autocast((args, kwargs), torch.bfloat16 if name in _NARROW else torch.float32)
        return func(*args, **kwargs)


def _autocast(given: Any, dtype: torch.dtype) -> Any:
    """Cast what is on the GPU, as autocast does; torch does not take wrappers for tensors that it should cast."""
    floats = torch.float32, torch.bfloat16

    def cast(each: OnGpu) -> Tensor:
        return each.to(dtype) if each.dtype in floats else each

    return tree_map_only(OnGpu, cast, given)


def _without_number(given: Any) -> bool:
    if isinstance(given, str):
        return given == "cuda"
    return isinstance(given, torch.device) and given.type == "cuda" and given.index is None


_apply = torch.nn.Module._apply


def _apply_and_tie(module: torch.nn.Module, convert: Any, recurse: bool = True) -> torch.nn.Module:
    """Move or cast a module, whose weights cannot stay the same objects here as they do on a real GPU; ties stay."""
    places = defaultdict(list)
    for name, value in module.named_parameters(remove_duplicate=False):
        places[id(value)].append(name)
    _apply(module, convert, recurse)
    for first, *others in places.values():
        for name in others:
            owner, _, attribute = name.rpartition(".")
            setattr(module.get_submodule(owner), attribute, module.get_parameter(first))
    return module


_engine_run_backward = torch.autograd._engine_run_backward


def _run_backward(calls: _Calls, *args: Any, **kwargs: Any) -> Any:
    """Go backward with the mode on, which is off within a call: checkpointed layers are computed again there."""
    with calls:
        return _engine_run_backward(*args, **kwargs)


_CUDA = {
    "is_available": True,
    "init": None,
    "device_count": 1,
    "current_device": 0,
    "set_device": None,
    "synchronize": None,
    "empty_cache": None,
    "get_rng_state": torch.get_rng_state(),
    "set_rng_state": None,
    "manual_seed": None,
    "manual_seed_all": None,
    "is_bf16_supported": True,
    "get_device_capability": (9, 0),
    "get_device_name": "pretended",
    "get_device_properties": SimpleNamespace(name="pretended", major=9, minor=0, total_memory=80 << 30),
    "memory_allocated": 0,
    "memory_reserved": 0,
    "max_memory_allocated": 0,
    "reset_peak_memory_stats": None,
    "mem_get_info": (80 << 30, 80 << 30),
}
"""What the functions of `torch.cuda` answer."""


@contextlib.contextmanager
def pretended_gpu() -> Iterator[Counter[str]]:
    """Pretend one GPU for the block; yields how often the host waited for it, by what made it wait."""
    waits = Counter[str]()
    calls, before = _Calls(waits), torch.__future__.get_overwrite_module_params_on_conversion()
    with pytest.MonkeyPatch.context() as patch:
        for name, answer in _CUDA.items():
            patch.setattr(torch.cuda, name, lambda *_, answer=answer, **__: answer)
        patch.setattr(torch.autograd, "_engine_run_backward", partial(_run_backward, calls))
        patch.setattr(torch.backends.cudnn, "is_acceptable", lambda _: False)
        patch.setattr(torch.nn.Module, "_apply", _apply_and_tie)
        # wrappers need the version counters that inference mode does without
        patch.setattr(torch, "inference_mode", lambda mode=True: torch.set_grad_enabled(not mode))
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        torch._C._set_only_lift_cpu_tensors(True)  # `torch.tensor(..., device=...)` is made here and moved
        try:
            with _Operations(waits), calls:
                yield waits
        finally:
            torch._C._set_only_lift_cpu_tensors(False)
            torch.__future__.set_overwrite_module_params_on_conversion(before)
