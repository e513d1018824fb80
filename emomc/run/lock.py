"""One process per run folder."""

from __future__ import annotations

from pathlib import Path

from emomc.errors import EmomcError

try:
    import fcntl
except ImportError:  # not on Windows, where the folder is not guarded
    fcntl = None  # type: ignore[assignment]


class FolderLock:
    """Holds a folder until `release` or the end of the process, however it ends.

    Raises:
        EmomcError: another process holds it.
    """

    def __init__(self, folder: Path) -> None:
        self._stream = (folder / ".lock").open("w")
        if fcntl is not None:
            try:
                fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                self._stream.close()
                raise EmomcError(
                    f"{folder} is in use by another process. Wait for it, stop it, or choose another folder."
                ) from None

    def release(self) -> None:
        """Let others use the folder."""
        self._stream.close()
