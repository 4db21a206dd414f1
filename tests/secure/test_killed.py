"""SIGKILL of a client or the server between any two steps: same sum, or LOST_STATE; one message a step."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import fedloom.secure

SCRIPT = Path(__file__).with_name("killed_party.py")
SOURCE = Path(fedloom.secure.__file__).parents[2]

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")


@contextmanager
def memory() -> Iterator[str]:
    """Make a folder in memory where there is one: no power is cut here, so nothing must reach a disk."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if os.access(shared, os.W_OK) else None) as folder:
        yield folder


def played(part: str, stride: int) -> dict[str, list[int]]:
    """Play the scenes of a part, each under the checks of ``play`` in the script; return what they came to."""
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(SOURCE), *filter(None, [os.environ.get("PYTHONPATH")])])
    with memory() as folder:
        command = [sys.executable, str(SCRIPT), folder, part, str(stride)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, list[int]] = json.loads(done.stdout)
    return found


slow = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.mark.parametrize("stride", [31, pytest.param(1, marks=slow)])
def test_a_party_that_is_killed_between_two_steps_comes_back_and_the_sum_is_the_same(stride: int) -> None:
    found = played("between", stride)
    assert len(found["died"]) == len(range(0, 94, stride))
    assert set(found["died"]) == {1}, "every scene has its death"
    assert set(found["included"]) == {4}, "nobody is missing in the sum"
    assert set(found["lost"]) == {0}


@pytest.mark.parametrize("stride", [6, pytest.param(1, marks=slow)])
def test_a_client_whose_store_is_gone_answers_that_it_has_lost_its_state_and_is_left_out(stride: int) -> None:
    found = played("lost", stride)
    assert set(found["died"]) == {1}
    if stride == 1:
        # Its vector is in the sum from the moment that it was sent: that is the last of the points of step 2.
        assert found["included"] == [3] * 7 + [4] * 9
        assert found["lost"] == [1] * 15 + [0], "after its last message nothing more is asked"
    else:
        assert found["included"] == [3, 3, 4]


@pytest.mark.parametrize("stride", [12, pytest.param(1, marks=slow)])
def test_a_server_that_comes_back_announces_the_lists_that_it_had_and_no_others(stride: int) -> None:
    found = played("late", stride)
    # The client that was late is in the sum only where the server died before it had held the list without it.
    expected = [4 if number in (0, 16, 28) else 3 for number in range(36)]
    assert found["included"] == expected[::stride]
    assert set(found["died"]) == {1}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_all_parties_may_be_killed_and_killed_again() -> None:
    found = played("together", 1)
    assert set(found["died"]) == {10}
    assert set(found["included"]) == {4}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_kill_inside_of_keeping_leaves_the_step_kept_or_not_made() -> None:
    assert min(played("inside", 1)["points"]) > 10
