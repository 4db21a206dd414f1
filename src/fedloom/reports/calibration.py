"""Calibration: of the test rows that were given a probability, how many are positive."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fedloom.reports.drawing import FAINT, FEDERATED, PAPER, RULE, draw_many
from fedloom.reports.pieces import Panel, Section, Table, numbers
from fedloom.reports.readable import Cell, figure, number, plain
from fedloom.reports.stored import Bin, Stored

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_Z95 = 1.959963984540054  # the 97.5 % quantile of the standard normal distribution


def calibration_section(stored: Stored) -> Section | None:
    """Return the section; None where the record has no calibration."""
    bins = [each for each in stored.summary.calibration or () if each.rows and each.predicted is not None]
    bins = [each for each in bins if each.observed is not None]
    if not bins:
        return None
    rows = sum(each.rows for each in bins)
    classes = stored.summary.classes or ()
    positive = f"the class {plain(classes[1])}" if len(classes) == 2 else "the positive class"
    text = (
        f"Of {figure(rows)} test rows, by the probability that the federated model gives {positive}. A calibrated "
        "model lies on the diagonal: of the rows that it gives 0.3, three in ten are of that class."
    )
    panel, table = _panel(bins), _table(bins)
    return Section(id="calibration", title="Calibration", words=(text,), panels=(panel,), beside=table)


def wilson(share: float, rows: int, z: float = _Z95) -> tuple[float, float]:
    """Return the interval of a share that was observed on some rows.

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference", section 3.

    Example:
        >>> low, high = wilson(0.5, 10)
        >>> round(low, 3), round(high, 3)
        (0.237, 0.763)
        >>> wilson(0.0, 7)[0], wilson(1.0, 7)[1]
        (0.0, 1.0)
    """
    centre = (share + z * z / (2 * rows)) / (1 + z * z / rows)
    half = z * math.sqrt(share * (1 - share) / rows + z * z / (4 * rows * rows)) / (1 + z * z / rows)
    return 0.0 if share <= 0 else max(0.0, centre - half), 1.0 if share >= 1 else min(1.0, centre + half)


def _panel(bins: Sequence[Bin]) -> Panel:
    shares = [(each, each.predicted or 0.0, each.observed or 0.0) for each in bins]

    def paint(axes: list[Axes]) -> None:
        upper, lower = axes
        upper.plot((0, 1), (0, 1), color=FAINT, linewidth=1.0, linestyle=(0, (4, 3)), label="calibrated")
        for each, predicted, observed in shares:
            upper.plot((predicted, predicted), wilson(observed, each.rows), color=FEDERATED, linewidth=1.4)
        upper.plot(
            [p for _, p, _ in shares], [o for _, _, o in shares], "o", color=FEDERATED, markeredgecolor=PAPER,
            markersize=6, label="federated model, 95% interval",
        )  # fmt: skip
        upper.set(ylabel="share observed", ylim=(-0.03, 1.03), xlim=(0, 1))
        upper.grid(color=RULE)
        upper.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=2)
        for each in bins:
            lower.bar(each.low, each.rows, width=each.high - each.low, align="edge", color=FEDERATED, edgecolor=PAPER)
        lower.set(ylabel="rows", xlabel="probability predicted")

    told = "; ".join(f"predicted {figure(p)}, observed {figure(o)} ({each.rows} rows)" for each, p, o in shares)
    return Panel(
        title="Predicted and observed",
        svg=draw_many("calibration", paint, heights_in=(3.0, 0.9)),
        alt=f"Share of positive rows by predicted probability: {told}.",
    )


def _table(bins: Sequence[Bin]) -> Table:
    cells: list[tuple[Cell, ...]] = []
    for each in bins:
        name = f"calibration/{each.low:.1f}"
        low, high = wilson(each.observed or 0.0, each.rows)
        cells.append(
            (
                (f"{each.low:.1f} to {each.high:.1f}",),
                number(each.rows, f"{name}/rows"),
                number(each.predicted, f"{name}/predicted"),
                number(each.observed, f"{name}/observed"),
                (*number(low, f"{name}/low"), " to ", *number(high, f"{name}/high")),
            )
        )
    columns = numbers("probability", "rows", "mean predicted", "share observed", "95% interval")
    return Table(title="Rows by probability", columns=columns, rows=tuple(cells))
