"""Accelerators by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from emomc.errors import unknown_name
from emomc.hardware.interface import CostModel
from emomc.hardware.published import PublishedModel

_BUILT_IN: Mapping[str, Callable[[], CostModel]] = MappingProxyType({"published": PublishedModel})


def accelerators() -> tuple[str, ...]:
    """Names that `load_accelerator` knows."""
    return tuple(_BUILT_IN)


def load_accelerator(name: str) -> CostModel:
    """The cost model of a named accelerator.

    Raises:
        EmomcError: when the name is unknown; the message suggests the nearest.
    """
    if name not in _BUILT_IN:
        raise unknown_name("accelerator", name, _BUILT_IN)
    return _BUILT_IN[name]()
