"""Health: whether a process lives and can work, its figures for Prometheus, and its log as JSON lines.

A small HTTP server for one host: it listens on loopback, answers three addresses and tells nothing of rows or keys.
"""

from __future__ import annotations

import http.server
import json
import logging
import math
import os
import socket
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from fedloom.transport.errors import PortBusy

log = logging.getLogger(__name__)
Kind: TypeAlias = Literal["gauge", "counter"]
Labels: TypeAlias = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One figure, for each combination of labels.

    Args:
        name: As Prometheus has it; units in the name.
        words: What it is.
        kind: ``counter`` for what only grows.
        values: By labels.
    """

    name: str
    words: str
    values: Mapping[Labels, float]
    kind: Kind = "gauge"


def metric(name: str, words: str, value: float, *, kind: Kind = "gauge") -> Metric:
    """Return a figure without labels."""
    return Metric(name=name, words=words, values={(): value}, kind=kind)


def exposition(metrics: Iterable[Metric]) -> str:
    """Return figures in the text format of Prometheus, version 0.0.4.

    Example:
        >>> print(exposition([metric("fedloom_rounds_total", "Rounds committed.", 3, kind="counter")]), end="")
        # HELP fedloom_rounds_total Rounds committed.
        # TYPE fedloom_rounds_total counter
        fedloom_rounds_total 3
    """
    lines = []
    for each in metrics:
        lines += [f"# HELP {each.name} {each.words}", f"# TYPE {each.name} {each.kind}"]
        for labels, value in sorted(each.values.items()):
            inside = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels)
            lines.append(f"{each.name}{'{' + inside + '}' if inside else ''} {_number(value)}")
    return "\n".join([*lines, ""])


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return f"{value:g}" if abs(value) < 1e5 else repr(float(value))


class Durations:
    """How often something was done, and how long it took in all. Threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.count = 0
        self.seconds = 0.0
        self.last = 0.0

    def add(self, seconds: float) -> None:
        """Count one more."""
        with self._lock:
            self.count += 1
            self.seconds += seconds
            self.last = seconds


class HealthPort:
    """Answers ``/healthz``, ``/readyz`` and ``/metrics``.

    Args:
        faults: What keeps the process from its work; empty: it is ready.
        metrics: Its figures of now.
        host: Address to listen at.
        port: 0 lets the system choose.

    Raises:
        PortBusy: When somebody listens there already.
    """

    def __init__(
        self,
        *,
        faults: Callable[[], Sequence[str]],
        metrics: Callable[[], Iterable[Metric]],
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        def answer(path: str) -> tuple[int, str, str]:
            if path == "/healthz":
                return 200, "text/plain", "alive\n"
            if path == "/readyz":
                found = faults()
                return (503, "text/plain", "\n".join([*found, ""])) if found else (200, "text/plain", "ready\n")
            if path == "/metrics":
                return 200, "text/plain; version=0.0.4", exposition(metrics())
            return 404, "text/plain", "expected /healthz, /readyz or /metrics\n"

        class Exchange(_Exchange):
            answers = staticmethod(answer)

        class Listener(http.server.ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = os.name == "posix"  # elsewhere it would let a second process listen there too
            address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

        try:
            self._server = Listener((host, port), Exchange)
        except OSError as error:
            raise PortBusy(
                f"{host}:{port} cannot be listened at: {error.strerror}. Stop the other process, or choose another "
                "port."
            ) from error
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.2}, name="health", daemon=True
        )

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """End. Safe to repeat."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()


class _Exchange(http.server.BaseHTTPRequestHandler):
    timeout = 5.0
    server_version = "fedloom"
    sys_version = ""
    answers: Callable[[str], tuple[int, str, str]]

    def do_GET(self) -> None:
        try:
            status, kind, text = type(self).answers(self.path.partition("?")[0])
        except Exception:
            log.exception("event=health_failed path=%s", self.path)
            status, kind, text = 500, "text/plain", "the log says why\n"
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        log.debug("event=health said=%s", format % args)


_ABOUT = ("run", "round", "retry", "site", "event")


class JsonLines(logging.Formatter):
    """A log record as one JSON object: time, level, logger, message; run, round, retry and site where it names them.

    Example:
        >>> record = logging.LogRecord("fedloom", logging.INFO, "", 0, "run=%s round=%s opened", ("r1", 3), None)
        >>> said = json.loads(JsonLines().format(record))
        >>> said["run"], said["round"], said["message"]
        ('r1', '3', 'run=r1 round=3 opened')
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line."""
        text = record.getMessage()
        said: dict[str, object] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S") + f".{int(record.msecs):03d}",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": text,
        }
        pairs = (word.partition("=") for word in text.split())
        said |= {key: value.rstrip(",:") for key, mark, value in pairs if mark and key in _ABOUT}
        if record.exc_info:
            said["trace"] = self.formatException(record.exc_info)
        return json.dumps(said, ensure_ascii=False)
