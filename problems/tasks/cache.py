"""Where tasks keep what they can make again."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_cache_path


def cache_folder() -> Path:
    """The folder of the environment variable EMOMC_CACHE, else the user's cache folder for emomc. It need not exist."""
    given = os.environ.get("EMOMC_CACHE")
    return Path(given).expanduser() if given else user_cache_path("emomc", appauthor=False)
