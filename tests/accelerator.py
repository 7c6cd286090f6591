"""A pretended accelerator, for machines that have none: torch's CPU behind a device of its own.

It computes what the CPU computes, and is as strict as a GPU: a tensor of the CPU beside its own is
refused, and whatever makes the CPU wait for a result is noted. It says nothing about a GPU's kernels.

torch can be given one in a process, for good, so import this where nothing else is tested.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "pretended"
aten = torch.ops.aten
waits: Counter[str] = Counter()  # operation -> how often the CPU had to wait for its result

# The size of their results, or what the CPU does next, depends on numbers on the device.
_WAITING = {
    aten._local_scalar_dense.default,
    aten.equal.default,
    aten.is_nonzero.default,
    aten.masked_select.default,
    aten.nonzero.default,
    aten.repeat_interleave.Tensor,
    aten._unique2.default,
    aten.unique_consecutive.default,
    aten.unique_dim.default,
}
_INDEXING = {
    aten.index.Tensor,
    aten.index_put_.default,
    aten.index_put.default,
    aten._index_put_impl_.default,
}


class OnDevice(torch.Tensor):
    """A tensor of the device; `inner` holds its numbers."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> OnDevice:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=f"{NAME}:0",
        )
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        return _run(operation, args, kwargs or {})

    def tolist(self) -> Any:  # torch's own refuses whatever is no plain tensor
        return self.cpu().tolist()

    def __reduce_ex__(self, protocol):  # to save one is to copy it
        waits["save"] += 1
        return self.inner.detach().__reduce_ex__(protocol)


def _inner(value: Any) -> Any:
    return value.inner if isinstance(value, OnDevice) else value


def _run(operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if operation in (aten.copy_.default, aten._copy_from.default):
        to, source = args[:2] if operation is aten.copy_.default else args[1::-1]
        if isinstance(source, OnDevice) and not isinstance(to, OnDevice):
            waits["copy to the CPU"] += 1
        _inner(to).copy_(_inner(source))
        return to
    if operation is aten._to_copy.default:
        return _copied(args[0], **kwargs)
    given, _ = tree_flatten((args, kwargs))
    if operation in _WAITING:
        waits[str(operation)] += 1
    if operation in _INDEXING and any(each.dtype == torch.bool for each in args[1] if each is not None):
        waits[f"{operation} by a mask"] += 1
    for each in given:
        if isinstance(each, torch.Tensor) and not isinstance(each, OnDevice) and each.dim():
            raise RuntimeError(f"{operation}: a CPU tensor of shape {list(each.shape)} on the device")
    to_cpu = {"device": torch.device("cpu")} if "device" in kwargs else {}
    kwargs = {**kwargs, **to_cpu}
    kwargs.pop("pin_memory", None)
    found = operation(*tree_map(_inner, args), **tree_map(_inner, kwargs))
    # What was written in place, or to `out`, is the tensor that was given.
    same = {id(each.inner): each for each in given if isinstance(each, OnDevice)}

    def outer(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        return same[id(value)] if id(value) in same else OnDevice(value)

    return tree_map(outer, found)


def _copied(source: torch.Tensor, device: Any = None, **kwargs: Any) -> torch.Tensor:
    kwargs = {name: value for name, value in kwargs.items() if name in ("dtype", "memory_format")}
    to = torch.device(device) if device is not None else source.device
    copy = aten._to_copy.default(_inner(source), **kwargs)
    if to.type == NAME:
        return OnDevice(copy)
    waits["copy to the CPU"] += 1
    return copy


def _pinned(tensor: torch.Tensor, *_: Any) -> torch.Tensor:
    """The dummy backend has no pinned memory."""
    if isinstance(tensor, OnDevice):
        raise RuntimeError("only a CPU tensor can be pinned")
    return tensor


_setup_privateuseone_for_python_backend(NAME)
_library = torch.library.Library("aten", "IMPL")
for _name, _operation in (
    ("empty.memory_format", aten.empty.memory_format),
    ("empty_strided", aten.empty_strided.default),
    ("_copy_from", aten._copy_from.default),
):
    _library.impl(_name, lambda *args, _of=_operation, **kwargs: _run(_of, args, kwargs), "PrivateUse1")
torch.Tensor.pin_memory = _pinned
