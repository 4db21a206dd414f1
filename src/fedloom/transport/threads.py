"""A listening socket whose connections are served by a few threads: what the two ports beside gRPC's have in common."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Callable

from fedloom.transport.errors import PortBusy

_LOG = logging.getLogger(__name__)


class SmallPort:
    """Serves at most ``threads`` connections at once; the one above is closed at once.

    None lasts longer than ``life_s``, however slowly its peer sends: strangers may connect here.

    Raises:
        PortBusy: When somebody listens there already.
    """

    def __init__(
        self,
        serve: Callable[[socket.socket, str], None],
        *,
        host: str,
        port: int,
        threads: int,
        name: str,
        life_s: float = 20.0,
    ) -> None:
        self._life_s = life_s
        self._serve = serve
        self._threads = threads
        self._places = threading.BoundedSemaphore(threads)
        self._name = name
        self._stopped = threading.Event()
        self._socket = _listening(host, port)
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, name=f"fedloom-{name}", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Take no further connection, and wait for the open ones, which end by themselves. Safe to repeat."""
        self._stopped.set()
        with contextlib.suppress(OSError):  # where a listening socket is not shut down, the poll in _accept ends it
            self._socket.shutdown(socket.SHUT_RDWR)
        if self._thread.is_alive():
            self._thread.join(5.0)
        self._socket.close()
        held = [self._places.acquire(timeout=self._life_s) for _ in range(self._threads)]
        for _ in filter(None, held):
            self._places.release()

    def _accept(self) -> None:
        self._socket.settimeout(1.0)
        while not self._stopped.is_set():
            try:
                connection, address = self._socket.accept()
            except TimeoutError:
                continue
            except OSError:
                if self._stopped.is_set():
                    return
                _LOG.exception("event=accept_failed port=%s", self._name)
                self._stopped.wait(0.2)
                continue
            if not self._places.acquire(blocking=False):
                connection.close()
                continue
            threading.Thread(
                target=self._one, args=(connection, f"{address[0]}:{address[1]}"), name=self._name, daemon=True
            ).start()

    def _one(self, connection: socket.socket, address: str) -> None:
        try:
            # TLS takes the socket's number away from it: the second one ends the connection all the same.
            with connection, connection.dup() as second:
                timer = threading.Timer(self._life_s, _end, args=(second,))
                timer.daemon = True
                timer.start()
                try:
                    self._serve(connection, address)
                finally:
                    timer.cancel()
        except Exception:
            _LOG.exception("event=connection_failed port=%s address=%s", self._name, address)
        finally:
            self._places.release()


def _end(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _listening(host: str, port: int) -> socket.socket:
    both = host in {"", "::"} and socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both or ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, dualstack_ipv6=both, backlog=16)
    except OSError as error:
        raise PortBusy(
            f"{host or '*'}:{port} cannot be listened at: {error.strerror}. Stop the other process, or choose another "
            "port."
        ) from error
