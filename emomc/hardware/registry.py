"""Accelerators by name or by the path of a description."""

from __future__ import annotations

from pathlib import Path

from emomc.errors import unknown_name
from emomc.hardware.interface import CostModel
from emomc.hardware.published import PublishedModel

_PRESETS = Path(__file__).parent / "presets"
_PUBLISHED = "published"


def accelerators() -> tuple[str, ...]:
    """Names that `load_accelerator` knows."""
    return (_PUBLISHED, *sorted(path.stem for path in _PRESETS.glob("*.yaml")))


def load_accelerator(name_or_path: str | Path) -> CostModel:
    """The cost model of a named accelerator, or of a description file (``.yaml`` or ``.yml``).

    Raises:
        EmomcError: when the name is unknown (the message suggests the nearest), or when the file cannot be read or is
            not a valid description.
    """
    if name_or_path == _PUBLISHED:
        return PublishedModel()
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        if str(name_or_path) not in accelerators():
            raise unknown_name("accelerator", str(name_or_path), accelerators())
        path = _PRESETS / f"{name_or_path}.yaml"
    from emomc.hardware.description import read_description  # brings pydantic and yaml: only when a file is read

    return read_description(path).build()
