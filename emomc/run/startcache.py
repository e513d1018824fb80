"""What runs start from: the dense network and the probes of its layers, measured by the first run and kept for others.

One file holds all of them. Its name is a hash of everything that they depend on, so that other weights, images,
variants or settings lead to another file.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from emomc.errors import EmomcError
from emomc.files import atomic_write

KEPT = 200  # files; the largest take some hundred kilobytes


def read_start(folder: Path, keys: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Results of all jobs by key, or nothing: a file that is damaged counts as missing.

    Args:
        folder: of the files.
        keys: content keys of the jobs, in their order.
    """
    path = folder / _name(keys)
    try:
        checksum, _, body = path.read_bytes().partition(b"\n")
        os.utime(path)  # what is used stays longest
    except OSError:
        return {}
    if checksum != _checksum(body):
        return {}
    return dict(zip(keys, json.loads(body), strict=True))


def write_start(folder: Path, keys: Sequence[str], results: Mapping[str, Mapping[str, Any]]) -> None:
    """Keep results for other runs; of more than `KEPT` files, those not used for the longest time are removed."""
    with suppress(OSError, EmomcError):  # a cache that cannot be written costs time, not the run
        with atomic_write(folder / _name(keys)) as stream:
            body = json.dumps([dict(results[key]) for key in keys]).encode()
            stream.write(_checksum(body) + b"\n" + body)
        files = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime)
        for path in files[:-KEPT]:
            path.unlink(missing_ok=True)


def _checksum(body: bytes) -> bytes:
    return b"%08x" % zlib.crc32(body)


def _name(keys: Sequence[str]) -> str:
    return hashlib.sha256("".join(keys).encode()).hexdigest()[:32] + ".json"
