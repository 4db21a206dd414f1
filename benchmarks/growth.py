"""How rounds grow with cohort, population and parameters, and where their time goes.

Flags: ``--axis cohort`` (or population, parameters; all by default), ``--rounds N`` (3 by default) and
``--output FOLDER`` for ``growth.json`` and ``growth.png``. The model is a softmax of ten classes on generated
clients, so everything grows but the cost of a client's rows: what is seen is the framework. Test rows of a hundred
clients are evaluated every round.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import where
from report import machine
from threadpoolctl import threadpool_limits

import fedloom
from fedloom import data

PARTS = {
    "local work": ["runtime.client:_advance", "runtime.client:_answer"],
    "encode": ["runtime.client:_encode"],
    "sum": ["runtime.open_round:OpenRound.receive", "runtime.open_round:OpenRound.merge"],
    "evaluation": ["learners.linear:LinearLearner.evaluate", "learners.linear:LinearLearner.losses"],
    "state": ["runtime.client:begin", "engines.rounds:Rounds._perform", "engines.journal:Journal.write"],
    "cohort and orders": ["runtime.coordinator:Coordinator.open_round"],
    "rows of clients": ["engines.prepared_data:PreparedData.client"],
}
AXES = {
    "cohort": (10, 30, 100, 300, 1_000),
    "population": (1_000, 10_000, 100_000, 1_000_000),
    "parameters": (10_000, 100_000, 1_000_000, 10_000_000),
}
_CLASSES = 10
EVALUATED = 100
"""Clients of an evaluation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """One point: what is varied, and what is not."""

    cohort: int = 100
    population: int = 1_000
    parameters: int = 10_000
    rows: int = 10
    """Of each client; half of them are for evaluation."""

    @property
    def features(self) -> int:
        """Columns that give about so many parameters."""
        return self.parameters // _CLASSES - 1


def shapes(axis: str) -> list[Shape]:
    """Return the points of an axis; where parameters grow, so do rows: then there are few of both rows and clients."""
    small = {"cohort": 10, "population": 20, "rows": 2} if axis == "parameters" else {}
    return [Shape(**{**small, axis: value}) for value in AXES[axis]]


def main(arguments: Sequence[str]) -> int:
    """Measure, print where the time goes, and return the exit code."""
    parser = argparse.ArgumentParser(description="How rounds grow.")
    parser.add_argument("--axis", action="append", choices=sorted(AXES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args(arguments)
    points: list[dict[str, Any]] = []
    for axis in given.axis or AXES:
        for shape in shapes(axis):
            parts = seconds_of(shape, rounds=given.rounds)
            points.append({"axis": axis, "shape": asdict(shape), "seconds": parts})
            told = "  ".join(f"{part} {taken * 1e3:.2f}" for part, taken in parts.items())
            print(f"{axis} {getattr(shape, axis):>10,}  {sum(parts.values()) * 1e3:9.2f} ms: {told}", flush=True)
    if given.output is not None:
        given.output.mkdir(parents=True, exist_ok=True)
        report = {"machine": machine(), "rounds": given.rounds, "points": points}
        (given.output / "growth.json").write_text(json.dumps(report, indent=1) + "\n")
        plot(points, given.output / "growth.png")
    return 0


def seconds_of(shape: Shape, *, rounds: int) -> dict[str, float]:
    """Return the median seconds of a round that each part takes; the first round and the last are not counted."""
    clock = where.Clock([*PARTS, where.REST])
    taken: list[dict[str, float]] = []
    with _clocked(clock), threadpool_limits(limits=1, user_api="blas"), tempfile.TemporaryDirectory() as folder:
        fedloom.local().run(
            experiment(shape, rounds=rounds + 2),
            output=Path(folder),
            on_round=[lambda _record: taken.append(clock.take())],
        )
    return {part: statistics.median(each[part] for each in taken[1:-1]) for part in [*PARTS, where.REST]}


def experiment(shape: Shape, *, rounds: int) -> fedloom.Experiment:
    """Return a run of a point's shape."""
    return fedloom.Experiment(
        data=data.generated(shape.population, rows=shape.rows, features=shape.features, classes=_CLASSES, test=0.5),
        learner=fedloom.logistic(dtype="float32"),
        algorithm=fedloom.fedavg(fedloom.Schedule(epochs=1, batch_size=10, learning_rate=0.1)),
        cohort=fedloom.uniform(shape.cohort),
        evaluate_cohort=fedloom.uniform(min(EVALUATED, shape.population)),
        stop=fedloom.max_rounds(rounds),
        seed=1,
        evaluate_every=1,
        compare=False,
    )


@contextmanager
def _clocked(clock: where.Clock) -> Iterator[None]:
    """Put a clock around the functions of each part, and take it away again."""
    undo = [
        where.replaced(name, functools.partial(clock.wrap, part)) for part, names in PARTS.items() for name in names
    ]
    try:
        yield
    finally:
        for put_back in undo:
            put_back()


def plot(points: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw the parts of a round along each axis, as shares, with its time above."""
    from matplotlib.figure import Figure

    axes_shown = list(dict.fromkeys(point["axis"] for point in points))
    figure = Figure(figsize=(4.2 * len(axes_shown), 3.6), layout="constrained")
    panels: Any = figure.subplots(1, len(axes_shown), squeeze=False)
    colours = ("#0072b2", "#56b4e9", "#009e73", "#d55e00", "#cc79a8", "#e69f00", "#f0e442", "#8e8e8f")
    for axes, axis in zip(panels[0], axes_shown, strict=True):
        mine = [point for point in points if point["axis"] == axis]
        labels = [f"{point['shape'][axis]:,}" for point in mine]
        below = [0.0] * len(mine)
        for part, colour in zip([*PARTS, where.REST], colours, strict=True):
            # As shares: from end to end of an axis the times differ a hundredfold.
            shares = [point["seconds"][part] / sum(point["seconds"].values()) for point in mine]
            axes.bar(labels, shares, bottom=below, color=colour, label=part)
            below = [low + high for low, high in zip(below, shares, strict=True)]
        for place, point in enumerate(mine):
            whole = sum(point["seconds"].values()) * 1e3
            told = f"{whole:.1f} ms" if whole < 100 else f"{whole:,.0f} ms"
            axes.annotate(told, (place, 1.0), (0, 2), textcoords="offset points", ha="center", fontsize=8)
        axes.set_title(f"{axis}: time of a round, and shares of it", fontsize=9, loc="left", pad=14)
        axes.tick_params(labelsize=8)
        axes.set_ylim(0, 1)
        axes.spines[["top", "right"]].set_visible(False)
    handles, names = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), fontsize=8, frameon=False)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
