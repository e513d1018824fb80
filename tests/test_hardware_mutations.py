"""The hardware tests find planted faults: every entry of `tests.mutants` must make its test fail."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.mutants import MUTANTS, ROOT


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="each planted fault runs in a forked process")
def test_every_planted_fault_is_found() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.mutants"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    lines = done.stdout.splitlines()
    assert [line for line in lines if not line.startswith("killed")] == [], done.stderr[-2000:]
    assert len(lines) == len(MUTANTS)
    assert done.returncode == 0


def test_faults_of_every_listed_kind_are_planted_where_the_code_is() -> None:
    kinds = {mutant.fault for mutant in MUTANTS}
    assert kinds == {
        "drop the halo",
        "multiply by the root of the pixels",
        "forget groups",
        "count a partial sum once",
        "bits for bytes",
        "bits of the wrong operand",
        "prune dense fetches",
        "swap CI and CO",
    }
    assert all(mutant.source() for mutant in MUTANTS)  # raises where the code is no longer what the fault is about
