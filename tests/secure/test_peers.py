"""Names of parties: written as they are read, and nobody has another's."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom.errors import TrustError
from fedloom.secure.fingerprints import fingerprint, same_fingerprint, short_digest, written
from fedloom.secure.peers import Peer, admin, coordinator, read_uri, site

quick = settings(max_examples=25, derandomize=True, database=None, deadline=None)
names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", fullmatch=True).filter(
    lambda name: name.lower() not in {"coordinator", "admin"}
)
federations = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,62}", fullmatch=True)


@quick
@given(federations, names, names)
def test_a_name_is_read_as_it_was_written(federation: str, organisation: str, client: str) -> None:
    for subject in (
        site(federation, organisation=organisation, client=client),
        admin(federation, name=client),
        coordinator(federation),
    ):
        assert read_uri(subject.uri) == subject
        peer = Peer(
            federation=subject.federation,
            role=subject.role,
            organisation=subject.organisation,
            client=subject.client,
            serial="1",
            not_before=0.0,
            not_after=0.0,
        )
        assert peer.uri == subject.uri


def test_a_site_an_operator_and_the_coordinator_never_share_a_client() -> None:
    clients = {
        site("trial", organisation="a", client="ada").client,
        admin("trial", name="ada").client,
        coordinator("trial").client,
    }
    assert clients == {"ada", "admin/ada", "coordinator"}


@pytest.mark.parametrize("what", ["coordinator", "Coordinator", "admin", "ADMIN"])
def test_names_that_are_kept_are_given_to_nobody(what: str) -> None:
    for given_name in ({"organisation": what, "client": "north"}, {"organisation": "a", "client": what}):
        with pytest.raises(TrustError, match="keeps this name for itself"):
            site("trial", **given_name)


@pytest.mark.parametrize(
    "uri",
    [
        *["", "spiffe://", "spiffe:///a/b", "spiffe://trial", "spiffe://trial/", "spiffe://trial/a"],
        *["spiffe://trial/a/b/c", "spiffe://trial/a//b", "spiffe://trial/../b", "spiffe://trial/a/b?c"],
        *["spiffe://trial/a/b#c", "SPIFFE://trial/a/b", "spiffe://user@trial/a/b", "spiffe://trial/a/b\n"],
        *["spiffe://trial/admin/coordinator", " spiffe://trial/a/b"],
    ],
)
def test_what_names_nobody_is_refused(uri: str) -> None:
    with pytest.raises(TrustError) as caught:
        read_uri(uri)
    assert caught.value.reason == "wrong_name"


@quick
@given(st.binary(), st.binary())
def test_fingerprints_are_read_out_in_groups_and_compared_without_them(one: bytes, other: bytes) -> None:
    text = fingerprint(one)
    assert re.fullmatch(r"([a-z2-7]{4} ){7}[a-z2-7]{4}", text)
    assert text == written(short_digest(one))
    assert same_fingerprint(text, text.upper().replace(" ", "")) is True
    assert same_fingerprint(text, fingerprint(other)) is (one == other)


@pytest.mark.parametrize("text", ["", "c2qn", "ä"])
def test_a_part_of_a_fingerprint_is_none(text: Any) -> None:
    assert not same_fingerprint(fingerprint(b"a key"), text)
    assert not same_fingerprint(fingerprint(b"a key"), fingerprint(b"a key")[:-1])
