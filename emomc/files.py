"""Writing files so that a reader sees either the old content or the whole new one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from emomc.errors import EmomcError


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """A binary stream whose content replaces ``path`` when the block ends without an error, else is dropped.

    Raises:
        EmomcError: the disk is full, or the folder cannot be written.
    """
    try:
        with _replacement(path) as stream:
            yield stream
    except OSError as error:
        raise EmomcError(
            f"{path} cannot be written: {error.strerror or error}. Free disk space or fix the permissions, then repeat "
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
