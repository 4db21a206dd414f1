"""Addresses as people write them."""

from __future__ import annotations

from fedloom.errors import TransportError


def split(address: str) -> tuple[str, int]:
    """Return host and port of ``host:port``; an IPv6 address stands in brackets.

    Raises:
        TransportError: When it is neither.

    Example:
        >>> split("[::1]:7443"), split("fed.example:7443")
        (('::1', 7443), ('fed.example', 7443))
    """
    host, _, port = address.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    if not bare or (":" in bare) != (host != bare) or not (port.isascii() and port.isdigit() and int(port) < 65536):
        raise TransportError(f"{address!r} is no address: expected HOST:PORT, or [IPv6]:PORT")
    return bare, int(port)
