"""Runs whose clients add the noise in shares: priced for trusted survivors, without sampling, and told to everybody."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedloom
from fedloom import PrivacyTarget, Schedule, chain, mean
from fedloom.core.events import DiscreteGaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
from fedloom.core.wire import WireType
from fedloom.errors import Error, PlanError
from fedloom.experiment.listing import list_plan
from fedloom.experiment.plan import resolve_experiment, train_plan
from fedloom.experiment.privacy import price_experiment
from fedloom.pipeline.plain_sum import PlainSum
from fedloom.privacy.accountants import epsilon

CLIENTS, ROUNDS, DELTA = 60, 4, 1e-3
NOISE = fedloom.distributed_gaussian(clip=0.5, noise_multiplier=4.0)
PROMISE = PrivacyTarget(unit="client", delta=DELTA)
WHOLE = (fedloom.fixed_point(),)


@dataclass(frozen=True, slots=True)
class Hidden(PlainSum):
    """A sum whose server reads no single vector, of which it is known who is left."""

    shows_messages: bool = False
    fewest: int = 40
    colluders: int = 5

    def survivors(self, wire: WireType) -> int | None:
        """Return who is in a sum."""
        del wire
        return self.fewest

    def honest(self, wire: WireType) -> int | None:
        """Return who is left of them."""
        del wire
        return self.fewest - self.colluders


def experiment(*, stage: Any = NOISE, encode: Any = WHOLE, aggregator: Any = None, **fields: Any) -> fedloom.Experiment:
    values: dict[str, Any] = {
        "data": fedloom.data.generated(clients=CLIENTS, rows=20, features=3),
        "learner": fedloom.logistic(),
        "algorithm": fedloom.fedavg(Schedule(epochs=1, batch_size=10, learning_rate=0.1), weighting="uniform"),
        "pipeline": chain(mean(expected=60.0), stage, *encode, aggregator=aggregator or Hidden()),
        "stop": fedloom.max_rounds(ROUNDS),
        "privacy": PROMISE,
        "seed": 3,
        **fields,
    }
    return fedloom.Experiment(**values)


def of_rows(rate: float = 0.5, **fields: Any) -> fedloom.Experiment:
    private = fedloom.PrivateSteps(clip=1.0, noise_multiplier="shared", rate=rate, rows=20)
    values: dict[str, Any] = {
        "algorithm": fedloom.fedavg(Schedule(steps=1, learning_rate=0.5, private=private), weighting="uniform"),
        "stage": fedloom.distributed_shared_gaussian(noise_multiplier=2.0),
        "encode": (),
        "privacy": PrivacyTarget(unit="record", delta=1e-5),
        **fields,
    }
    return experiment(**values)


def priced(asked: fedloom.Experiment) -> Any:
    asked = resolve_experiment(asked, base=Path())
    data: Any = asked.data
    learner: Any = asked.learner
    return price_experiment(asked, train_plan(asked, learner.build(data.schema()), data.population(), ()))


def test_the_price_is_that_of_the_shares_of_trusted_survivors_and_less_where_nobody_colludes() -> None:
    price = priced(experiment())
    known, shares = price.protection.known, price.protection.shares
    assert isinstance(known, DiscreteGaussianDpEvent) and known.draws == 35 and known.noise_multiplier >= 4.0
    assert (shares.honest, shares.survivors, shares.colluders) == (35, 40, 5)
    assert shares.reached == replace(known, draws=40) and shares.less is None
    assert price.reached.epsilon == epsilon(
        SelfComposedDpEvent(shares.reached, ROUNDS), delta=DELTA, adjacency="zero_out"
    )
    assert price.reached.epsilon < price.figures.participation.epsilon
    assert price.protection.at_client and price.protection.noise_by == "shares"
    assert "in shares by the clients" in price.protection.mechanism
    assert price.as_json()["shares"] == {
        "survivors": 40,
        "colluders": 5,
        "honest": 35,
        "epsilon_without_colluders": price.reached.epsilon,
        "epsilon_against_one_participant": None,
    }


@pytest.mark.parametrize("make", [experiment, lambda **fields: of_rows(1.0, **fields)], ids=["clients", "rows"])
def test_sampling_of_clients_is_never_counted_and_the_plan_says_why(make: Any) -> None:
    everybody, drawn = priced(make()), priced(make(cohort=fedloom.poisson(0.9)))
    assert drawn.protection.event == drawn.protection.known == everybody.protection.known
    assert drawn.figures.models.epsilon == drawn.figures.participation.epsilon == everybody.figures.models.epsilon
    assert "not counted, because the server and participants" in drawn.protection.sampling


def test_sampling_of_rows_at_the_clients_is_counted_against_everybody() -> None:
    price = priced(of_rows())
    known = price.protection.known
    assert isinstance(known, PoissonSampledDpEvent) and known.rate == 0.5
    inner, reached = known.event, price.protection.shares.reached
    assert isinstance(inner, DiscreteGaussianDpEvent) and inner.draws == 35
    assert reached == PoissonSampledDpEvent(0.5, replace(inner, draws=40))
    assert price.figures.models.epsilon == price.figures.participation.epsilon
    assert price.reached.epsilon < price.figures.participation.epsilon


def test_without_colluders_a_participant_who_subtracts_its_share_is_told_of() -> None:
    price = priced(experiment(aggregator=Hidden(colluders=0)))
    assert price.protection.shares.less == replace(price.protection.known, draws=39)
    assert price.reached.epsilon == price.figures.participation.epsilon < price.against_one_participant.epsilon
    said = lines(experiment(aggregator=Hidden(colluders=0)))
    assert "nobody is assumed to collude" in said and "a participant can subtract its own share" in said


def lines(asked: fedloom.Experiment) -> str:
    listing = list_plan(asked, base=Path())
    assert listing.privacy is not None
    return "\n".join(listing.privacy.lines)


def test_the_plan_says_what_each_adversary_sees() -> None:
    said = lines(experiment())
    for words in (
        "in shares by the clients",
        "at least 40 clients with a share of the noise",
        "35 of them make up what is promised, because 5 may collude",
        "the server together with 5 clients sees who takes part and each sum with its noise, no single update",
        "where nobody colludes, epsilon is",
        "a reader of the models sees no more than the server does",
        "rounding raises the bound",
    ):
        assert words in said, words
    assert "the server need not be trusted with it" not in said


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a plain sum": ({"aggregator": fedloom.plain_sum()}, "use secure_sum or shares_sum, or local_gaussian"),
    "floats": ({"encode": ()}, r"put fixed_point\(\) behind it"),
    "clients that come and go with their noise": (
        {"privacy": replace(PROMISE, adjacency="add_remove")},
        "adds no share of the noise",
    ),
    "records under a client's noise": (
        {"privacy": PrivacyTarget(unit="record", delta=1e-5)},
        "nothing bounds what one",
    ),
    "shares without a promise": ({"privacy": None}, "distributed_gaussian adds noise, but nothing says"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_promised_is_refused_before_round_1(name: str) -> None:
    fields, said = REFUSED[name]
    with pytest.raises(Error, match=said):
        priced(experiment(**fields))


def test_shares_for_rows_hide_no_clients_and_need_steps_that_leave_the_noise_out() -> None:
    with pytest.raises(PlanError, match='Promise unit = "record"'):
        priced(of_rows(privacy=PROMISE))
    own = fedloom.PrivateSteps(clip=1.0, noise_multiplier=1.0, rate=0.5, rows=20)
    with pytest.raises(Error, match="one row can change"):
        priced(of_rows(algorithm=fedloom.fedavg(Schedule(steps=1, private=own), weighting="uniform")))
    with pytest.raises(Error, match=r"distributed_shared_gaussian\(\.\.\.\); or"):
        priced(of_rows(stage=fedloom.clip(1.0), encode=WHOLE))


def test_a_client_may_be_any_other_at_twice_the_distance() -> None:
    other = priced(experiment(privacy=replace(PROMISE, adjacency="replace_one")))
    assert other.figures.participation.epsilon > 1.8 * priced(experiment()).figures.participation.epsilon


@pytest.mark.parametrize("make", [experiment, of_rows], ids=["clients", "rows"])
def test_a_run_under_a_secure_sum_is_priced_for_its_fewest_survivors_and_skips_rounds_with_fewer(make: Any) -> None:
    secure = fedloom.secure_sum(min_survivors=50, colluders=10)
    asked = make(aggregator=secure)
    known = priced(asked).protection.known
    assert getattr(known, "event", known).draws == 40
    whole = fedloom.local().run(asked)
    assert len(whole.rounds) == ROUNDS and np.isfinite(whole.params).all()
    few = fedloom.local().run(replace(asked, simulate=fedloom.Simulation(dropout=0.3)))
    counts = [len(record.included) for record in few.rounds]
    assert all(count == 0 or count >= 50 for count in counts) and 0 in counts


def test_no_worker_no_block_and_no_protocol_changes_a_bit_of_a_run() -> None:
    """Noise hangs on client and round: arithmetic, masks and every split of the work give one model."""
    data = fedloom.data.generated(clients=6, rows=20, features=3)
    runs = [
        engine.run(
            experiment(
                data=data,
                aggregator=fedloom.secure_sum(min_survivors=4, protocol=protocol),
                simulate=fedloom.Simulation(absences={"client-0000001": [[2, 2]]}),
                privacy=PrivacyTarget(unit="client", delta=1e-2),
                stop=fedloom.max_rounds(2),
                block=block,
            )
        )
        for protocol, block, engine in (
            (False, 6, fedloom.local()),
            (False, 1, fedloom.local(workers=2, pool="threads")),
            (True, 2, fedloom.local()),
        )
    ]
    assert [len(record.included) for record in runs[0].rounds] == [6, 5]
    assert len({run.params.tobytes() for run in runs}) == 1
