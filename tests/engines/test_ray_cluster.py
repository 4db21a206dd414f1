"""Real clusters of Ray on this machine: the bytes of one worker, nodes that are lost, and nothing left behind."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import fedloom
from fedloom import local
from fedloom.engines import ray_cluster
from fedloom.engines.ray_cluster import Needs, RayCrew
from fedloom.engines.ray_dealing import Lost
from fedloom.engines.ray_messages import Report
from fedloom.engines.ray_processes import family
from fedloom.engines.ray_team import RayTeam
from fedloom.engines.ray_worker import RayWorker
from fedloom.engines.worker_messages import Part
from fedloom.errors import PlanError, WorkerError

ray = pytest.importorskip("ray", reason="the Ray engine needs the extra `ray`")
from ray.cluster_utils import Cluster  # noqa: E402

Make = Any
Same = Callable[..., None]
pytestmark = [
    pytest.mark.timeout(120),
    # Ray leaves pipes and sockets of the processes that it starts to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
_WAIT_S = 40.0

GATE = '''
"""An algorithm whose clients wait at a gate while it is closed, each at the begin of its work."""
import os, time
from dataclasses import replace
from pathlib import Path
import fedloom as fl

@fl.component("fedloom.algorithms")
def gated(folder: str = "") -> fl.Algorithm:
    inner = fl.scaffold(fl.Schedule(epochs=1, batch_size=16, learning_rate=0.2))

    def client(broadcast, state, ctx):
        closed = Path(folder, "closed")
        until = time.monotonic() + 40
        while closed.exists() and time.monotonic() < until:
            Path(folder, f"begun-{os.getpid()}").touch()
            time.sleep(0.005)
        return (yield from inner.client(broadcast, state, ctx))

    return replace(inner, client=client, spec=None)
'''


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install a package with one algorithm, found by its entry point as any other."""
    folder = tmp_path_factory.mktemp("site")
    info = folder / "fedloom_gate-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "fedloom_gate.py").write_text(GATE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fedloom-gate\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[fedloom.algorithms]\ngated = fedloom_gate:gated\n")
    return folder


@pytest.fixture(scope="module")
def two_nodes(plugin: Path) -> Iterator[Any]:
    """A cluster of two nodes with a core each, which notices within a second that a node has gone."""
    config = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 200, "health_check_failure_threshold": 5}
    before = signal.getsignal(signal.SIGTERM)
    with ray_cluster._silence(), ray_cluster._own_environment():
        os.environ["PYTHONPATH"] = os.pathsep.join([str(plugin), *filter(None, sys.path)])
        small = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": 80 << 20, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args={**small, "_system_config": config})
        cluster.add_node(**{key: value for key, value in small.items() if key != "include_dashboard"})
        yield cluster
        ray.shutdown()
        cluster.shutdown()
    signal.signal(signal.SIGTERM, before)


class Watched:
    """The team of the run that is going on, the reports of its workers, and what it lost."""

    def __init__(self) -> None:
        self.team: Any = None
        self.reports: list[Report] = []
        self.lost: list[tuple[Any, str]] = []

    def gather(self, record: Any) -> None:
        """After round 1: wait until all workers have taken up the phase, so that all of them are dealt stretches."""
        until = time.monotonic() + _WAIT_S
        while record.round == 1 and any(member.ticket is not None for member in self.team._members):
            assert time.monotonic() < until
            list(self.team._hear(None))


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    found = Watched()
    begin, lose, take = RayTeam.begin, RayTeam._lose, RayCrew.take

    def note_team(self: Any, *arguments: Any) -> None:
        found.team = self
        begin(self, *arguments)

    def note_report(self: Any, ticket: Any) -> Report:
        found.reports.append(take(self, ticket))
        return found.reports[-1]

    def note_lost(self: Any, member: Any, lost: Lost, current: Any) -> None:
        found.lost.append((member.place, lost.why))
        lose(self, member, lost, current)

    monkeypatch.setattr(RayTeam, "begin", note_team)
    monkeypatch.setattr(RayTeam, "_lose", note_lost)
    monkeypatch.setattr(RayCrew, "take", note_report)
    return found


def torch_learner() -> Any:
    pytest.importorskip("torch", reason="the torch learner needs the extra `torch`")
    return fedloom.torch_module(fedloom.models.mlp([8]))


LEARNERS: dict[str, Callable[[], Any]] = {"logistic": lambda: fedloom.logistic(l2=1e-3), "torch": torch_learner}
SCHEDULE = fedloom.Schedule(epochs=1, batch_size=16, learning_rate=0.1)
ALGORITHMS: dict[str, Callable[[], Any]] = {
    "fedavg": lambda: fedloom.fedavg(SCHEDULE),
    "fedprox": lambda: fedloom.fedprox(SCHEDULE, mu=0.1),
    "fedadam": lambda: fedloom.fedadam(SCHEDULE),
    "scaffold": lambda: fedloom.scaffold(SCHEDULE),
}


@pytest.mark.parametrize(
    ("learner", "algorithm"),
    [
        *[("logistic", algorithm) for algorithm in ALGORITHMS],
        ("torch", "scaffold"),  # an actor needs seconds to import torch
        *[pytest.param("torch", name, marks=pytest.mark.slow) for name in ALGORITHMS if name != "scaffold"],
    ],
)
def test_two_nodes_give_the_bytes_of_one_worker(
    learner: str, algorithm: str, *, experiment: Make, same: Same, two_nodes: Any, watched: Watched
) -> None:
    asked = replace(
        experiment(rounds=4, block=2, prepare=[fedloom.standardise()]),
        learner=LEARNERS[learner](),
        algorithm=ALGORITHMS[algorithm](),
    )
    plain = local().run(asked)
    found = fedloom.ray(address=two_nodes.address).run(asked, on_round=[watched.gather])
    same(plain, found)
    trained = [report for report in watched.reports if isinstance(report.answer, Part)]
    assert len({report.process for report in trained}) == 2, "both nodes have computed"
    assert not ray.is_initialized(), "the run has left the cluster"


def test_a_node_that_is_killed_in_mid_round_changes_nothing(
    experiment: Make, same: Same, *, two_nodes: Any, watched: Watched, plugin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(plugin))
    gate = plugin / "gate"
    gate.mkdir()
    import fedloom_gate  # type: ignore[import-not-found]

    asked = replace(experiment(rounds=5, block=2), algorithm=fedloom_gate.gated(str(gate)))
    plain = local().run(asked)
    node = two_nodes.add_node(num_cpus=1, num_gpus=0, object_store_memory=80 << 20)
    wait = RayCrew.wait
    killed: list[set[int]] = []

    def close(record: Any) -> None:
        watched.gather(record)
        if record.round == 2:
            (gate / "closed").touch()

    def kill_when_begun(self: Any, tickets: Any, timeout_s: float) -> Any:
        on_node = {process.number for process in family(f"={node.raylet_socket_name}\0")}
        begun = {int(path.name.partition("-")[2]) for path in gate.glob("begun-*")}
        if (gate / "closed").exists() and begun & on_node:
            two_nodes.remove_node(node, allow_graceful=False)
            killed.append(begun & on_node)
            (gate / "closed").unlink()
        return wait(self, tickets, 0.1)

    monkeypatch.setattr(RayCrew, "wait", kill_when_begun)
    found = fedloom.ray(address=two_nodes.address).run(asked, on_round=[close])
    assert len(killed) == 1 and len(killed[0]) == 1
    ((place, _),) = watched.lost
    assert place is not None, "it was lost with a stretch in hand"
    same(plain, found)


def test_a_worker_that_is_killed_is_replaced_in_a_cluster_that_is_used_already(
    experiment: Make, same: Same, two_nodes: Any, watched: Watched
) -> None:
    """A process that is connected stays so, and its cluster is the one that a run takes."""
    asked = experiment("scaffold", rounds=6, block=2)
    plain = local().run(asked)
    with ray_cluster._silence(), ray_cluster._own_environment():
        ray.init(address=two_nodes.address, log_to_driver=False, configure_logging=False)

    def kill(record: Any) -> None:
        watched.gather(record)
        if record.round == 3:
            os.kill(watched.reports[-1].process, signal.SIGKILL)

    try:
        found = fedloom.ray(2).run(asked, on_round=[kill])
        same(plain, found)
        assert watched.team._hired == 3 and ray.is_initialized()
        with pytest.raises(
            PlanError, match=r"ray\(address='10.0.0.1:1'\): this process is connected to the cluster at"
        ):
            fedloom.ray(address="10.0.0.1:1").run(asked)
        with pytest.raises(
            PlanError, match=r"gpus_per_worker=1\): no node of the cluster has that for one worker; its"
        ):
            fedloom.ray(gpus_per_worker=1.0).run(asked)
    finally:
        ray.shutdown()


def test_a_node_that_cannot_import_what_a_worker_needs_is_told(
    experiment: Make, two_nodes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    Nowhere = type("Nowhere", (RayWorker,), {"__module__": "not_installed_there"})
    module = type(sys)("not_installed_there")
    module.Nowhere = Nowhere  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "not_installed_there", module)
    monkeypatch.setattr(ray_cluster, "RayWorker", Nowhere)
    with pytest.raises(
        WorkerError, match=r"a node of the cluster cannot run a worker: .*not_installed_there.* Install"
    ):
        fedloom.ray(address=two_nodes.address).run(experiment(rounds=1))


def test_an_address_where_nobody_answers_is_told_before_anything_is_written(tmp_path: Path, experiment: Make) -> None:
    asked = experiment(rounds=1)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(WorkerError, match=rf"ray\(address='{address}'\): no cluster answers there within 5 s"):
            fedloom.ray(address=address).run(asked, output=tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as other:
        thread = threading.Thread(target=lambda: other.accept()[0].sendall(b"HTTP/1.1 400 Bad Request\r\n"))
        thread.start()
        with pytest.raises(WorkerError, match="another program than Ray listens there"):
            fedloom.ray(address=f"127.0.0.1:{other.getsockname()[1]}").run(asked, output=tmp_path)
        thread.join(10)
    with pytest.raises(PlanError, match=r"ray\(address='somewhere'\): expected host:port, or auto"):
        fedloom.ray(address="somewhere").run(asked, output=tmp_path)
    with pytest.raises(PlanError, match="a run takes place on a node of the cluster"):
        fedloom.ray(address="ray://127.0.0.1:10001").run(asked, output=tmp_path)
    assert not list(tmp_path.iterdir())


def test_room_is_counted_by_node() -> None:
    nodes = [
        {"Alive": True, "Resources": {"CPU": 8.0, "GPU": 1.0}},
        {"Alive": True, "Resources": {"CPU": 3.0}},
        {"Alive": False, "Resources": {}},
    ]
    assert ray_cluster._room(nodes, Needs(workers=None, address=None, cpus=2.0, gpus=0.0)) == 5
    assert ray_cluster._room(nodes, Needs(workers=None, address=None, cpus=1.0, gpus=0.5)) == 2
    assert ray_cluster._room(nodes, Needs(workers=None, address=None, cpus=0.1, gpus=0.0)) == 110


SCRIPT = """
import os, subprocess, sys
import fedloom as fl
from fedloom.engines.ray_messages import Report
from fedloom.engines.ray_processes import family
from fedloom.engines.ray_team import RayTeam
from fedloom.engines.ray_worker import RayWorker
from fedloom.engines.worker_messages import Part

def main():
    before = {{key: os.environ[key] for key in os.environ if key.startswith(("RAY", "PYTHON"))}}
    asked = fl.Experiment(data=fl.data.hospitals(), prepare=[fl.standardise()], learner=fl.logistic(),
        algorithm=fl.scaffold(fl.Schedule(batch_size=16)), stop=fl.max_rounds({rounds}), seed=0, compare=False)
    print("ready", flush=True)
    result = {engine}.run(asked, {arguments})
    print(result.model_sha256)
    assert not family("/"), family("/")
    assert {{key: os.environ[key] for key in os.environ if key.startswith(("RAY", "PYTHON"))}} == before
"""


def script(tmp_path: Path, engine: str, *, rounds: int = 5, arguments: str = "", then: str = "main()") -> list[str]:
    path = tmp_path / "study.py"
    path.write_text(textwrap.dedent(SCRIPT.format(engine=engine, rounds=rounds, arguments=arguments)) + f"\n{then}\n")
    return [sys.executable, str(path)]


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """Return a temporary folder whose path leaves room for Ray's sockets."""
    folder = Path(tempfile.mkdtemp(prefix="f", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


def marked(tmp_path: Path, short_folder: Path) -> dict[str, str]:
    """Return an environment by which processes are found that a run has left behind."""
    return {**os.environ, "FEDLOOM_TEST": str(tmp_path), "TMPDIR": str(short_folder)}


def below(word: str) -> dict[int, str]:
    """Return the processes of this machine that have a word in their environment, and what they are called."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if word.encode() in (path / "environ").read_bytes():
                found[int(path.name)] = (path / "cmdline").read_bytes().decode(errors="replace").strip("\0")
        except OSError:
            continue
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="processes are looked for in /proc")
def test_a_cluster_of_its_own_says_nothing_and_leaves_no_process_and_no_file(
    tmp_path: Path, short_folder: Path
) -> None:
    """Also: in a script without a guard, and in the environment as it was."""
    runs = [
        subprocess.run(
            script(tmp_path, engine),
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
            env=marked(tmp_path, short_folder),
        )
        for engine in ("fl.local()", "fl.ray(2)")
    ]
    assert [(done.returncode, done.stderr) for done in runs] == [(0, ""), (0, "")]
    assert runs[0].stdout == runs[1].stdout and len(runs[0].stdout.split()) == 2
    assert below(str(tmp_path)) == {} and list(short_folder.iterdir()) == []


def started(
    tmp_path: Path, engine: str, folder: Path, *, rounds: int, environment: dict[str, str]
) -> subprocess.Popen[str]:
    """Start a run and return when its first rounds are durable."""
    arguments = f"output={str(folder)!r}, on_round=[lambda record: record.round == 3 and print('three', flush=True)]"
    running = subprocess.Popen(
        script(tmp_path, engine, rounds=rounds, arguments=arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert running.stdout is not None
    while line := running.stdout.readline():
        if line == "three\n":
            return running
    raise AssertionError(running.communicate())


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="processes are looked for in /proc")
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_interrupted_or_killed_leaves_no_process_and_is_resumed(
    sign: signal.Signals, tmp_path: Path, short_folder: Path
) -> None:
    folder = tmp_path / "runs"
    environment = marked(tmp_path, short_folder)
    engine = "fl.ray(2, checkpoint_s=0.0)"
    with started(tmp_path, engine, folder, rounds=3000, environment=environment) as running:
        running.send_signal(sign)
        _, told = running.communicate(timeout=60)
    assert ("RunInterrupted" in told) == (sign == signal.SIGINT) and running.returncode != 0
    # The kernel ends the children of a process that was killed; workers see it. Ray's two agents try for a minute to
    # tell the dead head of the cluster that their node has died.
    agents = {"ray::DashboardAgent", "ray::RuntimeEnvAgent"} if sign == signal.SIGKILL else set()
    until = time.monotonic() + _WAIT_S
    while (left := below(str(tmp_path))) and not set(left.values()) <= agents and time.monotonic() < until:
        time.sleep(0.05)
    assert set(left.values()) <= agents
    for number in left:
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
    assert sign == signal.SIGKILL or list(short_folder.iterdir()) == []
    (run,) = (path for path in folder.iterdir() if path.is_dir())
    asked = fedloom.Experiment(
        data=fedloom.data.hospitals(),
        prepare=[fedloom.standardise()],
        learner=fedloom.logistic(),
        algorithm=fedloom.scaffold(fedloom.Schedule(batch_size=16)),
        stop=fedloom.max_rounds(300),
        seed=0,
        compare=False,
    )
    before = signal.getsignal(signal.SIGTERM)
    found = fedloom.ray(2).run(asked, resume=run)
    assert found.model_sha256 == local().run(asked).model_sha256
    assert not ray.is_initialized() and signal.getsignal(signal.SIGTERM) is before
