"""The results of a comparison with peers: as a table, as JSON, and as a plot."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from report import machine

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_OWN_COLOUR, _LOOP_COLOUR, _PEER_COLOUR = "#0072b2", "#8e8e8f", "#d55e00"
_PANELS = (
    ("ratio", "round time, PyTorch loop = 1"),
    ("peak_mb", "peak memory, MB"),
    ("start_s", "start to end of round 1, s"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What one contestant did with one workload; or why it did nothing."""

    workload: str
    leader: str
    reason: str = ""
    round_ms: float | None = None
    loop_ms: float | None = None
    """Of the PyTorch loop, between the same rounds."""
    ratio: float | None = None
    peak_mb: float | None = None
    """Of the contestant and all processes it starts, alone."""
    start_s: float | None = None
    """From the start of its process to the end of its first round, alone."""
    same_work: bool | None = None
    losses: dict[str, float] = field(default_factory=dict)
    moved: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)

    @property
    def cells(self) -> tuple[str, ...]:
        """The line of a table."""
        if self.ratio is None:
            return (self.workload, self.leader, "", "", "", "", "", f"not run: {self.reason.splitlines()[-1]}")
        numbers = [f"{number:.3g}" for number in (self.round_ms, self.loop_ms, self.ratio) if number is not None]
        rest = (f"{self.peak_mb:.0f}", f"{self.start_s:.1f}", "yes" if self.same_work else "NO")
        return (self.workload, self.leader, *numbers, *rest)

    @property
    def line(self) -> str:
        """The line as text."""
        return "  ".join(cell for cell in self.cells if cell)


HEAD = ("", "", "round, ms", "PyTorch loop, ms", "ratio", "peak memory, MB", "start, s", "same work")


def table(results: Sequence[Result]) -> Iterator[str]:
    """Yield the lines of a Markdown table."""
    yield f"| {' | '.join(HEAD)} |"
    yield f"|{'---|' * len(HEAD)}"
    for result in results:
        yield f"| {' | '.join(result.cells)} |"


def write(folder: Path, results: Sequence[Result], *, rounds: int) -> None:
    """Write JSON, table and plot to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    about = {**machine(), "date": datetime.now(UTC).date().isoformat()}
    report = {"machine": about, "rounds": rounds, "results": [asdict(result) for result in results]}
    (folder / "peers.json").write_text(json.dumps(report, indent=1) + "\n")
    described = ", ".join(f"{name} {value}" for name, value in about.items() if value is not None)
    (folder / "peers.md").write_text(
        "\n".join([*table(results), "", f"{described}; medians of {rounds} rounds."]) + "\n"
    )
    plot(results, folder / "peers.png")


def plot(results: Sequence[Result], path: Path) -> None:
    """Draw a row of panels for each measure, a panel for each workload."""
    from matplotlib.figure import Figure

    workloads = list(dict.fromkeys(result.workload for result in results))
    figure = Figure(figsize=(3.1 * len(workloads), 7.5), layout="constrained")
    panels: Any = figure.subplots(len(_PANELS), len(workloads), squeeze=False)
    for row, (measure, title) in enumerate(_PANELS):
        for column, workload in enumerate(workloads):
            axes = panels[row][column]
            _bars(axes, [result for result in results if result.workload == workload], measure)
            axes.set_title(f"{workload}: {title}" if column == 0 else workload, fontsize=9, loc="left")
    figure.savefig(path, dpi=110)


def _bars(axes: Axes, results: Sequence[Result], measure: str) -> None:
    shown = [result for result in results if getattr(result, measure) is not None]
    shown = shown if measure != "ratio" else [result for result in shown if result.leader != "P0"]
    names, colours = [_name(result.leader) for result in shown], [_colour(result.leader) for result in shown]
    values = [getattr(result, measure) for result in shown]
    # Ratios on a logarithmic axis, as bars from 1: to the left is faster than the loop.
    start = 1.0 if measure == "ratio" else 0.0
    axes.barh(names, [value - start for value in values], left=start, color=colours)
    for place, value in enumerate(values):
        text = f"{value:.2g}" if value < 100 else f"{value:.0f}"
        axes.annotate(text, (max(value, start), place), (2, 0), textcoords="offset points", va="center", fontsize=8)
    axes.invert_yaxis()
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    if measure == "ratio":
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.axvline(1.0, color=_LOOP_COLOUR, linewidth=0.8)
        axes.set_xlim(0.7 * min([*values, 0.1]), 3.0 * max([*values, 1.0]))
    else:
        axes.set_xlim(0, 1.2 * max(values, default=1.0))


def _name(leader: str) -> str:
    return {"P0": "PyTorch loop", "flower": "Flower", "fedjax": "FedJAX", "nvflare": "NVIDIA FLARE"}.get(leader, leader)


def _colour(leader: str) -> str:
    return _OWN_COLOUR if leader.startswith("fedloom") else _LOOP_COLOUR if leader == "P0" else _PEER_COLOUR
