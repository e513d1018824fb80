"""What a benchmark states beside its figures: machine, versions, command."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
_PACKAGES = ("emomc", "torch", "numpy", "pymoo", "constriction")


def environment() -> dict[str, Any]:
    """Processor, cores, versions and the command line."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "python": platform.python_version(),
        **{package: version(package) for package in _PACKAGES},
        "command": _command(),
    }


def _command() -> str:
    """The command line; folders of this machine are left out."""
    script = Path(sys.argv[0])
    arguments = ["FOLDER" if os.sep in argument else argument for argument in sys.argv[1:]]
    return " ".join(["python", "-m", f"{script.parent.name}.{script.stem}", *arguments])


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def write_results(name: str, results: Mapping[str, Any]) -> Path:
    """Write results with the environment to ``results/NAME.json``."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"environment": environment(), **results}, indent=2) + "\n")
    return path


def with_earlier(
    new: Sequence[dict[str, Any]], before: Sequence[dict[str, Any]], identity: Callable[[Mapping[str, Any]], Any]
) -> list[dict[str, Any]]:
    """New entries, and those of earlier results that none of them stands for, by what tells entries apart."""
    own = {identity(each) for each in new}
    return [*(each for each in before if identity(each) not in own), *new]


def known(name: str) -> dict[str, Any]:
    """What ``results/NAME.json`` holds; nothing if it does not exist."""
    file = RESULTS / f"{name}.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return found
