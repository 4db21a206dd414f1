"""Stop conditions: pure functions of the list of records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fedloom.core.component import ComponentSpec, component
from fedloom.errors import ComponentError
from fedloom.runtime.record import RoundRecord, series


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """Decides after each round whether the run ends; ``holds`` returns the reason, or None.

    ``metrics`` are the names it reads: checked when the plan is built. ``rounds`` is the bound it sets, if any.
    """

    name: str
    holds: Callable[[Sequence[RoundRecord]], str | None]
    metrics: tuple[str, ...] = ()
    rounds: int | None = None
    spec: ComponentSpec | None = None


@component("fedloom.stops")
def max_rounds(rounds: int) -> Stop:
    """Stop after a number of rounds.

    Example:
        >>> max_rounds(3).holds([]) is None
        True
    """
    if rounds < 1:
        raise ComponentError(f"max_rounds(rounds={rounds}): expected 1 or more")

    def holds(records: Sequence[RoundRecord]) -> str | None:
        return f"{rounds} rounds done" if _rounds_done(records) >= rounds else None

    return Stop(name="max_rounds", holds=holds, rounds=rounds)


@component("fedloom.stops")
def target(metric: str, *, at_least: float | None = None, at_most: float | None = None) -> Stop:
    """Stop when a metric of training or validation rows reaches a value.

    Args:
        metric: Such as ``validation/auroc`` or ``train/objective``; test rows never decide.
        at_least: Reached from below.
        at_most: Reached from above. Exactly one of the two is given.
    """
    _refuse_test(metric)
    if (at_least is None) == (at_most is None):
        raise ComponentError(f"target({metric!r}): give exactly one of at_least and at_most")

    def holds(records: Sequence[RoundRecord]) -> str | None:
        values = series(records, metric)
        if not values:
            return None
        value = values[-1][1]
        reached = value >= at_least if at_least is not None else at_most is not None and value <= at_most
        return f"{metric} = {value:.6g} reached its target" if reached else None

    return Stop(name="target", holds=holds, metrics=(metric,))


@component("fedloom.stops")
def patience(metric: str, *, rounds: int, minimise: bool | None = None, min_delta: float = 0.0) -> Stop:
    """Stop when a metric has not improved for a number of rounds.

    Args:
        metric: Such as ``validation/log_loss``; test rows never decide.
        rounds: Rounds without improvement that are waited for.
        minimise: True where less is better; None: told by the name (losses, errors and objectives fall).
        min_delta: What counts as improvement.
    """
    _refuse_test(metric)
    if rounds < 1 or not min_delta >= 0:
        raise ComponentError(f"patience(rounds={rounds}, min_delta={min_delta}): expected 1 or more, and 0 or more")
    sign = -1.0 if (falls(metric) if minimise is None else minimise) else 1.0

    def holds(records: Sequence[RoundRecord]) -> str | None:
        best, best_round = float("-inf"), 0
        for number, value in series(records, metric):
            if sign * value > best + min_delta:
                best, best_round = sign * value, number
        waited = _rounds_done(records) - best_round
        return f"{metric} did not improve for {waited} rounds" if best_round and waited >= rounds else None

    return Stop(name="patience", holds=holds, metrics=(metric,))


@component("fedloom.stops")
def any_of(*stops: Stop) -> Stop:
    """Stop when any of several conditions holds.

    Example:
        >>> any_of(max_rounds(5), max_rounds(3)).rounds
        3
    """
    if not stops:
        raise ComponentError("any_of(): give at least one stop")

    def holds(records: Sequence[RoundRecord]) -> str | None:
        return next((reason for stop in stops if (reason := stop.holds(records)) is not None), None)

    bounds = [stop.rounds for stop in stops if stop.rounds is not None]
    metrics = tuple(metric for stop in stops for metric in stop.metrics)
    return Stop(name="any_of", holds=holds, metrics=metrics, rounds=min(bounds, default=None))


def falls(metric: str) -> bool:
    """Return whether less of a metric is better, by its name.

    Example:
        >>> falls("eval/log_loss"), falls("eval/auroc")
        (True, False)
    """
    return metric.split("/")[1 if "/" in metric else 0] in {"loss", "log_loss", "objective", "brier", "rmse"}


def _rounds_done(records: Sequence[RoundRecord]) -> int:
    return next((r.round for r in reversed(records) if r.status != "retried"), 0)


def _refuse_test(metric: str) -> None:
    if "/" not in metric or metric.startswith("eval/"):
        raise ComponentError(
            f"metric = {metric!r}: a stop reads 'validation/...', 'train/...' or 'fit/...'; test rows never decide. "
            "Set data.validation above 0 and use the validation metric"
        )
