"""Which metrics of a run people look at first."""

from __future__ import annotations

from collections.abc import Iterable

PHASES = ("eval", "local", "pooled", "validation", "train")
FIGURES = (
    "auroc", "average_precision", "accuracy", "balanced_accuracy", "log_loss", "brier", "rmse", "r2", "objective",
)  # fmt: skip
SUFFIXES = ("", "/mean", "/worst", "/spread")


def main_metrics(names: Iterable[str]) -> list[str]:
    """Return the known ones of some names of metrics, the most telling first.

    Example:
        >>> main_metrics(["train/objective", "eval/auroc/worst", "fit/loss", "eval/auroc"])
        ['eval/auroc', 'eval/auroc/worst', 'train/objective']
    """
    there = set(names)
    ordered = (f"{phase}/{figure}{suffix}" for phase in PHASES for figure in FIGURES for suffix in SUFFIXES)
    return [name for name in ordered if name in there]
