"""The audit of the aggregation layer: right layers pass, each known mistake is found, and it plays the real code.

A right layer is rejected with probability 2e-4 for each canary at most; keys are fixed, so nothing here flickers. The
figures for a hundred audits of each kind are those of ``benchmarks/privacy/audit.py``.
"""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from fedloom.core.events import DiscreteGaussianDpEvent
from fedloom.core.keys import Key, SecretKey
from fedloom.core.params import Vector
from fedloom.core.wire import WireType
from fedloom.entropy import derived_secret, discrete_gaussian, fresh_secret
from fedloom.errors import ComponentError, Error, PlanError
from fedloom.pipeline import chain, clip, fixed_point, mean
from fedloom.privacy import audit_layer as audits
from fedloom.privacy.adaptive import adaptive_gaussian
from fedloom.privacy.audit_layer import audit_layer, layer_of, shortened
from fedloom.privacy.canary_runs import CANARIES, WITHIN, Canary, Layer, played
from fedloom.privacy.mechanisms import gaussian
from fedloom.privacy.shared_records import shared_gaussian
from fedloom.runtime.coordinator import noise_secret

RIGHT = (
    "gaussian", "gaussian on integers", "gaussian, rotated, on integers", "laplace", "laplace on integers",
    "adaptive_gaussian",
)  # fmt: skip
QUICK = ("gaussian", "gaussian on integers", "laplace", "adaptive_gaussian")
BROKEN = (
    "a third of the noise", "a third of the integer noise", "noise before the clip", "noise before a clip of the sum",
    "no clip", "an intercept without noise", "an intercept without clip", "a weight behind the clip",
    "the same noise in both rounds", "a zero update divided by its norm",
)  # fmt: skip
FEW, FULL = 300, 5000
ROOT = Key.from_seed(2)


def found(layer: Layer, releases: int) -> bool:
    """Return whether an audit rejects; it stops at the first canary that does."""
    claim = audits.claim_of_layer(layer, releases=releases)
    return any(each.verdict.rejected for each in audits.findings(layer, claim, delta=1e-5, releases=releases))


def test_all_layers_are_tested(broken_layers: ModuleType) -> None:
    assert tuple(broken_layers.RIGHT) == RIGHT
    assert tuple(broken_layers.BROKEN) == BROKEN


@pytest.mark.parametrize("name", QUICK)
def test_a_right_layer_is_not_rejected(name: str, broken_layers: ModuleType) -> None:
    assert not found(broken_layers.RIGHT[name](1, 1.0), FEW)


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_layer_is_rejected(name: str, broken_layers: ModuleType) -> None:
    assert found(broken_layers.BROKEN[name](1, 1.0), FEW)


@pytest.mark.slow
@pytest.mark.parametrize("name", RIGHT)
def test_a_right_layer_is_not_rejected_by_a_full_audit(name: str, broken_layers: ModuleType) -> None:
    assert not found(broken_layers.RIGHT[name](2, 2.0), FULL)


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.5, 5.0])
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_layer_is_rejected_by_a_full_audit(name: str, noise: float, broken_layers: ModuleType) -> None:
    assert found(broken_layers.BROKEN[name](2, noise), FULL)


@pytest.mark.parametrize(
    ("name", "shows"),
    [
        ("no clip", {Canary(1000.0, "intercept"), Canary(1000.0, "coordinate")}),
        ("an intercept without clip", {Canary(1000.0, "intercept")}),
        ("an intercept without noise", {Canary(1000.0, "intercept"), Canary(1.0, "intercept")}),
        ("a weight behind the clip", {Canary(1000.0, "intercept"), Canary(1000.0, "coordinate")}),
        ("a zero update divided by its norm", {Canary(0.0, "coordinate")}),
    ],
)
def test_the_canaries_tell_what_is_wrong(name: str, shows: set[Canary], broken_layers: ModuleType) -> None:
    audit = audit_layer(broken_layers.BROKEN[name](1, 1.0), delta=1e-5, releases=FEW)
    assert {finding.canary for finding in audit.findings if finding.verdict.rejected} == shows


def test_noise_used_twice_shows_in_the_difference_alone(broken_layers: ModuleType) -> None:
    layer: Layer = broken_layers.BROKEN["the same noise in both rounds"](1, 1.0)
    claim = audits.claim_of_layer(layer, releases=FEW)
    first = next(audits.findings(layer, claim, delta=1e-5, releases=FEW))
    columns = 2 * (layer.pipeline.sent.dim or 0)  # of one round: the sum, and its decoding
    assert all(each.cut.statistic >= 2 * columns for each in first.verdict.counted)


def bound(*stages: Any, dim: int = 4) -> Any:
    wire = WireType(dim=dim + 1, dtype="float64", weight=True, max_weight=1.0, most_clients=10)
    return chain(mean(expected=4.0), *stages).bind(wire)


def layer(pipeline: Any, **fields: Any) -> Layer:
    return Layer(pipeline=pipeline, clip=2.0, secret=derived_secret(ROOT), public=ROOT, **fields)


def test_what_is_judged_is_what_the_pipeline_releases_and_decodes() -> None:
    silent = replace(gaussian(2.0, 1.0), release=None)
    kept, refused = played(layer(bound(silent)), Canary(1000.0, "intercept"), 3)
    dropped, _ = played(layer(bound(silent)), None, 3)
    # Both rounds and their difference, each the sum of what was clipped to 1, then its mean over 4 clients in units.
    expected = np.array([[0, 0, 0, 1, 0, 0, 0, 0.5], [0, 0, 0, -1, 0, 0, 0, -0.5], [0, 0, 0, 2, 0, 0, 0, 1]]).ravel()
    assert refused == 0
    np.testing.assert_allclose(kept - dropped, np.tile(expected, (3, 1)), atol=1e-12)


def test_what_stages_and_clients_keep_goes_into_the_second_round() -> None:
    """A stage whose public number doubles and whose clients count their rounds."""

    def encode(_wire: Any, values: Vector, setting: Vector, memory: Vector, _keys: Any) -> tuple[Vector, Vector]:
        return values * 0 + setting[0] * (1 + memory), memory + 1

    right: Any = gaussian(2.0, 1.0)
    counting = replace(
        right,
        encode=encode,
        release=None,
        client_init=lambda _wire: np.zeros(1),
        init=lambda _wire: np.ones(1),
        setting=lambda state: state,
        decode=lambda _wire, total, state, _info: (total, 2 * state),
    )
    kept, _ = played(layer(bound(counting)), CANARIES[0], 2)
    assert kept[:, [0, 8]].tolist() == [[3, 12], [3, 12]]
    dropped, _ = played(layer(bound(counting)), None, 2)
    assert dropped[:, [0, 8]].tolist() == [[2, 8], [2, 8]]


def test_runs_whose_clips_have_moved_apart_are_encoded_with_their_own() -> None:
    """Without noise on the sum, the clip of round 2 is told by round 1, run by run."""

    def release(total: Vector, _last: WireType, secret: SecretKey) -> Vector:
        moved = total.copy()
        moved[-1] += 2.0 * int(secret.random_raw(1)[0] % 2)  # half of the runs: everybody was within the clip
        return moved

    stage = replace(adaptive_gaussian(2.0, 1.0, bit_noise=5.0, rate=1.0), release=release)
    seen, _ = played(layer(bound(stage)), Canary(1000.0, "intercept"), 40)
    first, second = seen[:, :5], seen[:, 9:14]
    assert len(np.unique(np.round(first[:, 0], 6))) == 1
    assert len(np.unique(np.round(second[:, 0], 6))) == 2


def test_every_run_and_every_round_has_noise_of_its_own() -> None:
    seen, _ = played(layer(bound(gaussian(2.0, 1.0))), None, 50)
    both = np.concatenate([seen[:, :4], seen[:, 8:12]])
    assert len(np.unique(both)) == both.size
    again, _ = played(layer(bound(gaussian(2.0, 1.0))), None, 50)
    assert (seen == again).all()


def test_an_audit_of_another_seed_has_other_releases_and_the_same_verdict(broken_layers: ModuleType) -> None:
    audit, other = (audit_layer(broken_layers.RIGHT["gaussian"](s, 1.0), delta=1e-5, releases=FEW) for s in (3, 4))
    assert audit.findings != other.findings
    assert not audit.rejected
    assert not other.rejected


def test_a_layer_is_audited_on_a_short_vector_of_the_same_pipeline() -> None:
    whole = bound(gaussian(2.0, 1.5), fixed_point(), dim=10_000)
    short = shortened(whole)
    assert short.sent.dim == 4
    assert short.stages == whole.stages
    assert isinstance(short.event(), DiscreteGaussianDpEvent)
    assert short.event() != whole.event()


def test_the_claim_is_of_both_rounds_and_of_no_cohort() -> None:
    audit = audit_layer(layer(bound(gaussian(2.0, 1.0))), delta=1e-5, releases=100)
    assert audit.epsilon == pytest.approx(6.5725, rel=1e-3)  # mu = sqrt(2), by the closed form
    assert audit.false_alarm == pytest.approx(1e-3)
    assert audit.as_json()["claimed_epsilon"] == audit.epsilon


def test_an_update_that_the_encoder_refuses_is_a_lost_client() -> None:
    no_clip = replace(gaussian(2.0, 1.0), encode=lambda _w, values, _s, memory, _k: (values / 2.0, memory))
    audit = audit_layer(layer(bound(no_clip, fixed_point())), delta=1e-5, releases=100)
    assert [finding.refused for finding in audit.findings] == [200, 200, 0, 0, 0]
    assert not audit.rejected


def test_the_noise_of_a_run_is_audited_below_the_coordinators_path() -> None:
    secret = derived_secret(ROOT)
    paths = [(phase, number, retry) for phase in (0, 1) for number in (1, 2) for retry in (0, 1)]
    words = {
        int(noise_secret(secret, phase=phase, round_number=number, retry=retry).random_raw(1)[0])
        for phase, number, retry in paths
    }
    assert len(words) == len(paths)
    named = layer(
        bound(gaussian(2.0, 1.0)),
        noise_secret=lambda run, number: noise_secret(run, phase=0, round_number=number, retry=0),
    )
    assert not found(named, FEW)


def test_integer_noise_may_come_from_this_machines_entropy_and_float_noise_may_not() -> None:
    whole = replace(layer(bound(gaussian(2.0, 1.0), fixed_point())), secret=fresh_secret())
    assert not audit_layer(whole, delta=1e-5, releases=100).rejected
    with pytest.raises(Error, match="float noise is for simulation"):
        audit_layer(replace(layer(bound(gaussian(2.0, 1.0))), secret=fresh_secret()), delta=1e-5, releases=100)


def planned(pipeline: Any) -> Layer:
    return layer_of(pipeline, secret=derived_secret(ROOT), public=ROOT, expected_clients=4.0)


def test_the_layer_of_an_experiment_has_the_clip_of_its_noise() -> None:
    made = planned(bound(gaussian(0.25, 1.0), dim=100))
    assert (made.clip, made.canaries, made.pipeline.sent.dim) == (0.25, CANARIES, 4)


def test_a_pipeline_without_noise_has_nothing_to_audit() -> None:
    with pytest.raises(PlanError, match="makes no claim to audit"):
        planned(bound(clip(1.0)))


def test_noise_of_an_unknown_bound_is_not_guessed_at() -> None:
    with pytest.raises(PlanError, match="does not tell the bound"):
        planned(bound(replace(gaussian(1.0, 1.0), spec=None)))


@pytest.mark.parametrize("divisor", [1, 3])
def test_noise_for_single_rows_is_audited_within_the_bound_of_one(divisor: int) -> None:
    right = shared_gaussian(1.0)

    def release(total: Vector, last: WireType, secret: SecretKey) -> Vector:
        event = right.event(last)
        assert isinstance(event, DiscreteGaussianDpEvent)
        assert event.draws == 1
        noise = discrete_gaussian(secret, round(event.sigma / divisor) ** 2, total.size)
        noised: Vector = total + noise.astype(total.dtype)
        return noised

    wire = WireType(dim=20, dtype="float64", weight=False, weighted=True, record=0.01, most_clients=10)
    made = planned(chain(replace(right, release=release)).bind(wire))
    assert (made.clip, made.canaries) == (0.01, WITHIN)
    assert found(made, FEW) == (divisor == 3)


def test_too_few_releases_are_refused() -> None:
    with pytest.raises(ComponentError, match="at least 100 releases"):
        audit_layer(layer(bound(gaussian(2.0, 1.0))), delta=1e-5, releases=99)
