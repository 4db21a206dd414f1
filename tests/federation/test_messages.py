"""What a site sends under another's name, twice, changed or in another shape is refused, and counts as nothing."""

from __future__ import annotations

import ast
import hashlib
import io
import os
import pickle
import tarfile
import threading
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import fedloom
from fedloom.core import codec
from fedloom.core.ids import ClientId, RoundNumber, RunId
from fedloom.core.messages import AggregatorMessage
from fedloom.engines.site_calls import HANDSHAKE
from fedloom.errors import CodecError, RunStopped
from fedloom.secure.agreement import signing_key
from fedloom.secure.envelopes import Header, seal_envelope
from fedloom.secure.peers import COORDINATOR
from fedloom.secure.roster import LocalIdentity
from fedloom.store.federation_rows import RoundKey
from fedloom.transport import verbs
from fedloom.transport.errors import Code, Refused

Make = Callable[..., Any]


class Site:
    """A site by hand: it says what a test says."""

    def __init__(self, federation: Any, name: str) -> None:
        self.office = federation.open()
        self.name = ClientId(name)
        self.caller = federation.wire(name).caller
        self.key = federation.keys[self.name]
        self.sequence = 0
        self.session = self.hello()

    def hello(self) -> str:
        request = verbs.Hello(federation="trial", version="0.1", store_epoch=f"{'a' * 16}:1:{'b' * 16}")
        reply = self.office.calls.hello(self.caller, request)
        session: str = reply.session
        return session

    def offer(self) -> verbs.Offer:
        offers = self.office.calls.poll(self.caller, verbs.Poll(session=self.session, wait_s=0.0)).offers
        offer: verbs.Offer
        (offer,) = offers
        return offer

    def upload(self, offer: verbs.Offer, data: bytes) -> verbs.Blob:
        blob = verbs.Blob(digest=hashlib.sha256(data).digest(), length=len(data))
        request = verbs.BeginUpload(session=self.session, task=offer.task, retry=offer.key.retry, blob=blob)
        at = self.office.calls.begin_upload(self.caller, request)
        if not at.done:
            self.office.calls.write_chunk(self.caller, at.upload, 0, memoryview(data))
            self.office.calls.finish_upload(self.caller, at.upload)
        return blob

    def submission(
        self, offer: verbs.Offer, blob: verbs.Blob, *, content: bytes = b"", key: Any = None, **place: Any
    ) -> verbs.Submit:
        """Return a signed message; what is named is another in its envelope."""
        message = verbs.Submit(session=self.session, task=offer.task, key=offer.key, blob=blob, content=content)
        self.sequence += 1
        told: dict[str, Any] = {
            "federation": "trial",
            "sender": self.name,
            "receiver": ClientId(COORDINATOR),
            "run": RunId(offer.key.run),
            "round": offer.key.round,
            "retry": offer.key.retry,
            "step": offer.key.step,
            "message_id": os.urandom(16),
            "sequence": self.sequence,
            "expires_at": 0,
        }
        header = Header(**(told | place))
        identity = LocalIdentity(header.sender, self.key if key is None else key)
        body = hashlib.sha256(verbs.signed_part(message)).digest()
        return msgspec.structs.replace(message, envelope=seal_envelope(body, header, identity).stored())

    def submit(self, message: verbs.Submit) -> verbs.SubmitReply:
        reply: verbs.SubmitReply = self.office.calls.submit(self.caller, message)
        return reply


@pytest.fixture
def asked(scene: Make) -> Any:
    """Return a coordinator that has asked two sites for a round, and the two sites."""
    federation = scene(sites=2)
    office = federation.open()
    east, center = Site(federation, "east"), Site(federation, "center")
    order = office.store.blobs.put(b"order")
    office.store.rounds.plan(KEY, cohort=(center.name, east.name))
    office.store.rounds.offer(KEY, 0, {center.name: (order,), east.name: (order,)})
    return office, east, center


KEY = RoundKey(RunId("r"), 0, "train", RoundNumber(1), 0)


def counted(office: Any) -> list[str]:
    return [sent.site for sent in office.store.rounds.contributions(KEY)]


def test_a_content_that_comes_with_its_message_is_the_one_that_it_names(asked: Any) -> None:
    office, east, _ = asked
    data = b"update"
    blob = verbs.Blob(digest=hashlib.sha256(data).digest(), length=len(data))
    with pytest.raises(Refused, match="CORRUPT_UPLOAD"):
        east.submit(east.submission(east.offer(), blob, content=b"upd4te"))
    assert counted(office) == []
    assert east.submit(east.submission(east.offer(), blob, content=data)).verdict == "ACCEPTED"
    (sent,) = office.store.rounds.contributions(KEY)
    assert office.store.blobs.read(sent.blob) == data


def test_a_message_counts_once_however_often_it_comes(asked: Any) -> None:
    office, east, _ = asked
    message = east.submission(east.offer(), east.upload(east.offer(), b"update"))
    assert [east.submit(message).verdict for _ in range(3)] == ["ACCEPTED", "DUPLICATE_OK", "DUPLICATE_OK"]
    again = east.submission(offer_of(message), message.blob)
    assert east.submit(again).verdict == "DUPLICATE_OK", "said anew, with the next number"
    assert counted(office) == ["east"]


def offer_of(message: verbs.Submit) -> verbs.Offer:
    return verbs.Offer(task=message.task, kind="order", key=message.key, inputs=(), deadline_s=None)


def test_d8_a_site_cannot_answer_for_another(asked: Any) -> None:
    office, east, center = asked
    offer, blob = center.offer(), east.upload(east.offer(), b"update")
    with pytest.raises(Refused) as refused:
        east.submit(east.submission(offer, blob))
    assert refused.value.refusal.code == Code.NOT_FOUND
    with pytest.raises(Refused) as refused:
        east.submit(msgspec.structs.replace(east.submission(offer, blob), session=center.session))
    assert refused.value.refusal.code == Code.STALE_SESSION, "a session is of whoever the channel names"
    with pytest.raises(Refused) as refused:
        east.upload(offer, b"another")
    assert refused.value.refusal.code == Code.NOT_FOUND
    assert counted(office) == []


@pytest.mark.parametrize(
    "place",
    [
        {"federation": "another"},
        {"receiver": ClientId("center")},
        {"run": RunId("another")},
        {"round": 2},
        {"retry": 1},
        {"step": 1},
        {"sender": ClientId("center")},
    ],
)
def test_d8_an_envelope_of_another_place_is_refused(place: dict[str, Any], asked: Any) -> None:
    office, east, _ = asked
    offer = east.offer()
    blob = east.upload(offer, b"update")
    with pytest.raises(Refused) as refused:
        east.submit(east.submission(offer, blob, **place))
    assert refused.value.refusal.code == Code.UNAUTHENTICATED
    assert counted(office) == []
    assert east.submit(east.submission(offer, blob)).verdict == "ACCEPTED", "a refused one is no obstacle"


def test_d8_another_key_and_a_changed_body_are_refused(asked: Any) -> None:
    office, east, center = asked
    offer = east.offer()
    blob, other = east.upload(offer, b"update"), east.upload(offer, b"another")
    signed = east.submission(offer, blob)
    wrong = [
        east.submission(offer, blob, key=signing_key(bytes(32))),
        msgspec.structs.replace(signed, blob=other),
        msgspec.structs.replace(signed, envelope=signed.envelope[:-1]),
        msgspec.structs.replace(signed, envelope=b""),
        msgspec.structs.replace(signed, envelope=signed.envelope[:-1] + bytes([signed.envelope[-1] ^ 1])),
        msgspec.structs.replace(signed, envelope=center.submission(center.offer(), blob).envelope),
    ]
    for message in wrong:
        with pytest.raises(Refused) as refused:
            east.submit(message)
        assert refused.value.refusal.code == Code.UNAUTHENTICATED
    assert counted(office) == []


def test_an_older_message_is_a_replay(asked: Any) -> None:
    office, east, _ = asked
    offer = east.offer()
    blob = east.upload(offer, b"update")
    first, second = east.submission(offer, blob), east.submission(offer, blob)
    assert east.submit(second).verdict == "ACCEPTED"
    with pytest.raises(Refused, match="again or late") as refused:
        east.submit(first)
    assert refused.value.refusal.code == Code.UNAUTHENTICATED
    assert counted(office) == ["east"]


def test_what_counts_is_never_changed(asked: Any) -> None:
    office, east, _ = asked
    offer = east.offer()
    blob, other = east.upload(offer, b"update"), east.upload(offer, b"another")
    assert east.submit(east.submission(offer, blob)).verdict == "ACCEPTED"
    reply = east.submit(east.submission(offer, other))
    assert (reply.verdict, reply.reason) == ("REJECTED", "the site has sent something else for this task")
    assert [sent.blob for sent in office.store.rounds.contributions(KEY)] == [blob.digest.hex()]


def test_a_message_without_its_content_is_refused_until_it_is_there(asked: Any) -> None:
    office, east, _ = asked
    offer, digest = east.offer(), hashlib.sha256(b"update").digest()
    missing = verbs.Blob(digest=digest, length=6)
    assert east.submit(east.submission(offer, missing)).verdict == "REJECTED"
    assert counted(office) == []
    assert east.submit(east.submission(offer, east.upload(offer, b"update"))).verdict == "ACCEPTED"


def test_c9_a_damaged_upload_begins_anew(asked: Any) -> None:
    office, east, _ = asked
    offer = east.offer()
    blob = verbs.Blob(digest=hashlib.sha256(b"update").digest(), length=6)
    request = verbs.BeginUpload(session=east.session, task=offer.task, retry=0, blob=blob)
    at = office.calls.begin_upload(east.caller, request)
    office.calls.write_chunk(east.caller, at.upload, 0, memoryview(b"upDate"))
    with pytest.raises(Refused) as refused:
        office.calls.finish_upload(east.caller, at.upload)
    assert refused.value.refusal.code == Code.CORRUPT_UPLOAD
    assert office.calls.begin_upload(east.caller, request).offset == 0
    assert east.submit(east.submission(offer, east.upload(offer, b"update"))).verdict == "ACCEPTED"


def test_b13_a_second_session_fences_the_first(asked: Any) -> None:
    office, east, _ = asked
    offer = east.offer()
    blob = east.upload(offer, b"update")
    message = east.submission(offer, blob)
    east.session = east.hello()
    calls, stale = office.calls, message.session
    said: list[Callable[[], object]] = [
        lambda: calls.submit(east.caller, message),
        lambda: calls.poll(east.caller, verbs.Poll(session=stale, wait_s=0.0)),
        lambda: calls.claim(east.caller, verbs.Claim(session=stale, task=offer.task, retry=0)),
        lambda: calls.heartbeat(east.caller, verbs.Heartbeat(session=stale)),
        lambda: calls.begin_upload(east.caller, verbs.BeginUpload(session=stale, task=offer.task, retry=0, blob=blob)),
    ]
    for say in said:
        with pytest.raises(Refused) as refused:
            say()
        assert refused.value.refusal.code == Code.STALE_SESSION
    assert counted(office) == []
    assert east.submit(east.submission(offer, blob)).verdict == "ACCEPTED"


def test_b13_a_waiting_poll_of_a_fenced_session_ends(asked: Any) -> None:
    office, east, _ = asked
    offer = east.offer()
    ended: list[str] = []

    def wait() -> None:
        try:
            office.calls.poll(east.caller, verbs.Poll(session=session, wait_s=5.0, known=(offer.task,)))
        except Refused as refused:
            ended.append(refused.refusal.code)

    session = east.session
    waiting = threading.Thread(target=wait)
    waiting.start()
    east.hello()
    waiting.join(4.0)
    assert ended == [Code.STALE_SESSION]


def other(data: bytes, change: Callable[[Any], Any]) -> bytes:
    """Return a message with another vector, as a site could send that follows no rule."""
    for length in range(1, 100):
        like = AggregatorMessage(round=RoundNumber(1), retry=0, payload=np.zeros(length))
        with suppress(CodecError):
            message = codec.decode(data, like)
            return codec.encode(msgspec.structs.replace(message, **change(message)))
    raise AssertionError("this is no message of a plain sum")


def _not_a_number(message: Any) -> dict[str, Any]:
    vector = message.payload.copy()
    vector[0] = np.nan
    return {"payload": vector}


WRONG: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "NaN": (lambda data: other(data, _not_a_number), "holds a NaN or an infinity"),
    "longer": (lambda data: other(data, lambda m: {"payload": np.append(m.payload, 1.0)}), "[7]"),
    "narrower": (lambda data: other(data, lambda m: {"payload": m.payload.astype(np.float32)}), "float32"),
    "of another round": (lambda data: other(data, lambda m: {"round": RoundNumber(7)}), "round 7"),
    "of another retry": (lambda data: other(data, lambda m: {"retry": 3}), "retry 3"),
    "empty": (lambda _data: b"", ""),
    "noise": (lambda _data: bytes(range(256)), ""),
    "cut": (lambda data: data[:-3], ""),
}


@pytest.mark.parametrize("aggregator", ["plain_sum", pytest.param("secure_sum", marks=pytest.mark.slow)])
@pytest.mark.parametrize("what", list(WRONG))
def test_d12_an_update_that_cannot_be_one_is_a_failure_of_its_site(what: str, aggregator: str, scene: Make) -> None:
    """Under a secure sum the first message is one of keys: what it carries is none of these either."""
    change, words = WRONG[what]
    if aggregator == "secure_sum":
        if what in ("NaN", "longer", "narrower", "of another round", "of another retry"):
            change = {
                "of another round": lambda data: renumbered(data, round=RoundNumber(7)),
                "of another retry": lambda data: renumbered(data, retry=3),
            }.get(what, lambda data: b"\0" + data)
        words = words if what.startswith("of another") else ""
    federation = scene(sites=5, rounds=2, aggregator=aggregator, prepare=False, policy="quorum = 3")

    def tampered(site: str, key: Any, step: int, data: bytes) -> bytes:
        there = (site, key.phase, key.program, key.round, step) == ("east", 0, "train", 1, 0)
        return change(data) if there else data

    federation.on_message = tampered
    found = federation.run()
    first, second = found.records
    assert [(each.client, each.kind) for each in first.failures] == [("east", "invalid")]
    assert words in first.failures[0].detail
    assert len(first.included) == 4 and "east" in second.included and not second.failures
    assert federation.places["east"].error is None


def renumbered(data: bytes, **numbers: Any) -> bytes:
    like = AggregatorMessage(round=RoundNumber(1), retry=0, payload=b"")
    return codec.encode(msgspec.structs.replace(codec.decode(data, like), **numbers))


class Boom:
    """What writes a file when somebody loads it."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return open, (str(self.trace), "w")


def _archive(trace: Path) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        archive.writestr(f"../../../..{trace}", b"here")
    return held.getvalue()


def _linked(trace: Path) -> bytes:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as archive:
        link = tarfile.TarInfo("update")
        link.type, link.linkname = tarfile.SYMTYPE, str(trace)
        archive.addfile(link)
    return held.getvalue()


def _objects(trace: Path) -> bytes:
    held = io.BytesIO()
    np.savez(held, allow_pickle=True, update=np.array([Boom(trace)], object))
    return held.getvalue()


HOSTILE: dict[str, Callable[[Path], bytes]] = {
    "pickle": lambda trace: pickle.dumps(Boom(trace)),
    "code": lambda trace: f"open({str(trace)!r}, 'w')".encode(),
    "path": lambda trace: str(trace).encode(),
    "archive": _archive,
    "link": _linked,
    "array of objects": _objects,
}


@pytest.mark.parametrize("what", list(HOSTILE))
def test_d11_what_a_site_sends_is_never_unpacked_imported_or_opened(what: str, scene: Make, tmp_path: Path) -> None:
    federation = scene(sites=3, rounds=1, prepare=False, policy="quorum = 2")
    trace = tmp_path / "trace"
    sent = HOSTILE[what](trace)
    federation.on_message = lambda site, key, _step, data: sent if (site, key.phase) == ("east", 0) else data
    (record,) = federation.run().records
    assert {(each.client, each.kind) for each in record.failures} == {("east", "invalid")}
    assert not trace.exists() and len(record.included) == 2


@pytest.mark.parametrize("what", ["pickle", "archive"])
def test_d11_nor_is_what_it_says_of_its_rows(what: str, scene: Make, tmp_path: Path) -> None:
    federation = scene(sites=3, rounds=1)
    trace = tmp_path / "trace"
    sent = HOSTILE[what](trace)
    federation.on_message = lambda site, key, _step, data: sent if (site, key.phase) == ("east", HANDSHAKE) else data
    with pytest.raises(RunStopped, match="site east: what it says it has cannot be read"):
        federation.run()
    assert not trace.exists()


def test_d11_no_module_can_load_what_runs_when_it_is_loaded() -> None:
    forbidden = {"pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "tarfile"}
    root, found = Path(fedloom.__file__).parent, set()
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            found |= {(path.name, name) for name in names if name.partition(".")[0] in forbidden}
    assert not found
