"""The team of a cluster without a cluster: workers in this process, answers in any order, workers lost on purpose."""

from __future__ import annotations

import importlib.util
import logging
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import fedloom
from fedloom import local
from fedloom.cli.run import engine_of
from fedloom.engines import LocalEngine, RayEngine, ray_engine, ray_team
from fedloom.engines.ray_dealing import TRIES, Lost
from fedloom.engines.ray_memory import Memory, fitting
from fedloom.engines.ray_messages import Report, read_report
from fedloom.engines.ray_processes import end_stragglers, family
from fedloom.engines.ray_team import RayTeam
from fedloom.engines.ray_worker import RayWorker
from fedloom.engines.worker_messages import Phase
from fedloom.errors import ComponentError, MissingExtra, PlanError, WorkerError
from fedloom.store.documents import read_head

Make = Any
Same = Callable[..., None]
Order = Callable[[list[Any]], Sequence[Any]]
_LOGGER = logging.getLogger("fedloom")


@dataclass(eq=False)
class Ticket:
    """What a worker of the fake was asked; it is computed when the answer is taken."""

    worker: int
    act: Callable[[], bytes]
    stretch: bool
    number: int


@dataclass
class FakeCrew:
    """Workers in this process. ``lose`` tells by ticket which are lost, ``order`` which answers come next."""

    most: int = 3
    order: Order = lambda tickets: tickets
    lose: Callable[[Ticket], Lost | None] = lambda ticket: None
    memory: Callable[[int], Memory | None] = lambda worker: None
    rooms: int = 1000
    room: int = 1000
    workers: dict[int, RayWorker] = field(default_factory=dict)
    begun: list[Ticket] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)
    asked_memory: list[int] = field(default_factory=list)
    busy_together: int = 0
    puts: int = 0
    _busy: Counter[int] = field(default_factory=Counter)

    def share(self, setup: Any, head: bytes, arrays: dict[str, Any]) -> None:
        for array in arrays.values():
            array.flags.writeable = False  # as in the object store
        self._start = (msgspec.msgpack.encode(setup), head, arrays)

    def put(self, data: bytes) -> bytes:
        self.puts += 1
        return data

    def hire(self, *, memory: int) -> int:
        self.asked_memory.append(memory)
        worker = len(self.workers)
        before = list(_LOGGER.handlers)
        self.workers[worker] = RayWorker(*self._start)
        _LOGGER.handlers[:] = before  # a worker keeps what its process logs, which here is this one
        return worker

    def begin(self, worker: int, phase: bytes) -> Ticket:
        return self._ticket(worker, lambda: self.workers[worker].begin(phase), stretch=False)

    def work(self, worker: int, common: bytes, mine: bytes) -> Ticket:
        self._busy[worker] += 1
        self.busy_together = max(self.busy_together, len([one for one in self._busy if self._busy[one]]))
        return self._ticket(worker, lambda: self.workers[worker].work(common, mine), stretch=True)

    def _ticket(self, worker: int, act: Callable[[], bytes], *, stretch: bool) -> Ticket:
        ticket = Ticket(worker, act, stretch, len(self.begun))
        self.begun.append(ticket)
        return ticket

    def wait(self, tickets: Sequence[Ticket], timeout_s: float) -> Sequence[Ticket]:
        return self.order([ticket for ticket in tickets if ticket.worker < self.rooms])

    def take(self, ticket: Ticket) -> Report:
        if ticket.stretch:
            self._busy[ticket.worker] -= 1
        lost = self.lose(ticket)
        if lost is not None:
            raise lost
        report = read_report(ticket.act())
        memory = self.memory(ticket.worker)
        return report if memory is None else msgspec.structs.replace(report, memory=memory)

    def dismiss(self, worker: int) -> None:
        self.ended.append(worker)
        self._busy[worker] = 0


def run(crew: FakeCrew, asked: fedloom.Experiment, *, clock: Callable[[], float] = lambda: 0.0, **engine: Any) -> Any:
    def hire(experiment: Any, data: Any, journal: Any, base: Path) -> Any:
        states = journal.states
        return RayTeam(crew, experiment, data.dataset, states, base=str(base), strict=False, clock=clock), ""

    fields = {"workers": 1, "checkpoint_s": 0.0, "debug": False, "strict": False, "pool": "threads"}
    return LocalEngine(**{**fields, **engine}, hire=hire).run(asked)


def backwards_one_by_one(tickets: list[Any]) -> list[Any]:
    """Take first who is told the phase, then the stretch that was begun last."""
    return [min(tickets, key=lambda ticket: (ticket.stretch, -ticket.number))]


@pytest.mark.parametrize("algorithm", ["fedavg", "fedadam", "scaffold"])
@pytest.mark.parametrize("order", [list, backwards_one_by_one], ids=["as asked", "last first"])
def test_any_order_of_answers_gives_the_bytes_of_one_worker(
    algorithm: str, order: Order, experiment: Make, same: Same
) -> None:
    asked = experiment(algorithm, rounds=4, prepare=[fedloom.standardise()], block=2, evaluate_every=2)
    crew = FakeCrew(order=order)
    plain, found = local().run(asked), run(crew, asked)
    same(plain, found)
    assert found.bytes_up == plain.bytes_up and found.bytes_down == plain.bytes_down
    assert [r.clients for r in found.rounds] == [r.clients for r in plain.rounds]
    assert sorted(crew.ended) == [0, 1, 2] and crew.busy_together > 1


def test_orders_are_put_once_a_round_and_workers_are_told_a_phase_once(experiment: Make) -> None:
    crew = FakeCrew(most=2)
    result = run(crew, experiment(rounds=5, block=2, evaluate_every=5))
    assert crew.puts == len(result.rounds) + 1, "five rounds, and the evaluation after the last"
    assert sum(not ticket.stretch for ticket in crew.begun) == 2
    assert sum(ticket.stretch for ticket in crew.begun) > 2 * crew.puts, "more stretches than workers"


def test_the_stretch_of_a_lost_worker_is_done_again_and_the_worker_replaced(experiment: Make, same: Same) -> None:
    asked = experiment("scaffold", rounds=6, block=2)
    stretches = iter(range(1000))

    def lose(ticket: Ticket) -> Lost | None:
        gone = ticket.stretch and next(stretches) in (1, 7, 20, 21)
        return Lost("its node was switched off") if gone else None

    crew = FakeCrew(lose=lose, order=backwards_one_by_one)
    same(local().run(asked), run(crew, asked))
    assert len(crew.workers) == 3 + 4 and sorted(crew.ended) == list(range(7))


def test_an_answer_that_was_computed_and_lost_on_the_way_counts_once(experiment: Make, same: Same) -> None:
    asked = experiment("scaffold", rounds=3, block=2)
    first = True

    def lose(ticket: Ticket) -> Lost | None:
        nonlocal first
        if ticket.stretch and first:
            first = False
            ticket.act()
            return Lost("the way to it broke")
        return None

    same(local().run(asked), run(FakeCrew(lose=lose), asked))


def test_a_stretch_that_ends_every_worker_ends_the_run(experiment: Make) -> None:
    asked = experiment(rounds=3, block=2)

    def lose(ticket: Ticket) -> Lost | None:
        return Lost("its node ran out of memory", memory=True) if ticket.stretch else None

    crew = FakeCrew(lose=lose)
    said = rf"clients c0 to c\d were given to {TRIES} workers, and each of these was lost \(the last: its node ran out"
    with pytest.raises(WorkerError, match=said) as caught:
        run(crew, asked)
    assert "use a smaller block" in str(caught.value) and "resume the run" in str(caught.value)
    assert len([ticket for ticket in crew.begun if ticket.stretch]) <= TRIES * 3
    assert sorted(crew.ended) == sorted(crew.workers)


def test_a_worker_lost_for_want_of_memory_is_not_replaced(experiment: Make, same: Same) -> None:
    asked = experiment(rounds=4, block=2)
    stretches = iter(range(1000))

    def lose(ticket: Ticket) -> Lost | None:
        return Lost("out of memory", memory=True) if ticket.stretch and next(stretches) == 2 else None

    crew = FakeCrew(lose=lose)
    same(local().run(asked), run(crew, asked))
    assert len(crew.workers) == 3


def test_a_run_goes_on_with_those_workers_for_whom_there_is_room(experiment: Make, same: Same) -> None:
    asked = experiment(rounds=3, block=2)
    crew = FakeCrew(most=4, rooms=1)
    same(local().run(asked), run(crew, asked))
    assert {ticket.worker for ticket in crew.begun if ticket.stretch} == {0}


def test_a_cluster_without_room_for_a_worker_is_not_waited_for_without_end(experiment: Make) -> None:
    ticks = iter(range(0, 1000, 10))
    with pytest.raises(
        WorkerError, match=r"no worker is there, and none could be started in 180 s: the cluster has no"
    ):
        run(FakeCrew(rooms=0), experiment(rounds=1), clock=lambda: float(next(ticks)))


def test_workers_that_never_come_are_not_started_for_ever(experiment: Make) -> None:
    crew = FakeCrew(lose=lambda ticket: None if ticket.stretch else Lost("its process ended at once"))
    with pytest.raises(WorkerError, match=r"no worker is there.*the last was lost: its process ended at once"):
        run(crew, experiment(rounds=1))
    assert len(crew.workers) == TRIES


def test_what_a_worker_raises_is_told_as_by_a_worker_process(experiment: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_team, "Phase", lambda **fields: Phase(**{**fields, "digest": "0" * 64}))
    said = r"worker 0 raised WorkerError: a worker built experiment \w{12}, the run is of 0{12}\nTraceback"
    with pytest.raises(WorkerError, match=said):
        run(FakeCrew(), experiment(rounds=1))


def test_a_component_that_a_worker_does_not_have_is_named(experiment: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = experiment(rounds=1).as_json()
    tree["algorithm"] = {"group": "fedloom.algorithms", "name": "of_my_own", "arguments": {}}
    monkeypatch.setattr(fedloom.Experiment, "as_json", lambda self: tree)
    with pytest.raises(WorkerError, match=r"worker 0 raised ComponentError: .*of_my_own"):
        run(FakeCrew(), experiment(rounds=1))


def test_the_first_stretch_of_a_phase_is_alone_and_only_workers_that_fit_stay(
    experiment: Make, same: Same, caplog: pytest.LogCaptureFixture
) -> None:
    asked = experiment(rounds=4, block=2)
    crew = FakeCrew(most=4, order=list)

    def memory(worker: int) -> Memory:
        peaks = any(ticket.stretch and ticket.worker == worker for ticket in crew.begun)
        return Memory(machine="one", own=100 << 20, peak=(900 if peaks else 100) << 20, free=1 << 30, total=4 << 30)

    crew.memory = memory
    same(local().run(asked), run(crew, asked))
    # Free and held are 1,024 and 4 x 100 MB, a tenth of 4,096 stays free: one worker of 900 MB.
    assert crew.busy_together == 1
    assert "a worker holds up to 900 MB, and 1 of them fit on one" in caplog.text
    assert crew.asked_memory[0] == 0 and set(crew.asked_memory[1:]) == {100 << 20}
    assert len(crew.workers) == 4, "those that were let go are not replaced"


def test_each_machine_is_measured_for_itself(experiment: Make, same: Same) -> None:
    asked = experiment(rounds=4, block=2)
    crew = FakeCrew(most=4)
    crew.memory = lambda worker: Memory(
        machine="even" if worker % 2 == 0 else "odd",
        own=1,
        peak=60 if worker % 2 else 10,
        free=100,
        total=100,
    )
    same(local().run(asked), run(crew, asked))
    assert len([worker for worker in crew.ended if worker % 2]) == 2
    assert crew.busy_together == 3


def test_where_memory_is_not_told_all_workers_fit() -> None:
    unknown = Memory(machine="m", own=0, peak=0, free=0, total=0)
    assert fitting([unknown] * 8, peak=0) > 8


def test_processes_below_this_one_are_found_by_a_word_and_ended() -> None:
    word = "fedloom-test-of-stragglers"
    inner = "import sys; print('up', flush=True); sys.stdin.read()"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    with subprocess.Popen(
        [sys.executable, "-c", outer, word], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as started:
        assert started.stdout is not None
        started.stdout.readline()
        found = family(word)
        if not Path("/proc").is_dir():
            started.kill()
            pytest.skip("this system has no /proc")
        assert {process.number for process in found} > {started.pid} and len(found) == 2
        assert family("no process has this word") == frozenset()
        end_stragglers(found, after_s=0.0)
        started.wait(10)
        end_stragglers(found, after_s=10.0)
    assert not family(word)


def test_without_ray_the_engine_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"the Ray engine needs the `ray` extra: pip install 'fedloom\[ray\]'"):
        fedloom.ray()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"workers": 0}, r"ray\(workers=0\): expected 1 or more"),
        ({"cpus_per_worker": 0.0}, r"ray\(cpus_per_worker=0.0\): expected a number above 0"),
        ({"gpus_per_worker": -1.0}, r"ray\(gpus_per_worker=-1.0\): expected a number from 0"),
        ({"checkpoint_s": float("nan")}, "finite|seconds from 0"),
    ],
)
def test_numbers_out_of_range_are_refused(arguments: dict[str, float], said: str) -> None:
    with pytest.raises(ComponentError, match=said):
        fedloom.ray(**arguments)  # type: ignore[arg-type]


def engine() -> RayEngine:
    return RayEngine(workers=2, address=None, cpus_per_worker=1.0, gpus_per_worker=0.0, checkpoint_s=5.0, strict=False)


def test_what_was_made_in_python_is_refused_before_a_cluster_is_started(
    tmp_path: Path, experiment: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(needs: Any) -> Any:
        raise AssertionError("no cluster is needed to know it")

    monkeypatch.setattr(ray_engine, "open_crew", never)
    asked = experiment(rounds=1)
    object.__setattr__(asked.algorithm, "spec", None)
    said = (
        r"ray\(\): algorithm made in Python, which no worker of a cluster can build. Name every part .* or run .*local"
    )
    with pytest.raises(PlanError, match=said):
        engine().run(asked, output=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_run_on_ray_is_resumed_by_either_engine_and_its_folder_names_the_engine(
    tmp_path: Path, experiment: Make, same: Same, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = experiment("scaffold", rounds=6, block=2)
    crew = FakeCrew(most=3, room=2)

    @contextmanager
    def opened(needs: Any) -> Iterator[FakeCrew]:
        yield crew

    monkeypatch.setattr(ray_engine, "open_crew", opened)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    first = fedloom.ray(2, checkpoint_s=0.0).run(replace(asked, stop=fedloom.max_rounds(3)), output=tmp_path)
    assert "the cluster has room for 2 of 3 workers" in first.notes
    assert first.folder is not None
    table = read_head(first.folder).options["engine"]
    assert table["name"] == "ray" and table["workers"] == 2
    assert engine_of(table) == fedloom.ray(2, checkpoint_s=0.0)
    same(local().run(asked), local().run(asked, resume=first.folder))


def test_a_question_is_answered_in_this_process(ragged: Any) -> None:
    data = ragged()
    asked = fedloom.standardise().query
    found = engine().query(asked, data=data, seed=3)
    np.testing.assert_array_equal(found.mean, local().query(asked, data=data, seed=3).mean)
