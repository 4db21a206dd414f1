"""A private run whose coordinator is killed: the same cohort, one release per round, and a ledger that has it all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedloom.errors import AlgorithmError
from fedloom.store.ledger import Ledger
from fedloom.store.ledger_entries import Budget

Make = Callable[..., Any]
FORMS = {
    "gaussian": ("plain_sum", '{ name = "gaussian", clip = 0.5, noise_multiplier = 8.0 }, { name = "fixed_point" }'),
    "distributed_gaussian": (
        "secure_sum",
        '{ name = "distributed_gaussian", clip = 0.5, noise_multiplier = 8.0 }, { name = "fixed_point" }',
    ),
}
POINTS = [
    "charge/before", "charge/after", "keep/before", "keep/after", "state/before", "state/after",
    "round closing/committed", "end round/written", "end round/committed", "offer/committed",
]  # fmt: skip


def private(scene: Make, form: str, *, cohort: str = "", **settings: Any) -> Any:
    aggregator, noise = FORMS[form]
    federation = scene(
        sites=5,
        aggregator=aggregator,
        prepare=False,
        weights="uniform",
        stages=f'{{ name = "mean", expected = 5.0 }}, {noise}',
        policy="quorum = 1",
        more=f'[privacy]\nunit = "client"\ndelta = 0.01\ndata_set = "ward"\n{cohort}',
        **settings,
    )
    (federation.folder / "coordinator").mkdir(mode=0o700)
    ledger_in(federation.folder / "coordinator" / "runs")
    return federation


def ledger_in(folder: Path) -> Path:
    folder.mkdir()
    with Ledger.create(folder / "ledger.sqlite") as ledger:
        ledger.register(
            Budget(data_set="ward", epsilon=100.0, delta=0.1, unit="client", adjacency="zero_out", composition="rdp")
        )
    return folder


def spent(federation: Any) -> tuple[int, Any]:
    with Ledger.read(federation.folder / "coordinator" / "runs" / "ledger.sqlite") as ledger:
        balance = ledger.balance("ward")
        return balance.releases, balance.spent


@pytest.mark.parametrize("form", list(FORMS))
def test_d16_killed_at_every_step_of_a_release_releases_each_round_once(form: str, scene: Make) -> None:
    undisturbed = private(scene, form, rehearsal=True)
    expected = undisturbed.run()
    federation = private(scene, form, rehearsal=True)
    left = set(POINTS)

    def at(name: str, _times: int) -> bool:
        if name not in left:
            return False
        left.discard(name)
        return True

    federation.on_point = at
    found = federation.run()
    unseen = {"keep/before", "keep/after"} if form == "distributed_gaussian" else set()
    assert left == unseen, "some were never passed"
    assert found.model_sha256 == expected.model_sha256
    assert found.model_sha256 == federation.simulated(ledger_in(federation.folder.parent / "simulated")).model_sha256
    assert set(federation.trained().values()) == {1}
    assert spent(federation) == spent(undisturbed) and spent(federation)[0] == 3
    check_one_release(federation)


def check_one_release(federation: Any) -> None:
    """Whatever was drawn again for a round was the same."""
    by_round: dict[Any, set[bytes]] = {}
    for key, released in federation.released:
        by_round.setdefault(key, set()).add(released)
    assert all(len(each) == 1 for each in by_round.values())


@pytest.mark.parametrize("form", list(FORMS))
def test_a_deployed_run_draws_from_its_own_secret_and_the_same_after_a_kill(form: str, scene: Make) -> None:
    federation = private(scene, form, cohort='[cohort]\nname = "poisson"\nrate = 0.8\n' if form == "gaussian" else "")
    cohorts: dict[Any, Any] = {}

    def at(name: str, times: int) -> bool:
        if name in ("plan round/committed", "offer/committed"):
            book = federation.open().store.rounds
            for each in book.rounds(federation.run_now or ""):
                assert cohorts.setdefault(each.key, each.cohort) == each.cohort
        return name in ("plan round/committed", "charge/after", "keep/after", "state/before") and times == 2

    federation.on_point = at
    found = federation.run()
    assert federation.lives > 3
    simulated = federation.simulated(ledger_in(federation.folder.parent / "simulated"))
    assert found.model_sha256 != simulated.model_sha256, "its noise comes from no seed"
    assert len(found.records) == 3
    check_one_release(federation)
    assert spent(federation)[0] == 3


def test_a14_a_mended_server_step_gets_the_release_that_was_made(scene: Make, faulty: Path) -> None:
    fault = f'fault = "server raises"\nfolder = "{faulty}"'
    federation = private(scene, "gaussian", algorithm="faulty", arguments=fault)
    with pytest.raises(AlgorithmError):
        federation.run()
    assert spent(federation)[0] == 2
    (faulty / "mended").touch()
    federation.open().engine.reopen(federation.run_id(), from_round=2)
    found = federation.run()
    assert len(found.records) == 3
    assert [key[1] for key, _ in federation.released].count(2) == 2, "once for each attempt"
    check_one_release(federation)
    assert spent(federation)[0] == 3
    assert set(federation.trained().values()) == {1}


def test_a_ledger_has_the_release_before_it_is_made(scene: Make) -> None:
    federation = private(scene, "gaussian", rehearsal=True)
    seen: list[int] = []

    def at(name: str, times: int) -> bool:
        if name in ("charge/before", "charge/after"):
            seen.append(spent(federation)[0])
        return name == "charge/after" and times == 1 and federation.lives == 1

    federation.on_point = at
    federation.run()
    assert seen == [0, 1, 1, 1, 1, 2, 2, 3], "charged before, and once, though the first was killed then"
