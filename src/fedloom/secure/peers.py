"""Peers: who is at the other end of a connection, by the one name that its certificate carries.

A name is a SPIFFE id: ``spiffe://<federation>/<organisation>/<client>`` for a site, ``spiffe://<federation>/coordinator``
for the coordinator, and ``spiffe://<federation>/admin/<name>`` for a person who operates it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from fedloom.core.ids import ClientId
from fedloom.errors import TrustError

Role = Literal["site", "admin", "coordinator"]
COORDINATOR = "coordinator"
ADMIN = "admin"
_RESERVED = frozenset({COORDINATOR, ADMIN})
_SCHEME = "spiffe://"
_FEDERATION = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Whom a certificate is for."""

    federation: str
    role: Role
    organisation: str
    client: ClientId

    @property
    def uri(self) -> str:
        """The name as certificates carry it."""
        match self.role:
            case "coordinator":
                path = COORDINATOR
            case "admin":
                path = self.client
            case "site":
                path = f"{self.organisation}/{self.client}"
        return f"{_SCHEME}{self.federation}/{path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """The holder of a certificate, as the certificate says it. Times are seconds since 1970."""

    federation: str
    role: Role
    organisation: str
    client: ClientId
    serial: str
    """Of the certificate: hexadecimal digits, lower case."""
    not_before: float
    not_after: float

    @property
    def uri(self) -> str:
        """The name as the certificate carries it."""
        return Subject(
            federation=self.federation, role=self.role, organisation=self.organisation, client=self.client
        ).uri


def check_federation(federation: str) -> None:
    """Refuse a name that no federation can have.

    Raises:
        TrustError: ``wrong_name``.
    """
    if not _FEDERATION.fullmatch(federation):
        raise TrustError(
            f"{federation!r} cannot name a federation: expected up to 63 small letters, digits, '.', '-' and '_', "
            "beginning with a letter or digit, such as 'trial.example.org'",
            reason="wrong_name",
        )


def site(federation: str, *, organisation: str, client: str) -> Subject:
    """Return the subject of a site.

    Raises:
        TrustError: ``wrong_name``, when a name cannot stand in a certificate, or is one of those that fedloom keeps.

    Example:
        >>> site("trial", organisation="hospital-a", client="north").uri
        'spiffe://trial/hospital-a/north'
    """
    check_federation(federation)
    _check_name("an organisation", organisation)
    _check_name("a client", client)
    return Subject(federation=federation, role="site", organisation=organisation, client=ClientId(client))


def admin(federation: str, *, name: str) -> Subject:
    """Return the subject of a person who operates the coordinator: its client is ``admin/<name>``, which no site has.

    Raises:
        TrustError: ``wrong_name``, as ``site``.
    """
    check_federation(federation)
    _check_name("an operator", name)
    return Subject(federation=federation, role="admin", organisation=ADMIN, client=ClientId(f"{ADMIN}/{name}"))


def coordinator(federation: str) -> Subject:
    """Return the subject of the coordinator.

    Raises:
        TrustError: ``wrong_name``, when the federation's name cannot stand in a certificate.
    """
    check_federation(federation)
    return Subject(federation=federation, role="coordinator", organisation=COORDINATOR, client=ClientId(COORDINATOR))


def read_uri(uri: str) -> Subject:
    """Return the subject that a name says.

    Raises:
        TrustError: ``wrong_name``, when it is not the name of a site, an operator or a coordinator.

    Example:
        >>> read_uri("spiffe://trial/coordinator").role
        'coordinator'
    """
    federation, *path = uri.removeprefix(_SCHEME).split("/") if uri.startswith(_SCHEME) else ("",)
    match path:
        case ["coordinator"]:
            return coordinator(federation)
        case ["admin", name]:
            return admin(federation, name=name)
        case [organisation, client]:
            return site(federation, organisation=organisation, client=client)
        case _:
            raise TrustError(
                f"{uri!r} names nobody of a federation: expected spiffe://<federation>/<organisation>/<client> or "
                "spiffe://<federation>/coordinator",
                reason="wrong_name",
            )


def _check_name(what: str, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise TrustError(
            f"{name!r} cannot name {what}: expected up to 63 letters, digits, '.', '-' and '_', beginning with a "
            "letter or digit",
            reason="wrong_name",
        )
    if name.lower() in _RESERVED:
        raise TrustError(f"{name!r} cannot name {what}: fedloom keeps this name for itself", reason="wrong_name")
