"""The probe port names what is wrong with a certificate, at both ends (D1, D2, D3, C14)."""

from __future__ import annotations

import dataclasses
import logging
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fedloom.errors import TransportError, TrustError
from fedloom.secure.tls_keys import new_tls_key
from fedloom.transport.errors import Code, PortBusy, Refusal, TlsFilesError
from fedloom.transport.probe import ProbePort, ProbeResult, check_own, probe

DAY = 86400.0
Probing = Callable[..., ProbePort]


@pytest.fixture
def probing(authority: Any) -> Iterator[Probing]:
    running: list[ProbePort] = []

    def start(files: Any = None, denied: Refusal | None = None, **options: Any) -> ProbePort:
        port = ProbePort(
            files or authority.coordinator(),
            federation="trial.example",
            authorise=lambda caller: denied,
            host="127.0.0.1",
            **options,
        )
        port.start()
        running.append(port)
        return port

    yield start
    for port in running:
        port.stop()


def at(port: ProbePort) -> str:
    return f"127.0.0.1:{port.port}"


def probed(port: ProbePort, *args: Any, **options: Any) -> ProbeResult:
    """Probe, and wait until the port has written its log."""
    result = probe(at(port), *args, **options)
    port.stop()
    return result


def test_a_good_certificate_is_accepted_and_named(probing: Probing, authority: Any) -> None:
    result = probe(at(probing()), authority.site())
    assert result.ok
    assert result.identity == "spiffe://trial.example/clinic/north"
    assert result.server_time_s == pytest.approx(authority.now, abs=600)


def test_an_expired_certificate_is_named_with_its_date_at_both_ends(
    probing: Probing, authority: Any, caplog: pytest.LogCaptureFixture
) -> None:
    files = authority.site(now=authority.now - 20 * DAY)
    with caplog.at_level(logging.WARNING):
        result = probed(probing(), files)
    assert (result.part, result.reason) == ("site", "expired")
    assert "spiffe://trial.example/clinic/north expired on 20" in result.sentence
    assert "site renew" in result.remedy
    assert "reason=expired identity=spiffe://trial.example/clinic/north" in caplog.text
    with pytest.raises(TrustError, match=r"expired on .*site renew"):
        check_own(files, want="client", federation="trial.example", now=authority.now)


def test_a_certificate_of_tomorrow_points_at_the_clocks(
    probing: Probing, authority: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        result = probed(probing(), authority.site(now=authority.now + 2 * DAY))
    assert (result.part, result.reason) == ("site", "not_yet_valid")
    assert "clocks" in result.remedy
    assert "reason=not_yet_valid identity=spiffe" in caplog.text


def test_a_certificate_of_another_authority_is_named_at_both_ends(
    probing: Probing, authority: Any, same_name: Any, caplog: pytest.LogCaptureFixture
) -> None:
    theirs = same_name.site()
    files = dataclasses.replace(theirs, root=authority.site().root)
    with caplog.at_level(logging.WARNING):
        result = probed(probing(), files)
    assert (result.part, result.reason) == ("site", "other_authority")
    assert "reason=other_authority" in caplog.text
    with pytest.raises(TrustError) as refused:
        check_own(files, want="client", federation="trial.example", now=authority.now)
    assert refused.value.reason == "other_authority"


def test_no_certificate_at_all_is_named_at_both_ends(
    probing: Probing, authority: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        result = probed(probing(), None, root=authority.root.anchor.certificate)
    assert (result.part, result.reason) == ("site", "no_certificate")
    assert "site join" in result.remedy
    assert "reason=no_certificate" in caplog.text


def test_the_certificate_of_a_server_is_no_clients(
    probing: Probing, authority: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        result = probed(probing(), authority.coordinator())
    assert (result.part, result.reason) == ("site", "wrong_usage")
    assert "reason=wrong_usage" in caplog.text


def test_an_identity_on_the_deny_list_is_told_so(probing: Probing, authority: Any) -> None:
    denied = Refusal(code=Code.DENIED, sentence="north is on the deny list.", remedy="Ask its operator.")
    result = probe(at(probing(denied=denied)), authority.site())
    assert (result.part, result.reason, result.sentence) == ("site", "denied", "north is on the deny list.")


def test_another_federation_is_told_so(authority: Any) -> None:
    port = ProbePort(authority.coordinator(), federation="elsewhere", authorise=lambda caller: None, host="127.0.0.1")
    port.start()
    try:
        result = probe(at(port), authority.site())
    finally:
        port.stop()
    assert (result.part, result.reason) == ("site", "wrong_federation")


# ---- The coordinator's own certificate -------------------------------------------------------------------------------


def test_an_expired_coordinator_is_named_with_its_dates(probing: Probing, authority: Any) -> None:
    port = probing(authority.coordinator(now=authority.now - 20 * DAY))
    result = probe(at(port), authority.site())
    assert (result.part, result.reason) == ("coordinator", "expired")
    assert "localhost, 127.0.0.1" in result.sentence
    assert " to 20" in result.sentence


def test_a_coordinator_of_another_name_is_shown_with_both_names(probing: Probing, authority: Any) -> None:
    port = probing(authority.coordinator("fed.example"))
    result = probe(at(port), authority.site())
    assert (result.part, result.reason) == ("coordinator", "wrong_name")
    assert "expected as '127.0.0.1'" in result.sentence
    assert "fed.example" in result.sentence
    assert probe(at(port), authority.site(), server_name="fed.example").ok


def test_intercepted_tls_is_called_that_and_shows_the_issuer(
    probing: Probing, authority: Any, other_authority: Any
) -> None:
    port = probing(other_authority.coordinator())
    result = probe(at(port), authority.site())
    assert (result.part, result.reason) == ("coordinator", "other_authority")
    assert "intercepted" in result.remedy
    assert "fedloom intermediate" in result.sentence


def test_a_site_that_plays_the_coordinator_is_refused(probing: Probing, authority: Any) -> None:
    result = probe(at(probing(authority.site("mallory"))), authority.site())
    assert (result.part, result.reason) == ("coordinator", "wrong_usage")


# ---- The line, and one's own files -----------------------------------------------------------------------------------


def test_a_closed_port_and_an_unknown_name_are_told_apart(authority: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert probe(f"127.0.0.1:{port}", authority.site()).reason == "refused"
    assert probe("no-such-host.invalid:1", authority.site()).reason == "dns"
    with pytest.raises(TransportError, match="HOST:PORT"):
        probe("somewhere", authority.site())


def test_a_key_that_is_not_the_certificates_is_named_before_dialling(authority: Any) -> None:
    files = authority.site()
    files.key.write_bytes(new_tls_key().stored())
    with pytest.raises(TlsFilesError, match="is not that of the certificate"):
        probe("127.0.0.1:1", files)
    with pytest.raises(TrustError) as refused:
        check_own(files, want="client", federation="trial.example", now=authority.now)
    assert refused.value.reason == "key_mismatch"
    files.key.unlink()
    with pytest.raises(TlsFilesError, match=r"key.pem: No such file"):
        probe("127.0.0.1:1", files)


def test_a_port_that_is_taken_is_a_clear_error(probing: Probing, authority: Any) -> None:
    port = probing()
    with pytest.raises(PortBusy, match=rf"127\.0\.0\.1:{port.port} cannot be listened at: Address already in use"):
        probing(port=port.port)
    port.stop()
    port.stop()
