"""A coordinator that is killed goes on where it was: the same model, nobody retrained, nothing counted twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


def slow(*values: Any) -> Any:
    """Return values of a case that is left out of the quick tests."""
    return pytest.param(*values, marks=pytest.mark.slow)


def check_as_if_nothing_had_happened(federation: Any, found: Any) -> None:
    expected = federation.simulated()
    assert found.model_sha256 == expected.model_sha256
    assert found.params.tobytes() == expected.params.tobytes()
    assert [(r.round, r.retry, r.status, r.included, r.failures) for r in found.records] == [
        (r.round, r.retry, r.status, r.included, r.failures) for r in expected.records
    ]
    trained = federation.trained()
    assert set(trained.values()) == {1}, "a site trained twice for one order"
    assert sum(order[2] != "evaluate" for order in trained) == sum(record.invited for record in expected.records)
    counted = [(sent.key, sent.step, sent.site) for sent in federation.contributions()]
    assert len(counted) == len(set(counted))
    book = federation.open().store.rounds
    stages = {each.key: each.stage for each in book.rounds(federation.run_id())}
    assert set(stages.values()) == {"committed"}, stages
    assert federation.open().store.runs.run(federation.run_id()).stage in ("completed", "completed_with_warnings")
    for place in federation.places.values():
        assert place.error is None and place.deaths == 0
    federation.open().store.events.verify()


def in_its_first_life(federation: Any, name: str, times: int) -> Callable[[str, int], bool]:
    """Kill the first life when it comes by a point for the n-th time."""
    return lambda passing, so_far: federation.lives == 1 and (passing, so_far) == (name, times)


def once(*names: str) -> Callable[[str, int], bool]:
    """Kill at each of these points, the first time that any life comes by it."""
    left = set(names)

    def at(name: str, _times: int) -> bool:
        if name in left:
            left.discard(name)
            return True
        return False

    return at


@pytest.mark.parametrize("when", [1, slow(2), 5, slow(8)])
def test_a1_killed_while_waiting_for_results(when: int, scene: Any) -> None:
    federation = scene()
    accepted = [0]

    def after_some(name: str, _times: int) -> bool:
        accepted[0] += name == "take/committed"
        return name == "take/committed" and accepted[0] == when + 6

    federation.on_point = after_some
    check_as_if_nothing_had_happened(federation, federation.run())
    assert federation.lives == 2


@pytest.mark.parametrize(
    "where", ["round closing/written", "round closing/committed", "take/committed", "state/before"]
)
def test_a2_killed_between_the_last_result_and_the_commit(where: str, scene: Any) -> None:
    federation = scene()
    federation.on_point = lambda name, times: name == where and times == 2 and federation.lives == 1
    check_as_if_nothing_had_happened(federation, federation.run())
    assert federation.lives == 2


@pytest.mark.parametrize("where", ["state/before", "state/after", "finish/before", "finish/after"])
def test_a3_killed_around_the_write_of_the_model(where: str, scene: Any) -> None:
    federation = scene()
    federation.on_point = once(where)
    check_as_if_nothing_had_happened(federation, federation.run())
    assert federation.lives == 2


@pytest.mark.parametrize("where", ["state/after", "end round/written", "end round/committed"])
@pytest.mark.parametrize("times", [slow(1), slow(4), 8])
def test_a4_killed_after_the_commit_before_the_sites_are_told(where: str, times: int, scene: Any) -> None:
    federation = scene()
    federation.on_point = lambda name, passed: name == where and passed == times and federation.lives == 1
    check_as_if_nothing_had_happened(federation, federation.run())
    assert federation.lives == 2


@pytest.mark.parametrize("aggregator", ["plain_sum", "secure_sum"])
def test_a5_killed_at_every_kind_of_crash_point_one_after_the_other(aggregator: str, scene: Any) -> None:
    federation = scene(aggregator=aggregator)
    died: set[str] = set()

    def at(name: str, _times: int) -> bool:
        fresh = name not in died
        died.add(name)
        return fresh

    federation.on_point = at
    found = federation.run()
    check_as_if_nothing_had_happened(federation, found)
    assert federation.lives > 25 and {"take/written", "offer/committed", "state/after", "blob/kept"} <= died


PARTS = 6
WALKED: dict[str, dict[str, Any]] = {
    "plain_sum": {"sites": 2, "rounds": 1},
    "secure_sum": {"sites": 3, "rounds": 1, "prepare": False, "aggregator": "secure_sum"},
}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("aggregator", list(WALKED))
def test_a1_to_a5_killed_at_each_crash_point_of_a_run(aggregator: str, part: int, scene: Any) -> None:
    """One run for each of them, before and after what becomes durable there; the parts are all of them together."""
    whole = scene(**WALKED[aggregator])
    whole.run()
    whole.bury()
    assert len(whole.passed) > 200
    for place in range(part, len(whole.passed), PARTS):
        name = whole.passed[place]
        times = whole.passed[: place + 1].count(name)
        federation = scene(**WALKED[aggregator])
        federation.on_point = in_its_first_life(federation, name, times)
        check_as_if_nothing_had_happened(federation, federation.run())
        # Whether a content is stored once or twice depends on who sends first: the last of its points may be missing.
        assert federation.lives == 2 or federation.open().passed.count(name) < times, (name, times)
        federation.end()
