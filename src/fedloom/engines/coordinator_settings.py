"""CoordinatorSettings: ``coordinator.toml``, as it is read and written."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field, fields
from typing import Any

import msgspec
from msgspec import Struct

from fedloom.engines.remote_team import Patience
from fedloom.errors import ConfigError, Violation


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Where a coordinator listens; 0 lets the system choose."""

    sites: int = 7443
    entry: int = 7444
    probe: int = 7445
    health: int = 7446


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinatorSettings:
    """``coordinator.toml``.

    Args:
        federation: Name of the federation.
        names: Under which sites dial: the first is the one that invitations name.
        hosts: Addresses to listen at.
        ports: Where.
        patience: How long rounds wait.
        least: Sites that a run needs.
        suspend_after: Rounds in a row in which a site's work fails before it is suspended; None: it never is.
        require_pq: Whether a key exchange that a quantum computer breaks is refused.
    """

    federation: str
    names: tuple[str, ...]
    hosts: tuple[str, ...] = ("[::]",)
    ports: Ports = field(default_factory=Ports)
    patience: Patience = field(default_factory=Patience)
    least: int = 2
    suspend_after: int | None = 3
    require_pq: bool = False


_KEYS = ("federation", "names", "hosts", "least", "suspend_after", "require_pq", "ports", "patience")


def read_settings(data: bytes, *, name: str) -> CoordinatorSettings:
    """Return the settings that a file holds; ``name`` is the file's, for errors.

    Raises:
        ConfigError: When it breaks a rule.
    """
    try:
        tree = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise _broken(name, "", f"no TOML: {error}") from error
    if unknown := sorted(set(tree) - set(_KEYS)):
        raise _broken(name, unknown[0], f"unknown key; expected {', '.join(_KEYS)}")
    try:
        return msgspec.convert(tree, type=_Settings).settings
    except msgspec.ValidationError as error:
        raise _broken(name, "", str(error)) from error


class _PortsTable(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    sites: int
    entry: int
    probe: int
    health: int


class _PatienceTable(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    deadline_s: float | None = None
    grace_s: float | None = None
    lost_after_s: float | None = None
    approval_s: float | None = None


class _Settings(Struct, frozen=True, kw_only=True):
    federation: str
    names: tuple[str, ...]
    hosts: tuple[str, ...] = ("[::]",)
    least: int = 2
    suspend_after: int = 3
    require_pq: bool = False
    ports: _PortsTable = _PortsTable(sites=7443, entry=7444, probe=7445, health=7446)
    patience: _PatienceTable = _PatienceTable()

    def __post_init__(self) -> None:
        if not self.names or not self.hosts:
            raise ValueError("`names` and `hosts` each have at least one entry")
        if self.least < 1:
            raise ValueError(f"least = {self.least}: expected 1 or more")
        if self.suspend_after < 0:
            raise ValueError(f"suspend_after = {self.suspend_after}: expected 1 or more, or 0 to suspend nobody")
        numbers = msgspec.structs.astuple(self.ports)
        if any(not 0 <= each < 1 << 16 for each in numbers):
            raise ValueError(f"ports = {numbers}: expected numbers from 0 to 65535")
        waits = [each for each in msgspec.structs.astuple(self.patience) if each is not None]
        if any(each <= 0 for each in waits):
            raise ValueError("patience: expected seconds above 0; leave one out to wait for all")

    @property
    def settings(self) -> CoordinatorSettings:
        return CoordinatorSettings(
            federation=self.federation,
            names=self.names,
            hosts=self.hosts,
            ports=Ports(**msgspec.structs.asdict(self.ports)),
            patience=Patience(**msgspec.structs.asdict(self.patience)),
            least=self.least,
            suspend_after=self.suspend_after or None,
            require_pq=self.require_pq,
        )


def settings_text(settings: CoordinatorSettings) -> str:
    """Return the settings as their file: TOML, with a word on what may be added."""

    def value(one: Any) -> str:
        return msgspec.json.encode(one).decode()

    known = {key: getattr(settings, key) for key in _KEYS[:6]}
    lines = [f"{key} = {value(0 if one is None else one)}" for key, one in known.items()]
    lines += ["", "[ports]", *(f"{each.name} = {getattr(settings.ports, each.name)}" for each in fields(Ports))]
    lines += ["", "[patience]", "# deadline_s = 3600   # of a round; without it a round waits for all sites"]
    lines += ["# approval_s = 604800   # for the sites' word on a run; without it they have as long as they need"]
    waits = {each.name: getattr(settings.patience, each.name) for each in fields(Patience)}
    lines += [f"{key} = {value(seconds)}" for key, seconds in waits.items() if seconds is not None]
    return "\n".join(lines) + "\n"


def _broken(name: str, path: str, message: str) -> ConfigError:
    return ConfigError([Violation(where=name, path=path or "settings", message=message)])
