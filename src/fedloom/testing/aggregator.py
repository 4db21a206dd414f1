"""check_aggregator: the laws that every aggregator of sums keeps, for every drop-out pattern of a small cohort."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TypeAlias, cast

import numpy as np

from fedloom.core.aggregator import (
    Abort,
    Aggregator,
    AggregatorClient,
    AggregatorServer,
    Continue,
    Finish,
    MergeableServer,
    SumRound,
)
from fedloom.core.ids import ClientId, RoundNumber
from fedloom.core.keys import Key, Keys
from fedloom.core.params import Vector
from fedloom.core.wire import WireType
from fedloom.entropy import derived_secret
from fedloom.errors import Error, SumAborted

BuildAggregator: TypeAlias = Callable[[], Aggregator]

_KEYS = Keys(Key.from_seed(0), derived_secret(Key.from_seed(0)))
_DIM = 4


def check_aggregator(build: BuildAggregator, *, clients: int = 5, least: int = 1, modulus: int | None = None) -> None:
    """Check an aggregator of sums against every law below.

    Args:
        build: Returns the aggregator.
        clients: Size of the largest cohort.
        least: Clients that must answer for a sum to be had; with fewer the round is aborted.
        modulus: Of the wire type, for an aggregator of residues: a power of two that is the range of an unsigned type.

    Raises:
        AssertionError: With the law that is broken.
    """
    wire = _wire(modulus, clients=clients)
    aggregator = build()
    assert replace(aggregator.plan(wire), l2=None).dim == _DIM, "a sum has the size of its terms"
    check_every_dropout(aggregator, clients=clients, least=least, modulus=modulus)
    check_message_order(aggregator, clients=min(clients, 4), modulus=modulus)
    check_senders(aggregator, clients=clients, modulus=modulus)
    if aggregator.mergeable:
        check_partials(aggregator, clients=clients, modulus=modulus)


def check_every_dropout(aggregator: Aggregator, *, clients: int, least: int, modulus: int | None) -> None:
    """The total is the exact integer sum of those that answered, for every pattern; below ``least`` it is aborted."""
    for size in range(1, clients + 1):
        cohort = _cohort(size)
        values = _integers(size, modulus)
        for answers in itertools.product((False, True), repeat=size):
            present = [client for client, here in zip(cohort, answers, strict=True) if here]
            outcome = run_sum(aggregator, cohort, values, arrivals=present, modulus=modulus)
            if len(present) < least:
                assert isinstance(outcome, Abort), f"{len(present)} of {size} answered and a value came out"
                continue
            assert isinstance(outcome, Finish), f"{len(present)} of {size} answered: {outcome}"
            expected = np.sum([values[client] for client in present], axis=0)
            if modulus is not None:
                expected = expected.astype(_words(modulus))
            assert np.array_equal(outcome.total, expected), f"{present} of {cohort}: {outcome.total} is not {expected}"
            assert outcome.included == tuple(present), f"included {outcome.included}; {present} answered"


def check_message_order(aggregator: Aggregator, *, clients: int, modulus: int | None) -> None:
    """Any order of messages gives the same bytes, on numbers whose plain sum depends on the order."""
    cohort = _cohort(clients)
    values = _integers(clients, modulus) if modulus is not None else _floats(clients)
    totals = set()
    for arrivals in itertools.permutations(cohort):
        outcome = run_sum(aggregator, cohort, values, arrivals=arrivals, modulus=modulus)
        assert isinstance(outcome, Finish)
        totals.add((outcome.total.tobytes(), outcome.included))
    assert len(totals) == 1, f"{len(totals)} different results from the orders of {clients} messages"


def check_senders(aggregator: Aggregator, *, clients: int, modulus: int | None) -> None:
    """A client that is unknown, has sent before or was lost is an error, whatever else has come in between."""
    cohort = _cohort(clients)
    values = _integers(clients, modulus)
    about = _about(cohort, modulus)
    messages = {client: aggregator.client(client, values[client], about, _keys_of(client)).open() for client in cohort}
    _refuses(
        aggregator.server(cohort, _about(cohort, modulus), _KEYS),
        ClientId("stranger"),
        messages[cohort[0]],
        "an unknown sender",
    )
    for earlier in range(1, clients + 1):
        for again in cohort[:earlier]:
            server = aggregator.server(cohort, _about(cohort, modulus), _KEYS)
            for client in cohort[:earlier]:
                server.receive(client, messages[client])
            _refuses(server, again, messages[again], f"a second message of {again} after {earlier} messages")
    server = aggregator.server(cohort, _about(cohort, modulus), _KEYS)
    server.lose(cohort[0])
    _refuses(server, cohort[0], messages[cohort[0]], "a message of a lost client")


def check_partials(aggregator: Aggregator, *, clients: int, modulus: int | None) -> None:
    """Merged partial servers give the bytes of one server, for every split of the cohort in two, losses included."""
    cohort = _cohort(clients)
    values = _integers(clients, modulus) if modulus is not None else _floats(clients)
    about = _about(cohort, modulus)
    for lost in (None, *cohort):
        present = [client for client in cohort if client != lost]
        whole = run_sum(aggregator, cohort, values, arrivals=present, modulus=modulus)
        assert isinstance(whole, Finish)
        for sides in itertools.product((0, 1), repeat=clients):
            server = cast("MergeableServer", aggregator.server(cohort, about, _KEYS))
            parts = server.partial(), server.partial()
            for client, side in zip(cohort, sides, strict=True):
                if client == lost:
                    parts[side].lose(client)
                else:
                    side_of_client = aggregator.client(client, values[client], about, _keys_of(client))
                    parts[side].receive(client, side_of_client.open())
            for part in parts if sides[0] else parts[::-1]:
                server.merge(part)
            merged = server.advance()
            assert isinstance(merged, Finish), f"merged partials of a whole cohort: {merged}"
            assert merged.total.tobytes() == whole.total.tobytes(), f"split {sides}: merged partials differ in bytes"
            assert merged.included == whole.included, f"split {sides}: included {merged.included}"


def run_sum(
    aggregator: Aggregator,
    cohort: Sequence[ClientId],
    values: dict[ClientId, Vector],
    *,
    arrivals: Iterable[ClientId],
    modulus: int | None = None,
) -> Finish | Abort:
    """Run one sum to its end: those in ``arrivals`` answer everything, in that order, and the others nothing."""
    server = aggregator.server(cohort, _about(cohort, modulus), _KEYS)
    about = _about(cohort, modulus)
    machines: dict[ClientId, AggregatorClient] = {}
    for client in arrivals:
        with suppress(SumAborted):  # who refuses the terms sends nothing
            machines[client] = aggregator.client(client, values[client], about, _keys_of(client))
    early = server.advance()
    assert isinstance(early, Continue), "a sum ended before anybody answered"
    for client, machine in machines.items():
        server.receive(client, machine.open())
    for client in cohort:
        if client not in machines:
            server.lose(client)
    while isinstance(outcome := server.advance(), Continue):
        assert outcome.messages, "the server waits though everybody has answered or is lost"
        for to, message in outcome.messages:
            server.receive(to, machines[to].reply(message))
    return outcome


def _refuses(server: AggregatorServer, sender: ClientId, message: object, what: str) -> None:
    try:
        server.receive(sender, message)
    except Error:
        return
    raise AssertionError(f"{what} was taken without an error")


def sum_round(clients: int, wire: WireType) -> SumRound:
    """Return what is known of a sum of some clients: round 1 of an experiment that there is not.

    Example:
        >>> sum_round(3, WireType(dim=4, dtype="float64")).invited
        3
    """
    return SumRound(
        invited=clients,
        wire=wire,
        digest="0" * 64,
        phase=0,
        program="train",
        round=RoundNumber(1),
        retry=0,
        key=_KEYS.public,
        order=bytes(32),
    )


def _about(cohort: Sequence[ClientId], modulus: int | None) -> SumRound:
    return sum_round(len(cohort), _wire(modulus, clients=len(cohort)))


def _wire(modulus: int | None, *, clients: int) -> WireType:
    dtype = "float64" if modulus is None else _words(modulus)
    return WireType(dim=_DIM, dtype=dtype, modulus=modulus, most_clients=clients, fewest_clients=clients)


def _keys_of(client: ClientId) -> Keys:
    return Keys(_KEYS.public.child("client", client), derived_secret(_KEYS.public.child("secret", client)))


def _cohort(size: int) -> tuple[ClientId, ...]:
    return tuple(ClientId(f"client-{number}") for number in range(size))


def _integers(size: int, modulus: int | None) -> dict[ClientId, Vector]:
    draw = Key.from_seed(size).child("integers").generator()
    if modulus is not None:
        words = draw.integers(0, modulus, (size, _DIM), dtype=_words(modulus))
        return dict(zip(_cohort(size), words, strict=True))
    values = draw.integers(-(2**40), 2**40, (size, _DIM))
    return dict(zip(_cohort(size), values.astype("float64"), strict=True))


def _words(modulus: int) -> str:
    """Return the type whose range is Z_m."""
    return f"uint{modulus.bit_length() - 1}"


def _floats(size: int) -> dict[ClientId, Vector]:
    draw = Key.from_seed(size).child("floats").generator()
    values = draw.standard_normal((size, _DIM)) * 10.0 ** draw.integers(-8, 9, (size, _DIM))
    return dict(zip(_cohort(size), values, strict=True))
