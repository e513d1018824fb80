"""What every test shares: one thread a process, a cache of its own, reproducible random inputs, the real data."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).parents[1]
OWN_CACHE = pytest.StashKey[Path]()

# Read by the libraries when they are imported, which no test has done yet. One thread also fixes the order of sums.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")


def pytest_configure(config: pytest.Config) -> None:
    """Give the session a cache folder; worker processes inherit it, so a network trained for one serves all."""
    if not hasattr(config, "workerinput"):
        config.stash[OWN_CACHE] = Path(tempfile.mkdtemp(prefix="emomc-tests-"))
        os.environ["EMOMC_CACHE"] = str(config.stash[OWN_CACHE])


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the session's cache folder."""
    if OWN_CACHE in config.stash:
        shutil.rmtree(config.stash[OWN_CACHE], ignore_errors=True)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real checkpoints and images: ``$EMOMC_DATA``, else ``../shared/data`` beside the checkout."""
    folder = Path(os.environ.get("EMOMC_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip("no real data here: set EMOMC_DATA to a folder with checkpoints/ and cifar10/")
    return folder
