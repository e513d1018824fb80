"""Files: written so that a reader sees either the old content or the whole new one, and plain YAML read safely."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import yaml

from emomc.errors import EmomcError

LARGEST_YAML = 1_000_000  # bytes


class _Loader(yaml.SafeLoader):
    """Plain YAML without aliases, so that a small file cannot stand for a huge one, and without fields given twice."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not accepted")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Refuses a field that is given twice, of which the library would keep the last in silence."""
        given: set[str] = set()
        for name in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if name.value in given:
                raise yaml.YAMLError(f"{name.value!r} is given twice, again in line {name.start_mark.line + 1}")
            given.add(name.value)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> Any:
    """The plain contents of a YAML file. Raises EmomcError where it cannot be read or is not plain YAML."""
    try:
        if path.stat().st_size > LARGEST_YAML:
            raise EmomcError(f"{path}: larger than {LARGEST_YAML} bytes, which no description is.")
        return yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506  # a safe loader
    except OSError as error:
        raise EmomcError(f"{path}: cannot be read ({error.strerror}).") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise EmomcError(f"{path}: not valid YAML: {str(error)[:500]}") from None


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """A binary stream whose content replaces ``path`` when the block ends without an error, else is dropped.

    Raises:
        EmomcError: the disk is full, or the folder cannot be written.
    """
    try:
        with _replacement(path) as stream:
            yield stream
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) else error.__context__  # torch.save puts one of its own on top
        if not isinstance(cause, OSError):
            raise
        raise EmomcError(
            f"{path} cannot be written: {cause.strerror or cause}. Free disk space or fix the permissions, then repeat "
            "the command."
        ) from error


@contextmanager
def _replacement(path: Path) -> Iterator[IO[bytes]]:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            yield stream
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink()
        raise
