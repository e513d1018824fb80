"""What a benchmark states beside its figures: machine, versions, command."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping
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
        "command": "python -m " + " ".join([_module(), *sys.argv[1:]]),
    }


def _module() -> str:
    path = Path(sys.argv[0])
    return f"{path.parent.name}.{path.stem}"


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
