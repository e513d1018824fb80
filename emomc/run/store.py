"""The store: every measurement of a run, committed to SQLite the moment it is made."""

from __future__ import annotations

import json
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from emomc.errors import EmomcError
from emomc.run.lock import FolderLock

_SCHEMA = "CREATE TABLE IF NOT EXISTS measurements (key TEXT PRIMARY KEY, result TEXT NOT NULL, note TEXT NOT NULL)"

_HEADER, _PAGE_SIZE, _PAGE_COUNT = 100, slice(16, 18), slice(28, 32)  # of an SQLite file, big-endian; sqlite.org


class Store:
    """Results by content key, in one SQLite file.

    A key names everything that a result depends on, so that a result made with other weights, data or settings is
    never found.
    """

    def __init__(self, path: Path) -> None:
        """Open or create.

        Raises:
            EmomcError: the file is damaged, or cannot be written.
        """
        self._path = path
        with self._clear_errors():
            self._connection = sqlite3.connect(path, isolation_level=None)
        try:
            self._prepare()
        except BaseException:
            self._connection.close()
            raise

    def _prepare(self) -> None:
        self._connection.text_factory = _readable_text
        with self._clear_errors():
            self._connection.execute("PRAGMA journal_mode=WAL")
            if self._connection.execute("PRAGMA quick_check").fetchone() != ("ok",):
                raise sqlite3.DatabaseError("quick_check failed")
            self._connection.execute(_SCHEMA)

    def get(self, key: str) -> dict[str, Any] | None:
        """The result stored under a key."""
        with self._clear_errors():
            row = self._connection.execute("SELECT result FROM measurements WHERE key = ?", (key,)).fetchone()
            if row is not None and not _is_result(row[0]):
                raise sqlite3.DatabaseError(f"unreadable result {key}")
        return None if row is None else json.loads(row[0])

    def put(self, key: str, result: Mapping[str, Any], note: str) -> None:
        """Store a result; it is on disk when this returns.

        Args:
            key: content key.
            result: JSON values.
            note: what was measured, for people.
        """
        with self._clear_errors():
            self._connection.execute(
                "INSERT OR REPLACE INTO measurements VALUES (?, ?, ?)", (key, json.dumps(dict(result)), note)
            )

    def adopt(self, results: Mapping[str, Mapping[str, Any]], note: str) -> None:
        """Store results that were made elsewhere, all or none, under keys that have no result yet."""
        rows = [(key, json.dumps(dict(result)), note) for key, result in results.items()]
        with self._clear_errors():
            self._connection.execute("BEGIN")
            self._connection.executemany("INSERT OR IGNORE INTO measurements VALUES (?, ?, ?)", rows)
            self._connection.execute("COMMIT")

    def __len__(self) -> int:
        with self._clear_errors():
            return int(self._connection.execute("SELECT COUNT(*) FROM measurements").fetchone()[0])

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    @contextmanager
    def _clear_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.ProgrammingError as error:
            raise EmomcError(
                f"{self._path}: {error} Use a session in the thread that opened it, and before it is closed."
            ) from None
        except sqlite3.OperationalError as error:
            raise EmomcError(
                f"{self._path}: cannot write or read the store: {error}. What was measured before is kept; free disk "
                "space or fix the permissions, then repeat the command to continue."
            ) from None
        except sqlite3.DatabaseError as error:
            raise EmomcError(
                f"{self._path}: the store is damaged ({error}). It was not changed. Run `emomc salvage "
                f"{self._path.parent}` to move all readable measurements into a new store, then repeat the command."
            ) from None


def salvage(path: Path) -> tuple[int, Path]:
    """Move what can be read of a damaged store into a new one; the damaged file is kept beside it.

    Returns:
        Number of measurements saved, and where the damaged file is now.

    Raises:
        EmomcError: there is no store, a search uses it, or it is not damaged.
    """
    if not path.exists():
        raise EmomcError(f"{path}: there is no store to salvage.")
    lock = FolderLock(path.parent)  # a search would go on writing to the file that was moved away
    try:
        if _is_whole(path):
            raise EmomcError(f"{path}: the store is not damaged. Repeat the search's command to continue it.")
        return _move_readable(path)
    finally:
        lock.release()


def _is_whole(path: Path) -> bool:
    """Whether SQLite finds no damage and every row can be read."""
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
    connection.text_factory = _readable_text
    try:
        found = [state for (state,) in connection.execute("PRAGMA integrity_check")]
        rows = connection.execute("SELECT key, result, note FROM measurements")
        return found == ["ok"] and all(map(_is_intact, rows))
    except sqlite3.DatabaseError:
        return False
    finally:
        connection.close()


def _move_readable(path: Path) -> tuple[int, Path]:
    damaged = _free_name(path)
    with _whole_pages(path) as readable:
        rows = _readable_rows(readable)
    for suffix in ("", "-wal", "-shm"):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(damaged.with_name(damaged.name + suffix))
    store = Store(path)
    for key, result, note in rows:
        store.put(key, json.loads(result), note)
    store.close()
    return len(rows), damaged


def _free_name(path: Path) -> Path:
    number = 1
    while (candidate := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    return candidate


@contextmanager
def _whole_pages(path: Path) -> Iterator[Path]:
    """A file that was cut short, as a copy of the pages that are left: SQLite reads none of one that lacks some."""
    data = bytearray(path.read_bytes())
    size = int.from_bytes(data[_PAGE_SIZE], "big") or 1
    left = len(data) // (65536 if size == 1 else size)
    if len(data) < _HEADER or not 0 < left < int.from_bytes(data[_PAGE_COUNT], "big"):
        yield path
        return
    data[_PAGE_COUNT] = left.to_bytes(4, "big")
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        copy = Path(folder) / path.name
        copy.write_bytes(data)
        yield copy


def _readable_rows(path: Path) -> list[tuple[str, str, str]]:
    """Rows that SQLite can still read, one by one from both ends of the table."""
    rows = {row[0]: row for order in ("ASC", "DESC") for row in _rows_until_damage(path, order) if _is_intact(row)}
    return list(rows.values())


def _rows_until_damage(path: Path, order: str) -> Iterator[tuple[Any, ...]]:
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
    connection.text_factory = _readable_text
    try:
        yield from connection.execute(f"SELECT key, result, note FROM measurements NOT INDEXED ORDER BY rowid {order}")
    except sqlite3.DatabaseError:
        return  # what lies behind the damage may still be readable from the other end
    finally:
        connection.close()


def _is_intact(row: tuple[Any, ...]) -> bool:
    return isinstance(row[0], str) and _is_result(row[1]) and isinstance(row[2], str)


def _is_result(text: object) -> bool:
    try:
        return isinstance(text, str) and isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _readable_text(data: bytes) -> str:
    """Text of a row; damaged bytes are marked instead of hiding the rows behind them."""
    return data.decode(errors="replace")
