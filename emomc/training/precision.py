"""Multiplying in bfloat16 while training: where a device is faster with it, and which convolutions are not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_CONVOLUTION = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")


@contextmanager
def chosen_precision(kind: str, precision: str) -> Iterator[None]:
    """What is computed inside is in bfloat16 or float32; weights and their gradients stay float32.

    Args:
        kind: of device, ``"cpu"`` or ``"cuda"``.
        precision: as in `emomc.training.Recipe`.
    """
    if precision == "float32" or (precision == "auto" and not _multiplies_bfloat16(kind)):
        yield
        return
    with torch.autocast(kind, dtype=torch.bfloat16):
        if kind == "cuda":
            yield
            return
        with _SlowDepthwiseInFloat32():
            yield


def _multiplies_bfloat16(kind: str) -> bool:
    """Whether a device multiplies bfloat16 itself; PyTorch before 2.11 does not tell it of a processor."""
    if kind == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(bool(capabilities.get(name, False)) for name in ("amx_bf16", "avx512_bf16"))


class _SlowDepthwiseInFloat32(TorchFunctionMode):
    """Depthwise convolutions with strides, or of images smaller than the kernel, stay float32.

    On a processor their gradient takes 4 to 100 times as long in bfloat16 (measured with PyTorch 2.15).
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if func is torch.conv2d and _is_slow({**dict(zip(_CONVOLUTION, args, strict=False)), **given}):
            with torch.autocast("cpu", enabled=False):
                return func(*(_float(each) for each in args), **{name: _float(each) for name, each in given.items()})
        return func(*args, **given)


def _is_slow(convolution: Mapping[str, Any]) -> bool:
    """Whether bfloat16 slows the gradient of a convolution down."""
    images, weight = convolution["input"], convolution["weight"]
    if convolution.get("groups", 1) != images.shape[-3]:
        return False
    small = any(size < window for size, window in zip(images.shape[-2:], weight.shape[-2:], strict=True))
    stride = convolution.get("stride", 1)
    return small or max(stride if isinstance(stride, tuple) else (stride,)) > 1


def _float(value: Any) -> Any:
    return value.float() if isinstance(value, torch.Tensor) else value
