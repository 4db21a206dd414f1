"""Known figures, conventions, and what is refused."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from fedloom.core.events import (
    ComposedDpEvent,
    DiscreteGaussianDpEvent,
    DiscreteLaplaceDpEvent,
    DpEvent,
    GaussianDpEvent,
    LaplaceDpEvent,
    NonPrivateDpEvent,
    PoissonSampledDpEvent,
    SampledWithoutReplacementDpEvent,
    SelfComposedDpEvent,
    TruncatedPoissonSampledDpEvent,
)
from fedloom.errors import ComponentError, PlanError
from fedloom.privacy import loss_distributions
from fedloom.privacy.accountants import delta_of, epsilon, price_delta, price_epsilon, rdp_curve
from fedloom.privacy.guarantee import Guarantee, rounded_up
from fedloom.privacy.leaves import leaves

LEDGER = SelfComposedDpEvent(PoissonSampledDpEvent(0.01, GaussianDpEvent(4.0)), 10_000)
SMALL = SelfComposedDpEvent(PoissonSampledDpEvent(0.01, GaussianDpEvent(1.0)), 1000)
FIXED = SelfComposedDpEvent(SampledWithoutReplacementDpEvent(10_000, 100, GaussianDpEvent(1.0)), 1000)


def test_ten_thousand_steps_at_rate_one_hundredth_and_noise_four_cost_1_26_by_the_classic_conversion() -> None:
    found = epsilon(LEDGER, delta=1e-5, adjacency="add_remove", method="rdp", conversion="classic")
    assert round(found, 2) == 1.26


def test_figures_that_the_authors_of_another_accountant_print() -> None:
    # Koskela, Jälkö, Honkela 2019, arXiv:1906.03049: delta at epsilon 1, add/remove; epsilon at 1e-5, substitution.
    assert delta_of(LEDGER, epsilon=1.0, adjacency="add_remove", method="pld") == pytest.approx(4.2435e-6, rel=2e-3)
    assert epsilon(LEDGER, delta=1e-5, adjacency="replace_one", method="pld") == pytest.approx(1.99312, rel=1e-3)


def test_a_figure_that_an_fft_composition_by_other_hands_gave() -> None:
    event = SelfComposedDpEvent(PoissonSampledDpEvent(0.01, GaussianDpEvent(0.8)), 500)
    assert epsilon(event, delta=1e-5, adjacency="add_remove", method="pld") == pytest.approx(2.39944, rel=3e-5)


@pytest.mark.parametrize(("rate", "expected"), [(0.01, 0.199), (0.05, 1.033)])
def test_one_round_of_noise_as_large_as_the_clip(rate: float, expected: float) -> None:
    event = PoissonSampledDpEvent(rate, GaussianDpEvent(1.0))
    assert epsilon(event, delta=1e-5, adjacency="zero_out") == pytest.approx(expected, abs=5e-4)


def test_a_sample_of_fixed_size_is_never_priced_as_a_poisson_sample() -> None:
    assert epsilon(SMALL, delta=1e-5, adjacency="zero_out") == pytest.approx(1.82824, rel=1e-4)
    assert epsilon(SMALL, delta=1e-5, adjacency="replace_one") == pytest.approx(2.84, abs=5e-3)
    assert epsilon(FIXED, delta=1e-5, adjacency="replace_one") == pytest.approx(20.99, abs=5e-3)
    for adjacency in ("zero_out", "add_remove"):
        with pytest.raises(PlanError, match=r"under replace-one only[^$]*adjacency=\"replace_one\""):
            epsilon(FIXED, delta=1e-5, adjacency=adjacency)
    with pytest.raises(PlanError, match="no privacy loss distribution for a sample of fixed size"):
        epsilon(FIXED, delta=1e-5, adjacency="replace_one", method="pld")


def test_noise_is_stated_over_the_clip_in_every_accountant() -> None:
    event = SelfComposedDpEvent(GaussianDpEvent(2.0), 10)
    for method in ("pld", "best"):
        assert epsilon(event, delta=1e-5, adjacency="replace_one", method=method) == pytest.approx(17.8566, abs=1e-4)
    assert epsilon(event, delta=1e-5, adjacency="replace_one", method="rdp") > 17.8566
    assert epsilon(event, delta=1e-5, adjacency="zero_out", method="rdp") == pytest.approx(8.08, abs=5e-3)
    twice = replace(FIXED, event=SampledWithoutReplacementDpEvent(10_000, 100, GaussianDpEvent(2.0)))
    assert epsilon(twice, delta=1e-5, adjacency="replace_one") == pytest.approx(3.58, abs=5e-3)


def test_replace_one_costs_what_half_the_noise_costs_under_zero_out() -> None:
    for event, half in (
        (GaussianDpEvent(3.0), GaussianDpEvent(1.5)),
        (LaplaceDpEvent(3.0), LaplaceDpEvent(1.5)),
        (DiscreteLaplaceDpEvent(30.0, 10.0), DiscreteLaplaceDpEvent(15.0, 10.0)),
        (DiscreteGaussianDpEvent(300.0, 100.0, 50), DiscreteGaussianDpEvent(150.0, 100.0, 50)),
    ):
        assert epsilon(event, delta=1e-5, adjacency="replace_one") == pytest.approx(
            epsilon(half, delta=1e-5, adjacency="zero_out"), rel=1e-6
        )


def test_poisson_samples_have_no_renyi_figure_under_replace_one() -> None:
    with pytest.raises(PlanError, match=r"zero-out and add/remove only[^$]*method=\"pld\""):
        epsilon(SMALL, delta=1e-5, adjacency="replace_one", method="rdp")


@pytest.mark.parametrize("adjacency", ["zero_out", "replace_one"])
def test_at_delta_zero_laplace_noise_adds_up_and_gaussian_noise_costs_everything(adjacency: Any) -> None:
    reach = 2 if adjacency == "replace_one" else 1
    event = ComposedDpEvent((LaplaceDpEvent(4.0), SelfComposedDpEvent(DiscreteLaplaceDpEvent(100.0, 20.0), 3)))
    assert epsilon(event, delta=0.0, adjacency=adjacency) == pytest.approx(reach * (0.25 + 0.6))
    assert epsilon(ComposedDpEvent((event, GaussianDpEvent(9.0))), delta=0.0, adjacency=adjacency) == math.inf
    sampled = PoissonSampledDpEvent(0.1, LaplaceDpEvent(4.0))
    amplified = math.log(1 + 0.1 * (math.exp(reach / 4) - 1))
    assert epsilon(sampled, delta=0.0, adjacency=adjacency) == pytest.approx(amplified)
    assert price_epsilon(sampled, delta=0.0, adjacency=adjacency).way == "pure"
    assert delta_of(event, epsilon=reach * 0.85 + 1e-9, adjacency=adjacency) == 0.0


def test_at_a_positive_delta_laplace_noise_costs_at_most_its_sum() -> None:
    event = SelfComposedDpEvent(DiscreteLaplaceDpEvent(1000.0, 100.0), 50)
    assert epsilon(event, delta=1e-12, adjacency="zero_out") <= 5.0 + 1e-9
    assert epsilon(event, delta=1e-3, adjacency="zero_out") < 2.6


@pytest.mark.parametrize(
    "event",
    [
        NonPrivateDpEvent(),
        GaussianDpEvent(0.0),
        LaplaceDpEvent(0.0),
        DiscreteGaussianDpEvent(0.0, 10.0, 3),
        DiscreteLaplaceDpEvent(0.0, 10.0),
        ComposedDpEvent((GaussianDpEvent(5.0), NonPrivateDpEvent())),
        PoissonSampledDpEvent(0.01, ComposedDpEvent((GaussianDpEvent(5.0), GaussianDpEvent(0.0)))),
        SampledWithoutReplacementDpEvent(10, 2, NonPrivateDpEvent()),
    ],
    ids=str,
)
@pytest.mark.parametrize("method", ["best", "pld", "rdp", "gaussian_limit"])
def test_a_release_without_protection_costs_everything(event: DpEvent, method: Any) -> None:
    assert epsilon(event, delta=1e-5, adjacency="zero_out", method=method) == math.inf
    assert price_delta(event, epsilon=100.0, adjacency="zero_out", method=method).value == 1.0


def test_nothing_costs_nothing() -> None:
    for event in (ComposedDpEvent(()), SelfComposedDpEvent(GaussianDpEvent(1.0), 0)):
        for method in ("best", "pld", "rdp"):
            assert epsilon(event, delta=1e-5, adjacency="zero_out", method=method) == 0.0
        assert epsilon(event, delta=0.0, adjacency="zero_out") == 0.0


def test_a_bound_of_zero_costs_nothing() -> None:
    for event in (DiscreteLaplaceDpEvent(1.0, 0.0), DiscreteGaussianDpEvent(1.0, 0.0, 3)):
        assert epsilon(PoissonSampledDpEvent(0.1, event), delta=0.0, adjacency="zero_out") == 0.0
        assert epsilon(event, delta=1e-5, adjacency="replace_one", method="rdp") == 0.0


@pytest.mark.parametrize("event", [DiscreteLaplaceDpEvent(1.0, 1e6), LaplaceDpEvent(1e-6)], ids=str)
def test_laplace_noise_far_too_small_costs_its_sum(event: DpEvent) -> None:
    price = price_epsilon(event, delta=1e-5, adjacency="zero_out")
    assert price.way == "pure"
    assert price.value == pytest.approx(1e6)
    with pytest.raises(PlanError, match="no grid of losses"):
        epsilon(event, delta=1e-5, adjacency="zero_out", method="pld")


def test_equal_rounds_are_one_leaf_however_they_are_written() -> None:
    one = PoissonSampledDpEvent(0.1, GaussianDpEvent(2.0))
    listed = ComposedDpEvent((one,) * 60 + (SelfComposedDpEvent(ComposedDpEvent((one, one)), 20),))
    assert leaves(listed) == {one: 100}
    assert epsilon(listed, delta=1e-5, adjacency="zero_out") == epsilon(
        SelfComposedDpEvent(one, 100), delta=1e-5, adjacency="zero_out"
    )


def test_ten_thousand_equal_rounds_build_one_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    built = []
    original = loss_distributions._leaf_pld.__wrapped__

    def counting(*arguments: Any) -> Any:
        built.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(loss_distributions, "_leaf_pld", counting)
    one = PoissonSampledDpEvent(0.0123, GaussianDpEvent(4.0))
    epsilon(ComposedDpEvent((one,) * 10_000), delta=1e-5, adjacency="zero_out", method="pld")
    assert len(built) == 1
    epsilon(ComposedDpEvent((one,) * 10_000), delta=1e-6, adjacency="zero_out", method="pld")
    assert len(built) == 1  # the composed one is kept


def test_a_sample_of_everybody_is_no_sample() -> None:
    plain = {GaussianDpEvent(2.0): 1}
    assert leaves(PoissonSampledDpEvent(1.0, GaussianDpEvent(2.0))) == plain
    assert leaves(SampledWithoutReplacementDpEvent(50, 50, GaussianDpEvent(2.0))) == plain
    uncut = TruncatedPoissonSampledDpEvent(0.2, 50, 50, GaussianDpEvent(2.0))
    assert leaves(uncut) == {PoissonSampledDpEvent(0.2, GaussianDpEvent(2.0)): 1}


def test_integer_noise_has_a_proven_figure_and_a_limit_that_says_so() -> None:
    event = SelfComposedDpEvent(PoissonSampledDpEvent(0.01, DiscreteGaussianDpEvent(1000.0, 1000.0, 10**6)), 1000)
    proven = price_epsilon(event, delta=1e-5, adjacency="zero_out")
    limit = price_epsilon(event, delta=1e-5, adjacency="zero_out", method="gaussian_limit")
    assert proven.way == "rdp"
    assert proven.value > limit.value
    assert (limit.way, limit.value) == (
        "gaussian_limit",
        epsilon(SMALL, delta=1e-5, adjacency="zero_out", method="pld"),
    )
    with pytest.raises(PlanError, match="no privacy loss distribution is proven for integer noise"):
        epsilon(event, delta=1e-5, adjacency="zero_out", method="pld")
    coarse = DiscreteGaussianDpEvent(255.0, 100.0, 10**6)
    with pytest.raises(PlanError, match="at least 256 grid steps per draw"):
        epsilon(coarse, delta=1e-5, adjacency="zero_out", method="gaussian_limit")
    assert not Guarantee(epsilon=1.0, delta=1e-5, unit="client", adjacency="zero_out", method="gaussian_limit").proven


def test_integer_noise_on_a_sample_of_fixed_size_costs_at_least_what_gaussian_noise_costs() -> None:
    integer = SampledWithoutReplacementDpEvent(10_000, 100, DiscreteGaussianDpEvent(2000.0, 1000.0, 10**6))
    gaussian = SampledWithoutReplacementDpEvent(10_000, 100, GaussianDpEvent(2.0))
    orders = (2, 3, 5, 8, 13)
    for more, less in zip(
        rdp_curve(integer, adjacency="replace_one", orders=orders),
        rdp_curve(gaussian, adjacency="replace_one", orders=orders),
        strict=True,
    ):
        assert less * (1 - 1e-9) <= more < 40 * less


def test_samples_of_integer_noise_are_bounded_at_whole_orders_only() -> None:
    event = PoissonSampledDpEvent(0.1, DiscreteGaussianDpEvent(100.0, 100.0, 5))
    with pytest.raises(PlanError, match=r"whole orders only; order 2\.5"):
        rdp_curve(event, adjacency="zero_out", orders=(2, 2.5))


def test_a_cap_far_above_the_cohort_costs_next_to_nothing_for_integer_noise_too() -> None:
    integer = DiscreteGaussianDpEvent(1000.0, 1000.0, 10**6)
    poisson = SelfComposedDpEvent(PoissonSampledDpEvent(0.1, integer), 50)
    free = epsilon(poisson, delta=1e-5, adjacency="zero_out")
    capped, cut = (
        epsilon(
            SelfComposedDpEvent(TruncatedPoissonSampledDpEvent(0.1, 1000, most, integer), 50),
            delta=1e-5,
            adjacency="zero_out",
        )
        for most in (170, 100)
    )
    assert free <= capped < 1.01 * free < cut
    unsampled = epsilon(SelfComposedDpEvent(integer, 50), delta=1e-5, adjacency="zero_out")
    assert cut < unsampled


def test_truncated_samples_of_integer_noise_have_no_figure_under_replace_one() -> None:
    event = TruncatedPoissonSampledDpEvent(0.1, 100, 20, DiscreteGaussianDpEvent(20.0, 10.0, 3))
    with pytest.raises(PlanError, match="truncated Poisson sample are known for zero-out"):
        epsilon(event, delta=1e-5, adjacency="replace_one")


def test_a_sample_inside_a_sample_is_refused() -> None:
    inner = PoissonSampledDpEvent(0.5, GaussianDpEvent(1.0))
    with pytest.raises(PlanError, match="a sample inside a sample"):
        epsilon(PoissonSampledDpEvent(0.1, inner), delta=1e-5, adjacency="zero_out")


def test_more_noise_lower_rates_and_fewer_rounds_cost_less() -> None:
    def cost(rate: float, noise: float, rounds: int) -> float:
        event = SelfComposedDpEvent(PoissonSampledDpEvent(rate, GaussianDpEvent(noise)), rounds)
        return epsilon(event, delta=1e-5, adjacency="zero_out")

    base = cost(0.05, 2.0, 100)
    assert cost(0.05, 2.2, 100) < base
    assert cost(0.04, 2.0, 100) < base
    assert cost(0.05, 2.0, 90) < base


@pytest.mark.parametrize("delta", [-1e-9, 1.0, 2.0, math.nan, math.inf])
def test_a_delta_out_of_range_is_refused(delta: float) -> None:
    with pytest.raises(ComponentError, match="delta="):
        epsilon(GaussianDpEvent(1.0), delta=delta, adjacency="zero_out")


@pytest.mark.parametrize("target", [-0.1, math.nan, math.inf])
def test_an_epsilon_out_of_range_is_refused(target: float) -> None:
    with pytest.raises(ComponentError, match="epsilon="):
        delta_of(GaussianDpEvent(1.0), epsilon=target, adjacency="zero_out")


@pytest.mark.parametrize(
    "event",
    [
        GaussianDpEvent(-1.0),
        GaussianDpEvent(math.nan),
        GaussianDpEvent(math.inf),
        LaplaceDpEvent(-0.5),
        DiscreteGaussianDpEvent(-1.0, 1.0, 1),
        DiscreteGaussianDpEvent(1.0, math.nan, 1),
        DiscreteGaussianDpEvent(1.0, 1.0, 0),
        DiscreteGaussianDpEvent(1.0, 1.0, 1, 0),
        DiscreteLaplaceDpEvent(1.0, -1.0),
        PoissonSampledDpEvent(0.0, GaussianDpEvent(1.0)),
        PoissonSampledDpEvent(1.1, GaussianDpEvent(1.0)),
        PoissonSampledDpEvent(math.nan, GaussianDpEvent(1.0)),
        TruncatedPoissonSampledDpEvent(0.1, 100, 0, GaussianDpEvent(1.0)),
        TruncatedPoissonSampledDpEvent(-0.1, 100, 5, GaussianDpEvent(1.0)),
        SampledWithoutReplacementDpEvent(100, 0, GaussianDpEvent(1.0)),
        SampledWithoutReplacementDpEvent(100, 101, GaussianDpEvent(1.0)),
        SelfComposedDpEvent(GaussianDpEvent(1.0), -1),
    ],
    ids=str,
)
def test_an_event_with_a_number_out_of_range_is_refused(event: DpEvent) -> None:
    with pytest.raises(ComponentError, match=r"expected|more than the population"):
        epsilon(event, delta=1e-5, adjacency="zero_out")


def test_sums_of_very_coarse_integer_noise_are_refused() -> None:
    with pytest.raises(PlanError, match=r"from sigma 0.5 of a draw"):
        epsilon(DiscreteGaussianDpEvent(0.4, 0.1, 1, 2), delta=1e-5, adjacency="zero_out")


def test_figures_in_words_are_rounded_up() -> None:
    assert rounded_up(1.0) == 1.0
    assert rounded_up(0.00123401) == pytest.approx(0.001235)
    assert rounded_up(20.9871) == pytest.approx(20.99)
    assert rounded_up(math.inf) == math.inf


def test_the_accountants_load_dp_accounting_only_when_they_need_it() -> None:
    code = (
        "import sys; from fedloom.privacy import calibrate, readers; from fedloom.core.events import *; "
        "readers.guarantee(GaussianDpEvent(1.0), delta=1e-5, unit='client', adjacency='zero_out'); "
        "sys.exit('dp_accounting' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
