"""Functions by name: ``module:function`` or ``path/to/file.py:function``."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle

from emomc.errors import EmomcError, unknown_name


def locate_function(reference: str) -> Callable[..., Any]:
    """The function that a reference names. Importing runs the module's code, so the reference must be trusted.

    Raises:
        EmomcError: when the module or file cannot be imported or has no such function.
    """
    place, _, function = reference.rpartition(":")
    if not place or not function:
        raise EmomcError(f"{reference!r} names no function; expected module:function or path/to/file.py:function.")
    module = _import_file(Path(place)) if place.endswith(".py") else _import_module(place)
    found = getattr(module, function, None)
    if not callable(found):
        public = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise unknown_name(f"function in {place}", function, public)
    return found  # type: ignore[no-any-return]


def _import_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise EmomcError(
            f"cannot import module {name!r}: {error}. Install it, or name its file: path/to/file.py:function."
        ) from error


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise EmomcError(f"there is no file {str(path)!r}. Give the path of a .py file, from the current folder.")
    # A name made from path and content keeps two files of one name apart, and an edited file from what it was before.
    name = "emomc_file_" + hashlib.sha256(bytes(path.resolve()) + path.read_bytes()).hexdigest()[:16]
    if name not in sys.modules:  # run twice, it would define every class twice
        try:
            _run_file(path, name)
        except (ImportError, SyntaxError) as error:
            raise EmomcError(
                f"cannot import {str(path)!r}: {error}. Mend the file or install what it needs."
            ) from error
    return sys.modules[name]


def _run_file(path: Path, name: str) -> None:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None, "a .py file always has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    cloudpickle.register_pickle_by_value(module)  # other processes cannot import it by its name
