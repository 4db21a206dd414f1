"""Plots of the privacy benchmark: utility against epsilon, and epsilon over the rounds for either reader."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullFormatter

COLOURS = {"client": "#1f5f8b", "own noise": "#b5521b", "shared noise": "#1f5f8b"}
TITLES = {
    "mnist": "MNIST, softmax, 1,000 clients: client level, delta 1e-5",
    "heart": "Heart disease, four hospitals: record level",
    "breast_cancer": "Breast cancer, four hospitals: record level",
}
Limits = Mapping[tuple[str, str], Mapping[float, float]]


def draw_utility(found: Sequence[Mapping[str, Any]], limits: Limits, path: Path) -> None:
    """Draw a panel for each data set: every seed a dot, their mean a line, the figure without privacy, the limits."""
    figure = Figure(figsize=(6.4 * len(found), 4.4), layout="constrained")
    for axes, each in zip(figure.subplots(1, len(found), squeeze=False)[0], found, strict=True):
        _panel(axes, each, limits)
    figure.savefig(path, dpi=110)


def _panel(axes: Axes, found: Mapping[str, Any], limits: Limits) -> None:
    bare = float(np.mean(found["without_privacy"]))
    axes.axhline(bare, color="0.35", linestyle="--", linewidth=1, label=f"without privacy, {bare:.3f}")
    protections = list(dict.fromkeys(each["protection"] for each in found["points"]))
    for place, protection in enumerate(protections):
        points = [each for each in found["points"] if each["protection"] == protection]
        epsilons = [each["target"] for each in points]
        shift = 1.0 if len(protections) == 1 else (0.97, 1.03)[place]
        for each in points:
            at = [each["target"] * shift] * len(each["figures"])
            axes.plot(at, each["figures"], ".", color=COLOURS[protection], alpha=0.45, markersize=6)
        label = "private, mean of seeds" if protection == "client" else f"{protection}, mean of seeds"
        axes.plot(epsilons, [each["mean"] for each in points], color=COLOURS[protection], linewidth=1.6, label=label)
    asked = {(epsilon, low) for name in protections for epsilon, low in limits[found["data"], name].items()}
    axes.plot(*zip(*sorted(asked), strict=True), "_", color="black", markersize=18, label="asked for")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(sorted({each["target"] for each in found["points"]})))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(lambda value, _place: f"{value:g}")
    axes.set_xlabel("epsilon, reader of the models")
    axes.set_ylabel(f"{found['figure']} on test rows")
    axes.set_title(TITLES[found["data"]], fontsize=10)
    axes.grid(alpha=0.25)
    axes.legend(loc="lower right", fontsize=8, frameon=False)


def draw_rounds(found: Mapping[str, Any], path: Path) -> None:
    """Draw what has been spent after each round, for both readers."""
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.subplots()
    for each, colour in zip(found["by_round"], ("#1f5f8b", "#3d8b57", "#b5521b"), strict=False):
        target = f"planned for {each['target']:g}"
        axes.plot(each["rounds"], each["models"], color=colour, label=f"reader of the models, {target}")
        axes.plot(each["rounds"], each["participation"], color=colour, linestyle="--")
    axes.plot([], [], color="0.35", linestyle="--", label="holder of participation data, the same run")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda value, _place: f"{value:g}")
    axes.set_xlabel("rounds")
    axes.set_ylabel("epsilon at delta 1e-5")
    axes.set_title("MNIST, Poisson cohorts of rate 0.1: what the rounds cost", fontsize=10)
    axes.grid(alpha=0.25, which="both")
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", fontsize=8, frameon=False, ncols=2)
    figure.savefig(path, dpi=110)
