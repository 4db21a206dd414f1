"""The two connections of a client: one for what must be prompt, one for bytes.

They are made again after a failure: a new one reads the certificate files and the address anew. Nothing else is known
of gRPC's own reconnecting, whose waits would add to those of ``backoff``.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import grpc

from fedloom.transport.errors import Unreachable
from fedloom.transport.tls import TlsFiles, channel_credentials, read_pair

Path: TypeAlias = Literal["prompt", "bulk"]


class GivenUp(grpc.RpcError):  # type: ignore[misc]
    """A connection was given up, by another thread, between being handed out and being used."""

    def code(self) -> grpc.StatusCode:
        """Return the status of a line that is not there."""
        return grpc.StatusCode.UNAVAILABLE


@dataclass(eq=False, slots=True)
class Connection:
    """A channel while it works."""

    channel: grpc.Channel = field(repr=False)
    number: int
    given_up: bool = False

    def close(self) -> None:
        """End the calls on it; it takes no other."""
        self.given_up = True
        self.channel.close()

    @contextmanager
    def beginning(self) -> Iterator[None]:
        """Begin a call in the block.

        Raises:
            GivenUp: When the connection was closed meanwhile, for which gRPC has a ``ValueError``.
        """
        try:
            yield
        except ValueError as error:
            if self.given_up:
                raise GivenUp("the connection was given up") from error
            raise


class Channels:
    """Makes, hands out and replaces the connections to one address. Used by many threads."""

    def __init__(self, address: str, tls: TlsFiles, *, server_name: str | None = None) -> None:
        self._address = address
        self._tls = tls
        self._server_name = server_name
        self._lock = threading.Lock()
        self._open: dict[Path, Connection] = {}
        self._made = 0
        self._closed = False

    def get(self, path: Path) -> Connection:
        """Return the connection for this kind of call, made now if there is none.

        Raises:
            TlsFilesError: When the certificate files cannot be used.
            Unreachable: After ``close``.
        """
        with self._lock:
            if self._closed:
                raise Unreachable("the client was closed")
            if path not in self._open:
                self._made += 1
                self._open[path] = Connection(self._channel(), self._made)
            return self._open[path]

    def drop(self, path: Path, connection: Connection) -> None:
        """Give up a connection that failed. One that was made since, by another thread, stays."""
        with self._lock:
            if self._open.get(path) is connection:
                del self._open[path]
            else:
                return
        connection.close()

    def close(self) -> None:
        """End all calls, and make no further connection."""
        with self._lock:
            self._closed = True
            connections = tuple(self._open.values())
            self._open.clear()
        for connection in connections:
            connection.close()

    def _channel(self) -> grpc.Channel:
        options: list[tuple[str, str | int]] = list(_OPTIONS)
        if self._server_name is not None:
            options.append(("grpc.ssl_target_name_override", self._server_name))
        return grpc.secure_channel(self._address, channel_credentials(read_pair(self._tls)), options=options)


_OPTIONS: tuple[tuple[str, str | int], ...] = (
    ("grpc.max_receive_message_length", 4 << 20),
    ("grpc.max_send_message_length", 4 << 20),
    ("grpc.max_metadata_size", 16 << 10),
    # A chunk in few frames, not in 64: half the time that receiving takes.
    ("grpc.http2.max_frame_size", 1 << 20),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # The time above does not end a line that swallows everything: this one does, and is a minute by default.
    ("grpc.http2.ping_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # Each channel is a TCP connection of its own, and its retries are ours.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
)
