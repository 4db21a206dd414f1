"""Certificates, tokens, messages and clocks that are wrong, at a coordinator and a site as they are run (D2, D3, D6).

What each side is told: the site's log and its doctor name the cause; the coordinator's log names those that it can see.
"""

from __future__ import annotations

import hashlib
import logging
import random
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

import fedloom
from fedloom.cli.doctor_sites import examine_site
from fedloom.core.ids import ClientId, RunId
from fedloom.core.own_version import own_version
from fedloom.core.roster import Member
from fedloom.engines.coordinator_folder import (
    CoordinatorFolder,
    approve_join,
    init_coordinator,
    install_deny_list,
    install_roster,
    operator_files,
    pending_joins,
)
from fedloom.engines.coordinator_host import CoordinatorHost
from fedloom.engines.coordinator_settings import Ports
from fedloom.engines.site_folder import SiteFolder, approve_roster, collect_certificate, follow_roster, join_site
from fedloom.engines.site_host import SiteHost
from fedloom.errors import Error
from fedloom.experiment.config import read
from fedloom.experiment.examination import examine
from fedloom.experiment.spec import Experiment
from fedloom.secure.authorities import Root, issue_coordinator, issue_intermediate, issue_site, new_root
from fedloom.secure.certificates import at, read_peer
from fedloom.secure.deny_list import denying, nobody_denied
from fedloom.secure.envelopes import Header, seal_envelope
from fedloom.secure.peers import COORDINATOR
from fedloom.secure.requests import Request
from fedloom.secure.roster import roster
from fedloom.secure.roster_pin import RosterUpdate
from fedloom.secure.tls_keys import TlsKey, new_tls_key, tls_key
from fedloom.store.transitions import RUN, ends
from fedloom.transport import admin, calls, verbs
from fedloom.transport.client import Client
from fedloom.transport.errors import Code, Refused
from fedloom.transport.probe import ProbeResult, probe

DAY, HOUR, MINUTE = 86400.0, 3600.0, 60.0
END_S = 20.0
NAMES = ("east", "north")
POLICY = """
[site]
name = "{name}"
[allow]
packages = ["fedloom"]
coordinators = ["spiffe://trial/coordinator"]
[data.cohort]
source = {{ name = "csv", path = "rows.csv", client = "hospital" }}
min_rows = 5
[privacy]
require = []
min_sites_in_aggregate = 1
metrics = "any"
[approval]
mode = "auto-if-allowed"
"""
EXPERIMENT = """seed = 1
[data]
name = "csv"
path = "all.csv"
client = "hospital"
label = "ill"
classes = ["no", "yes"]
test = 0.2
[learner]
name = "logistic"
[algorithm]
name = "fedavg"
local = { epochs = 1, batch_size = 8, learning_rate = 0.1 }
[pipeline]
stages = [{ name = "mean", max_weight = 100 }, { name = "clip", norm = 1.0 }]
[[stop]]
name = "max_rounds"
rounds = 4
"""


class Heard(logging.Handler):
    """What fedloom logs, in the order in which it was said; a test waits for a line."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._said: list[str] = []
        self._changed = threading.Condition()

    def emit(self, record: logging.LogRecord) -> None:
        with self._changed:
            self._said.append(record.getMessage())
            self._changed.notify_all()

    def line(self, *words: str) -> str:
        """Return the first line that has all these words, when it is there."""
        with self._changed:
            self._changed.wait_for(lambda: self._found(words) is not None, END_S)
            found = self._found(words)
        assert found is not None, (words, self._said)
        return found

    def _found(self, words: tuple[str, ...]) -> str | None:
        return next((line for line in self._said if all(each in line for each in words)), None)


@dataclass
class Parties:
    """A root, a coordinator whose ports stay the same, sites, and whatever of them runs."""

    base: Path
    root: Root
    folder: CoordinatorFolder
    running: ExitStack = field(default_factory=ExitStack)
    threads: list[threading.Thread] = field(default_factory=list)
    problems: list[BaseException] = field(default_factory=list)

    def start(self, now: Callable[[], float] = time.time) -> CoordinatorHost:
        host = CoordinatorHost(self.folder, poll_s=2.0, heartbeat_s=0.2, now=now)
        self.running.enter_context(host)
        return host

    def operator(self) -> Client:
        port = self.folder.settings().ports.sites
        return self.running.enter_context(Client(f"127.0.0.1:{port}", operator_files(self.folder), patience_s=5.0))

    def site(self, name: str) -> SiteFolder:
        return SiteFolder(self.base / name)

    def join(self, *names: str) -> None:
        """Let sites become members, and give each rows and a policy."""
        members: list[Member] = []
        line = self.operator()
        for name in names:
            (self.base / name).mkdir(mode=0o700)
            asked = admin.InviteSite(request=name, organisation=f"{name}-clinic", client=name)
            join_site(self.site(name), line.invite_site(asked).token)
            words = next(each for each in pending_joins(self.folder) if each.client == name)
            joined = approve_join(self.folder, words.fingerprint)
            members.append(Member(client=ClientId(name), organisation=joined.organisation, key=joined.key))
            self.sign(len(members), members)
            collect_certificate(self.site(name))
            self.site(name).policy_path.write_text(POLICY.format(name=name))
        for name in names:
            pin = follow_roster(self.site(name), self.folder.roster_path.read_bytes())
            approve_roster(self.site(name), pin.digest)

    def sign(self, version: int, members: list[Member]) -> None:
        signed = roster("trial", version, members).signed(self.root.signing)
        install_roster(self.folder, RosterUpdate(roster=signed).stored())

    def work(self, name: str, now: Callable[[], float] = time.time) -> SiteHost:
        site = SiteHost(self.site(name), examine=examine, jitter=lambda: 0.01, now=now)
        self.running.enter_context(site)
        self.background(site.serve)
        return site

    def background(self, work: Callable[[], object]) -> None:
        def watched() -> None:
            try:
                work()
            except BaseException as error:  # the test looks at it
                self.problems.append(error)

        self.threads.append(threading.Thread(target=watched, daemon=True))
        self.threads[-1].start()

    def probed(self, name: str) -> ProbeResult:
        return probe(self.site(name).coordinator().probe, self.site(name).tls)

    def line(self, name: str) -> Client:
        place = self.site(name).coordinator().sites
        return self.running.enter_context(Client(place, self.site(name).tls, patience_s=0.0))

    def doctor(self, name: str, *, now: float | None = None) -> dict[str, str]:
        """Return what the doctor of a site finds wrong, by its subject."""
        return {each.subject: each.value for each in examine_site(self.site(name).path, now=now) if each.level != "ok"}

    def submit(self) -> tuple[Experiment, RunId]:
        (self.base / "run.toml").write_text(EXPERIMENT)
        made = read(self.base / "run.toml", []).experiment
        asked = admin.CreateRun(
            request="r", name="r", experiment=msgspec.json.encode(made.as_json()), digest=bytes.fromhex(made.digest)
        )
        return made, RunId(self.operator().create_run(asked).run)

    def rows(self, *names: str) -> None:
        draw, lines = random.Random(7), []
        for name in names:
            for _ in range(24):
                age, bp = draw.random(), draw.random()
                lines.append(f"{name},{age:.3f},{bp:.3f},{'yes' if age + bp > 1 else 'no'}")
            mine = [line for line in lines if line.startswith(name)]
            (self.base / name / "rows.csv").write_text("\n".join(["hospital,age,bp,ill", *mine]) + "\n")
        (self.base / "all.csv").write_text("\n".join(["hospital,age,bp,ill", *lines]) + "\n")

    def end(self) -> None:
        self.running.close()
        for thread in self.threads:
            thread.join(END_S)
        assert not any(thread.is_alive() for thread in self.threads)


def free_ports() -> Ports:
    """Return ports that are free now: a coordinator that is started again listens where it did."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(3)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        sites, entry, probe_port = (each.getsockname()[1] for each in sockets)
    return Ports(sites=sites, entry=entry, probe=probe_port, health=0)


@pytest.fixture
def heard() -> Iterator[Heard]:
    logger, handler = logging.getLogger("fedloom"), Heard()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(level)


@pytest.fixture
def parties(tmp_path: Path) -> Iterator[Parties]:
    now = time.time()
    root = new_root("trial", now=now - 100 * DAY)
    folder = CoordinatorFolder(tmp_path / "coordinator")
    init_coordinator(
        folder,
        anchor=root.anchor,
        intermediate=issue_intermediate(root, now=now - 90 * DAY, days=400),
        names=("127.0.0.1", "localhost"),
        hosts=("127.0.0.1",),
        ports=free_ports(),
        now=now,
    )
    one = Parties(tmp_path, root, folder)
    yield one
    one.end()


@pytest.fixture
def joined(parties: Parties) -> tuple[Parties, CoordinatorHost]:
    """A coordinator that serves, and two members, none of which works yet."""
    host = parties.start()
    parties.join(*NAMES)
    return parties, host


Joined = tuple[Parties, CoordinatorHost]


def request_of(key: TlsKey) -> Request:
    return Request(public=key.public, signing=bytes(32), digest=bytes(32))


# D2: the coordinator's certificate -----------------------------------------------------------------------------------


def reissue(folder: CoordinatorFolder, *names: str, now: float) -> str:
    """Put another certificate in the coordinator's place, which it follows at once; return its dates."""
    issued = issue_coordinator(folder.intermediate(), tls_key(folder.tls.key.read_bytes()), names=names, now=now)
    folder.tls.chain.write_bytes(issued.chain)
    return f"valid from {at(issued.peer.not_before)} to {at(issued.peer.not_after)}"


@pytest.mark.parametrize(
    ("presented", "ago", "reason", "entry"),
    [
        ("localhost, 127.0.0.1", 20 * DAY, "expired", "does not hold by this clock"),
        ("fl.example.org", 0.0, "wrong_name", "has a certificate for another name"),
    ],
)
def test_d2_a_site_and_its_doctor_name_what_was_expected_and_what_was_presented(
    joined: Joined, heard: Heard, *, presented: str, ago: float, reason: str, entry: str
) -> None:
    parties, _ = joined
    dates = reissue(parties.folder, *presented.split(", "), now=time.time() - ago)
    parties.work("north")
    said = heard.line("event=probed", f"part=coordinator reason={reason}")
    for words in ("expected as '127.0.0.1'", f"a certificate for {presented}, {dates}", "fedloom intermediate"):
        assert words in said
    found = parties.doctor("north")
    assert f"{reason} (coordinator): " in found["TLS"]
    assert f"expected as '127.0.0.1', shows a certificate for {presented}, {dates}" in found["TLS"]
    assert entry in found["entry port"]


# D3: the site's certificate ------------------------------------------------------------------------------------------


def of_another_root(parties: Parties) -> None:
    """A certificate of somebody else's root, which calls itself by the same name."""
    now, files = time.time(), parties.site("north").tls
    stranger = issue_intermediate(new_root("trial", now=now), now=now)
    asked = request_of(tls_key(files.key.read_bytes()))
    files.chain.write_bytes(issue_site(stranger, asked, organisation="north-clinic", client="north", now=now).chain)


def missing(parties: Parties) -> None:
    parties.site("north").tls.chain.unlink()


def of_another_key(parties: Parties) -> None:
    parties.site("north").tls.key.write_bytes(new_tls_key().stored())


def the_servers(parties: Parties) -> None:
    mine, theirs = parties.site("north").tls, parties.folder.tls
    mine.chain.write_bytes(theirs.chain.read_bytes())
    mine.key.write_bytes(theirs.key.read_bytes())


def of_another_organisation(parties: Parties) -> None:
    files = parties.site("north").tls
    asked = request_of(tls_key(files.key.read_bytes()))
    issued = issue_site(
        parties.folder.intermediate(), asked, organisation="east-clinic", client="north", now=time.time()
    )
    files.chain.write_bytes(issued.chain)


@pytest.mark.parametrize(
    ("spoil", "local", "seen"),
    [
        (of_another_root, "is not signed by the root of this federation", "reason=other_authority"),
        (missing, "tls.pem is missing: run `fedloom site join`", "reason=no_certificate"),
        (of_another_key, "the private key beside it is", None),
        (the_servers, "this folder's certificate is of 'coordinator'", "reason=wrong_usage"),
    ],
)
def test_d3_each_wrong_certificate_has_its_own_words_at_the_site_and_at_the_coordinator(
    joined: Joined, heard: Heard, spoil: Callable[[Parties], None], local: str, seen: str | None
) -> None:
    parties, host = joined
    spoil(parties)
    north = parties.site("north")
    with pytest.raises(Error, match=re.escape(local)):
        SiteHost(north).__enter__()
    found = parties.doctor("north")
    assert DOCTOR[spoil] in found["certificate"]
    if seen is not None:  # the coordinator can see it, where it is asked at the probe port
        files, root = (None, north.anchor().certificate) if spoil is missing else (north.tls, None)
        told = probe(north.coordinator().probe, files, root=root)
        assert (told.part, f"reason={told.reason}") == ("site", seen)
        heard.line("event=probe_refused address=127.0.0.1:", seen)
        assert spoil is missing or f"{told.reason} (site): " in found["TLS"]
    assert all(each.session is None for each in host.store.sites.all())


DOCTOR = {
    of_another_root: "is not signed by the root of this federation",
    missing: "has not come yet",
    of_another_key: "the private key beside it is",
    the_servers: "is not for a client",
}


def test_d3_the_words_are_all_different() -> None:
    assert len(set(DOCTOR.values())) == len(DOCTOR) == 4


@pytest.mark.parametrize("port", ["sites", "entry", "probe"])
def test_d3_one_who_speaks_without_tls_gets_no_answer(joined: Joined, heard: Heard, port: str) -> None:
    parties, _ = joined
    number = getattr(parties.folder.settings().ports, port)
    with socket.create_connection(("127.0.0.1", number), timeout=END_S) as line:
        line.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9))
        answer = b""
        while piece := _received(line):
            answer += piece
    assert b"HTTP" not in answer
    assert len(answer) < 64, "an alert at most"
    if port == "probe":
        heard.line("event=probe_refused address=127.0.0.1:", "reason=not_tls")
    if port == "entry":
        heard.line("event=entry_cut address=127.0.0.1:")


def _received(line: socket.socket) -> bytes:
    try:
        return line.recv(4096)
    except ConnectionResetError:
        return b""


def test_d3_another_organisation_under_a_members_name_is_refused_by_both_names(joined: Joined, heard: Heard) -> None:
    parties, _ = joined
    of_another_organisation(parties)
    with pytest.raises(Refused, match="the roster has north of north-clinic, not of east-clinic"):
        parties.line("north").health()
    heard.line("event=refused client=north address=ipv4:127.0.0.1:", "code=DENIED")
    assert "not of east-clinic" in parties.doctor("north")["TLS"]
    heard.line("event=probe_refused", "reason=denied identity=spiffe://trial/east-clinic/north")


# The other causes, and what the coordinator writes down of them ------------------------------------------------------


def test_an_expired_certificate_is_named_at_both_ends(joined: Joined, heard: Heard) -> None:
    parties, _ = joined
    files = parties.site("north").tls
    issued = issue_site(
        parties.folder.intermediate(),
        request_of(tls_key(files.key.read_bytes())),
        organisation="north-clinic",
        client="north",
        now=time.time() - 20 * DAY,
    )
    files.chain.write_bytes(issued.chain)
    found = parties.doctor("north")
    assert f"expired on {at(issued.peer.not_after)}" in found["certificate"]
    assert f"expired (site): the certificate of {issued.peer.uri} expired on" in found["TLS"]
    assert "Your clock" not in found["TLS"]
    heard.line("event=probe_refused address=127.0.0.1:", f"reason=expired identity={issued.peer.uri}")


def test_a_revoked_site_is_named_by_the_doctor_and_in_the_coordinators_log(joined: Joined, heard: Heard) -> None:
    parties, _ = joined
    banned = denying(nobody_denied("trial"), clients=[ClientId("north")]).signed(parties.root.signing)
    install_deny_list(parties.folder, banned.stored())
    parties.work("north")
    heard.line("event=refused client=north address=ipv4:127.0.0.1:", "code=DENIED")
    heard.line("event=refused code=DENIED", "north is on the deny list of trial")
    assert "denied (site): north is on the deny list of trial" in parties.doctor("north")["TLS"]
    heard.line("event=probe_refused", "reason=denied identity=spiffe://trial/north-clinic/north")


def test_a_token_that_was_used_is_named_at_both_ends(parties: Parties, heard: Heard) -> None:
    parties.start()
    asked = admin.InviteSite(request="a", organisation="north-clinic", client="north")
    token = parties.operator().invite_site(asked).token
    join_site(parties.site("north"), token)
    with pytest.raises(Refused, match="this token was used already"):
        join_site(parties.site("thief"), token)
    heard.line("event=join_refused address=127.0.0.1:", "reason=token_used")


def test_a_changed_body_and_a_replayed_message_are_refused_over_the_line(joined: Joined, heard: Heard) -> None:
    """North is played by hand, with the keys of its own folder."""
    parties, host = joined
    parties.rows(*NAMES)
    parties.background(host.serve)
    parties.submit()
    line, folder = parties.line("north"), parties.site("north")
    hello = verbs.Hello(federation="trial", version=own_version(), store_epoch=f"{1:016x}:1:{1:016x}")
    session = line.hello(hello).session
    (offer,) = line.poll(verbs.Poll(session=session, wait_s=2.0)).offers
    line.claim(verbs.Claim(session=session, task=offer.task, retry=offer.key.retry))
    blob = verbs.Blob(digest=hashlib.sha256(b"facts").digest(), length=5)
    line.upload(
        verbs.BeginUpload(session=session, task=offer.task, retry=offer.key.retry, blob=blob),
        lambda start, size: b"facts"[start : start + size],
    )

    def signed(sequence: int, message: bytes) -> verbs.Submit:
        made = verbs.Submit(session=session, task=offer.task, key=offer.key, blob=blob)
        key = offer.key
        header = Header(
            federation="trial", sender=ClientId("north"), receiver=ClientId(COORDINATOR), run=RunId(key.run),
            round=key.round, retry=key.retry, step=key.step, message_id=message, sequence=sequence, expires_at=0,
        )  # fmt: skip
        body = hashlib.sha256(verbs.signed_part(made)).digest()
        return msgspec.structs.replace(made, envelope=seal_envelope(body, header, folder.identity()).stored())

    newest = signed(7, b"7" * 16)
    other = verbs.Blob(digest=hashlib.sha256(b"other").digest(), length=5)
    with pytest.raises(Refused) as changed:
        line.submit(msgspec.structs.replace(newest, blob=other))
    assert changed.value.refusal.code == Code.UNAUTHENTICATED
    heard.line("site=north a message was refused: the body of the message")
    assert line.submit(newest).verdict == "ACCEPTED"
    assert line.submit(newest).verdict == "DUPLICATE_OK"
    with pytest.raises(Refused, match="UNAUTHENTICATED"):
        line.submit(signed(6, b"6" * 16))
    heard.line("site=north a message was refused: the message 6 of 'north'", "came again or late")


# D6: clocks ----------------------------------------------------------------------------------------------------------


class Clock:
    """A clock that is set, again and again, to what it is not."""

    def __init__(self, *skews: float) -> None:
        self.skews = skews
        self.place = 0

    def __call__(self) -> float:
        self.place += 1
        return time.time() + self.skews[self.place % len(self.skews)]


JUMPING = (-DAY, 10 * MINUTE, DAY, -10 * MINUTE)


@pytest.mark.parametrize(
    ("coordinators", "sites"),
    [((10 * MINUTE,), (-10 * MINUTE,)), ((-10 * MINUTE,), (10 * MINUTE,)), ((0.0,), (DAY,)), (JUMPING, (0.0,))],
)
def test_d6_a_run_takes_no_notice_of_clocks(
    parties: Parties, coordinators: tuple[float, ...], sites: tuple[float, ...]
) -> None:
    """Leases and deadlines go by the coordinator's monotonic clock, order by numbers: nothing is asked for twice."""
    parties.start()
    parties.join(*NAMES)
    parties.rows(*NAMES)
    parties.running.close()
    host = parties.start(Clock(*coordinators))
    parties.background(host.serve)
    for name in NAMES:
        parties.work(name, Clock(*sites))
    made, run = parties.submit()
    limit = time.monotonic() + 3 * END_S
    while host.store.runs.run(run).stage not in ends(RUN):
        assert not parties.problems, parties.problems
        assert time.monotonic() < limit, "it did not end"
        host.desk.wait(host.desk.version, timeout_s=0.05)
    assert host.store.runs.run(run).stage == "completed", host.store.runs.run(run).reason
    events = list(host.store.events.since(0))
    host.store.events.verify()
    assert [event.seq for event in events] == list(range(events[0].seq, events[0].seq + len(events)))
    assert not [event for event in events if event.kind == "reoffer"]
    if len(coordinators) > 1:
        times = [event.at for event in events]
        assert times != sorted(times), "the clock did go backwards"
    record = msgspec.json.decode((parties.folder.store / "runs" / run / "record.json").read_bytes())
    assert record["summary"]["model_sha256"] == fedloom.local().run(made, base=parties.base).model_sha256


@pytest.mark.parametrize(
    ("skew", "reason", "words"),
    [
        (26 * HOUR, "not_yet_valid", "your clock is 26 hours behind the coordinator's"),
        (-9 * DAY, "expired", "your clock is 9 days ahead of the coordinator's"),
    ],
)
def test_d6_certificates_whose_dates_do_not_hold_point_at_the_clocks(
    joined: Joined, heard: Heard, skew: float, reason: str, words: str
) -> None:
    """The coordinator lives in another day, by which it issues its certificate: TLS fails at the site."""
    parties, _ = joined
    parties.running.close()
    parties.folder.tls.chain.write_bytes(
        issue_coordinator(
            parties.folder.intermediate(),
            tls_key(parties.folder.tls.key.read_bytes()),
            names=("127.0.0.1",),
            now=time.time() + skew,
        ).chain
    )
    parties.start(lambda: time.time() + skew)
    parties.work("north")
    said = heard.line("event=probed", f"part=coordinator reason={reason}")
    assert words in said.lower()
    assert "Set the clock that is wrong." in said
    found = parties.doctor("north")
    assert words in found["TLS"].lower()
    assert found["clock"] == words.removeprefix("your clock is ")
    assert words in found["entry port"].lower()


@pytest.mark.parametrize(
    ("skew", "said", "words"),
    [
        (-DAY, "is valid from", "24 hours behind the coordinator's"),
        (8 * DAY, "expired on", "8 days ahead of the coordinator's"),
        (10 * MINUTE, None, "10 minutes ahead of the coordinator's"),
        (-10 * MINUTE, None, "10 minutes behind the coordinator's"),
    ],
)
def test_d6_the_doctor_of_a_site_whose_own_clock_is_wrong_says_by_how_much(
    joined: Joined, skew: float, said: str | None, words: str
) -> None:
    parties, _ = joined
    found = parties.doctor("north", now=time.time() + skew)
    assert found["clock"] == words
    assert ("certificate" in found) == (said is not None)
    assert said is None or said in found["certificate"]


def test_d6_a_site_that_the_coordinator_finds_expired_is_told_of_the_clocks(joined: Joined, heard: Heard) -> None:
    """The coordinator is nine days ahead, and the site has not been renewed since: it is the clock that is wrong."""
    parties, _ = joined
    before = parties.folder.tls.chain.read_bytes()
    parties.running.close()
    parties.start(lambda: time.time() + 9 * DAY)
    parties.folder.tls.chain.write_bytes(before)  # one that holds by the site's clock
    result = parties.probed("north")
    assert (result.part, result.reason) == ("site", "expired")
    assert "Your clock is 9 days behind the coordinator's." in result.sentence
    assert result.remedy == "Set the clock that is wrong."
    peer = read_peer(parties.site("north").tls.chain.read_bytes())
    heard.line("event=probe_refused", f"reason=expired identity={peer.uri}")


# Versions ------------------------------------------------------------------------------------------------------------


def test_b22_each_side_says_which_fedloom_is_installed(joined: Joined) -> None:
    parties, _ = joined
    line = parties.line("north")
    said = line.hello(verbs.Hello(federation="trial", version="0.0.9", store_epoch=f"{1:016x}:1:{1:016x}"))
    assert said.version == line.health().version == own_version()
    assert "versions" not in parties.doctor("north")


def test_b22_a_coordinator_of_another_major_protocol_ends_the_site_with_what_to_do(
    joined: Joined, monkeypatch: pytest.MonkeyPatch
) -> None:
    parties, _ = joined
    monkeypatch.setattr(calls, "SERVICE", "fedloom.v9.Work")  # what a later site would ask for
    site: Any = SiteHost(parties.site("north"), jitter=lambda: 0.01)
    with site, pytest.raises(Refused, match=r"VERSION: .* does not speak .*same major version") as refused:
        site.serve()
    assert refused.value.refusal.code == Code.VERSION
