from __future__ import annotations

import math

import pytest

from fedloom.core.events import (
    ComposedDpEvent,
    DiscreteGaussianDpEvent,
    DpEvent,
    GaussianDpEvent,
    LaplaceDpEvent,
    NonPrivateDpEvent,
    PoissonSampledDpEvent,
    SampledWithoutReplacementDpEvent,
    SelfComposedDpEvent,
    TruncatedPoissonSampledDpEvent,
)
from fedloom.privacy.guarantee import Adjacency, Unit
from fedloom.privacy.readers import TwoFigures, against_models, against_participation, guarantee
from fedloom.privacy.rewrites import unamplified

ROUND = PoissonSampledDpEvent(0.05, GaussianDpEvent(1.0))


def two_figures(
    event: DpEvent, rounds: int, *, unit: Unit, adjacency: Adjacency, most_rounds: int | None = None
) -> TwoFigures:
    known, taken = unamplified(event), rounds if most_rounds is None else most_rounds
    return TwoFigures(
        models=against_models(event, rounds, delta=1e-5, unit=unit, adjacency=adjacency),
        participation=against_participation(known, taken, delta=1e-5, unit=unit, adjacency=adjacency),
    )


def test_sampling_helps_only_against_one_who_does_not_know_the_cohorts() -> None:
    figures = two_figures(ROUND, 1, unit="client", adjacency="zero_out")
    assert figures.models.epsilon == pytest.approx(1.033, abs=5e-4)
    assert figures.participation.epsilon == pytest.approx(4.37718, abs=1e-5)
    assert "reader of the models" in figures.models.words
    assert "holder of participation data" in figures.participation.words


def test_a_bound_on_rounds_per_unit_lowers_the_figure_against_holders_of_participation_data(
    independent: object,
) -> None:
    figures = two_figures(ROUND, 100, unit="record", adjacency="zero_out", most_rounds=9)
    exact = independent.analytic_epsilon(3.0, 1e-5)  # type: ignore[attr-defined]
    assert figures.participation.epsilon == pytest.approx(exact, rel=1e-9)
    worst = two_figures(ROUND, 100, unit="record", adjacency="zero_out")
    assert worst.participation.epsilon > figures.participation.epsilon
    assert worst.models == figures.models


def test_a_list_of_participants_tells_who_is_a_member_so_add_remove_becomes_zero_out() -> None:
    figures = two_figures(ROUND, 3, unit="client", adjacency="add_remove")
    assert (figures.models.adjacency, figures.participation.adjacency) == ("add_remove", "zero_out")
    replaced = two_figures(ROUND, 3, unit="client", adjacency="replace_one")
    assert replaced.participation.adjacency == "replace_one"
    assert replaced.participation.epsilon > figures.participation.epsilon


def test_rounds_without_sampling_cost_the_same_against_both() -> None:
    event = DiscreteGaussianDpEvent(400.0, 100.0, 1000)
    figures = two_figures(event, 7, unit="client", adjacency="zero_out")
    assert figures.models.epsilon == figures.participation.epsilon
    assert figures.models.method == "rdp"


def test_what_has_no_protection_costs_everything_against_both() -> None:
    event = ComposedDpEvent((ROUND, NonPrivateDpEvent()))
    figures = two_figures(event, 2, unit="client", adjacency="zero_out")
    assert figures.models.epsilon == figures.participation.epsilon == math.inf
    assert "infinite" in figures.models.words


def test_samples_are_taken_off_wherever_they_are() -> None:
    noise = LaplaceDpEvent(2.0)
    for sampled in (
        PoissonSampledDpEvent(0.1, noise),
        TruncatedPoissonSampledDpEvent(0.1, 100, 20, noise),
        SampledWithoutReplacementDpEvent(100, 10, noise),
    ):
        assert unamplified(SelfComposedDpEvent(ComposedDpEvent((sampled, noise)), 3)) == SelfComposedDpEvent(
            ComposedDpEvent((noise, noise)), 3
        )


def test_a_guarantee_names_its_unit_and_neighbours() -> None:
    found = guarantee(GaussianDpEvent(2.0), delta=1e-5, unit="record", adjacency="replace_one")
    assert found.proven
    assert found.words == (
        "epsilon 4.378 at delta 1e-05 against a reader of all releases: one record, replaced by any other "
        "(closed form of Gaussian noise)"
    )
