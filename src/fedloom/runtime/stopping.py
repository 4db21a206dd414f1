"""Stop conditions: pure functions of the list of records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf, isfinite

from fedloom.core.component import ComponentSpec, component
from fedloom.errors import ComponentError
from fedloom.runtime.record import RoundRecord, series

STEP_NORM = "step/norm"
"""The metric of every training round: the L2 norm of the change of the published parameters."""
_DIVERGED = "diverged"


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
def wall_clock(seconds: float) -> Stop:
    """Stop after the round in which training has taken a time, by the engine's clock.

    The seconds of all training rounds are added, with their evaluations and repetitions. They stand in the records, so
    a resumed run goes on counting; time between two executions is not counted. Two runs may stop after different
    rounds: the bytes of the rounds that both have are the same.

    Example:
        >>> wall_clock(3600).rounds is None
        True
    """
    if not 0 < seconds < inf:
        raise ComponentError(f"wall_clock(seconds={seconds}): expected a finite number above 0")

    def holds(records: Sequence[RoundRecord]) -> str | None:
        taken = sum(record.seconds for record in records)
        return f"{taken:.1f} of {seconds:g} seconds used" if taken >= seconds else None

    return Stop(name="wall_clock", holds=holds)


@component("fedloom.stops")
def small_update(norm: float, *, rounds: int = 1) -> Stop:
    """Stop when the model has moved little for a number of closed rounds in a row.

    Args:
        norm: L2 norm of the change of the published parameters in a round, ``step/norm`` in the record, that is small.
            With a cohort that is a sample, a small step may be chance: let ``rounds`` be more.
        rounds: Closed rounds in a row.

    Example:
        >>> small_update(1e-6, rounds=3).metrics
        ('step/norm',)
    """
    if not 0 <= norm < inf or rounds < 1:
        raise ComponentError(f"small_update(norm={norm}, rounds={rounds}): expected 0 or more, and 1 or more")

    def holds(records: Sequence[RoundRecord]) -> str | None:
        last = [value for _, value in series(records, STEP_NORM)][-rounds:]
        if len(last) < rounds or max(last) > norm:
            return None
        when = "the last round" if rounds == 1 else f"each of the last {rounds} rounds"
        return f"the model moved by {max(last):.3g} or less in {when}"

    return Stop(name="small_update", holds=holds, metrics=(STEP_NORM,))


@component("fedloom.stops")
def divergence(metric: str = "train/loss", *, factor: float = 10.0, evaluations: int = 2) -> Stop:
    """Stop when a loss has run away: far above its best value, or without a finite value for some evaluations.

    The reason of such an end begins with "diverged", and ``has_diverged`` tells it from one that was wished for.

    Args:
        metric: A figure that is 0 or more and falls when training succeeds, such as ``validation/log_loss``.
        factor: How many times the best value so far is too much, above 1.
        evaluations: Evaluations in a row without a finite value.

    Example:
        >>> divergence(factor=3.0).metrics
        ('train/loss',)
    """
    _refuse_test(metric)
    if not falls(metric):
        raise ComponentError(f"divergence: metric = {metric!r}; expected a loss or an error, of which less is better")
    if not 1 < factor < inf or evaluations < 1:
        raise ComponentError(
            f"divergence(factor={factor}, evaluations={evaluations}): expected a number above 1, and 1 or more"
        )

    def holds(records: Sequence[RoundRecord]) -> str | None:
        seen = [r.metrics[metric] for r in records if r.status == "closed" and metric in r.metrics]
        finite = [value if value is not None and isfinite(value) else None for value in seen]
        if len(finite) >= evaluations and not any(value is not None for value in finite[-evaluations:]):
            return f"{_DIVERGED}: {metric} had no finite value in {evaluations} evaluations"
        known = [value for value in finite if value is not None]
        if known and finite[-1] is not None and known[-1] > factor * min(known):
            return f"{_DIVERGED}: {metric} = {known[-1]:.6g} is above {factor:g} times its best, {min(known):.6g}"
        return None

    return Stop(name="divergence", holds=holds, metrics=(metric,))


@component("fedloom.stops")
def all_of(*stops: Stop) -> Stop:
    """Stop when all of several conditions hold after the same round.

    Example:
        >>> all_of(max_rounds(5), max_rounds(3)).rounds, all_of(max_rounds(5), small_update(1e-3)).rounds
        (5, None)
    """
    if not stops:
        raise ComponentError("all_of(): give at least one stop")

    def holds(records: Sequence[RoundRecord]) -> str | None:
        reasons = [stop.holds(records) for stop in stops]
        held = [reason for reason in reasons if reason is not None]
        return " and ".join(held) if len(held) == len(stops) else None

    bounds = [stop.rounds for stop in stops if stop.rounds is not None]
    metrics = tuple(metric for stop in stops for metric in stop.metrics)
    return Stop(name="all_of", holds=holds, metrics=metrics, rounds=max(bounds) if len(bounds) == len(stops) else None)


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


def has_diverged(reason: str) -> bool:
    """Return whether a run ended because its training ran away.

    Example:
        >>> has_diverged("30 rounds done"), has_diverged("diverged: train/loss had no finite value in 2 evaluations")
        (False, True)
    """
    return _DIVERGED + ":" in reason


_FALLING = frozenset({"loss", "log_loss", "objective", "brier", "rmse", "calibration_error", "norm"})


def falls(metric: str) -> bool:
    """Return whether less of a metric is better, by its name.

    Example:
        >>> falls("eval/log_loss"), falls("eval/auroc")
        (True, False)
    """
    return metric.split("/")[1 if "/" in metric else 0] in _FALLING


def _rounds_done(records: Sequence[RoundRecord]) -> int:
    return next((r.round for r in reversed(records) if r.status != "retried"), 0)


def _refuse_test(metric: str) -> None:
    if "/" not in metric or metric.startswith("eval/"):
        raise ComponentError(
            f"metric = {metric!r}: a stop reads 'validation/...', 'train/...', 'fit/...' or 'step/norm'; test rows "
            "never decide. Set data.validation above 0 and use the validation metric"
        )
