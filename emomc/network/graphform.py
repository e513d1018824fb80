"""The form of a network that is stored as plain data, checked before anything is made of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch

from emomc.errors import EmomcError
from emomc.network.vocabulary import ATTRIBUTES, DTYPES, FUNCTIONS, METHODS, MODULES

MOST_ELEMENTS = 2**28  # of all stored tensors, and of one feature map: 1 GB in 32-bit floats
_MOST_STEPS = 2**14
_DEEPEST = 8  # lists within lists
_PATH = re.compile(r"[\w-]+(\.[\w-]+)*", re.ASCII)


def constant(tag: str, content: Any, value: Callable[[Any], Any]) -> Any:
    """What a tagged constant stands for; ``value`` turns its parts into values."""
    if tag == "tuple":
        return tuple(value(part) for part in content)
    if tag == "slice":
        return slice(*map(value, content))
    return DTYPES[content] if tag == "dtype" else Ellipsis


def check_form(description: Any) -> None:
    """Check the types of all parts, and that every value is of a known form. Raises EmomcError naming the first."""
    forms = {"modules": dict, "tensors": dict, "ties": list, "steps": list, "output": object}
    if not isinstance(description, Mapping) or set(description) != set(forms):
        raise malformed("content", f"a mapping of {', '.join(forms)}")
    for name, form in forms.items():
        if not isinstance(description[name], form):
            raise malformed(name, f"a {form.__name__}")
    for keys in description["ties"]:
        if not (isinstance(keys, list) and len(keys) > 1 and all(isinstance(key, str) for key in keys)):
            raise malformed("ties", "lists of names")
    if len(description["steps"]) > _MOST_STEPS:
        raise malformed("steps", f"at most {_MOST_STEPS}")
    for path in (*description["modules"], *description["tensors"]):
        if not isinstance(path, str) or len(path) > 1000 or path.count(".") > 64 or not _PATH.fullmatch(path):
            raise malformed(f"path {str(path)[:80]!r}", "names with dots between them")
    for position, step in enumerate(description["steps"]):
        if not (isinstance(step, list) and len(step) == 4 and isinstance(step[2], list) and isinstance(step[3], dict)):
            raise malformed(f"step {position + 1}", "[kind, target, arguments, named arguments]")
        _check_target(position, step)
        if not all(isinstance(name, str) for name in step[3]):
            raise malformed(f"step {position + 1}", "named arguments with text as names")
        _check_value(step[2], position + 1, 0)
        _check_value(list(step[3].values()), position + 1, 0)
    _check_value(description["output"], len(description["steps"]) + 1, 0)


def _check_target(position: int, step: list[Any]) -> None:
    kind, target, args, _ = step
    known = {"function": FUNCTIONS, "method": METHODS, "attribute": ATTRIBUTES}
    if not isinstance(target, str) or kind not in (*known, "module"):
        raise malformed(f"step {position + 1}", "a function, method, attribute or module by name")
    if kind in known and target not in known[kind]:
        raise EmomcError(f"graph: step {position + 1}: {kind} {target[:80]!r} is none that a file may name.")
    if kind in ("method", "attribute") and not (args and isinstance(args[0], dict) and args[0].keys() <= {"n", "t"}):
        raise malformed(f"step {position + 1}", "a tensor that the method is called on")


def _check_value(plain: Any, limit: int, depth: int) -> None:
    """That a value is of a known form, and refers to earlier results only."""
    if depth > _DEEPEST:
        raise malformed("arguments", f"at most {_DEEPEST} lists within each other")
    if isinstance(plain, list):
        for part in plain:
            _check_value(part, limit, depth + 1)
    elif isinstance(plain, dict):
        _check_tagged(plain, limit, depth)
    elif not (plain is None or isinstance(plain, (bool, int, float, str))):
        raise malformed("arguments", "JSON values")


def _check_tagged(plain: dict[Any, Any], limit: int, depth: int) -> None:
    if len(plain) != 1:
        raise malformed("arguments", "mappings with a single tag")
    ((tag, content),) = plain.items()
    if tag in ("tuple", "slice") and isinstance(content, list) and (tag == "tuple" or len(content) == 3):
        _check_value(content, limit, depth + 1)
        return
    good = {
        "n": type(content) is int and 0 <= content < limit,
        "t": isinstance(content, str),
        "dtype": isinstance(content, str) and content in DTYPES,
        "ellipsis": content is True,
    }
    if not (isinstance(tag, str) and good.get(tag, False)):
        raise malformed("arguments", "references to earlier results, stored tensors, tuples, slices or types")


def module_arguments(path: str, entry: Any) -> tuple[str, dict[str, Any]]:
    """Class name and constructor arguments of a described module. Raises EmomcError where they are none."""
    is_entry = isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str) and isinstance(entry[1], dict)
    if not is_entry or not all(isinstance(name, str) for name in entry[1]):
        raise malformed(f"module {path!r}", "[class, arguments]")
    if entry[0] not in MODULES:
        raise EmomcError(f"graph: module {path!r}: {entry[0][:80]!r} is no module that a file may name.")
    _check_value(list(entry[1].values()), 0, 0)
    if mentioned("t", entry[1]):
        raise malformed(f"module {path!r}", "constants as arguments")
    return entry[0], {name: plain_constant(value) for name, value in entry[1].items()}


def plain_constant(plain: Any) -> Any:
    """The value of an argument that refers to nothing."""
    if isinstance(plain, list):
        return [plain_constant(part) for part in plain]
    if isinstance(plain, dict):
        ((tag, content),) = plain.items()
        return constant(tag, content, plain_constant)
    return plain


def tensor_form(path: str, entry: Any) -> tuple[torch.dtype, list[int], bool]:
    """Type, shape and whether it is a parameter, of a described tensor. Raises EmomcError where they are none."""
    is_entry = isinstance(entry, list) and len(entry) == 3 and isinstance(entry[0], str) and isinstance(entry[1], list)
    if not is_entry or entry[0] not in DTYPES or not isinstance(entry[2], bool):
        raise malformed(f"tensor {path!r}", "[type, shape, whether it is a parameter]")
    if len(entry[1]) > 8 or any(type(size) is not int or not 0 <= size <= MOST_ELEMENTS for size in entry[1]):
        raise malformed(f"tensor {path!r}", f"a shape of at most 8 sizes up to {MOST_ELEMENTS}")
    if entry[2] and not DTYPES[entry[0]].is_floating_point:
        raise malformed(f"tensor {path!r}", "a parameter of floating-point numbers")
    return DTYPES[entry[0]], entry[1], entry[2]


def mentioned(tag: str, plain: Any) -> list[Any]:
    """What all references of a kind within a value refer to."""
    if isinstance(plain, (list, tuple)):
        return [found for part in plain for found in mentioned(tag, part)]
    if isinstance(plain, dict):
        own = [plain[tag]] if len(plain) == 1 and tag in plain and not isinstance(plain[tag], (dict, list)) else []
        return own + [found for part in plain.values() for found in mentioned(tag, part)]
    return []


def malformed(field: str, expected: str) -> EmomcError:
    """Error for a part of a description that is not of its form."""
    return EmomcError(f"graph: {field}: expected {expected}.")
