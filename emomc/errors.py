"""The one error that users see, and the wording helper that goes with it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class EmomcError(Exception):
    """Something the caller can put right: the message says what, where, what was expected and what to do."""


class UnattainableError(EmomcError):
    """A limit on a cost that no network of the space meets."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> EmomcError:
    """Error for a name that is not registered, suggesting the nearest one.

    Args:
        kind: what the name stands for, e.g. ``"task"``.
        name: what was given.
        known: the names that would have been accepted.
    """
    options = sorted(known)
    nearest = difflib.get_close_matches(name, options, n=1, cutoff=0.4)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    return EmomcError(f"unknown {kind} {name!r}.{hint} Known: {', '.join(options) or 'none'}.")
