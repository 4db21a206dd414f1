"""Deny lists: signed by the root, read on every call, and never shorter than before."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedloom.core.ids import ClientId
from fedloom.errors import TrustError
from fedloom.secure.agreement import signing_key
from fedloom.secure.deny_list import DenyList, denying, newer, nobody_denied, open_deny_list
from fedloom.secure.peers import Peer, site

VECTORS = Path(__file__).parents[1] / "vectors"
KNOWN = json.loads((VECTORS / "federation.json").read_text(encoding="utf-8"))["deny_list"]
ROOT = signing_key(bytes(range(32)))
NORTH, SOUTH = ClientId("north"), ClientId("south")
FIRST = denying(nobody_denied("trial"), serials=["00AB12"], clients=[SOUTH]).signed(ROOT)


def peer(client: str = "north", serial: str = "1") -> Peer:
    about = site("trial", organisation="a", client=client)
    return Peer(
        federation=about.federation,
        role=about.role,
        organisation=about.organisation,
        client=about.client,
        serial=serial,
        not_before=0.0,
        not_after=1.0,
    )


def refusal(reason: str, match: str | None = None) -> Any:
    return pytest.raises(TrustError, match=match, check=lambda error: error.reason == reason)


def test_the_list_is_the_one_that_was_recorded() -> None:
    assert FIRST.digest.hex() == KNOWN["digest"]
    assert FIRST.signature.hex() == KNOWN["signature"]
    assert FIRST.stored().decode() == KNOWN["stored"]
    assert open_deny_list(KNOWN["stored"].encode(), root=ROOT.public, federation="trial") == FIRST


def test_a_peer_is_out_by_its_name_or_by_its_certificate() -> None:
    assert not FIRST.denies(peer())
    assert FIRST.denies(peer("south"))
    assert FIRST.denies(peer(serial="ab12"))
    assert FIRST.denies_client(SOUTH)
    assert not FIRST.denies_client(NORTH)
    FIRST.check(peer())
    with refusal("denied", "by its name"):
        FIRST.check(peer("south"))
    with refusal("denied", "by its certificate"):
        FIRST.check(peer(serial="ab12"))


def test_only_the_root_signs_and_nothing_is_changed_after_it() -> None:
    other = signing_key(bytes(range(1, 33)))
    forged = [
        denying(nobody_denied("trial"), clients=[SOUTH]),
        FIRST.signed(other),
        replace(FIRST, clients=frozenset()),
        replace(FIRST, serials=frozenset()),
        replace(FIRST, version=2),
        replace(FIRST, serials=frozenset(), clients=frozenset({SOUTH, ClientId("ab12")})),
    ]
    for each in forged:
        with refusal("not_signed", "not signed by the root"):
            open_deny_list(each.stored(), root=ROOT.public, federation="trial")
    with refusal("wrong_federation"):
        open_deny_list(FIRST.stored(), root=ROOT.public, federation="other")


@pytest.mark.parametrize("data", [b"", b"{}", b"[" * 100_000, b"\xff", b" " * (1 << 21)])
def test_what_is_no_list_is_unreadable(data: bytes) -> None:
    with refusal("unreadable"):
        open_deny_list(data, root=ROOT.public, federation="trial")


def test_a_newer_list_holds_all_of_the_older() -> None:
    second = denying(FIRST, clients=[NORTH]).signed(ROOT)
    assert (second.version, second.serials, second.clients) == (2, FIRST.serials, frozenset({NORTH, SOUTH}))
    assert newer(FIRST, second) == second
    assert newer(nobody_denied("trial"), FIRST) == FIRST
    assert newer(FIRST, FIRST) == FIRST
    with refusal("went_back", "older than the one in force"):
        newer(second, FIRST)
    for less in (replace(second, clients=frozenset({NORTH})), replace(second, serials=frozenset())):
        with refusal("went_back", "leaves out"):
            newer(FIRST, less)
    with refusal("went_back", "two deny lists of version 1"):
        newer(FIRST, replace(FIRST, clients=frozenset({NORTH, SOUTH})))
    with refusal("wrong_federation"):
        newer(nobody_denied("other"), FIRST)


@pytest.mark.parametrize("serial", ["", "0", "xyz", "-1", "0x12"])
def test_serials_are_hexadecimal(serial: str) -> None:
    with refusal("unreadable"):
        denying(nobody_denied("trial"), serials=[serial])


def test_an_entry_does_not_move_between_serials_and_names() -> None:
    by_serial = DenyList(federation="trial", version=1, serials=frozenset({"ab"}))
    by_name = DenyList(federation="trial", version=1, clients=frozenset({ClientId("ab")}))
    assert by_serial.digest != by_name.digest
