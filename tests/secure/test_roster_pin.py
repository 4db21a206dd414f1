"""Pins of rosters: who leaves is out at once, who joins waits for the operator, a new key needs the old one's word."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom.core.ids import ClientId
from fedloom.core.roster import Member
from fedloom.errors import TrustError
from fedloom.secure.agreement import SigningKey, signing_key
from fedloom.secure.authorities import issue_intermediate, new_root
from fedloom.secure.fingerprints import fingerprint
from fedloom.secure.roster import roster
from fedloom.secure.roster_pin import (
    Handover,
    RosterPin,
    RosterUpdate,
    approve,
    difference,
    first_pin,
    follow,
    hand_over,
    one_per_organisation,
    open_pin,
    open_update,
)

VECTORS = Path(__file__).parents[1] / "vectors"
KNOWN = json.loads((VECTORS / "federation.json").read_text(encoding="utf-8"))["handover"]
ROOT = signing_key(bytes(range(32)))
NORTH, SOUTH, EAST, SERVER = map(ClientId, ("north", "south", "east", "coordinator"))


def key(number: int) -> SigningKey:
    return signing_key(bytes(range(number, number + 32)))


def member(client: ClientId, number: int, organisation: str | None = None) -> Member:
    return Member(client=client, organisation=organisation or f"hospital-{client}", key=key(number).public)


def update(
    version: int, *members: Member, handovers: tuple[Handover, ...] = (), root: SigningKey = ROOT
) -> RosterUpdate:
    return RosterUpdate(roster=roster("trial", version, members).signed(root), handovers=handovers)


N1, S2, E3, N4 = member(NORTH, 1), member(SOUTH, 2), member(EAST, 3), member(NORTH, 4)
ONE = update(1, N1, S2)


def pinned(found: RosterUpdate = ONE) -> RosterPin:
    first = first_pin(found)
    return approve(first, first.digest)


def refusal(reason: str, match: str | None = None) -> Any:
    return pytest.raises(TrustError, match=match, check=lambda error: error.reason == reason)


def words(pin: RosterPin) -> list[str]:
    return [str(each) for each in pin.pending]


# ---- Documents ------------------------------------------------------------------------------------------------------


def test_an_update_is_signed_by_the_root_and_by_nobody_on_the_coordinators_host() -> None:
    """D7: neither the intermediate's key nor one that the coordinator makes stands for the root."""
    assert open_update(ONE.stored(), root=ROOT.public, federation="trial") == ONE
    host = issue_intermediate(new_root("trial", now=1.8e9), now=1.8e9)
    from_host = signing_key(host.key.private.private_numbers().private_value.to_bytes(32, "big"))
    for forged in (update(1, N1, S2, root=from_host), RosterUpdate(roster=roster("trial", 1, [N1, S2]))):
        with refusal("not_signed", "not signed by this federation's root"):
            open_update(forged.stored(), root=ROOT.public, federation="trial")
    with refusal("wrong_federation"):
        open_update(ONE.stored(), root=ROOT.public, federation="other")
    swapped = RosterUpdate(roster=replace(ONE.roster, members=(N1, E3)))
    with refusal("not_signed"):
        open_update(swapped.stored(), root=ROOT.public, federation="trial")


@pytest.mark.parametrize("data", [b"", b"{}", b"[" * 100_000, b"\xff", b" " * (1 << 21)])
def test_what_is_no_update_is_unreadable(data: bytes) -> None:
    with refusal("unreadable"):
        open_update(data, root=ROOT.public, federation="trial")


def test_a_pin_is_read_back_and_its_roster_verified_again() -> None:
    pin = follow(pinned(), update(2, N1, E3))
    assert open_pin(pin.stored(), root=ROOT.public, federation="trial") == pin
    with refusal("not_signed"):
        open_pin(pin.stored(), root=key(9).public, federation="trial")


def test_the_handover_is_the_one_that_was_recorded() -> None:
    found = hand_over(key(1), key(4).public, client=NORTH, federation="trial")
    assert msgspec.json.encode(found).decode() == KNOWN["json"]


# ---- Approval -------------------------------------------------------------------------------------------------------


def test_nobody_takes_part_before_the_operator_has_approved() -> None:
    pin = first_pin(ONE)
    assert (pin.member(NORTH), pin.version, pin.federation) == (None, 0, "trial")
    assert words(pin) == [
        f"hospital-north: 'north' joins with the key {fingerprint(N1.key)}",
        f"hospital-south: 'south' joins with the key {fingerprint(S2.key)}",
    ]
    after = approve(pin, pin.digest)
    assert (after.member(NORTH), after.version, after.pending) == (N1, 1, ())


def test_who_joins_waits_and_who_leaves_is_out_at_once() -> None:
    pin = follow(pinned(), update(2, N1, E3))
    assert (pin.member(NORTH), pin.member(SOUTH), pin.member(EAST)) == (N1, None, None)
    assert pin.version == 1
    assert pin.digest == update(2, N1, E3).roster.digest
    assert words(pin) == [f"hospital-east: 'east' joins with the key {fingerprint(E3.key)}"]
    assert approve(pin, pin.digest).member(EAST) == E3


def test_who_was_away_and_comes_back_waits_again() -> None:
    pin = follow(follow(pinned(), update(2, N1)), update(3, N1, S2))
    assert pin.member(SOUTH) is None
    assert words(pin) == [f"hospital-south: 'south' joins with the key {fingerprint(S2.key)}"]
    assert approve(pin, pin.digest).member(SOUTH) == S2


def test_what_is_approved_is_what_was_shown() -> None:
    shown = follow(pinned(), update(2, N1, S2, E3))
    newest = follow(shown, update(3, N1, S2, member(ClientId("west"), 5)))
    with refusal("not_approved", "look at it, and approve again"):
        approve(newest, shown.digest)
    assert newest.member(ClientId("west")) is None


def test_a_site_that_saw_a_roster_goes_back_to_none_before() -> None:
    pin = follow(pinned(), update(3, N1))
    for old in (ONE, update(2, N1, S2)):
        with refusal("went_back", "older than 3"):
            follow(pin, old)
    with refusal("went_back", "two rosters of version 3"):
        follow(pin, update(3, N1, S2))
    assert follow(pin, update(3, N1)) == pin
    elsewhere = RosterUpdate(roster=roster("other", 4, [N1]).signed(ROOT))
    with refusal("wrong_federation"):
        follow(pin, elsewhere)


# ---- Keys that change -----------------------------------------------------------------------------------------------

HANDED = hand_over(key(1), N4.key, client=NORTH, federation="trial")


def test_a_key_that_was_handed_over_is_taken_at_once() -> None:
    pin = follow(pinned(), update(2, N4, S2, handovers=(HANDED,)))
    assert (pin.member(NORTH), pin.pending) == (N4, ())


def test_a_key_is_handed_over_in_several_steps_for_a_site_that_missed_some() -> None:
    last = member(NORTH, 6)
    again = hand_over(key(4), last.key, client=NORTH, federation="trial")
    assert follow(pinned(), update(5, last, S2, handovers=(again, HANDED))).member(NORTH) == last
    assert follow(pinned(), update(5, last, S2, handovers=(again,))).member(NORTH) is None


FORGED = [
    (),
    (hand_over(key(2), N4.key, client=NORTH, federation="trial"),),
    (msgspec.structs.replace(HANDED, client=SOUTH),),
    (hand_over(key(1), N4.key, client=SOUTH, federation="trial"),),
    (hand_over(key(1), N4.key, client=NORTH, federation="other"),),
    (msgspec.structs.replace(HANDED, new=key(5).public),),
    (msgspec.structs.replace(hand_over(key(2), N4.key, client=NORTH, federation="trial"), old=key(1).public),),
]


@pytest.mark.parametrize("handovers", FORGED)
def test_a_key_that_the_old_one_did_not_sign_is_never_taken(handovers: tuple[Handover, ...]) -> None:
    pin = follow(pinned(), update(2, N4, S2, handovers=handovers))
    assert (pin.member(NORTH), pin.member(SOUTH)) == (None, S2)
    assert [each.refused for each in pin.pending] == [True]
    assert "NOT signed by the old key" in words(pin)[0]
    after = approve(pin, pin.digest)
    assert (after.member(NORTH), after.member(SOUTH)) == (None, S2)


def test_a_name_does_not_come_back_with_another_key() -> None:
    """Taken out in one version and put in with a new key in the next is a change of key, not a newcomer."""
    pin = follow(follow(pinned(), update(2, S2)), update(3, N4, S2))
    assert approve(pin, pin.digest).member(NORTH) is None
    handed = follow(follow(pinned(), update(2, S2)), update(3, N4, S2, handovers=(HANDED,)))
    assert handed.member(NORTH) is None, "who was away waits, also with a handover"
    assert approve(handed, handed.digest).member(NORTH) == N4
    fresh = follow(pinned(), update(2, S2, member(ClientId("north-2"), 4)))
    assert approve(fresh, fresh.digest).member(ClientId("north-2")) is not None


def test_a_key_that_was_handed_over_does_not_come_back() -> None:
    """One who stole the old key, after it was replaced, and has the root's ear."""
    handed = follow(pinned(), update(2, N4, S2, handovers=(HANDED,)))
    for pin in (handed, follow(handed, update(3, S2, handovers=(HANDED,)))):
        back = follow(pin, update(4, N1, S2, handovers=(HANDED,)))
        assert approve(back, back.digest).member(NORTH) is None


def test_a_member_that_changes_its_organisation_waits() -> None:
    moved = member(NORTH, 1, "hospital-south")
    pin = follow(pinned(), update(2, moved, S2))
    assert pin.member(NORTH) is None
    assert words(pin) == ["hospital-south: 'north' was of hospital-north and would count for hospital-south"]
    assert approve(pin, pin.digest).member(NORTH) == moved
    both = member(NORTH, 4, "hospital-south")
    assert follow(pinned(), update(2, both, S2, handovers=(HANDED,))).member(NORTH) is None


# ---- Who counts -----------------------------------------------------------------------------------------------------


def test_the_coordinator_has_a_key_and_is_no_member() -> None:
    """Counted, it would be one more survivor of the server's own making."""
    listed = Member(client=SERVER, organisation="coordinator", key=key(8).public)
    pin = pinned(update(1, N1, S2, listed))
    assert (pin.coordinator, pin.member(SERVER)) == (listed.key, None)
    assert first_pin(update(1, listed)).coordinator is None
    assert one_per_organisation(pin, [SERVER, NORTH]) == (NORTH,)


def test_an_organisation_counts_once() -> None:
    names = [ClientId(f"copy-{number}") for number in range(5)]
    copies = [member(name, 10 + number, "hospital-a") for number, name in enumerate(names)]
    pin = pinned(update(1, N1, *copies))
    assert one_per_organisation(pin, [*reversed(names), NORTH, ClientId("stranger")]) == (names[0], NORTH)


def test_a_difference_is_in_the_order_of_organisations() -> None:
    changes = difference([N1, S2], [N4, E3], federation="trial", handovers=(HANDED,))
    assert [str(each).split(":")[0] for each in changes] == ["hospital-east", "hospital-north", "hospital-south"]
    assert "signed by the old key" in str(changes[1])
    assert str(changes[2]) == f"hospital-south: 'south' leaves, with the key {fingerprint(S2.key)}"
    assert difference([N1], [N1], federation="trial") == ()


POOL = [
    member(client, number, hospital) for client in (NORTH, SOUTH) for number in (1, 2, 3) for hospital in ("a", "b")
]
rosters = st.lists(st.sampled_from(POOL), max_size=2, unique_by=(lambda each: each.client, lambda each: each.key))


@settings(max_examples=60, derandomize=True, database=None, deadline=None)
@given(st.lists(st.tuples(rosters, st.booleans()), min_size=1, max_size=8))
def test_whoever_takes_part_was_shown_to_the_operator_with_this_key(history: list[tuple[list[Member], bool]]) -> None:
    """Whatever the root signs, without handovers: the site has only whom the newest names and an approval has shown."""
    pin: RosterPin | None = None
    shown: set[tuple[ClientId, str, bytes]] = set()
    first_key: dict[ClientId, bytes] = {}
    for version, (members, yes) in enumerate(history, start=1):
        found = update(version, *members)
        pin = first_pin(found) if pin is None else follow(pin, found)
        if yes:
            pin = approve(pin, pin.digest)
            shown |= {(each.client, each.organisation, each.key) for each in members}
            for each in members:
                first_key.setdefault(each.client, each.key)
        for client in (NORTH, SOUTH):
            if (here := pin.member(client)) is not None:
                assert here in members
                assert (here.client, here.organisation, here.key) in shown
                assert here.key == first_key[client]
            elif yes:
                assert client not in {each.client for each in members if each.key == first_key.get(client)}
