"""A site that is killed goes on where it was: what it has written down is sent again, and nothing is made twice."""

from __future__ import annotations

from typing import Any

import pytest

from fedloom.core.ids import RoundNumber


def check_the_model(federation: Any, found: Any) -> None:
    expected = federation.simulated()
    assert found.model_sha256 == expected.model_sha256
    assert found.params.tobytes() == expected.params.tobytes()
    assert [(r.round, r.retry, r.included, r.failures) for r in found.records] == [
        (r.round, r.retry, r.included, r.failures) for r in expected.records
    ]
    counted = [(sent.key, sent.step, sent.site) for sent in federation.contributions()]
    assert len(counted) == len(set(counted))
    for place in federation.places.values():
        assert place.error is None


def slow(*values: Any) -> Any:
    """Return values of a case that is left out of the quick tests."""
    return pytest.param(*values, marks=pytest.mark.slow)


class Once:
    """Kills a site one time, and counts."""

    def __init__(self, site: str, *words: str, times: int = 1) -> None:
        self.site, self.words, self.left, self.happened = site, words, times, 0

    def __call__(self, site: str, *words: Any) -> bool:
        if site != self.site or words[: len(self.words)] != self.words:
            return False
        self.left -= 1
        self.happened += self.left == 0
        return self.left == 0


@pytest.mark.parametrize("aggregator", ["plain_sum", "secure_sum"])
def test_b1_killed_during_training_trains_again_and_counts_once(aggregator: str, scene: Any) -> None:
    federation = scene(aggregator=aggregator)
    killed: list[int] = []

    def in_training(site: str, asked: Any, times: int) -> None:
        if site == "east" and asked.program == "train" and not killed:
            killed.append(times)
            federation.places["east"].wire.dead = True
            raise type(federation).killed

    federation.on_train = in_training
    check_the_model(federation, federation.run())
    assert federation.places["east"].deaths == 1
    again = [order for order, times in federation.trained().items() if times != 1]
    assert [(site, program) for site, _, program, _ in again] == [("east", "train")]
    assert federation.trained()[again[0]] == 2


@pytest.mark.parametrize("aggregator", ["plain_sum", "secure_sum"])
@pytest.mark.parametrize("where", ["answer/committed", slow("answer/folded")])
def test_b2_killed_between_training_and_upload_trains_once(where: str, aggregator: str, scene: Any) -> None:
    federation = scene(aggregator=aggregator, algorithm="scaffold")
    federation.on_site_point = Once("east", where, times=3)
    check_the_model(federation, federation.run())
    assert federation.places["east"].deaths == 1
    assert set(federation.trained().values()) == {1}


def test_b2_killed_before_anything_was_written_down_trains_again(scene: Any) -> None:
    federation = scene(algorithm="scaffold")
    federation.on_site_point = Once("east", "answer/written", times=3)
    check_the_model(federation, federation.run())
    assert federation.places["east"].deaths == 1
    assert sorted(federation.trained().values())[-2:] == [1, 2]


@pytest.mark.parametrize("piece", [slow(1), 2, slow(3)])
def test_b3_killed_in_mid_upload_goes_on_at_the_last_offset(piece: int, scene: Any) -> None:
    federation = scene()
    offsets: list[int] = []
    said = Once("east", "write_chunk", "after", times=4 * 4 + piece)

    def at(site: str, verb: str, when: str, request: Any) -> bool:
        if site == "east" and verb == "write_chunk" and when == "before":
            offsets.append(request[1])
        return said(site, verb, when)

    federation.on_call = at
    check_the_model(federation, federation.run())
    assert federation.places["east"].deaths == 1 and said.happened
    assert set(federation.trained().values()) == {1}
    pieces = offsets[16 : 16 + 4]
    assert len(set(pieces)) == 4 and pieces == sorted(pieces), "no piece is sent twice"


@pytest.mark.parametrize("verb", ["submit", slow("claim"), slow("begin_upload"), "finish_upload", slow("hello")])
def test_b4_a_lost_acknowledgement_changes_nothing(verb: str, scene: Any) -> None:
    federation = scene()
    lost: list[tuple[str, int]] = []

    def at(site: str, said: str, when: str, request: Any) -> bool:
        if said == verb and when == "after" and (site, id(request)) not in lost and len(lost) < 5:
            lost.append((site, id(request)))
            raise federation.lost
        return False

    federation.on_call = at
    check_the_model(federation, federation.run())
    assert lost and set(federation.trained().values()) == {1}
    kinds = [event.kind for event in federation.open().store.events.since(0)]
    assert kinds.count("contribution") == len(federation.contributions())


@pytest.mark.parametrize("verb", ["submit", "decline", "fail"])
def test_b4_killed_before_the_acknowledgement_sends_the_same_bytes_again(verb: str, scene: Any) -> None:
    federation = scene(policy="quorum = 2", prepare=False)
    if verb != "submit":
        federation.on_train = _refusing if verb == "decline" else _failing
    federation.on_call = Once("east", verb, "after", times=1)
    found = federation.run()
    assert federation.places["east"].deaths == 1
    if verb == "submit":
        check_the_model(federation, found)
    else:
        assert {f.client for r in found.records for f in r.failures} == {"east"}
        assert all(r.included == ("center", "north") for r in found.records)


def _failing(site: str, asked: Any, times: int) -> None:
    del times
    if site == "east":
        from fedloom.engines.site_hand import WorkerGone

        raise WorkerGone("WORKER_KILLED", "the worker was ended by signal 9")


def _refusing(site: str, asked: Any, times: int) -> None:
    del times
    if site == "east":
        from fedloom.errors import PlanError

        raise PlanError("no such thing here")


@pytest.mark.parametrize("aggregator", ["plain_sum", "secure_sum"])
def test_b1_to_b4_killed_at_every_kind_of_crash_point_one_after_the_other(aggregator: str, scene: Any) -> None:
    federation = scene(aggregator=aggregator, algorithm="scaffold")
    died: set[tuple[str, str]] = set()

    def at(site: str, name: str, _times: int) -> bool:
        fresh = site != "north" and (site, name) not in died
        died.add((site, name))
        return fresh

    federation.on_site_point = at
    check_the_model(federation, federation.run())
    assert federation.places["east"].deaths > 12
    assert {"answer/committed", "submitted/written", "blob/kept"} <= {name for _, name in died}
    sent = {(s.site, s.round, s.program, s.step): s.blob for s in federation.contributions() if s.phase >= 0}
    assert len(sent) == len([s for s in federation.contributions() if s.phase >= 0])
    assert ("east", RoundNumber(3), "train", 0) in sent


PARTS = 3


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("aggregator", ["plain_sum", "secure_sum"])
@pytest.mark.parametrize("part", range(PARTS))
def test_b1_to_b4_killed_at_each_crash_point_of_a_run(part: int, aggregator: str, scene: Any) -> None:
    """One run for each of them, before and after what becomes durable there; the parts are all of them together."""
    settings = {"sites": 3, "rounds": 1, "aggregator": aggregator}
    whole = scene(**settings)
    whole.run()
    whole.end()
    points = list(whole.places["east"].passed)
    for place in range(1 + part, len(points) + 1, PARTS):
        federation = scene(**settings)
        count = [0]

        def at(site: str, _name: str, _times: int, count: list[int] = count, place: int = place) -> bool:
            count[0] += site == "east"
            return site == "east" and count[0] == place

        federation.on_site_point = at
        check_the_model(federation, federation.run())
        federation.end()
        assert federation.places["east"].deaths == 1, points[place - 1]
