"""Certificates: each thing that can be wrong with a chain is refused, and by a reason of its own."""

from __future__ import annotations

import base64
import copy
import pickle
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_public_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from fedloom.errors import Error, TrustError
from fedloom.secure.anchors import Anchor, open_anchor
from fedloom.secure.authorities import (
    Intermediate,
    Issued,
    Root,
    issue_admin,
    issue_coordinator,
    issue_intermediate,
    issue_site,
    new_root,
    open_intermediate,
    open_root,
)
from fedloom.secure.certificates import (
    check_key,
    fingerprint,
    host_names,
    read_certificates,
    read_peer,
    renewal_due,
    verify_chain,
    verify_own_chain,
    warnings,
)
from fedloom.secure.peers import Peer
from fedloom.secure.requests import Request
from fedloom.secure.tls_keys import TlsKey, new_tls_key, tls_key

NOW = 1_800_000_000.0
"""2027-01-15 08:00 UTC."""
HOUR, DAY = 3600.0, 86400.0
ROOT = new_root("trial", now=NOW)
MIDDLE = issue_intermediate(ROOT, now=NOW)
KEY = new_tls_key()


def asked(key: TlsKey) -> Request:
    return Request(public=key.public, signing=bytes(32), digest=bytes(32))


SITE = issue_site(MIDDLE, asked(KEY), organisation="hospital-a", client="north", now=NOW)
SERVER = issue_coordinator(MIDDLE, KEY, names=["fl.example.org", "127.0.0.1", "::1"], now=NOW)


def verified(chain: bytes, **other: Any) -> Peer:
    settings: dict[str, Any] = {"now": NOW, "want": "client", "federation": "trial"} | other
    return verify_chain(chain, ROOT.anchor.certificate, **settings)


def refused(chain: bytes, reason: str, match: str, **other: Any) -> None:
    with pytest.raises(TrustError, match=match) as caught:
        verified(chain, **other)
    assert caught.value.reason == reason


def certificate(
    issuer: Intermediate,
    public: Any,
    *extensions: tuple[x509.ExtensionType, bool],
    subject: str = "north",
) -> bytes:
    """A certificate as somebody would make it who has the issuer's key and other tools than ours."""
    (above,) = read_certificates(issuer.certificate)
    built = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(above.subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.fromtimestamp(NOW - HOUR, UTC))
        .not_valid_after(datetime.fromtimestamp(NOW + DAY, UTC))
    )
    for extension, critical in extensions:
        built = built.add_extension(extension, critical)
    return built.sign(issuer.key.private, SHA256()).public_bytes(Encoding.PEM)


LEAF = (x509.BasicConstraints(ca=False, path_length=None), True)
CLIENT = (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False)


def uri(*names: str) -> tuple[x509.ExtensionType, bool]:
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(name) for name in names]), False


NORTH = uri("spiffe://trial/hospital-a/north")
PUBLIC = KEY.private.public_key()


# ---- What holds ------------------------------------------------------------------------------------------------------


def test_a_chain_names_its_holder() -> None:
    peer = verified(SITE.chain)
    assert peer == SITE.peer == read_peer(SITE.chain)
    assert (peer.client, peer.organisation, peer.federation, peer.role) == ("north", "hospital-a", "trial", "site")
    assert peer.uri == "spiffe://trial/hospital-a/north"
    assert peer.not_after == NOW + 7 * DAY
    assert int(peer.serial, 16) == read_certificates(SITE.chain)[0].serial_number
    server = verified(SERVER.chain, want="server", host="fl.example.org")
    assert (server.uri, server.role) == ("spiffe://trial/coordinator", "coordinator")
    operator = issue_admin(MIDDLE, asked(KEY), name="ada", now=NOW)
    assert verified(operator.chain).uri == "spiffe://trial/admin/ada"
    named = issue_site(MIDDLE, asked(KEY), organisation="hospital-a", client="ada", now=NOW)
    assert named.peer.client != operator.peer.client, "an operator passes for a site of the same name"


def test_another_verifier_agrees_and_refuses_an_authority_below_the_intermediate() -> None:
    """The verifier of ``cryptography`` is other code than ours: its profile is that of the public web."""
    leaf, middle = read_certificates(SERVER.chain)
    store = Store(read_certificates(ROOT.anchor.certificate))
    verifier = (
        PolicyBuilder()
        .store(store)
        .time(datetime.fromtimestamp(NOW, UTC))
        .build_server_verifier(x509.DNSName("fl.example.org"))
    )
    assert len(verifier.verify(leaf, [middle])) == 3
    below, key = authority_below()
    child = issue_coordinator(
        Intermediate(federation="trial", certificate=below, key=key), KEY, names=["fl.example.org"], now=NOW
    )
    with pytest.raises(VerificationError):
        verifier.verify(read_certificates(child.chain)[0], [read_certificates(below)[0], middle])


def test_certificates_are_what_the_standard_asks_for() -> None:
    for chain, uses in (
        (SITE.chain, [ExtendedKeyUsageOID.CLIENT_AUTH]),
        (SERVER.chain, [ExtendedKeyUsageOID.SERVER_AUTH]),
    ):
        leaf, middle = read_certificates(chain)
        constraints = leaf.extensions.get_extension_for_class(x509.BasicConstraints)
        assert constraints.critical and not constraints.value.ca
        assert list(leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == uses
        usage = leaf.extensions.get_extension_for_class(x509.KeyUsage)
        assert usage.critical and usage.value.digital_signature and not usage.value.key_cert_sign
        above = middle.extensions.get_extension_for_class(x509.BasicConstraints)
        assert above.critical and above.value.ca and above.value.path_length == 0
        assert leaf.serial_number.bit_length() > 64
    assert host_names(read_certificates(SERVER.chain)[0]) == ["fl.example.org", "127.0.0.1", "::1"]


def test_serials_are_never_the_same() -> None:
    serials = {issue_site(MIDDLE, asked(KEY), organisation="a", client="b", now=NOW).peer.serial for _ in range(20)}
    assert len(serials) == 20


# ---- D1, D2: dates and names ----------------------------------------------------------------------------------------


def test_an_expired_certificate_is_named_with_its_date_and_remedy() -> None:
    late = NOW + 8 * DAY
    refused(
        SITE.chain,
        "expired",
        "of 'north' expired on 2027-01-22 08:00 UTC, 24 hours ago: run `fedloom site renew` there",
        now=late,
    )
    with pytest.raises(
        TrustError, match=r"^your certificate expired on 2027-01-22 08:00 UTC.*: run `fedloom site renew`$"
    ) as caught:
        verify_own_chain(SITE.chain, KEY, ROOT.anchor.certificate, now=late, want="client", federation="trial")
    assert caught.value.reason == "expired"
    refused(SERVER.chain, "expired", "'coordinator' expired on .* the coordinator's operator", now=late, want="server")
    assert verified(SITE.chain, now=NOW + 7 * DAY - 1).client == "north"
    refused(SITE.chain, "expired", "0 seconds ago", now=NOW + 7 * DAY)


def test_a_slow_clock_is_told_how_slow_it_is() -> None:
    refused(SITE.chain, "not_yet_valid", "this clock says .*, 25 hours before: set the clock", now=NOW - 26 * HOUR)
    assert verified(SITE.chain, now=NOW - 600).client == "north"


def test_an_expired_intermediate_or_root_is_told_from_an_expired_leaf() -> None:
    short = issue_intermediate(ROOT, now=NOW, days=1)
    leaf = issue_site(short, asked(KEY), organisation="a", client="north", now=NOW)
    assert leaf.peer.not_after == NOW + DAY, "a leaf outlives its issuer"
    refused(leaf.chain, "expired", "the intermediate's certificate expired", now=NOW + 2 * DAY)
    refused(SITE.chain, "expired", "the root's certificate expired", now=NOW + 11 * 366 * DAY)
    with pytest.raises(TrustError, match="issues nothing") as caught:
        issue_site(short, asked(KEY), organisation="a", client="north", now=NOW + 2 * DAY)
    assert caught.value.reason == "expired"


def test_a_server_under_another_name_is_named_with_what_was_expected_and_presented() -> None:
    match = "at 'other.example.org' presented a certificate for fl.example.org, 127.0.0.1, ::1, valid until 2027-01-22"
    refused(SERVER.chain, "wrong_name", match, want="server", host="other.example.org")
    for name in ("FL.example.org", "127.0.0.1", "[::1]"):
        assert verified(SERVER.chain, want="server", host=name).role == "coordinator"
    refused(SERVER.chain, "wrong_name", "presented", want="server", host="example.org")


# ---- D3: other authorities, other keys, broken chains ----------------------------------------------------------------


def test_a_certificate_under_another_root_of_the_same_name_is_refused() -> None:
    other = issue_intermediate(new_root("trial", now=NOW), now=NOW)
    forged = issue_site(other, asked(KEY), organisation="hospital-a", client="north", now=NOW)
    refused(forged.chain, "other_authority", "not signed by the root of this federation")
    mixed = forged.chain.split(b"-----END CERTIFICATE-----\n")[0] + b"-----END CERTIFICATE-----\n" + MIDDLE.certificate
    refused(mixed, "broken_chain", "not signed by the intermediate")


def test_a_certificate_of_another_federation_under_the_same_root_is_refused() -> None:
    elsewhere = replace(MIDDLE, federation="elsewhere")
    chain = issue_site(elsewhere, asked(KEY), organisation="hospital-a", client="north", now=NOW).chain
    refused(chain, "wrong_federation", "'elsewhere'; this one is 'trial'")


def test_a_key_that_does_not_match_is_its_own_error() -> None:
    with pytest.raises(TrustError, match=r"is for the key .*, the private key beside it is") as caught:
        verify_own_chain(SITE.chain, new_tls_key(), ROOT.anchor.certificate, now=NOW, want="client", federation="trial")
    assert caught.value.reason == "key_mismatch"
    with pytest.raises(TrustError):
        Intermediate(federation="trial", certificate=MIDDLE.certificate, key=KEY)


@pytest.mark.parametrize(
    "chain", [b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", b"x" * 70_000]
)
def test_what_is_no_certificate_is_unreadable(chain: bytes) -> None:
    refused(chain, "unreadable", "certificate|chain")


def test_a_chain_has_two_certificates() -> None:
    leaf = certificate(MIDDLE, PUBLIC, LEAF, CLIENT, NORTH)
    assert verified(leaf + MIDDLE.certificate).client == "north"
    refused(leaf, "broken_chain", "received 1")
    refused(leaf + MIDDLE.certificate + ROOT.anchor.certificate, "broken_chain", "received 3")
    refused(MIDDLE.certificate + leaf, "other_authority", "not signed by the root")


# ---- Authorities and uses --------------------------------------------------------------------------------------------


def authority_below() -> tuple[bytes, TlsKey]:
    key = new_tls_key()
    usage = read_certificates(MIDDLE.certificate)[0].extensions.get_extension_for_class(x509.KeyUsage).value
    constraints = x509.BasicConstraints(ca=True, path_length=0)
    return certificate(MIDDLE, key.private.public_key(), (constraints, True), (usage, True), subject="below"), key


def test_an_intermediate_makes_no_authority() -> None:
    below, key = authority_below()
    leaf = issue_site(
        Intermediate(federation="trial", certificate=below, key=key), asked(KEY), organisation="a", client="b", now=NOW
    )
    refused(leaf.chain, "other_authority", "not signed by the root")
    refused(leaf.chain + MIDDLE.certificate, "broken_chain", "received 3")
    refused(below + MIDDLE.certificate, "wrong_usage", "certificate of an authority")


def test_a_leaf_signs_nothing() -> None:
    own = SITE.chain.split(b"-----END CERTIFICATE-----\n")[0] + b"-----END CERTIFICATE-----\n"
    forged = certificate(Intermediate(federation="trial", certificate=own, key=KEY), PUBLIC, LEAF, CLIENT, NORTH)
    refused(forged + own, "other_authority", "not signed by the root")
    under_root = Intermediate(federation="trial", certificate=ROOT.anchor.certificate, key=ROOT.key)
    direct = certificate(under_root, PUBLIC, LEAF, CLIENT, NORTH, subject="leaf of the root")
    own_child = certificate(Intermediate(federation="trial", certificate=direct, key=KEY), PUBLIC, LEAF, CLIENT, NORTH)
    refused(own_child + direct, "broken_chain", "the certificate of no authority")


USAGE = read_certificates(MIDDLE.certificate)[0].extensions.get_extension_for_class(x509.KeyUsage).value
LEAF_USAGE = read_certificates(SITE.chain)[0].extensions.get_extension_for_class(x509.KeyUsage).value


@pytest.mark.parametrize(
    "extensions",
    [
        [(USAGE, True)],
        [(x509.BasicConstraints(ca=True, path_length=0), False), (USAGE, True)],
        [(x509.BasicConstraints(ca=False, path_length=None), True), (USAGE, True)],
        [(x509.BasicConstraints(ca=True, path_length=None), True), (USAGE, True)],
        [(x509.BasicConstraints(ca=True, path_length=1), True), (USAGE, True)],
        [(x509.BasicConstraints(ca=True, path_length=0), True)],
        [(x509.BasicConstraints(ca=True, path_length=0), True), (LEAF_USAGE, True)],
    ],
)
def test_an_intermediate_is_an_authority_of_path_length_zero(extensions: list[Any]) -> None:
    key = new_tls_key()
    under_root = Intermediate(federation="trial", certificate=ROOT.anchor.certificate, key=ROOT.key)
    above = certificate(under_root, key.private.public_key(), *extensions, subject="middle")
    leaf = certificate(Intermediate(federation="trial", certificate=above, key=key), PUBLIC, LEAF, CLIENT, NORTH)
    refused(leaf + above, "broken_chain", "the intermediate")


def test_a_root_is_an_authority_too() -> None:
    chain = SITE.chain
    with pytest.raises(TrustError, match=r"the root .* is the certificate of no authority") as caught:
        verify_chain(chain, SITE.chain, now=NOW, want="client", federation="trial")
    assert caught.value.reason == "broken_chain"


def test_a_servers_certificate_is_no_clients_and_the_reverse() -> None:
    refused(SERVER.chain, "wrong_usage", "of spiffe://trial/coordinator is not for a client")
    refused(SITE.chain, "wrong_usage", "of spiffe://trial/hospital-a/north is not for a server", want="server")


@pytest.mark.parametrize(
    "uses",
    [
        [ExtendedKeyUsageOID.SERVER_AUTH],
        [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH],
        [ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE],
        [ExtendedKeyUsageOID.CODE_SIGNING],
        [],
    ],
)
def test_a_certificate_is_for_one_use(uses: list[x509.ObjectIdentifier]) -> None:
    extensions = [(x509.ExtendedKeyUsage(uses), False)] if uses else []
    refused(
        certificate(MIDDLE, PUBLIC, LEAF, NORTH, *extensions) + MIDDLE.certificate, "wrong_usage", "not for a client"
    )


def test_the_use_does_not_make_a_site_the_coordinator() -> None:
    server = (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)
    chain = certificate(MIDDLE, PUBLIC, LEAF, server, NORTH) + MIDDLE.certificate
    refused(chain, "wrong_usage", "not for a server", want="server")
    chain = certificate(MIDDLE, PUBLIC, LEAF, CLIENT, uri("spiffe://trial/coordinator")) + MIDDLE.certificate
    refused(chain, "wrong_usage", "not for a client")


def test_constraints_must_be_there_and_critical() -> None:
    for extensions in ((), ((x509.BasicConstraints(ca=False, path_length=None), False),)):
        chain = certificate(MIDDLE, PUBLIC, CLIENT, NORTH, *extensions) + MIDDLE.certificate
        refused(chain, "wrong_usage", "not of a party")


@pytest.mark.parametrize(
    "names",
    [
        (),
        ("spiffe://trial/hospital-a/north", "spiffe://trial/hospital-b/north"),
        ("spiffe://trial",),
        ("spiffe://trial/a/b/c",),
        ("https://trial/hospital-a/north",),
        ("spiffe://trial/hospital-a/",),
        ("spiffe://trial/hospital-a/no%72th",),
        ("spiffe://TRIAL/hospital-a/north",),
        ("spiffe://trial/coordinator/north",),
        ("spiffe://trial/hospital-a/coordinator",),
        ("spiffe://trial:1/hospital-a/north",),
    ],
)
def test_a_certificate_carries_exactly_one_name_of_ours(names: tuple[str, ...]) -> None:
    extensions = [uri(*names)] if names else []
    refused(certificate(MIDDLE, PUBLIC, LEAF, CLIENT, *extensions) + MIDDLE.certificate, "wrong_name", "name")


@pytest.mark.parametrize(
    "key",
    [
        ed25519.Ed25519PrivateKey.generate().public_key(),
        ec.generate_private_key(ec.SECP384R1()).public_key(),
        rsa.generate_private_key(65537, 2048).public_key(),
    ],
    ids=["ed25519", "p-384", "rsa"],
)
def test_tls_keys_are_ecdsa_over_p256(key: Any) -> None:
    chain = certificate(MIDDLE, key, LEAF, CLIENT, NORTH) + MIDDLE.certificate
    refused(chain, "wrong_usage", "not ECDSA over P-256")
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(TrustError, match="ECDSA over P-256"):
        issue_site(MIDDLE, replace(asked(KEY), public=der), organisation="a", client="b", now=NOW)


def test_every_flipped_byte_of_a_leaf_is_noticed() -> None:
    leaf = read_certificates(SITE.chain)[0].public_bytes(Encoding.DER)
    for place in range(0, len(leaf), 7):
        changed = bytearray(leaf)
        changed[place] ^= 1
        pem = b"-----BEGIN CERTIFICATE-----\n" + base64.b64encode(changed) + b"\n-----END CERTIFICATE-----\n"
        with pytest.raises(TrustError):
            verified(pem + MIDDLE.certificate)


# ---- Issuing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "a/b", "../b", "x" * 64, "ä", ".a", "coordinator", "Admin", "a b", "a\n"])
def test_names_that_cannot_stand_in_a_certificate_are_refused(name: str) -> None:
    for organisation, client in ((name, "north"), ("a", name)):
        with pytest.raises(TrustError) as caught:
            issue_site(MIDDLE, asked(KEY), organisation=organisation, client=client, now=NOW)
        assert caught.value.reason == "wrong_name"


@pytest.mark.parametrize("names", [[], ["fl.example.org:443"], ["*.example.org"], ["a b"], [""], ["-a"]])
def test_a_coordinator_is_dialled_by_names_and_addresses(names: list[str]) -> None:
    with pytest.raises(TrustError) as caught:
        issue_coordinator(MIDDLE, KEY, names=names, now=NOW)
    assert caught.value.reason == "wrong_name"


def test_a_federations_name_is_checked_where_it_begins() -> None:
    for name in ("Trial", "", "a/b", "a b"):
        with pytest.raises(TrustError):
            new_root(name, now=NOW)


# ---- Keys, roots and anchors at rest --------------------------------------------------------------------------------


def test_a_root_opens_under_its_passphrase_and_no_other() -> None:
    stored = ROOT.stored("five words of no poem", cost=14)
    again = open_root(stored, passphrase="five words of no poem")
    assert again.anchor == ROOT.anchor
    assert again.signing.public == ROOT.signing.public
    issued = issue_site(issue_intermediate(again, now=NOW), asked(KEY), organisation="a", client="south", now=NOW)
    assert verified(issued.chain).client == "south"
    with pytest.raises(TrustError) as caught:
        open_root(stored, passphrase="five words of no song")
    assert caught.value.reason == "wrong_passphrase"
    for secret in (ROOT.signing.stored(), ROOT.key.stored(), ROOT.key.stored().splitlines()[1]):
        assert secret not in stored


def test_a_root_with_the_key_of_another_does_not_open() -> None:
    mixed = Root(ROOT.anchor, new_root("trial", now=NOW).key, ROOT.signing)
    with pytest.raises(TrustError) as caught:
        open_root(mixed.stored("five words of no poem", cost=14), passphrase="five words of no poem")
    assert caught.value.reason == "key_mismatch"


def test_an_intermediate_and_its_key_are_two_files() -> None:
    again = open_intermediate(MIDDLE.certificate, MIDDLE.key.stored(), federation="trial")
    assert again.key.public == MIDDLE.key.public
    with pytest.raises(TrustError) as caught:
        open_intermediate(MIDDLE.certificate, KEY.stored(), federation="trial")
    assert caught.value.reason == "key_mismatch"


@pytest.mark.parametrize("secret", [ROOT, KEY], ids=["root", "key"])
def test_keys_neither_print_nor_travel(secret: Any) -> None:
    assert repr(secret) in {"<root of 'trial'>", "<secret>"}
    for leave in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(Error, match="not compared, hashed, pickled or copied"):
            leave(secret)
    assert "BEGIN" not in repr(MIDDLE).replace("BEGIN CERTIFICATE", "")


def test_a_tls_key_is_read_back_and_another_kind_refused() -> None:
    assert tls_key(KEY.stored()).public == KEY.public
    with pytest.raises(Error, match="compare public keys"):
        tls_key(KEY.stored()) == KEY  # noqa: B015
    other = ed25519.Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for stored in (other, b"", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"):
        with pytest.raises(TrustError):
            tls_key(stored)


def test_an_anchor_is_the_one_whose_fingerprint_was_given() -> None:
    anchor = ROOT.anchor
    assert open_anchor(anchor.stored(), meant=anchor.short) == anchor
    assert open_anchor(anchor.stored(), meant=anchor.fingerprint.upper().replace(" ", "-")) == anchor
    others = (
        new_root("trial", now=NOW).anchor,
        replace(anchor, signing=bytes(32)),
        replace(anchor, federation="other"),
        replace(anchor, certificate=MIDDLE.certificate),
    )
    for other in others:
        with pytest.raises(TrustError, match="Somebody else answers") as caught:
            open_anchor(other.stored(), meant=anchor.short)
        assert caught.value.reason == "other_authority"
    for data in (b"", b"{}", b"[" * 100_000, Anchor(federation="trial", certificate=b"", signing=bytes(32)).stored()):
        with pytest.raises(TrustError) as caught:
            open_anchor(data, meant=None)
        assert caught.value.reason == "unreadable"


# ---- Renewal dates ---------------------------------------------------------------------------------------------------


def test_renewal_is_due_after_a_day() -> None:
    assert not renewal_due(SITE.peer, NOW + DAY - 1)
    assert renewal_due(SITE.peer, NOW + DAY)


@pytest.mark.parametrize(
    ("left", "expected"),
    [
        (4 * DAY, None),
        (3 * DAY, "3 days"),
        (2 * DAY, "3 days"),
        (DAY, "1 day"),
        (7 * HOUR, "1 day"),
        (6 * HOUR, "6 hours"),
        (60, "6 hours"),
    ],
)
def test_warnings_come_at_three_days_one_day_and_six_hours(left: float, expected: str | None) -> None:
    told = warnings(SITE.peer, SITE.peer.not_after - left)
    assert (expected is None and told == ()) or f"(warning at {expected})" in told[0]


def test_after_the_end_the_warning_says_what_to_do() -> None:
    (told,) = warnings(SITE.peer, SITE.peer.not_after)
    assert "expired at 2027-01-22 08:00 UTC: run `fedloom site renew`" in told


def test_fingerprints_are_of_the_certificate() -> None:
    renewed: Issued = issue_site(MIDDLE, asked(KEY), organisation="hospital-a", client="north", now=NOW)
    assert fingerprint(SITE.chain) != fingerprint(renewed.chain)
    assert len(fingerprint(SITE.chain).split()) == 8
    check_key(renewed.chain, KEY)
    assert load_der_public_key(KEY.public) is not None


def test_a_certificate_of_an_unknown_version_is_unreadable() -> None:
    der = bytearray(read_certificates(SITE.chain)[0].public_bytes(Encoding.DER))
    place = der.index(b"\xa0\x03\x02\x01\x02") + 4
    der[place] = 6
    pem = b"-----BEGIN CERTIFICATE-----\n" + base64.b64encode(der) + b"\n-----END CERTIFICATE-----\n"
    with pytest.raises(TrustError) as caught:
        read_peer(pem)
    assert caught.value.reason == "unreadable"
