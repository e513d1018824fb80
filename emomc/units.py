"""Numbers with SI prefixes, written for people and read from what they write."""

from __future__ import annotations

import math
from collections.abc import Mapping

_PREFIXES = {-12: "p", -9: "n", -6: "µ", -3: "m", 0: "", 3: "k", 6: "M", 9: "G", 12: "T"}
FACTORS: Mapping[str, float] = {
    **{prefix: float(f"1e{exponent}") for exponent, prefix in _PREFIXES.items()},
    "u": 1e-6,
    "\N{GREEK SMALL LETTER MU}": 1e-6,
}
"""Factor of each prefix as people type it; the micro sign is two characters, and often an ``u``."""


def si_scale(value: float) -> tuple[float, str]:
    """Factor and prefix that bring a value to 1 .. 1000: ``si_scale(2e-5)`` is ``(1e-6, "µ")``."""
    if value == 0 or not math.isfinite(value):
        return 1.0, ""
    exponent = 3 * math.floor(math.log10(abs(value)) / 3 + 1e-9)
    exponent = min(max(exponent, min(_PREFIXES)), max(_PREFIXES))
    return 10.0**exponent, _PREFIXES[exponent]


def si(value: float, unit: str) -> str:
    """Three digits, a prefix and the unit: ``"20.2 µJ"``, ``"7.16 kB"``; bytes below 1000 are whole.

    A number without a unit that is below 1 has no prefix: it is a share more often than not.
    """
    if not unit and abs(value) < 1:
        return f"{value:.3g}"
    scale, prefix = si_scale(float(f"{value:.3g}"))
    if unit == "B" and not prefix:
        return f"{value:.0f} B"
    number = f"{value / scale:#.3g}".rstrip(".")
    return f"{number} {prefix}{unit}".rstrip()


def percent(fraction: float) -> str:
    """``"8.27 %"``."""
    return f"{100 * fraction:.2f} %"


def points(difference: float, standard_error: float) -> str:
    """A difference of errors in percentage points, with its standard error: ``"+0.50 ± 0.35"``."""
    return f"{100 * difference:+.2f} ± {100 * standard_error:.2f}"
