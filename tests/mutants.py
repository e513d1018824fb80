"""Faults that the hardware tests must find: each one is planted in a source file, and a named test must then fail.

    python -m tests.mutants

Every mutant runs in a process of its own, which loads the changed source in place of the file on disk. Prints one line
for each: ``killed``, or ``survived``.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
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
    import pytest
    from hypothesis import Phase, settings

    settings.register_profile("mutants", database=None, derandomize=True, phases=[Phase.explicit, Phase.generate])
    sys.meta_path.insert(0, _Finder(mutant))
    code = pytest.main(
        ["-x", "-q", "-p", "no:cacheprovider", "--hypothesis-profile=mutants", f"{ROOT}/tests/{mutant.test}"]
    )
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise RuntimeError(f"{mutant.test}: pytest ended with {code!r}")
    return code is pytest.ExitCode.OK


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
    for library in ("hypothesis", "numpy", "pydantic", "pytest", "pytest_timeout", "xdist.plugin"):
        import_module(library)  # once, before the children

    survived = 0
    for mutant in MUTANTS:
        alive = survives(mutant)
        survived += alive
        print("survived" if alive else "killed", mutant.name, sep=": ", flush=True)  # noqa: T201
    return survived


if __name__ == "__main__":
    sys.exit(main())
