"""What a function does, as a hash: another one where its code, or a value that the code uses, is another.

Names of files, lines and of the module it stands in have no part in it, so that it is the same in every process and
after an edit elsewhere. Bytecode is that of one version of Python: another version counts as another function.
"""

from __future__ import annotations

import dis
import hashlib
import inspect
from collections.abc import Callable, Iterator
from functools import partial
from pickle import PicklingError
from types import CodeType, EllipsisType, FunctionType, ModuleType
from typing import Any

import torch

_PLAIN = (type(None), bool, int, float, complex, str, bytes, EllipsisType)
_GLOBAL_LOADS = ("LOAD_GLOBAL", "LOAD_NAME")  # the second in bodies of classes


def behaviour(function: Callable[..., Any]) -> str:
    """A name for what a function does, equal where it does the same.

    Functions of emomc keep their names. Of any other, hashed are its code, constants, default arguments and closure,
    the values of `functools.partial`, the attributes of an object that is called, and what these use of the module
    that the function stands in. What they use of other modules counts by its name alone.
    """
    home = _home(function)
    if home.partition(".")[0] == "emomc" and _is_named(function):
        return _name(function)
    return _Hasher(home).of(function).hex()


def _home(function: Any) -> str:
    """The module that a function stands in, below partials and decorators."""
    while isinstance(function, partial):
        function = function.func
    return str(getattr(inspect.unwrap(function), "__module__", None))


def _is_named(value: Any) -> bool:
    """Whether a function or class can be told from others by its name: it was not made by a call."""
    return isinstance(value, (FunctionType, type)) and "<" not in value.__qualname__


def _name(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"


class _Hasher:
    """Hashes values with all that they refer to; what was met before, as in a recursion, is told by its number."""

    def __init__(self, home: str) -> None:
        self._home = home
        self._met: dict[int, tuple[int, Any]] = {}  # with the value itself, so that no other gets its id

    def of(self, value: Any) -> bytes:
        """sha256 of a value."""
        if isinstance(value, _PLAIN):
            return _hash(type(value).__qualname__, repr(value))
        if isinstance(value, (set, frozenset)):  # whose order differs between processes
            return _hash("set", *sorted(map(self.of, value)))
        if not isinstance(value, (tuple, CodeType)):  # equal constants may be one object or not
            if id(value) in self._met:
                return _hash("met", str(self._met[id(value)][0]))
            self._met[id(value)] = len(self._met), value
        return _hash(*map(self.of, self._parts(value)))

    def _parts(self, value: Any) -> tuple[Any, ...]:
        """What kind a value is of, and values that make it what it is."""
        if isinstance(value, tuple):
            return "tuple", *value
        if isinstance(value, CodeType):
            return _code(value)
        if isinstance(value, ModuleType):
            return "module", value.__name__
        if _is_named(value) and value.__module__ != self._home:
            return "name", _name(value)
        return _definition(value)


def _code(code: CodeType) -> tuple[Any, ...]:
    handlers = getattr(code, "co_exceptiontable", b"")  # a part of the code before Python 3.11
    names = (code.co_names, code.co_varnames, code.co_cellvars, code.co_freevars)
    counts = (code.co_argcount, code.co_kwonlyargcount, code.co_flags)
    return "code", code.co_code, handlers, code.co_consts, names, counts


def _definition(value: Any) -> tuple[Any, ...]:
    if isinstance(value, FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        used = {name: value.__globals__[name] for name in _globals(value.__code__) & value.__globals__.keys()}
        return "function", value.__code__, value.__defaults__, value.__kwdefaults__, *cells, *_in_order(used)
    if isinstance(value, type):
        own = {name: part for name, part in vars(value).items() if callable(part) or not name.startswith("__")}
        return "class", value.__bases__, *_in_order(own)
    if isinstance(value, torch.Tensor):
        return "tensor", str(value.dtype), tuple(value.shape), _bytes(value)
    if isinstance(value, partial):  # whose pickle also holds names that `functools.update_wrapper` gave it
        return "partial", value.func, value.args, value.keywords
    if isinstance(value, property):
        return "property", value.fget
    return _reduced(value)


def _reduced(value: Any) -> tuple[Any, ...]:
    """What a pickle of a value would hold; else its type, and the function within a cache or a class method."""
    try:
        reduced = value.__reduce_ex__(4)
    except (TypeError, ValueError, AttributeError, RuntimeError, PicklingError):
        reduced = ""
    if isinstance(reduced, str):
        return "object", type(value), reduced, getattr(value, "__wrapped__", None)
    return "object", *(tuple(part) if isinstance(part, Iterator) else part for part in reduced)


def _globals(code: CodeType) -> set[str]:
    """Global variables that code reads, and functions within it; not those that tell where a module is."""
    read = {str(each.argval) for each in dis.get_instructions(code) if each.opname in _GLOBAL_LOADS}
    own = {name for name in read if not name.startswith("__")}
    return own.union(*(_globals(inner) for inner in code.co_consts if isinstance(inner, CodeType)))


def _in_order(values: dict[str, Any]) -> list[tuple[str, Any]]:
    return sorted(values.items(), key=lambda item: item[0])


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _hash(*parts: str | bytes) -> bytes:
    digest = hashlib.sha256()
    for part in parts:  # each hashed alone, so that it is known where it ends
        digest.update(hashlib.sha256(part.encode() if isinstance(part, str) else part).digest())
    return digest.digest()
