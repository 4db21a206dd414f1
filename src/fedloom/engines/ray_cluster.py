"""A Ray cluster as a crew of workers: started here and stopped again, or joined and left as it is.

The one module that imports Ray.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from fedloom.engines.interrupts import uninterrupted
from fedloom.engines.ray_dealing import Lost
from fedloom.engines.ray_messages import Report, read_report
from fedloom.engines.ray_processes import end_stragglers, family
from fedloom.engines.ray_worker import RayWorker
from fedloom.engines.worker_messages import Setup
from fedloom.errors import MissingExtra, PlanError, WorkerError

_CONNECT_S = 5.0
_END_S = 10.0
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_USAGE_STATS_PROMPT_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
}
_SETTINGS = b"\0\0\0\4\0\0\0\0\0"
"""HTTP/2's first frame, empty: length 0, type 4. Either side of gRPC sends one (RFC 9113, 3.4 and 6.5)."""
_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _SETTINGS
_LONGEST_FOLDER = 24
"""Ray puts sockets some 70 characters below its folder, and a socket's path has at most 107."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What a run asks of a cluster."""

    workers: int | None
    address: str | None
    cpus: float
    gpus: float


class RayCrew:
    """Actors of a cluster that this process is connected to."""

    def __init__(self, needs: Needs) -> None:
        import ray

        self._ray = ray
        self._needs = needs
        self.room = _room(ray.nodes(), needs)
        """Workers that the nodes could hold if they were free."""
        if self.room == 0:
            raise PlanError(_no_room(ray.nodes(), needs))
        self.most = self.room if needs.workers is None else needs.workers
        self._actors: list[Any] = []
        self._start: tuple[Any, ...] = ()
        self._class: Any = None

    def share(self, setup: Setup, head: bytes, arrays: dict[str, Any]) -> None:
        """Put rows into the object store, once: the workers of a node map them."""
        self._start = (self._ray.put(msgspec.msgpack.encode(setup)), self._ray.put(head), self._ray.put(arrays))
        self._class = self._ray.remote(RayWorker)

    def put(self, data: bytes) -> Any:
        """Put bytes into the object store."""
        return self._ray.put(data)

    def hire(self, *, memory: int) -> Any:
        """Create an actor on a node that has room, the nodes in turn."""
        needs = self._needs
        options = self._class.options(
            num_cpus=needs.cpus,
            num_gpus=needs.gpus,
            memory=memory or None,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy="SPREAD",
        )
        actor = options.remote(*self._start)
        self._actors.append(actor)
        return actor

    def begin(self, worker: Any, phase: bytes) -> Any:
        """Tell an actor the phase."""
        return worker.begin.remote(phase)

    def work(self, worker: Any, common: Any, mine: bytes) -> Any:
        """Give an actor a stretch."""
        return worker.work.remote(common, mine)

    def wait(self, tickets: Sequence[Any], timeout_s: float) -> Sequence[Any]:
        """Return the tickets whose answers are here."""
        ready, _ = self._ray.wait(list(tickets), num_returns=1, timeout=timeout_s)
        if ready and len(tickets) > 1:  # those that came together are taken together
            ready, _ = self._ray.wait(list(tickets), num_returns=len(tickets), timeout=0)
        found: Sequence[Any] = ready
        return found

    def take(self, ticket: Any) -> Report:
        """Return an answer that is here.

        Raises:
            Lost: When the actor, its node or the answer was lost.
            WorkerError: When a node cannot run the worker at all.
        """
        known = self._ray.exceptions
        try:
            return read_report(self._ray.get(ticket))
        except known.OutOfMemoryError as error:
            raise Lost("its node ran out of memory, and Ray ended it", memory=True) from error
        except (known.RayActorError, known.WorkerCrashedError, known.ObjectLostError, known.NodeDiedError) as error:
            if "ModuleNotFoundError" in str(error) or "ImportError" in str(error):
                raise WorkerError(_unable(error)) from error
            raise Lost(_reason(error)) from error
        except known.RayError as error:
            raise WorkerError(_unable(error)) from error

    def dismiss(self, worker: Any) -> None:
        """End an actor."""
        self._actors.remove(worker)
        with suppress(self._ray.exceptions.RayError, ValueError):
            self._ray.kill(worker, no_restart=True)

    def close(self) -> None:
        """End the actors that are left, and let go of what was put into the store."""
        for actor in tuple(self._actors):
            self.dismiss(actor)
        self._start, self._class = (), None


@contextmanager
def open_crew(needs: Needs) -> Iterator[RayCrew]:
    """Yield a crew: on the cluster that this process is connected to, else one to join, else one of its own.

    Raises:
        MissingExtra: When Ray is not installed.
        WorkerError: When no cluster can be had.
        PlanError: When the cluster has no node for a single worker.
    """
    with ExitStack() as stack:
        with _own_environment():
            try:
                import ray
            except ImportError as error:
                raise MissingExtra("the Ray engine", extra="ray") from error
        stack.enter_context(_silence())
        if not ray.is_initialized():
            stack.enter_context(_started(needs) if needs.address is None else _joined(needs.address))
        elif needs.address not in (None, "auto", here := str(ray.get_runtime_context().gcs_address)):
            raise PlanError(
                f"ray(address={needs.address!r}): this process is connected to the cluster at {here}; "
                "leave address out, or call ray.shutdown() first"
            )
        crew = RayCrew(needs)
        try:
            yield crew
        finally:
            with uninterrupted():
                crew.close()


@contextmanager
def _started(needs: Needs) -> Iterator[None]:
    """Start a cluster on this machine, for this process alone; stop it with all of its processes."""
    import ray

    folder = _short_folder()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    before = signal.getsignal(signal.SIGTERM)
    try:
        try:
            with _own_environment():
                # The same search path: a plug-in that this process can import is there for the workers too.
                os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
                ray.init(
                    address="local",
                    num_cpus=cores if needs.workers is None else math.ceil(needs.workers * needs.cpus),
                    num_gpus=None if needs.gpus else 0,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.CRITICAL,
                    configure_logging=False,
                    _node_ip_address="127.0.0.1",
                    _temp_dir=str(folder),
                )
        except Exception as error:
            raise WorkerError(f"Ray could not start on this machine: {_reason(error)}") from error
        yield
    finally:
        with uninterrupted():
            mine = family(str(folder))
            ray.shutdown()
            _handle_sigterm_as(before)
            end_stragglers(mine, after_s=_END_S)
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _joined(address: str) -> Iterator[None]:
    """Join a cluster that runs, and leave it as it is."""
    import ray

    if address.startswith("ray://"):
        raise PlanError(
            f"ray(address={address!r}): a run takes place on a node of the cluster; give host:port, or auto"
        )
    if address != "auto":
        _knock(address)
    before = signal.getsignal(signal.SIGTERM)
    try:
        try:
            with _own_environment():
                ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL, configure_logging=False)
        except Exception as error:
            raise WorkerError(
                f"ray(address={address!r}): {_reason(error)}. Start a cluster with `ray start --head`, run this on one "
                "of its nodes, with the same version of Ray and of Python; without address, a cluster is started here"
            ) from error
        yield
    finally:
        with uninterrupted():
            ray.shutdown()
            _handle_sigterm_as(before)


def _knock(address: str) -> None:
    """Refuse an address where no gRPC server answers, as a cluster's head does: Ray itself would wait for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise PlanError(f"ray(address={address!r}): expected host:port, or auto for a cluster on this machine")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S) as connection:
            if not os.environ.get("RAY_USE_TLS"):
                connection.sendall(_GREETING)
                told = connection.recv(len(_SETTINGS), socket.MSG_WAITALL)[3:4]
                if told != _SETTINGS[3:4]:
                    raise ConnectionError("another program than Ray listens there")
    except OSError as error:
        raise WorkerError(
            f"ray(address={address!r}): no cluster answers there within {_CONNECT_S:.0f} s ({error}). Check that its "
            "head node runs (`ray status` there), the port (6379 unless set) and that this machine may reach it"
        ) from error


@contextmanager
def _silence() -> Iterator[None]:
    """Keep Ray's loggers from talking: what a run should say of its cluster, the run says."""
    logger = logging.getLogger("ray")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def _own_environment() -> Iterator[None]:
    """Let what Ray starts inherit quiet settings, and undo what Ray sets in the environment of this process."""
    before = dict(os.environ)
    os.environ.update({name: value for name, value in _QUIET.items() if name not in before})
    try:
        yield
    finally:
        for name in [name for name in os.environ if name.startswith(("RAY_", "PYTHON"))]:
            if name in before:
                os.environ[name] = before[name]
            else:
                del os.environ[name]


def _handle_sigterm_as(before: Any) -> None:
    with suppress(ValueError):  # only the main thread may, and only there has Ray done it
        signal.signal(signal.SIGTERM, before)


def _short_folder() -> Path:
    usual = tempfile.gettempdir()
    return Path(tempfile.mkdtemp(prefix="fl-", dir=usual if len(usual) <= _LONGEST_FOLDER else "/tmp"))


def _room(nodes: Sequence[dict[str, Any]], needs: Needs) -> int:
    """Return the workers that the nodes could hold.

    Example:
        >>> needs = Needs(workers=None, address=None, cpus=2, gpus=0.5)
        >>> _room([{"Alive": True, "Resources": {"CPU": 8.0, "GPU": 1.0}}, {"Alive": False}], needs)
        2
    """
    wanted = [(kind, amount) for kind, amount in (("CPU", needs.cpus), ("GPU", needs.gpus)) if amount]
    held = [node["Resources"] for node in nodes if node["Alive"]]
    return sum(min(int(node.get(kind, 0.0) / amount + 1e-9) for kind, amount in wanted) for node in held)


def _no_room(nodes: Sequence[dict[str, Any]], needs: Needs) -> str:
    held = [node["Resources"] for node in nodes if node["Alive"]]
    nodes_as_text = ", ".join(f"{node.get('CPU', 0):g} CPU and {node.get('GPU', 0):g} GPU" for node in held)
    return (
        f"ray(cpus_per_worker={needs.cpus:g}, gpus_per_worker={needs.gpus:g}): no node of the cluster has that for one "
        f"worker; its nodes have {nodes_as_text or 'nothing'}"
    )


def _reason(error: BaseException) -> str:
    """Return the first sentence of what Ray says, on one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(".")


def _unable(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if "Error:" in line] or lines
    return (
        f"a node of the cluster cannot run a worker: {told[-1] if told else type(error).__name__}. Install the same "
        "versions of fedloom, of Python and of the experiment's own packages on every node"
    )
