"""Which figure stands for a run's quality, and how its forms are called."""

from __future__ import annotations

from fedloom.reports.stored import Stored
from fedloom.runtime.stopping import falls

_ORDER = ("auroc", "accuracy", "rmse", "r2", "log_loss")
MODELS = {"eval": "federated", "local": "local-only", "pooled": "pooled"}
"""The three models that are compared, by the phase of their figures."""


def main_figure(stored: Stored) -> str | None:
    """Return the name of the figure on test rows that the report leads with; None where no test row was evaluated."""
    names = {name.split("/")[1] for name in stored.summary.metrics if name.startswith("eval/")}
    return next((name for name in _ORDER if name in names), min(names, default=None))


def lower_is_better(name: str) -> bool:
    """Return whether less of a figure is better; the measures of a verdict are among those known.

    Example:
        >>> lower_is_better("squared_error"), lower_is_better("eval/auroc")
        (True, False)
    """
    return name in {"squared_error", "absolute_error"} or falls(name)


def better(name: str) -> str:
    """Return which way a figure is better, in words.

    Example:
        >>> better("auroc"), better("log_loss")
        ('higher is better', 'lower is better')
    """
    return "lower is better" if lower_is_better(name) else "higher is better"
