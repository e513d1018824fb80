"""A second device for machines that have none: tensors there are kept on the CPU, but mix with others as on a GPU.

Inside `machine`, the device ``meta`` is one where everything is computed, by the CPU's own kernels. An operator
that is given tensors of both devices fails as CUDA makes it fail, so that a forgotten ``.to(device)`` or ``.cpu()``
shows. What only a GPU can show stays unseen: its kernels, streams, memory and bfloat16.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = "meta"
_HERE, _THERE = torch.device("cpu"), torch.device(DEVICE)
_ATEN = torch.ops.aten
_COPIES = (_ATEN.copy_.default, _ATEN._to_copy.default)
_INDEXING = (
    _ATEN.index.Tensor,
    _ATEN.index_put.default,
    _ATEN.index_put_.default,
    _ATEN._index_put_impl_.default,
)


class Elsewhere(torch.Tensor):
    """A tensor on the other device."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> Elsewhere:
        made: Elsewhere = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=_THERE,
        )
        made.inner = inner
        return made

    def tolist(self) -> Any:  # as on a GPU, it brings the values over
        return self.inner.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


@contextmanager
def machine() -> Iterator[None]:
    """The other device exists inside this context, in the thread that entered it."""
    with _Operators(), _Values():
        yield


class _Operators(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Values(TorchFunctionMode):
    """Tensors of given values are made by no operator."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        if func in (torch.tensor, torch.as_tensor) and given.get("device") is not None:
            return func(*args, **{**given, "device": _HERE}).to(given["device"])
        return func(*args, **given)


def _run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
    there = [each for each in given if isinstance(each, Elsewhere)]
    _refuse_mixture(func, args, kwargs, there)
    own = {id(each.inner): each for each in there}
    target = _target(func, kwargs, bool(there))
    asked = {**kwargs, "device": _HERE} if kwargs.get("device") is not None else kwargs
    found = func(*tree_map(_inner, args), **tree_map(_inner, asked))

    def outer(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        if id(value) in own:  # changed in place
            return own[id(value)]
        return Elsewhere(value) if target == _THERE else value

    return tree_map(outer, found)


def _inner(value: Any) -> Any:
    return value.inner if isinstance(value, Elsewhere) else value


def _target(func: Any, kwargs: dict[str, Any], any_there: bool) -> torch.device:
    """Where results are."""
    if kwargs.get("device") is not None:
        return torch.device(kwargs["device"])
    return _THERE if any_there else _HERE


def _refuse_mixture(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], there: list[Elsewhere]) -> None:
    """CUDA takes single numbers from the CPU, and indices from it, but no other tensors; copies go both ways."""
    if not there or func in _COPIES:
        return
    indexing = func in _INDEXING
    mixing = (args[0], *args[2:]) if indexing else (args, kwargs)
    tensors = [each for each in tree_leaves(mixing) if isinstance(each, torch.Tensor)]
    here = [each for each in tensors if not isinstance(each, Elsewhere) and each.dim()]
    if here and (len(here) < len(tensors) or indexing):
        shapes = [tuple(each.shape) for each in there], [tuple(each.shape) for each in here]
        raise RuntimeError(f"{func}: expected all tensors on one device, found {shapes[0]} there and {shapes[1]} here")
