"""What the figures share: colours, and logarithmic axes with ticks that can be read."""

from __future__ import annotations

import math

from matplotlib.axes import Axes
from matplotlib.axis import Axis, XAxis
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from emomc.units import si_scale

BLUE, ORANGE, GREY = "#0b6aa2", "#d95f02", "#8c8c8c"
STAGES = ("#0b6aa2", "#d95f02", "#1b9e77", "#7570b3")
_STEPS = ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 3.0, 5.0, 7.0))
_FEWEST, _MOST = 5, 9


def tidy(axes: Axes) -> None:
    """No frame above and to the right; a light grid behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers between two positive values, five to nine of them where that is possible."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    best: list[float] = []
    for steps in _STEPS:
        ticks = [step * 10.0**decade for decade in decades for step in steps if low <= step * 10.0**decade <= high]
        if len(ticks) > _MOST and best:
            return best
        best = ticks
        if len(best) >= _FEWEST:
            return best
    return best


def log_axis(axis: Axis, low: float, high: float, scale: float = 1.0) -> None:
    """A logarithmic axis from ``low`` to ``high``, its ticks labelled in multiples of ``scale``."""
    axes = axis.axes
    if isinstance(axis, XAxis):
        axes.set(xscale="log", xlim=(low, high))
    else:
        axes.set(yscale="log", ylim=(low, high))
    axis.set_major_locator(FixedLocator(log_ticks(low, high)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / scale:g}"))


def cost_axis(axes: Axes, label: str, unit: str, low: float, high: float) -> None:
    """A logarithmic x-axis from ``low`` to ``high``, labelled in one SI prefix for all ticks."""
    scale, prefix = si_scale(math.sqrt(low * high))
    log_axis(axes.xaxis, low, high, scale)
    shown = f"{prefix}{unit}"
    axes.set_xlabel(f"{label} ({shown})" if shown else label)
