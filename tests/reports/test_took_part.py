"""How many clients were invited and counted: as a span where cohorts differ in size."""

from __future__ import annotations

import pytest

from fedloom.core.ids import ClientId, RoundNumber
from fedloom.reports.by_round import _took_part
from fedloom.runtime.record import RoundRecord


def closed(number: int, *, invited: int, included: int) -> RoundRecord:
    return RoundRecord(
        round=RoundNumber(number),
        retry=0,
        program="train",
        status="closed",
        invited=invited,
        included=tuple(ClientId(f"c{place}") for place in range(included)),
        failures=(),
        metrics={},
        bytes_up=0,
        bytes_down=0,
    )


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ([(4, 4), (4, 4)], "of 4 of 4 invited"),
        ([(4, 3), (4, 4)], "of 3 to 4 of 4 invited"),
        ([(15, 15), (27, 26)], "of 15 to 26 of 15 to 27 invited"),
    ],
)
def test_clients_are_counted_as_they_were_invited(sizes: list[tuple[int, int]], said: str) -> None:
    rounds = [closed(number, invited=i, included=n) for number, (i, n) in enumerate(sizes, 1)]
    assert said in _took_part(rounds)
