"""The file of a compressed network: header, tensor blobs and the arrays that stay uncompressed (see docs/format.md).

The length of a file is ``container_overhead(...)`` plus ``blob_cost(len(blob))`` over its blobs, exactly, so that a
search knows the size of a file that it has not written.
"""

from __future__ import annotations

import math
import os
import secrets
import stat
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from emomc.coding.blob import decode_tensor
from emomc.coding.spreading import spread
from emomc.coding.tensor import CodedTensor
from emomc.errors import EmomcError, unknown_name

MAGIC = b"EMOMC\0"
VERSION = 2
PREFIX = len(MAGIC) + 2 + 4  # magic, version, checksum
MAX_FILE = 2**31  # bytes
MAX_INDEX = 2**20  # bytes of header and names once inflated: a thousand layers take about 50,000
MAX_ENTRIES = 2**14  # layers, arrays, or entries of a list in the header
_DTYPES: dict[str, np.dtype[Any]] = {"<f2": np.dtype("<f2"), "<f4": np.dtype("<f4"), "<i8": np.dtype("<i8")}


@dataclass(frozen=True)
class NetworkFile:
    """What a file holds.

    Attributes:
        header: JSON-able facts about the network (task, factory, fingerprint, ...), as they were written.
        blobs: layer name -> encoded weight; ``tensor`` decodes one.
        arrays: ``state_dict`` key -> float16, float32 or int64 array.
        path: where it was read from.
        length: bytes of the file.
        index_length: bytes that header, names, types and shapes take in it.

    Example:
        >>> file = emomc.read_network("small.emomc")
        >>> weight = file.tensor("conv1").dequantize()  # float32, without the network's code
    """

    header: dict[str, Any]
    blobs: dict[str, bytes]
    arrays: dict[str, NDArray[Any]]
    path: Path
    length: int
    index_length: int

    def tensor(self, layer: str, shape: tuple[int, ...] | None = None) -> CodedTensor:
        """The weight of ``layer``.

        Args:
            layer: one of ``blobs``.
            shape: that of the network's layer, if known: a file of another network is refused before it is decoded.

        Raises:
            EmomcError: naming the file, the layer, and the field that is damaged.
        """
        return _decoded(self.path, layer, self._blob(layer), shape)

    def tensors(self, shapes: Mapping[str, tuple[int, ...]], workers: int | None = None) -> Iterator[CodedTensor]:
        """The weights of several layers, one by one, in the order of ``shapes``.

        Args:
            shapes: of the network's layers, by name.
            workers: processes that decode; None for as many as are worthwhile.

        Raises:
            EmomcError: as ``tensor``.
        """
        calls = [(self.path, layer, self._blob(layer), shape) for layer, shape in shapes.items()]
        return spread(_decoded, calls, [math.prod(shape) for shape in shapes.values()], workers)

    def _blob(self, layer: str) -> bytes:
        if layer not in self.blobs:
            raise unknown_name(f"layer of {self.path}", layer, self.blobs)
        return self.blobs[layer]


def _decoded(path: Path, layer: str, blob: bytes, shape: tuple[int, ...] | None) -> CodedTensor:
    try:
        return decode_tensor(blob, shape)
    except EmomcError as error:
        raise EmomcError(f"{path}: layer {layer!r}: {error}") from None


def write_network(
    path: str | os.PathLike[str],
    header: Mapping[str, Any],
    blobs: Mapping[str, bytes],
    arrays: Mapping[str, NDArray[Any]],
) -> int:
    """Write a file, atomically, and return its length in bytes.

    Args:
        path: an existing file is replaced in one step; until then it stays as it was.
        header: JSON-able; arrives at the reader unchanged.
        blobs: layer name -> ``encode_tensor(...)``.
        arrays: ``state_dict`` key -> float16, float32 or int64 array.

    Raises:
        EmomcError: something that the format cannot hold, or a write that fails (a full disk).
    """
    index = _index(header, blobs, arrays)
    raw = [np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes() for array in arrays.values()]
    body = msgpack.packb([index, list(blobs.values()), raw])
    data = MAGIC + VERSION.to_bytes(2, "little") + zlib.crc32(body).to_bytes(4, "little") + body
    if len(data) > MAX_FILE:
        raise EmomcError(f"{path}: {len(data)} bytes; a network file holds at most {MAX_FILE}.")
    _replace(Path(path), data)
    return len(data)


def read_network(path: str | os.PathLike[str]) -> NetworkFile:
    """Read a file. Nothing larger than the file is allocated before its checksum, lengths and shapes have been checked.

    Raises:
        EmomcError: not such a file, a newer version, or damaged; names the file, the field and what was expected.
    """
    path = Path(path)
    body = _body(path, _load(path))
    try:
        parts = msgpack.unpackb(body, max_array_len=MAX_ENTRIES, max_str_len=0, max_map_len=0, max_ext_len=0)
    except (ValueError, msgpack.UnpackException) as error:
        raise _bad(path, "body", "a well-formed msgpack value", str(error)) from None
    if not (isinstance(parts, list) and [type(part) for part in parts] == [bytes, list, list]):
        raise _bad(path, "body", "index, blobs and arrays", "something else")
    header, layers, specs = _parse_index(path, parts[0])
    length = PREFIX + len(body)
    return NetworkFile(
        header, _blobs(path, layers, parts[1]), _arrays(path, specs, parts[2]), path, length, len(parts[0])
    )


def is_whole(path: Path) -> bool:
    """Whether there is a file and `read_network` takes it."""
    try:
        read_network(path)
    except EmomcError:
        return False
    return True


def container_overhead(header: Mapping[str, Any], layers: Iterable[str], arrays: Mapping[str, NDArray[Any]]) -> int:
    """Bytes of a file besides its blobs; of ``arrays`` only names, types and shapes matter, not the values."""
    names = list(layers)
    lists = _list_head(3) + _list_head(len(names)) + _list_head(len(arrays))
    stored = [len(_index(header, names, arrays)), *(array.nbytes for array in arrays.values())]
    return PREFIX + lists + sum(blob_cost(length) for length in stored)


def blob_cost(length: int) -> int:
    """Bytes that a blob of ``length`` bytes adds to a file: itself and its length field."""
    return length + (2 if length < 2**8 else 3 if length < 2**16 else 5)


def _list_head(count: int) -> int:
    return 1 if count < 16 else 3 if count < 2**16 else 5


def _index(header: Mapping[str, Any], layers: Iterable[str], arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Header, layer names, and name, type and shape of every array, deflated."""
    names = list(layers)
    specs = [[key, _type_code(key, array), list(array.shape)] for key, array in arrays.items()]
    try:
        packed = msgpack.packb([dict(header), names, specs])
        stored = msgpack.unpackb(packed, max_array_len=MAX_ENTRIES)[0]
    except (TypeError, ValueError, OverflowError) as error:
        raise EmomcError(f"header: expected a JSON-able dict with text keys: {error}") from None
    if stored != header:
        raise EmomcError("header: expected a JSON-able dict that reads back as it was (lists, not tuples).")
    if len(packed) > MAX_INDEX or max(len(names), len(specs)) > MAX_ENTRIES:
        raise EmomcError(
            f"header and names take {len(packed)} bytes, {len(names)} layers and {len(specs)} arrays: a network file "
            f"holds at most {MAX_INDEX} bytes and {MAX_ENTRIES} of each."
        )
    return zlib.compress(packed, 9)


def _type_code(key: str, array: NDArray[Any]) -> str:
    for code, dtype in _DTYPES.items():
        if array.dtype == dtype:
            return code
    raise EmomcError(f"array {key!r} is {array.dtype}: expected float16, float32 or int64.")


def _load(path: Path) -> bytes:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_FILE:
            raise EmomcError(f"{path}: expected a network file of at most {MAX_FILE} bytes.")
        return path.read_bytes()
    except OSError as error:
        raise EmomcError(f"{path}: cannot read the network file: {error.strerror}.") from None


def _body(path: Path, data: bytes) -> memoryview:
    """What follows the prefix, once magic, version and checksum are right."""
    if data[: len(MAGIC)] != MAGIC:
        raise _bad(path, "magic", repr(MAGIC), repr(data[: len(MAGIC)]))
    if len(data) < PREFIX:
        raise _bad(path, "length", f"at least {PREFIX} bytes", str(len(data)))
    version = int.from_bytes(data[len(MAGIC) : len(MAGIC) + 2], "little")
    if version != VERSION:
        raise EmomcError(
            f"{path}: format version {version}: this emomc reads version {VERSION}. "
            + ("Install a newer emomc." if version > VERSION else "Repeat the command that wrote the file.")
        )
    body = memoryview(data)[PREFIX:]
    stored, actual = int.from_bytes(data[PREFIX - 4 : PREFIX], "little"), zlib.crc32(body)
    if stored != actual:
        raise _bad(path, "checksum", f"{stored:08x}", f"{actual:08x}")
    return body


def _parse_index(path: Path, index: bytes) -> tuple[dict[str, Any], list[Any], list[Any]]:
    inflate = zlib.decompressobj()
    try:
        packed = inflate.decompress(index, MAX_INDEX + 1)
        if len(packed) > MAX_INDEX or not inflate.eof or inflate.unused_data:
            raise _bad(path, "index", f"one deflated value of at most {MAX_INDEX} bytes", "something else")
        parts = msgpack.unpackb(packed, max_array_len=min(len(packed), MAX_ENTRIES), max_ext_len=0)
    except (zlib.error, ValueError, msgpack.UnpackException) as error:
        raise _bad(path, "index", "a deflated msgpack value", str(error)) from None
    if not (isinstance(parts, list) and [type(part) for part in parts] == [dict, list, list]):
        raise _bad(path, "index", "header, layer names and array shapes", "something else")
    return parts[0], parts[1], parts[2]


def _blobs(path: Path, layers: list[Any], blobs: list[Any]) -> dict[str, bytes]:
    _check_names(path, "layers", layers, blobs)
    return dict(zip(layers, blobs, strict=True))


def _arrays(path: Path, specs: list[Any], raw: list[Any]) -> dict[str, NDArray[Any]]:
    well_formed = all(isinstance(spec, list) and len(spec) == 3 and isinstance(spec[2], list) for spec in specs)
    if not well_formed:
        raise _bad(path, "arrays", "name, type and shape of each", "something else")
    _check_names(path, "arrays", [spec[0] for spec in specs], raw)
    arrays = {}
    for (key, code, shape), data in zip(specs, raw, strict=True):
        if not isinstance(code, str) or code not in _DTYPES:
            raise _bad(path, f"type of array {key!r}", f"one of {', '.join(_DTYPES)}", repr(code))
        if len(shape) > 32 or any(type(size) is not int or size < 0 for size in shape):
            raise _bad(path, f"shape of array {key!r}", "at most 32 sizes of 0 or more", repr(shape)[:80])
        dtype, count = _DTYPES[code], math.prod(shape)
        if len(data) != count * dtype.itemsize:
            raise _bad(path, f"array {key!r}", f"{count * dtype.itemsize} bytes for shape {shape}", str(len(data)))
        arrays[key] = np.frombuffer(data, dtype).astype(dtype.newbyteorder("=")).reshape(shape)
    return arrays


def _check_names(path: Path, field: str, names: list[Any], stored: list[Any]) -> None:
    if not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
        raise _bad(path, field, "distinct names", "something else")
    if len(names) != len(stored) or not all(isinstance(data, bytes) for data in stored):
        raise _bad(path, field, f"{len(names)} byte strings", f"{len(stored)} entries")


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        raise EmomcError(
            f"{path}: cannot write {len(data)} bytes: {error.strerror}; free space or choose another path."
        ) from None
    finally:
        temporary.unlink(missing_ok=True)


def _bad(path: Path, field: str, expected: str, found: str) -> EmomcError:
    return EmomcError(f"{path}: damaged network file: {field}: expected {expected}, found {found}.")
