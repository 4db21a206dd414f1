"""TLS 1.3 with the certificates that are issued here: OpenSSL is told nothing but the root, and checks for itself."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from fedloom.secure.anchors import Anchor
from fedloom.secure.authorities import (
    Intermediate,
    Issued,
    Root,
    issue_coordinator,
    issue_intermediate,
    issue_site,
    new_root,
)
from fedloom.secure.certificates import read_peer, verify_chain
from fedloom.secure.requests import Request
from fedloom.secure.tls_keys import TlsKey, new_tls_key

HOST = "fl.example.org"
DAY = 86400.0


@dataclass(frozen=True)
class Side:
    """One end: its chain, its key, and the root that it trusts."""

    issued: bytes
    key: TlsKey
    root: Root


def now() -> float:
    """The clock of OpenSSL: it asks nobody, so these certificates are of the present."""
    return time.time()


def issue(middle: Intermediate, key: TlsKey, *, at: float, days: int = 7) -> Issued:
    request = Request(public=key.public, signing=bytes(32), digest=bytes(32))
    return issue_site(middle, request, organisation="hospital-a", client="north", now=at, days=days)


def context(side: Side, folder: Path, *, purpose: int) -> ssl.SSLContext:
    files = {"chain": side.issued, "key": side.key.stored()}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    made = ssl.SSLContext(purpose)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.verify_mode = ssl.CERT_REQUIRED
    made.verify_flags |= ssl.VERIFY_X509_STRICT
    made.load_verify_locations(cadata=side.root.anchor.certificate.decode())
    made.load_cert_chain(folder / "chain", folder / "key")
    return made


def handshake(client: Side, server: Side, folder: Path, *, host: str = HOST) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Let both ends talk through memory until each is satisfied; what one refuses is raised."""
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    one = context(client, folder, purpose=ssl.PROTOCOL_TLS_CLIENT).wrap_bio(to_client, to_server, server_hostname=host)
    other = context(server, folder, purpose=ssl.PROTOCOL_TLS_SERVER).wrap_bio(to_server, to_client, server_side=True)
    waiting: list[Callable[[], None]] = [one.do_handshake, other.do_handshake]
    for _ in range(10):
        waiting = [step for step in waiting if not done(step)]
        if not waiting:
            break
    assert not waiting, "the handshake does not end"
    other.write(b"here")
    assert one.read(4) == b"here"
    return one, other


def done(step: Callable[[], None]) -> bool:
    try:
        step()
    except ssl.SSLWantReadError:
        return False
    return True


@pytest.fixture(scope="module")
def root() -> Root:
    return new_root("trial", now=now())


@pytest.fixture(scope="module")
def middle(root: Root) -> Intermediate:
    return issue_intermediate(root, now=now())


@pytest.fixture(scope="module")
def server(root: Root, middle: Intermediate) -> Side:
    key = new_tls_key()
    return Side(issue_coordinator(middle, key, names=[HOST, "127.0.0.1"], now=now()).chain, key, root)


@pytest.fixture(scope="module")
def client(root: Root, middle: Intermediate) -> Side:
    key = new_tls_key()
    return Side(issue(middle, key, at=now()).chain, key, root)


def test_both_ends_verify_each_other_over_tls_1_3(client: Side, server: Side, tmp_path: Path) -> None:
    one, other = handshake(client, server, tmp_path)
    assert one.version() == other.version() == "TLSv1.3"
    presented = other.getpeercert(binary_form=True)
    assert presented is not None
    peer = read_peer(ssl.DER_cert_to_PEM_cert(presented).encode())
    assert peer.uri == "spiffe://trial/hospital-a/north"
    said = other.getpeercert()
    assert said is not None
    assert ("URI", "spiffe://trial/hospital-a/north") in said["subjectAltName"]
    handshake(client, server, tmp_path, host="127.0.0.1")


def test_a_server_of_another_name_is_refused(client: Side, server: Side, tmp_path: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="not valid for 'elsewhere"):
        handshake(client, server, tmp_path, host="elsewhere.example.org")


def test_either_end_under_another_root_is_refused(client: Side, server: Side, tmp_path: Path) -> None:
    other = new_root("trial", now=now())
    below = issue_intermediate(other, now=now())
    key = new_tls_key()
    stranger = Side(issue(below, key, at=now()).chain, key, client.root)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(stranger, server, tmp_path)
    impostor = Side(issue_coordinator(below, key, names=[HOST], now=now()).chain, key, server.root)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(client, impostor, tmp_path)


def test_certificates_in_each_others_place_are_refused(client: Side, server: Side, tmp_path: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match=r"unsuitable|unsupported"):
        handshake(server, server, tmp_path)
    with pytest.raises(ssl.SSLCertVerificationError, match=r"unsuitable|unsupported"):
        handshake(client, client, tmp_path)


@pytest.mark.parametrize(("issued", "match"), [(-30 * DAY, "expired"), (2 * DAY, "not yet valid")])
def test_dates_are_checked(server: Side, tmp_path: Path, issued: float, match: str) -> None:
    then = now() + issued
    early = new_root("trial", now=now() - 60 * DAY)
    middle = issue_intermediate(early, now=now() - 59 * DAY)
    key = new_tls_key()
    late = Side(issue(middle, key, at=then).chain, key, server.root)
    with pytest.raises(ssl.SSLCertVerificationError, match=match):
        handshake(late, Side(server.issued, server.key, early), tmp_path)


def test_an_authority_below_the_intermediate_is_refused(
    middle: Intermediate, server: Side, root: Root, tmp_path: Path
) -> None:
    """What the thief of the intermediate's key could make: OpenSSL holds the intermediate to its path length.

    Only where the names differ: RFC 5280, 4.2.1.9, does not count a certificate whose issuer has its own name.
    ``verify_chain`` takes no third certificate at all.
    """
    below = issue_intermediate(as_root(root, middle), now=now())
    key = new_tls_key()
    chain = issue(below, key, at=now()).chain + middle.certificate
    with pytest.raises(ssl.SSLCertVerificationError, match="path length"):
        handshake(Side(chain, key, root), server, tmp_path)


def as_root(root: Root, middle: Intermediate) -> Root:
    """The intermediate's key put to the root's use, as its thief would."""
    anchor = Anchor(federation="below", certificate=middle.certificate, signing=root.signing.public)
    return Root(anchor, middle.key, root.signing)


def test_our_verdict_is_that_of_openssl(client: Side, server: Side, root: Root) -> None:
    found = verify_chain(client.issued, root.anchor.certificate, now=now(), want="client", federation="trial")
    assert found.client == "north"
    there = verify_chain(
        server.issued, root.anchor.certificate, now=now(), want="server", federation="trial", host=HOST
    )
    assert there.role == "coordinator"


def test_a_key_of_another_certificate_is_not_even_loaded(client: Side, server: Side, tmp_path: Path) -> None:
    with pytest.raises(ssl.SSLError, match="mismatch"):
        handshake(Side(client.issued, server.key, client.root), server, tmp_path)
