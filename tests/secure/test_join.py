"""Joining: tokens that are used once, requests that prove both keys, and renewals before and after the end."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom.core.ids import ClientId
from fedloom.core.roster import Member
from fedloom.errors import TrustError
from fedloom.secure.agreement import SigningKey, signing_key
from fedloom.secure.authorities import issue_intermediate, issue_site, new_root
from fedloom.secure.certificates import check_key, verify_chain
from fedloom.secure.deny_list import denying, nobody_denied
from fedloom.secure.encoding import frame
from fedloom.secure.join import Token, TokenRecord, issue_token, read_token, redeem, token_id
from fedloom.secure.renewal import WINDOW_S, read_renewal, renewal_request
from fedloom.secure.requests import certificate_request, read_request, requested_key, signing_request
from fedloom.secure.roster import LocalIdentity, roster
from fedloom.secure.tls_keys import new_tls_key

quick = settings(max_examples=25, derandomize=True, database=None, deadline=None)
NOW = 1_800_000_000.0
DAY = 86400.0
ROOT = new_root("trial", now=NOW)
MIDDLE = issue_intermediate(ROOT, now=NOW)
ANCHOR = ROOT.anchor.short
TLS, OWN = new_tls_key(), signing_key(bytes(range(32)))
NORTH = LocalIdentity(ClientId("north"), OWN)
MEMBERS = roster("trial", 1, [Member(client=NORTH.client, organisation="hospital-a", key=OWN.public)])


def invited(**other: Any) -> tuple[Token, TokenRecord]:
    about: dict[str, Any] = {
        "organisation": "hospital-a",
        "client": "north",
        "anchor": ANCHOR,
        "address": "fl.example.org:443",
    }
    return issue_token("trial", now=NOW, **about | other)


def refusal(reason: str, match: str | None = None) -> Any:
    """What ``pytest.raises`` takes: the error with this reason."""
    return pytest.raises(TrustError, match=match, check=lambda error: error.reason == reason)


# ---- Tokens ---------------------------------------------------------------------------------------------------------


def test_the_form_of_a_token_is_the_one_that_was_recorded() -> None:
    token = Token(secret=bytes(range(16)), anchor=bytes(range(20)), address="fl.example.org:443")
    content = b"\x01" + token.secret + token.anchor + b"fl.example.org:443"
    label = b"fedloom/join-token/v1/check"
    framed = b"".join(b"b" + len(each).to_bytes(8, "big") + each for each in (label, content))
    written = base64.b32encode(content + hashlib.sha256(framed).digest()[:4]).decode().strip("=").lower()
    assert token.text == f"fedloom-join-{written}"
    assert token.text == (
        "fedloom-join-aeaacaqdaqcqmbyibefawdanbyhqaaicamcakbqhbaequcymbuha6earcijwm3bomv4gc3lqnrss433sm45dinbt4wkiv7q"
    )
    assert "\n" not in token.text
    assert token.secret.hex() not in repr(token)
    assert str(token.secret) not in repr(token)


@quick
@given(
    st.binary(min_size=16, max_size=16),
    st.binary(min_size=20, max_size=20),
    st.from_regex(r"[a-z0-9.:]{1,60}", fullmatch=True),
)
def test_a_token_is_read_as_it_was_written(secret: bytes, anchor: bytes, address: str) -> None:
    token = Token(secret=secret, anchor=anchor, address=address)
    typed = " ".join(token.text[start : start + 7] for start in range(0, len(token.text), 7)).upper() + "\r\n"
    assert read_token(typed) == token
    assert read_token(token.text) == token


def test_a_mistyped_token_is_noticed() -> None:
    token, _ = invited()
    start = len("fedloom-join-")
    for place in range(start, len(token.text)):
        other = "a" if token.text[place] != "a" else "b"
        typed = token.text[:place] + other + token.text[place + 1 :]
        with refusal("unreadable"):
            read_token(typed)
    for text in ("", "fedloom-join-", token.text[:-9], token.text + "aaaaaaaa", token.text[start:], "fedloom-join-01!"):
        with refusal("unreadable"):
            read_token(text)


def test_the_store_has_no_secret() -> None:
    token, record = invited()
    assert record.id == token_id(token.secret)
    kept = msgspec.json.encode(record)
    for secret in (token.secret, token.secret.hex().encode(), base64.b64encode(token.secret).rstrip(b"=")):
        assert secret not in kept
    assert msgspec.json.decode(kept, type=TokenRecord) == record


@pytest.mark.parametrize("address", ["a:1", "ab:1", "abc:1", "abcd:1", "abcde:1"])  # all lengths of a last group
def test_any_other_letter_anywhere_is_noticed(address: str) -> None:
    text = Token(secret=bytes(range(16)), anchor=bytes(20), address=address).text
    for place in range(len("fedloom-join-"), len(text)):
        for letter in "abcdefghijklmnopqrstuvwxyz234567":
            if letter != text[place]:
                with pytest.raises(TrustError):
                    read_token(text[:place] + letter + text[place + 1 :])


def test_a_token_is_used_once() -> None:
    token, record = invited()
    used = redeem(record, token.secret, request=b"one", now=NOW + 1)
    assert (used.used_at, used.used_for) == (NOW + 1, b"one")
    with refusal("token_used", "used already"):
        redeem(used, token.secret, request=b"two", now=NOW + 2)


def test_the_request_that_used_a_token_may_ask_again_after_its_answer_was_lost() -> None:
    token, record = invited()
    used = redeem(record, token.secret, request=b"one", now=NOW + 1)
    assert redeem(used, token.secret, request=b"one", now=NOW + 2 * DAY) == used


def test_a_token_expires() -> None:
    token, record = invited()
    assert redeem(record, token.secret, request=b"one", now=NOW + DAY - 1).used_at == NOW + DAY - 1
    with refusal("token_expired", "has expired"):
        redeem(record, token.secret, request=b"one", now=NOW + DAY)


def test_an_unknown_token_is_neither_used_nor_expired() -> None:
    _, record = invited()
    for known in (None, record):
        with refusal("token_unknown", "nobody was invited"):
            redeem(known, bytes(16), request=b"one", now=NOW)


def test_tokens_name_whom_a_certificate_can_name() -> None:
    for other in (
        {"client": "a/b"},
        {"organisation": "coordinator"},
        {"client": ""},
        {"address": ""},
        {"address": "ä:1"},
    ):
        with refusal("wrong_name"):
            invited(**other)
    _, record = invited(role="admin", client="ada")
    assert (record.organisation, record.client) == ("admin", "ada")


# ---- Requests -------------------------------------------------------------------------------------------------------


def sent(**other: Any) -> tuple[Token, list[Any]]:
    token, _ = invited()
    about: dict[str, Any] = {"tls_key": TLS, "signing_key": OWN, "token": token} | other
    return token, msgspec.msgpack.decode(signing_request(**about))


def test_a_request_proves_both_keys_and_brings_its_token() -> None:
    token, record = invited()
    request = read_request(signing_request(TLS, OWN, token=token), anchor=ANCHOR)
    assert (request.public, request.signing, request.token) == (TLS.public, OWN.public, token.secret)
    used = redeem(record, request.token, request=request.digest, now=NOW)
    issued = issue_site(MIDDLE, request, organisation=used.organisation, client=used.client, now=NOW)
    check_key(issued.chain, TLS)
    assert token.secret.hex() not in repr(request)


def test_private_keys_do_not_travel() -> None:
    token, _ = invited()
    request = signing_request(TLS, OWN, token=token)
    number = TLS.private.private_numbers().private_value.to_bytes(32, "big")
    assert OWN.stored() not in request
    assert number not in request


@pytest.mark.parametrize("field", range(5))
def test_a_request_changed_in_any_field_is_refused(field: int) -> None:
    _, fields = sent()
    for place in (0, len(fields[field]) // 2, -1):
        changed = bytearray(fields[field])
        changed[place] ^= 1
        data = msgspec.msgpack.encode([*fields[:field], bytes(changed), *fields[field + 1 :]])
        with pytest.raises(TrustError) as caught:
            read_request(data, anchor=ANCHOR)
        assert caught.value.reason in {"no_possession", "unreadable", "wrong_usage"}


def test_a_csr_is_signed_by_its_own_key() -> None:
    csr = bytearray(certificate_request(TLS))
    csr[-1] ^= 1
    with refusal("no_possession", "TLS key"):
        requested_key(bytes(csr))
    assert requested_key(certificate_request(TLS)) == TLS.public


def test_keys_of_another_request_are_not_taken_over() -> None:
    """Each proof is over both keys and the token: a part of one request is worth nothing in another."""
    _, mine = sent()
    _, theirs = sent(tls_key=new_tls_key(), signing_key=signing_key(bytes(range(1, 33))))
    for part in range(1 << 5):
        mixed = [theirs[i] if part >> i & 1 else mine[i] for i in range(5)]
        if mixed in (mine, theirs):
            continue
        with refusal("no_possession"):
            read_request(msgspec.msgpack.encode(mixed), anchor=ANCHOR)


def test_a_request_to_another_federation_is_refused() -> None:
    _, fields = sent()
    with refusal("no_possession", "for this federation"):
        read_request(msgspec.msgpack.encode(fields), anchor=bytes(20))


def test_the_names_of_a_csr_are_not_looked_at() -> None:
    """A CSR for the coordinator gets the certificate of the site that was invited."""
    token, _ = invited()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "coordinator")])
    csr = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(name)
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier("spiffe://trial/coordinator")]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(TLS.private, SHA256())
        .public_bytes(Encoding.DER)
    )
    statement = frame(b"fedloom/pki/v1/join", ANCHOR, token_id(token.secret), csr, OWN.public)
    data = msgspec.msgpack.encode([token.secret, csr, OWN.public, TLS.sign(statement), OWN.sign(statement)])
    request = read_request(data, anchor=ANCHOR)
    issued = issue_site(MIDDLE, request, organisation="hospital-a", client="north", now=NOW)
    peer = verify_chain(issued.chain, ROOT.anchor.certificate, now=NOW, want="client", federation="trial")
    assert peer.uri == "spiffe://trial/hospital-a/north"
    assert issued.peer == peer


@pytest.mark.parametrize("key", [ed25519.Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP384R1())])
def test_a_request_for_another_kind_of_tls_key_is_refused(key: Any) -> None:
    _, fields = sent()
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else SHA256()
    built = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, algorithm)
    fields[1] = built.public_bytes(Encoding.DER)
    with refusal("wrong_usage", "ECDSA over P-256"):
        read_request(msgspec.msgpack.encode(fields), anchor=ANCHOR)


@pytest.mark.parametrize("data", [b"", b"\x00", b"\x95" + b"\xc4\x00" * 5, b"\x91" * 5000, bytes(10_000)])
def test_what_is_no_request_is_unreadable(data: bytes) -> None:
    with refusal("unreadable"):
        read_request(data, anchor=ANCHOR)
    with refusal("unreadable"):
        read_renewal(data, federation="trial", roster=MEMBERS, denied=nobody_denied("trial"), now=NOW, peer=None)


# ---- Renewal --------------------------------------------------------------------------------------------------------


def renewed(data: bytes, **other: Any) -> Any:
    about: dict[str, Any] = {
        "federation": "trial",
        "roster": MEMBERS,
        "denied": nobody_denied("trial"),
        "now": NOW,
        "peer": None,
    }
    return read_renewal(data, **about | other)


def asking(key: SigningKey = OWN, client: str = "north", federation: str = "trial", now: float = NOW) -> bytes:
    return renewal_request(new_tls_key(), LocalIdentity(ClientId(client), key), federation=federation, now=now)


def test_after_its_certificate_has_expired_a_site_renews_with_the_rosters_key() -> None:
    old = issue_site(
        MIDDLE,
        read_request(signing_request(TLS, OWN, token=invited()[0]), anchor=ANCHOR),
        organisation="hospital-a",
        client="north",
        now=NOW,
    )
    later, key = NOW + 30 * DAY, new_tls_key()
    with refusal("expired"):
        verify_chain(old.chain, ROOT.anchor.certificate, now=later, want="client", federation="trial")
    renewal = renewed(renewal_request(key, NORTH, federation="trial", now=later), now=later)
    assert (renewal.client, renewal.organisation) == ("north", "hospital-a")
    new = issue_site(MIDDLE, renewal.request, organisation=renewal.organisation, client=renewal.client, now=later)
    peer = verify_chain(new.chain, ROOT.anchor.certificate, now=later, want="client", federation="trial")
    assert peer.uri == old.peer.uri
    assert peer.serial != old.peer.serial
    check_key(new.chain, key)


def test_a_site_on_the_deny_list_does_not_renew() -> None:
    banned = denying(nobody_denied("trial"), clients=[ClientId("north")])
    with refusal("denied", "deny list of 'trial' .version 1.: nothing is issued"):
        renewed(asking(), denied=banned)
    serial = issue_site(MIDDLE, renewed(asking()).request, organisation="hospital-a", client="north", now=NOW).peer
    by_serial = denying(nobody_denied("trial"), serials=[serial.serial])
    with refusal("denied"):
        renewed(asking(), denied=by_serial, peer=serial)
    other = denying(nobody_denied("trial"), clients=[ClientId("south")])
    assert renewed(asking(), denied=other).client == "north"


def test_only_the_rosters_key_renews() -> None:
    with refusal("no_possession", "Ed25519 key"):
        renewed(asking(signing_key(bytes(range(1, 33)))))
    with refusal("wrong_sender", "no site 'east'"):
        renewed(asking(client="east"))
    with refusal("no_possession"):
        renewed(asking(federation="elsewhere"))


def test_one_site_does_not_renew_for_another() -> None:
    peer = issue_site(MIDDLE, renewed(asking()).request, organisation="hospital-b", client="south", now=NOW).peer
    with refusal("wrong_sender", "'south' asks for a certificate of 'north'"):
        renewed(asking(), peer=peer)
    assert renewed(asking(), peer=replace(peer, client=ClientId("north"))).client == "north"


def test_the_coordinators_name_does_not_renew() -> None:
    key = signing_key(bytes(range(2, 34)))
    listed = roster("trial", 2, [Member(client=ClientId("coordinator"), organisation="coordinator", key=key.public)])
    with refusal("wrong_sender"):
        renewed(asking(key, "coordinator"), roster=listed)


def test_a_recorded_request_does_not_last() -> None:
    data = asking()
    assert renewed(data, now=NOW + WINDOW_S).client == "north"
    with refusal("expired", "set the clock"):
        renewed(data, now=NOW + WINDOW_S + 1)
    with refusal("not_yet_valid", "set the clock"):
        renewed(data, now=NOW - WINDOW_S - 1)


@pytest.mark.parametrize("field", range(5))
def test_a_renewal_changed_in_any_field_is_refused(field: int) -> None:
    fields = msgspec.msgpack.decode(asking())
    match fields[field]:
        case str():
            fields[field] = "nort"
        case int():
            fields[field] += 1
        case bytes() as content:
            fields[field] = content[:-1] + bytes([content[-1] ^ 1])
    with pytest.raises(TrustError) as caught:
        renewed(msgspec.msgpack.encode(fields))
    assert caught.value.reason in {"no_possession", "wrong_sender", "unreadable"}
