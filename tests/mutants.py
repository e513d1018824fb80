"""Faults that the hardware tests must find: each one is planted in a source file, and a named test must then fail.

    python -m tests.mutants

Every mutant runs in a process of its own, which loads the changed source in place of the file on disk. Prints one line
for each: ``killed``, or ``survived``.
"""

from __future__ import annotations

import inspect
import os
import sys
from dataclasses import dataclass
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from itertools import product
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Mutant:
    """What is wrong, where, and the test that must notice.

    ``old`` stands once in the module's source, so that the list cannot outlive the code that it is about.
    """

    fault: str
    module: str
    old: str
    new: str
    test: str

    @property
    def path(self) -> Path:
        return ROOT / (self.module.replace(".", "/") + ".py")

    @property
    def name(self) -> str:
        return f"{self.fault}: {self.module.rpartition('.')[2]}: {self.old.strip()[:60]}"

    def source(self) -> str:
        """The module with the fault in it."""
        text = self.path.read_text(encoding="utf-8")
        if text.count(self.old) != 1:
            raise ValueError(f"{self.path}: expected exactly once, found {text.count(self.old)} times: {self.old!r}")
        return text.replace(self.old, self.new)


def _listed() -> tuple[Mutant, ...]:
    text = Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8")
    return tuple(Mutant(fault, **entry) for fault, entries in yaml.safe_load(text).items() for entry in entries)


MUTANTS = _listed()


class _Planted(SourceFileLoader):
    """Loads a module from changed source, past any compiled copy."""

    def __init__(self, mutant: Mutant) -> None:
        super().__init__(mutant.module, str(mutant.path))
        self._source = mutant.source()

    def get_code(self, fullname: str) -> object:
        return compile(self._source, self.path, "exec")


class _Finder(MetaPathFinder):
    def __init__(self, mutant: Mutant) -> None:
        self._mutant = mutant

    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:
        if fullname != self._mutant.module:
            return None
        return spec_from_file_location(fullname, self._mutant.path, loader=_Planted(self._mutant))


def _passes(mutant: Mutant) -> bool:
    """Whether the mutant's test passes, in this process. Examples are always the same, failures are not shrunk."""
    from hypothesis import Phase, settings

    settings.register_profile("mutants", database=None, derandomize=True, phases=[Phase.explicit, Phase.generate])
    settings.load_profile("mutants")
    sys.meta_path.insert(0, _Finder(mutant))
    file, _, name = mutant.test.partition(".py::")
    function = getattr(import_module(f"tests.{file}"), name)
    marks = [mark.args for mark in getattr(function, "pytestmark", ()) if mark.name == "parametrize"]
    cases = [
        dict(zip((names for names, _ in marks), values, strict=True))
        for values in product(*(values for _, values in marks))
    ]
    for case in cases:
        inspect.signature(function).bind(**case)  # a wrong call is not a failed test
    try:
        for case in cases:
            function(**case)
    except Exception:  # noqa: BLE001  # whatever ends a test is a failure
        return False
    return True


def survives(mutant: Mutant) -> bool:
    """Whether the mutant's test passes all the same, in a child, so that nothing planted stays."""
    child = os.fork()
    if child:
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code not in (_PASSED, _FAILED):
            raise RuntimeError(f"the test of {mutant} could not be run; its process ended with {code}")
        return code == _PASSED
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    code = _BROKEN
    try:
        code = _PASSED if _passes(mutant) else _FAILED
    finally:
        os._exit(code)


_PASSED, _FAILED, _BROKEN = 10, 11, 12


def main() -> int:
    """Try every mutant; the number of those that survived."""
    for library in ("hypothesis.strategies", "numpy", "pydantic", "pytest"):
        import_module(library)  # once, before the children

    survived = 0
    for mutant in MUTANTS:
        alive = survives(mutant)
        survived += alive
        print("survived" if alive else "killed", mutant.name, sep=": ", flush=True)  # noqa: T201
    return survived


if __name__ == "__main__":
    sys.exit(main())
