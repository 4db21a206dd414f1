"""Many runs on one ledger at once: in random orders over two connections, and in real processes."""

from __future__ import annotations

import math
import os
import random
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import pytest

from fedloom.core.events import GaussianDpEvent
from fedloom.errors import BudgetError
from fedloom.store.ledger import Account, Ledger
from fedloom.store.ledger_entries import Budget, Composition, Reservation
from fedloom.store.ledger_price import ORDERS

EPSILON, DELTA = 4.0, 1e-5


def gaussian_delta(epsilon: float, mu: float) -> float:
    """Return the exact delta of Gaussian noise of multiplier 1/mu (Balle and Wang 2018, Theorem 8)."""

    def below(x: float) -> float:
        return 0.5 * math.erfc(-x / math.sqrt(2.0))

    return below(mu / 2 - epsilon / mu) - math.exp(epsilon) * below(-mu / 2 - epsilon / mu)


@dataclass
class Books:
    """What a data set has spent, counted by the test itself: exact sums, and the square of mu for Gaussian noise."""

    epsilons: list[Fraction] = field(default_factory=list)
    mu_squared: Fraction = Fraction(0)
    releases: int = 0

    def check(self, ledger: Ledger, data_set: str, composition: Composition) -> None:
        balance = ledger.balance(data_set)
        assert balance.releases == self.releases
        if composition == "basic":
            assert sum(self.epsilons) <= Fraction(EPSILON)
            assert math.isclose(balance.promised.epsilon, float(sum(self.epsilons)), rel_tol=1e-12)
        elif self.mu_squared:
            mu = math.sqrt(self.mu_squared)
            assert gaussian_delta(EPSILON, mu) <= DELTA
            assert gaussian_delta(balance.spent.epsilon, mu) <= DELTA
            assert balance.spent.epsilon <= balance.promised.epsilon * (1 + 1e-9)
        assert balance.promised.epsilon <= EPSILON


def run(ledger: Ledger, name: str, data_set: str, books: Books, *, draw: random.Random) -> Iterator[None]:
    """Carry out a run step by step; it may be refused, stop early, or never finish."""
    releases, noise = draw.randint(1, 3), Fraction(draw.randint(4, 24), 4)
    epsilon = Fraction(draw.randint(1, 40), 8)
    one = tuple(float(Fraction(int(order)) / (2 * noise * noise)) for order in ORDERS)
    worst = Reservation(
        epsilon=float(epsilon), delta=0.0, releases=releases, rdp=tuple(releases * each for each in one)
    )
    account: Account | None = None
    while account is None:
        yield
        try:
            account = ledger.reserve(name, data_set, worst)
        except BudgetError as error:
            assert "does not fit the budget" in str(error)
            if draw.random() < 0.5:
                return
            worst = Reservation(epsilon=worst.epsilon / 2, delta=0.0, releases=1, rdp=one)
            epsilon, releases = epsilon / 2, 1
    books.epsilons.append(epsilon)
    for number in range(1, draw.randint(0, releases) + 1):
        yield
        for _ in range(draw.randint(1, 2)):  # a resumed run comes by again
            account.commit((1, number, 0), GaussianDpEvent(float(noise)), one)
        books.releases += 1
        books.mu_squared += 1 / (noise * noise)
        yield
        account.keep((1, number, 0), b"released")
        assert account.kept((1, number, 0)) == b"released"
    yield
    if draw.random() < 0.8:
        ledger.finish(name)


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], tuple[Ledger, Ledger]]]:
    """Two connections to a fresh ledger that need not survive a power cut: in memory where the system allows."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    memory = Path("/dev/shm")
    folder = tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None)
    opened: list[Ledger] = []

    def make(number: int) -> tuple[Ledger, Ledger]:
        for each in opened:
            each.close()
        first = Ledger.create(Path(folder.name) / f"{number}" / "ledger.sqlite")
        second = Ledger.open(first.path)
        opened[:] = [first, second]
        for each in opened:
            each._chain._database.execute("PRAGMA synchronous=OFF")
        return first, second

    yield make
    for each in opened:
        each.close()
    folder.cleanup()


@pytest.mark.parametrize("composition", ["basic", "rdp"])
@pytest.mark.parametrize(
    ("count", "part"), [(60, 0), *(pytest.param(1000, part, marks=pytest.mark.slow) for part in range(1, 6))]
)
def test_two_runs_in_any_order_never_overspend(
    two: Callable[[int], tuple[Ledger, Ledger]], composition: Composition, count: int, part: int
) -> None:
    draw = random.Random(f"{composition}/{part}")
    refused = 0
    for number in range(count):
        if number % 50 == 0:
            ledgers = two(number)
        names = (f"ward-{number}", f"wing-{number}")
        shared = draw.random() < 0.5
        for name in names:
            ledgers[0].register(
                Budget(
                    data_set=name,
                    unit="record",
                    adjacency="add_remove",
                    epsilon=EPSILON,
                    delta=DELTA,
                    composition=composition,
                    shares_units_with=(names[0],) if shared else (),
                )
            )
        books = Books()
        places = (names[0], names[1] if shared else names[0])
        ahead = [
            run(ledger, f"{number}/{place}", data_set, books, draw=draw)
            for place, (ledger, data_set) in enumerate(zip(ledgers, places, strict=True))
        ]
        while ahead:
            chosen = draw.choice(ahead)
            if next(chosen, ahead) is ahead:
                ahead.remove(chosen)
            books.check(draw.choice(ledgers), draw.choice(places), composition)
        refused += len(books.epsilons) < 2
        if number % 50 == 49:
            assert ledgers[0].verify() == ledgers[1].head()
    assert refused > count / 20, "some runs did not fit"


RESERVE = """
import sys
from pathlib import Path
from fedloom.errors import BudgetError
from fedloom.core.events import GaussianDpEvent
from fedloom.store.ledger import Ledger
from fedloom.store.ledger_entries import Budget, Reservation
path, name = Path(sys.argv[1]), sys.argv[2]
noise = GaussianDpEvent(1.0)
budget = Budget(
    data_set="ward", unit="client", adjacency="zero_out", epsilon=25.0, delta=1e-5, composition="basic"
)
print("ready", flush=True)
sys.stdin.readline()
accepted = 0
with Ledger.open_or_create(path) as ledger:
    ledger.register(budget)
    for number in range(20):
        try:
            account = ledger.reserve(
                f"{name}-{number}", "ward", Reservation(epsilon=1.0, delta=0.0, releases=1, events=(noise,))
            )
        except BudgetError:
            continue
        account.commit((1, 1, 0), noise)
        account.keep((1, 1, 0), name.encode())
        accepted += 1
print(accepted)
"""


def test_processes_that_begin_at_once_share_one_ledger(
    tmp_path: Path, process: Callable[..., subprocess.Popen[str]]
) -> None:
    children = [process(RESERVE, tmp_path / "ledger.sqlite", name) for name in ("a", "b")]
    for child in children:
        assert child.stdout is not None and child.stdin is not None
        assert child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    ends = [child.communicate(timeout=60) for child in children]
    assert sum(int(out) for out, _ in ends) == 25, ends
    with Ledger.read(tmp_path / "ledger.sqlite") as ledger:
        assert ledger.verify().rows == 2 + 3 * 25
        assert ledger.balance("ward").promised.epsilon == 25.0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ledger.sqlite", "ledger.sqlite.head"]
