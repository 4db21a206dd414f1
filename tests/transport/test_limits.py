"""How much at once, who is not listened to, what is ended, and when to come back (C1, C16, A17)."""

from __future__ import annotations

import random
import statistics
import threading
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom.errors import TransportError
from fedloom.transport.addresses import split
from fedloom.transport.backoff import LONGEST_S, Link, LinkState, wait_s
from fedloom.transport.errors import Code, Refused
from fedloom.transport.limits import Gate, Penalties, PerCaller, Watchdog


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_place_that_becomes_free_goes_to_one_who_waits() -> None:
    gate = Gate("uploads", limit=1, waiting=1, patience_s=30.0)
    order: list[str] = []
    begun = threading.Event()

    def second() -> None:
        begun.set()
        with gate.entered():
            order.append("second")

    thread = threading.Thread(target=second)
    with gate.entered():
        thread.start()
        begun.wait(5.0)
        order.append("first")
    thread.join(5.0)
    assert order == ["first", "second"]


def test_one_too_many_is_told_when_to_come_back() -> None:
    gate = Gate("uploads", limit=2, waiting=1, patience_s=0.0, again_s=7.0)
    with gate.entered(), gate.entered(), pytest.raises(Refused) as error, gate.entered():
        pass
    assert (error.value.refusal.code, error.value.refusal.retry_after_s) == (Code.BUSY, 7.0)
    with gate.entered(), gate.entered():
        pass


def test_a_call_that_fails_gives_its_place_back() -> None:
    gate = Gate("uploads", limit=1)
    own = PerCaller("poll", limit=1)
    for _ in range(3):
        with pytest.raises(KeyError), gate.entered(), own.entered("north"):
            raise KeyError
    with (
        own.entered("north"),
        own.entered("south"),
        pytest.raises(Refused, match="north has 1 calls"),
        own.entered("north"),
    ):
        pass


def test_a_peer_that_sends_rubbish_is_not_listened_to_for_a_while() -> None:
    clock = Clock()
    penalties = Penalties(allowed=3, window_s=60.0, clock=clock)
    for _ in range(3):
        penalties.check("north")
        penalties.count("north")
    clock.now += 20.0
    with pytest.raises(Refused) as error:
        penalties.check("north")
    assert error.value.refusal.retry_after_s == pytest.approx(40.0)
    penalties.check("south")
    clock.now += 40.0
    penalties.check("north")


def test_a_stream_that_stands_still_is_ended_and_one_that_moves_is_not() -> None:
    clock = Clock()
    dog = Watchdog(idle_s=60.0, clock=clock)
    ended: list[str] = []
    with (
        dog.watching(lambda: ended.append("still"), allowed=lambda: True),
        dog.watching(lambda: ended.append("moves"), allowed=lambda: True) as moved,
    ):
        clock.now += 50.0
        moved()
        assert dog.sweep() == 0
        clock.now += 20.0
        assert dog.sweep() == 1
    assert ended == ["still"]
    assert dog.sweep() == 0


def test_a_stream_of_one_who_was_shut_out_meanwhile_is_ended() -> None:
    dog = Watchdog(idle_s=60.0, clock=Clock())
    ended: list[str] = []
    allowed = [True]
    with dog.watching(lambda: ended.append("north"), allowed=lambda: allowed[0]):
        assert dog.sweep() == 0
        allowed[0] = False
        assert dog.sweep() == 1
    assert ended == ["north"]


@settings(max_examples=50, derandomize=True, database=None, deadline=None)
@given(st.integers(1, 10**6), st.floats(0.0, 1.0, exclude_max=True), st.floats(0.0, 100.0))
def test_a_wait_is_anything_up_to_its_longest(failures: int, share: float, asked: float) -> None:
    longest = min(60.0, 2.0 ** min(failures - 1, 10))
    wait = wait_s(failures, lambda: share, at_least_s=asked)
    assert asked <= wait <= asked + longest
    assert wait == pytest.approx(asked + share * longest)


@pytest.mark.parametrize(("outage_s", "most"), [(1.0, 130), (5.0, 50), (20.0, 20), (120.0, 15)])
def test_c16_sites_that_have_lost_their_coordinator_do_not_come_back_all_at_once(outage_s: float, most: int) -> None:
    """Two hundred sites lose it in one moment and try until it is there; the draws are those of a fixed seed."""
    draw = random.Random(3)
    came: list[float] = []
    for _ in range(200):
        now, failures = 0.0, 0
        while now < outage_s:
            failures += 1
            now += wait_s(failures, draw.random)
        came.append(now - outage_s)
    assert max(Counter(map(int, came)).values()) <= most, "in one second"
    heartbeat_s = 12.0
    assert statistics.median(came) < 2 * heartbeat_s
    assert max(came) <= LONGEST_S, "all are back within the longest wait"


def test_the_state_of_the_link_is_told_once_per_change() -> None:
    clock = Clock()
    told: list[LinkState] = []
    link = Link("fed.example:7443", clock=clock, tell=told.append)
    assert link.state is None
    for _ in range(5):
        link.down("UNAVAILABLE")
    clock.now += 3700.0
    assert told[0].told(clock.now) == "waiting for coordinator at fed.example:7443 (1 h 1 m)"
    for _ in range(5):
        link.up()
    link.down("UNAVAILABLE")
    assert [state.connected for state in told] == [False, True, False]
    assert [state.reason for state in told] == ["UNAVAILABLE", "", "UNAVAILABLE"]
    assert told[1].told(clock.now) == "connected to coordinator at fed.example:7443"
    assert told[2].told(clock.now - 5.0).endswith("(0 s)")


@pytest.mark.parametrize("address", ["", "host", "host:", ":1", "host:x", "host:65536", "::1:80", "[host]:80", "h:-1"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(TransportError, match="HOST:PORT"):
        split(address)
