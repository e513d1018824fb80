"""The asymmetric numeral system under the entropy codes (constriction's ``AnsCoder``): a stack of symbols.

The coder has 32-bit words, a 64-bit state that starts at 0, and 24-bit integer frequencies. Integers are passed to
``Categorical`` as ``frequency - 1``: it gives 1 to every symbol and splits the rest in proportion, here exactly.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from constriction import stream
from numpy.typing import NDArray

from emomc.coding.models import Frequencies
from emomc.coding.wire import damaged

Coder: TypeAlias = Any  # constriction has no type stubs


def new_coder() -> Coder:
    """A coder to push on."""
    return stream.stack.AnsCoder()


def push(coder: Coder, index: NDArray[np.int32], frequencies: Frequencies) -> None:
    """Code symbols, given by position; they are popped in this order, and before everything that was pushed earlier."""
    if frequencies.size > 1:  # a single symbol takes no bits
        coder.encode_reverse(index, _categorical(frequencies))


def pop(coder: Coder, frequencies: Frequencies, count: int) -> NDArray[np.int32]:
    """The next ``(count,)`` symbols, as positions."""
    if frequencies.size == 1:
        return np.zeros(count, np.int32)
    return np.asarray(coder.decode(_categorical(frequencies), count), np.int32)


def coded_bytes(coder: Coder) -> bytes:
    """What was pushed, as bytes. The top word is never 0, so that the length tells what was cut."""
    words: bytes = coder.get_compressed().astype("<u4").tobytes()
    return words.rstrip(b"\0")


def open_coder(coded: bytes) -> Coder:
    """Inverse of ``coded_bytes``; raises ``EmomcError`` on bytes that it cannot have written."""
    if coded.endswith(b"\0"):
        raise damaged("coded stream", "a last byte other than 0", "0")
    words = np.frombuffer(coded + bytes(-len(coded) % 4), "<u4").astype(np.uint32)
    return stream.stack.AnsCoder(words) if words.size else stream.stack.AnsCoder()


def check_finished(coder: Coder, count: int) -> None:
    """Nothing may follow ``count`` values."""
    if not coder.is_empty():
        raise damaged("coded stream", f"the end after {count} values", "more")


def _categorical(frequencies: Frequencies) -> Any:
    return stream.model.Categorical((frequencies - 1).astype(np.float64), perfect=False)
