"""The graph of a secure sum: its laws, the conditions of its plan by other arithmetic, and what chance does to it."""

from __future__ import annotations

import hashlib
import math
import re
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fedloom.errors import Error, PlanError
from fedloom.secure.graph import GraphPlan, complete, neighbours, plan_graph

quick = settings(max_examples=50, derandomize=True, database=None, deadline=None)
seeds = st.binary(min_size=32, max_size=32)
bits = st.integers(1, 24)
SEED = bytes(range(32))


@st.composite
def shapes(draw: st.DrawFn) -> tuple[int, int]:
    clients = draw(st.integers(3, 60))
    return clients, 2 * draw(st.integers(1, (clients - 1) // 2))


def tail(others: int, marked: int, drawn: int, least: int) -> Fraction:
    """``P[H >= least]`` for the marked among some drawn, term by term."""
    ways = sum(math.comb(marked, hit) * math.comb(others - marked, drawn - hit) for hit in range(least, drawn + 1))
    return Fraction(ways, math.comb(others, drawn))


def failures(plan: GraphPlan, neighbours: int, threshold: int, *, absent: int) -> tuple[Fraction, Fraction, Fraction]:
    """The bounds on the three events, for any number of neighbours and any threshold."""
    clients, others = plan.clients, plan.clients - 1
    told = clients * tail(others - absent, plan.colluders, neighbours, threshold)
    parted = clients * Fraction(plan.colluders + plan.losses, clients) ** (neighbours // 2)
    enough = tail(others, others - plan.losses, neighbours, threshold)
    return told, parted, clients * (1 - enough)


def holds(plan: GraphPlan, neighbours: int, threshold: int, *, absent: int) -> bool:
    told, parted, unopened = failures(plan, neighbours, threshold, absent=absent)
    secure, correct = Fraction(2.0**-plan.security_bits), Fraction(2.0**-plan.correctness_bits)
    return told <= secure and parted <= secure and unopened <= correct


def connected(linked: npt.NDArray[np.int64], staying: set[int]) -> bool:
    reached, frontier = set[int](), [min(staying)]
    while frontier:
        client = frontier.pop()
        if client not in reached:
            reached.add(client)
            frontier += staying.intersection(linked[client].tolist())
    return reached == staying


@quick
@given(seeds, shapes())
def test_every_client_has_its_neighbours_and_they_have_it(seed: bytes, shape: tuple[int, int]) -> None:
    clients, degree = shape
    linked = neighbours(seed, clients, degree)
    assert linked.shape == shape
    assert linked.dtype == np.int64
    assert (np.diff(linked, axis=1) > 0).all()
    pairs = {(client, other) for client, row in enumerate(linked.tolist()) for other in row}
    assert pairs == {(other, client) for client, other in pairs}
    assert not any(client == other for client, other in pairs)
    assert {client for pair in pairs for client in pair} == set(range(clients))
    assert connected(linked, set(range(clients)))


@quick
@given(seeds, shapes(), st.data())
def test_fewer_losses_than_neighbours_leave_the_rest_connected(
    seed: bytes, shape: tuple[int, int], data: st.DataObject
) -> None:
    """Two rows of ``k / 2`` must be gone to part a ring: this is certain, whatever the seed."""
    clients, degree = shape
    lost = data.draw(st.sets(st.integers(0, clients - 1), max_size=degree - 1))
    assert connected(neighbours(seed, clients, degree), set(range(clients)) - lost)


@quick
@given(seeds, shapes(), st.data())
def test_a_graph_is_parted_exactly_where_two_rows_of_its_ring_are_gone(
    seed: bytes, shape: tuple[int, int], data: st.DataObject
) -> None:
    clients, degree = shape
    order = ring(seed, clients, degree)
    rows = data.draw(st.lists(st.tuples(st.integers(0, clients - 1), st.integers(1, degree)), max_size=4))
    lost = {order[(start + step) % clients] for start, length in rows for step in range(length)}
    stay = [place for place, client in enumerate(order) if client not in lost]
    if not stay:
        return
    after = [*stay[1:], stay[0] + clients]
    gaps = sum(following - place > degree // 2 for place, following in zip(stay, after, strict=True))
    assert connected(neighbours(seed, clients, degree), set(range(clients)) - lost) == (gaps <= 1)


def ring(seed: bytes, clients: int, degree: int) -> list[int]:
    """The order of the clients, written down from the docstring."""
    sizes = clients.to_bytes(4, "big") + degree.to_bytes(4, "big")
    names = [
        hashlib.sha256(b"fedloom/sa/v1/graph" + sizes + seed + client.to_bytes(4, "big")).hexdigest()
        for client in range(clients)
    ]
    return sorted(range(clients), key=names.__getitem__)


def test_a_graph_is_the_ring_of_its_order() -> None:
    order, linked = ring(SEED, 11, 6), neighbours(SEED, 11, 6)
    for place, client in enumerate(order):
        around = {order[(place + step) % 11] for step in (-3, -2, -1, 1, 2, 3)}
        assert set(linked[client].tolist()) == around


def test_graphs_are_those_that_were_recorded() -> None:
    """All clients of a deployment draw the same one, of any version: a change breaks the session."""
    assert neighbours(SEED, 7, 4).tolist() == [
        [1, 3, 4, 6],
        [0, 2, 4, 5],
        [1, 4, 5, 6],
        [0, 4, 5, 6],
        [0, 1, 2, 3],
        [1, 2, 3, 6],
        [0, 2, 3, 5],
    ]
    digest = hashlib.sha256(neighbours(SEED, 1000, 80).astype("<i8").tobytes()).hexdigest()
    assert digest[:16] == "b99e33238f3022ec"


def test_another_seed_size_or_degree_is_another_order() -> None:
    orders = {tuple(ring(seed, 40, degree)) for seed in (SEED, bytes(32)) for degree in (2, 4)}
    assert len(orders) == 4
    assert not np.array_equal(neighbours(SEED, 40, 4), neighbours(bytes(32), 40, 4))


@quick
@given(st.integers(2, 60))
def test_the_complete_graph_links_all_pairs(clients: int) -> None:
    expected = [[other for other in range(clients) if other != client] for client in range(clients)]
    assert complete(clients).tolist() == expected
    if clients % 2 and clients > 2:
        assert np.array_equal(complete(clients), neighbours(SEED, clients, clients - 1))


@pytest.mark.parametrize(("clients", "degree"), [(5, 3), (5, 0), (5, 6), (5, -2), (4, 4), (2, 2)])
def test_a_degree_that_no_ring_has_is_refused(clients: int, degree: int) -> None:
    with pytest.raises(Error, match=f"{clients} clients with {degree} neighbours each: expected an even number"):
        neighbours(SEED, clients, degree)


def test_a_seed_of_another_length_and_a_graph_of_one_are_refused() -> None:
    with pytest.raises(Error, match="seed of 16 bytes: expected 32"):
        neighbours(bytes(16), 5, 2)
    with pytest.raises(Error, match="a graph of 1 clients: expected 2 or more"):
        complete(1)


@pytest.mark.parametrize(
    ("clients", "rates", "all_invited", "all_present"),
    [
        (100, (0.05, 0.05), (30, 6), (30, 6)),
        (100, (0.10, 0.10), (42, 11), (42, 11)),
        (100, (0.20, 0.20), (72, 21), (72, 21)),
        (100, (0.33, 0.10), (78, 34), (78, 34)),
        (1000, (0.05, 0.05), (34, 18), (34, 18)),
        (1000, (0.10, 0.10), (52, 28), (54, 29)),
        (1000, (0.20, 0.20), (112, 58), (132, 72)),
        (1000, (0.33, 0.10), (114, 78), (126, 88)),
    ],
)
def test_plans_are_those_of_the_table(
    clients: int, rates: tuple[float, float], all_invited: tuple[int, int], all_present: tuple[int, int]
) -> None:
    """The table is of a graph of all that were invited; where it is drawn of those that came, more is needed."""
    corrupt, dropout = rates
    plan = plan_graph(clients, corrupt=corrupt, dropout=dropout, absent=0)
    assert (plan.neighbours, plan.threshold) == all_invited
    assert (plan.colluders, plan.losses) == (round(clients * corrupt), round(clients * dropout))
    assert holds(plan, *all_invited, absent=0)
    later = plan_graph(clients, corrupt=corrupt, dropout=dropout)
    assert (later.neighbours, later.threshold) == all_present
    assert holds(later, *all_present, absent=later.losses)
    assert holds(plan, *all_invited, absent=plan.losses) == (all_invited == all_present)


@quick
@given(st.integers(4, 90), st.lists(st.integers(0, 40), min_size=3, max_size=3), bits, bits)
@example(clients=64, percents=[20, 20, 20], security=6, correctness=6)  # one survivor more would ask for more
def test_a_plan_meets_its_conditions_and_no_smaller_one_does(
    clients: int, percents: list[int], security: int, correctness: int
) -> None:
    corrupt, *lost = percents
    absent, dropout = sorted(lost)
    asked = GraphPlan(
        clients=clients,
        neighbours=0,
        threshold=0,
        corrupt=corrupt / 100,
        dropout=dropout / 100,
        security_bits=security,
        correctness_bits=correctness,
    )
    away = -(-absent * clients // 100)
    largest = (clients - away - 1) // 2 * 2
    try:
        plan = plan_graph(
            clients,
            corrupt=corrupt / 100,
            dropout=dropout / 100,
            absent=absent / 100,
            security_bits=security,
            correctness_bits=correctness,
        )
    except PlanError:
        assert not any(holds(asked, largest, threshold, absent=away) for threshold in range(2, largest + 1))
        return
    assert holds(plan, plan.neighbours, plan.threshold, absent=away)
    assert plan.threshold >= 2
    assert plan.threshold == 2 or not holds(plan, plan.neighbours, plan.threshold - 1, absent=away)
    if plan.neighbours > 2:
        smaller = plan.neighbours - 2
        assert not any(holds(plan, smaller, threshold, absent=away) for threshold in range(2, smaller + 1))


@quick
@given(st.integers(4, 200), st.lists(st.integers(0, 30), min_size=2, max_size=2), bits, st.data())
def test_a_plan_holds_whenever_its_losses_happen(
    clients: int, percents: list[int], security: int, data: st.DataObject
) -> None:
    """Some are lost before the graph is drawn and the rest after: the conditions of the graph that is then drawn."""
    corrupt, dropout = (percent / 100 for percent in percents)
    try:
        plan = plan_graph(clients, corrupt=corrupt, dropout=dropout, security_bits=security, correctness_bits=10)
    except PlanError:
        return
    early = data.draw(st.integers(0, plan.losses))
    present, late = clients - early, plan.losses - early
    told = present * tail(present - 1, plan.colluders, plan.neighbours, plan.threshold)
    parted = present * Fraction(plan.colluders + late, present) ** (plan.neighbours // 2)
    unopened = present * (1 - tail(present - 1, present - 1 - late, plan.neighbours, plan.threshold))
    assert max(told, parted) <= Fraction(2.0**-security)
    assert unopened <= Fraction(2.0**-10)


def test_a_rate_is_rounded_up_to_whole_clients_and_means_its_decimals() -> None:
    plan = GraphPlan(clients=100, neighbours=2, threshold=2, corrupt=0.07, dropout=0.29)
    assert 0.07 * 100 > 7
    assert 0.29 * 100 < 29
    assert (plan.colluders, plan.losses) == (7, 29)
    more = GraphPlan(clients=101, neighbours=2, threshold=2, corrupt=0.1, dropout=0.0)
    assert (more.colluders, more.losses) == (11, 0)


def test_more_neighbours_than_needed_can_be_asked_for() -> None:
    plan = plan_graph(1000, corrupt=0.1, dropout=0.1, neighbours=80)
    assert (plan.neighbours, plan.threshold) == (80, 36)
    assert holds(plan, 80, 36, absent=100)
    assert not holds(plan, 80, 35, absent=100)


def test_a_threshold_between_the_least_and_the_most_can_be_asked_for() -> None:
    fits = [threshold for threshold in range(2, 81) if holds(EIGHTY, 80, threshold, absent=100)]
    assert len(fits) > 5
    for threshold in (fits[0], fits[-1]):
        plan = plan_graph(1000, corrupt=0.1, dropout=0.1, neighbours=80, threshold=threshold)
        assert (plan.neighbours, plan.threshold) == (80, threshold)
    for threshold in (2, fits[0] - 1, fits[-1] + 1, 81):
        with pytest.raises(PlanError, match=f"neighbours = 80 and threshold = {threshold} with 1000 clients"):
            plan_graph(1000, corrupt=0.1, dropout=0.1, neighbours=80, threshold=threshold)
    wider = plan_graph(1000, corrupt=0.1, dropout=0.1, threshold=40)
    assert wider.threshold == 40
    assert holds(wider, wider.neighbours, 40, absent=100)
    assert not holds(wider, wider.neighbours - 2, 40, absent=100)


EIGHTY = GraphPlan(clients=1000, neighbours=80, threshold=36, corrupt=0.1, dropout=0.1)


def test_too_few_neighbours_are_told_how_many_would_do() -> None:
    message = "neighbours = 50 with 1000 clients, 100 of them corrupt and 100 lost: that does not keep 2**-40"
    with pytest.raises(PlanError, match=re.escape(message)) as refused:
        plan_graph(1000, corrupt=0.1, dropout=0.1, neighbours=50)
    assert "54 neighbours do, with the threshold 29" in str(refused.value)


@pytest.mark.parametrize(("clients", "corrupt", "dropout"), [(100, 0.4, 0.4), (77, 0.2, 0.6), (150, 0.33, 0.33)])
def test_the_dropout_that_a_refusal_advises_has_a_plan_and_a_larger_one_has_none(
    clients: int, corrupt: float, dropout: float
) -> None:
    with pytest.raises(PlanError, match="no number of neighbours has a threshold") as refused:
        plan_graph(clients, corrupt=corrupt, dropout=dropout)
    advised = re.search(r"plan for dropout = (0\.\d+) or less", str(refused.value))
    assert advised is not None
    plan_graph(clients, corrupt=corrupt, dropout=float(advised[1]))
    with pytest.raises(PlanError, match="no number of neighbours"):
        plan_graph(clients, corrupt=corrupt, dropout=float(advised[1]) + 1 / clients)


def test_a_corruption_that_leaves_no_room_for_losses_is_told_the_largest_that_does() -> None:
    with pytest.raises(PlanError, match=r"plan for dropout = 0 with corrupt = 0\.\d+ or less") as refused:
        plan_graph(100, corrupt=0.9, dropout=0.05)
    advised = re.search(r"corrupt = (0\.\d+) or less", str(refused.value))
    assert advised is not None
    plan_graph(100, corrupt=float(advised[1]), dropout=0.0)


def test_a_small_federation_is_sent_to_the_complete_graph() -> None:
    with pytest.raises(PlanError, match="link all pairs"):
        plan_graph(8, corrupt=0.1, dropout=0.1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clients": 3}, "a graph of 3 clients: expected 4 or more"),
        ({"corrupt": 1.0}, "corrupt = 1.0: expected a share of the clients"),
        ({"corrupt": math.nan}, "corrupt = nan"),
        ({"dropout": -0.1}, "dropout = -0.1"),
        ({"security_bits": 0}, "security_bits = 0: expected a number above 0 and at most 256"),
        ({"security_bits": 257}, "security_bits = 257"),
        ({"correctness_bits": math.nan}, "correctness_bits = nan"),
        (
            {"neighbours": 41},
            "neighbours = 41 with 100 clients, 10 of them absent: expected an even number from 2 to 88",
        ),
        ({"neighbours": 100}, "neighbours = 100"),
        ({"neighbours": 0}, "neighbours = 0"),
        ({"neighbours": 100, "absent": 0.0}, "neighbours = 100 with 100 clients: expected an even number from 2 to 98"),
        ({"threshold": 1}, "threshold = 1: expected 2 or more"),
        ({"absent": 0.2}, "absent = 0.2: expected a share of the clients from 0 to dropout, which is 0.1"),
        ({"absent": -0.1}, "absent = -0.1"),
        ({"corrupt": 0.5, "dropout": 0.5}, "100 clients, 50 of them corrupt and 50 lost: no number of neighbours"),
    ],
)
def test_numbers_outside_their_range_are_refused(changes: dict[str, float], message: str) -> None:
    arguments: dict[str, float] = {"clients": 100, "corrupt": 0.1, "dropout": 0.1, **changes}
    with pytest.raises(PlanError, match=re.escape(message)):
        plan_graph(**arguments)  # type: ignore[arg-type]


def test_a_graph_where_nobody_is_corrupt_or_lost_still_shares_its_secrets() -> None:
    plan = plan_graph(50, corrupt=0.0, dropout=0.0)
    assert (plan.neighbours, plan.threshold) == (2, 2)


@pytest.mark.slow
def test_drawn_graphs_fail_as_seldom_as_planned() -> None:
    """3,000 graphs of 60 clients at 2**-6; with the bounds as true rates, a false alarm has less than 1 in 10,000.

    The bound on each event is a sum over clients, so the mean number of clients it happens to is compared from both
    sides: that would notice a graph whose neighbours are no uniform subsets.
    """
    plan = plan_graph(60, corrupt=0.2, dropout=0.15, absent=0, security_bits=6, correctness_bits=6)
    corrupt, lost = np.zeros(60, bool), np.zeros(60, bool)
    corrupt[: plan.colluders] = True
    lost[plan.colluders : plan.colluders + plan.losses] = True
    staying = set(np.flatnonzero(~corrupt & ~lost).tolist())
    graphs, low = 3000, plan.threshold - 2
    told = parted = unopened = nearly = 0
    for number in range(graphs):
        linked = neighbours(hashlib.sha256(b"%d" % number).digest(), 60, plan.neighbours)
        bad = corrupt[linked].sum(axis=1)[~corrupt]
        told += bool((bad >= plan.threshold).any())
        nearly += int((bad >= low).sum())
        unopened += bool(((~lost)[linked].sum(axis=1) < plan.threshold).any())
        parted += not connected(linked, staying)
    allowed = graphs * 2**-6
    slack = 4 * math.sqrt(allowed)
    assert told <= allowed + slack
    assert parted <= allowed + slack
    assert unopened <= allowed + slack
    rate = float(tail(59, plan.colluders, plan.neighbours, low))
    assert abs(nearly / (graphs * (60 - plan.colluders)) - rate) < 0.1 * rate
