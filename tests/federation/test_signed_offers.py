"""What a coordinator asks is signed, and a site acts on nothing else: no changed offer, and no old one again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from fedloom.core.ids import ClientId
from fedloom.core.roster import Member
from fedloom.engines.signed_offers import check_offer, signed_offer
from fedloom.errors import Error, TrustError
from fedloom.secure.agreement import signing_key
from fedloom.secure.envelopes import Seen
from fedloom.secure.peers import COORDINATOR
from fedloom.secure.roster import LocalIdentity, roster
from fedloom.store.site_store import SiteStore
from fedloom.transport import verbs

KEY = signing_key(bytes(range(32)))
IDENTITY = LocalIdentity(ClientId(COORDINATOR), KEY)
EAST = ClientId("east")
MEMBERS = roster("trial", 1, [Member(client=EAST, organisation="east", key=signing_key(bytes([7] * 32)).public)])
PROGRAMS = ("query", "train", "evaluate")


def task(*, phase: int = 1, program: str = "train", number: int = 1, retry: int = 0, step: int = 0) -> verbs.Offer:
    key = verbs.TaskKey(run="r", phase=phase, program=program, round=number, retry=retry, step=step)
    blob = verbs.Blob(digest=bytes([number] * 32), length=5)
    return verbs.Offer(task=f"{phase}-{program}-{number}-{retry}-{step}", kind="order", key=key, inputs=(blob,))


def signed(offer: verbs.Offer, site: ClientId = EAST, identity: LocalIdentity = IDENTITY) -> verbs.Offer:
    return signed_offer(offer, identity, federation="trial", site=site)


def look(offer: verbs.Offer, newest: Seen | None = None) -> Seen:
    return check_offer(offer, MEMBERS, key=KEY.public, site=EAST, newest=newest)


def test_an_offer_is_the_same_bytes_however_often_it_is_repeated_and_whatever_time_is_left() -> None:
    one, later = signed(task()), signed(structs.replace(task(), deadline_s=3.0))
    assert one.envelope == later.envelope
    assert look(later, look(one)) == look(one)


OTHER = signing_key(bytes([5] * 32))
CHANGED: dict[str, tuple[Callable[[], verbs.Offer], str]] = {
    "unsigned": (task, "not_signed"),
    "other contents": (lambda: structs.replace(signed(task()), inputs=()), "changed_body"),
    "other kind": (lambda: structs.replace(signed(task()), kind="facts"), "changed_body"),
    "other task": (lambda: structs.replace(signed(task()), task="x"), "changed_body"),
    "other round": (lambda: structs.replace(signed(task()), key=task(number=2).key), "changed_body"),
    "envelope of another": (lambda: structs.replace(task(number=2), envelope=signed(task()).envelope), "changed_body"),
    "for another site": (lambda: signed(task(), ClientId("west")), "wrong_receiver"),
    "of another key": (lambda: signed(task(), identity=LocalIdentity(ClientId(COORDINATOR), OTHER)), "not_signed"),
    "of a site": (lambda: structs.replace(signed(task()), envelope=b"\x93\x01\x02\x03"), "unreadable"),
    "of another federation": (
        lambda: signed_offer(task(), IDENTITY, federation="other", site=EAST),
        "wrong_federation",
    ),
}


@pytest.mark.parametrize("what", list(CHANGED))
def test_an_offer_that_the_coordinator_has_not_signed_as_it_is_is_refused(what: str) -> None:
    make, reason = CHANGED[what]
    with pytest.raises(TrustError) as found:
        look(make())
    assert found.value.reason == reason


def test_an_older_offer_is_a_replay() -> None:
    newest = look(signed(task(number=3)))
    with pytest.raises(TrustError, match="the newest is") as found:
        look(signed(task(number=2)), newest)
    assert found.value.reason == "replayed"
    with pytest.raises(TrustError) as again:  # another content under the newest's number
        look(signed(structs.replace(task(number=3), kind="facts")), newest)
    assert again.value.reason == "replayed"


PLACES = st.tuples(
    st.integers(0, 127), st.integers(0, 2**32 - 1), st.sampled_from(range(3)), st.integers(0, 4095), st.integers(0, 63)
)


@given(PLACES, PLACES)
def test_tasks_are_numbered_in_the_order_in_which_a_run_asks_them(one: Any, other: Any) -> None:
    def seen(place: Any) -> Seen:
        phase, number, program, retry, step = place
        key = verbs.TaskKey(run="r", phase=phase, program=PROGRAMS[program], round=number, retry=retry, step=step)
        return look(signed(structs.replace(task(), key=key)))

    assert (seen(one).sequence < seen(other).sequence) == (one < other)


def test_a_task_beyond_all_numbers_is_refused() -> None:
    with pytest.raises(Error, match="retry 4096: expected a number below 4096"):
        signed(task(retry=4096))


def test_a_site_declines_what_is_not_signed_and_trains_nothing(scene: Callable[..., Any]) -> None:
    federation = scene(sites=3, prepare=False, policy="quorum = 2")

    def bare(site: str, offer: verbs.Offer) -> verbs.Offer:
        there = (site, offer.key.program, offer.key.round) == ("east", "train", 2)
        return structs.replace(offer, envelope=b"") if there else offer

    federation.on_offer = bare
    found = federation.run()
    assert [[(each.client, each.kind, each.detail) for each in record.failures] for record in found.records] == [
        [],
        [("east", "refused", "OFFER_NOT_SIGNED")],
        [],
    ]
    assert [record.included for record in found.records][1] == ("center", "north")
    trained = [site for site, _, program, _ in federation.trained() if program == "train"]
    assert trained.count("east") == 2 and trained.count("north") == 3


def test_an_old_offer_that_is_brought_again_is_declined_and_nothing_is_trained_for_it(
    scene: Callable[..., Any],
) -> None:
    """A site lets go of what it has answered when the next round begins: the number shows that an offer is old."""
    federation = scene(sites=2, prepare=False)
    kept: list[verbs.Offer] = []

    def again(site: str, offer: verbs.Offer) -> verbs.Offer:
        if site != "east" or offer.key.program != "train":
            return offer
        kept.append(offer)
        return kept[0] if len(kept) == 3 else offer

    federation.on_offer = again
    found = federation.run()
    assert found.model_sha256 == federation.simulated().model_sha256
    assert len(kept) == 4 and set(federation.trained().values()) == {1}
    federation.end()
    with SiteStore(federation.folder / "site-east") as store:
        said = [event.detail for event in store.events.since(0) if event.kind == "post"]
    assert [each["kind"] for each in said if (each["program"], each["round"]) == ("train", 1)] == ["message", "refused"]


def test_what_was_asked_can_be_shown_afterwards(scene: Callable[..., Any]) -> None:
    federation = scene(sites=2, prepare=False, rounds=1)
    federation.run()
    federation.end()
    with SiteStore(federation.folder / "site-east") as store:
        orders = [event.detail["order"] for event in store.events.since(0) if event.kind == "post"]
        newest = store.newest_order(federation.run_id())
    assert len(set(orders)) == len(orders) >= 3
    assert newest is not None and newest.digest.hex() == orders[-1]
