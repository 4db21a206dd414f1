"""A secure sum among real processes, one of which dies by SIGKILL at a named point; run by ``test_killed.py``.

This process is the wire. It forks a server and four clients, carries their messages, starts again who has died, sends
again what was not answered, and writes down every byte string that a party has put on the wire.

Usage: killed_party.py FOLDER PART STRIDE; one line of JSON at the end.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import select
import shutil
import signal
import socket
import struct
import sys
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np

from fedloom.core.aggregator import Abort, Continue, Finish, InteractiveClient, InteractiveServer, SumRound
from fedloom.core.ids import ClientId, RoundNumber
from fedloom.core.keys import Key, Keys
from fedloom.core.roster import Member
from fedloom.core.wire import WireType
from fedloom.entropy import fresh_secret
from fedloom.errors import Error
from fedloom.runtime.sessions import SessionName
from fedloom.secure.agreement import signing_key
from fedloom.secure.roster import LocalIdentity, roster
from fedloom.secure.secure_sum import secure_sum
from fedloom.store.held_sums import HeldSums
from fedloom.store.sessions import StoredSessions

PATIENCE_S = 20.0
SERVER = "server"
COHORT = tuple(ClientId(f"site-{number}") for number in range(4))
DIM = 5
NAME = SessionName(1, "train", RoundNumber(1), 0)
WIRE = WireType(dim=DIM, dtype="uint32", modulus=2**32, most_clients=4, fewest_clients=4)
SUM = secure_sum(quorum=0.5, protocol=True)
WATCHED = ("sessions.py", "held_sums.py", "owned_file.py")


def _key_of(client: ClientId) -> Any:
    return signing_key(hashlib.sha256(client.encode()).digest())


ROSTER = roster("trial", 1, [Member(client=each, organisation=each, key=_key_of(each).public) for each in COHORT])
ABOUT = SumRound(
    invited=4,
    wire=WIRE,
    digest="0" * 64,
    phase=1,
    program="train",
    round=NAME.round,
    retry=0,
    key=Key.from_seed(0),
    order=bytes(32),
    run="run",
    roster=ROSTER,
)
VALUES = {
    each: Key.from_seed(number).generator().integers(0, 2**32, DIM, dtype=np.uint32)
    for number, each in enumerate(COHORT)
}


@dataclass
class Death:
    """Where a party dies: the point's name, how often it is passed before; inside ``keep``, at which call."""

    point: str = ""
    passes: int = 0
    call: int = 0

    def at(self, point: str) -> None:
        """Die here, if this is the place."""
        if point != self.point:
            return
        if self.passes:
            self.passes -= 1
        elif point == "keeping":
            sys.setprofile(self._hook)
        else:
            os.kill(os.getpid(), signal.SIGKILL)

    def over(self) -> None:
        """Note the end of a ``keep`` that was survived."""
        if sys.getprofile() is not None:
            sys.setprofile(None)
            self.point = ""

    def _hook(self, frame: Any, kind: str, _: object) -> None:
        if kind in ("c_call", "c_return") and frame.f_code.co_filename.endswith(WATCHED):
            self.call -= 1
            if self.call < 0:
                os.kill(os.getpid(), signal.SIGKILL)


def send(link: socket.socket, kind: bytes, name: str = "", data: bytes = b"") -> None:
    body = kind + bytes([len(name)]) + name.encode() + data
    link.sendall(struct.pack(">I", len(body)) + body)


def frames(link: socket.socket) -> Iterator[tuple[bytes, str, bytes]]:
    """Yield what comes, until the other side ends."""
    held = b""
    while more := link.recv(1 << 16):
        found, held = cut(held + more)
        yield from found


def cut(held: bytes) -> tuple[list[tuple[bytes, str, bytes]], bytes]:
    """Return the frames that are whole, as kind, name and body, and what is left."""
    found = []
    while len(held) >= 4 and len(held) >= 4 + (size := struct.unpack(">I", held[:4])[0]):
        body, held = held[4 : 4 + size], held[4 + size :]
        found.append((body[:1], body[2 : 2 + body[1]].decode(), body[2 + body[1] :]))
    return found, held


def client(link: socket.socket, folder: Path, me: ClientId, death: Death) -> None:
    """Do as ``ClientNode`` does: what is begun goes on, what is over is lost, each step is kept before it leaves."""
    identity = LocalIdentity(me, _key_of(me))
    sessions = StoredSessions(folder)

    def revive(stored: bytes) -> InteractiveClient:
        return cast("InteractiveClient", SUM.resume(me, stored, roster=ROSTER, identity=identity))

    for kind, _, data in frames(link):
        death.at("asked")
        if kind == b"O" and sessions.over(me, NAME):
            send(link, b"L")
            continue
        side = sessions.find(me, NAME, revive)
        if side is None and kind == b"A":
            send(link, b"L")
            continue
        if side is None:
            keys = Keys(Key.from_seed(0).child("client", me), fresh_secret())
            side = cast("InteractiveClient", SUM.client(me, VALUES[me], ABOUT, keys, identity))
        message = side.open() if kind == b"O" else side.reply(SUM.unpack(data, WIRE))
        death.at("made")
        death.at("keeping")
        sessions.keep(me, NAME, side)
        death.over()
        death.at("kept")
        send(link, b"M", data=SUM.pack(message))
        death.at("sent")


def server(link: socket.socket, folder: Path, death: Death) -> None:
    """Do as a coordinator does: hold what was announced before it is, and announce it again after a restart."""
    keys = Keys(Key.from_seed(0), fresh_secret())
    held = HeldSums(folder / "held.sqlite")
    stored = held.find(NAME)
    if stored is None:
        side = cast("InteractiveServer", SUM.server(COHORT, ABOUT, keys))
        for each in COHORT:
            send(link, b"O", each)
            death.at("ordered")
    else:
        side, again = SUM.resume_server(COHORT, stored, ABOUT, keys)
        announce(link, again, death)
    for kind, name, data in frames(link):
        death.at("received")
        try:
            if kind == b"L":
                side.lose(ClientId(name))
            else:
                side.receive(ClientId(name), SUM.unpack(data, WIRE))
        except Error:
            continue  # a second time the same message
        death.at("taken")
        outcome = side.advance()
        if isinstance(outcome, Continue) and outcome.messages:
            death.at("made")
            death.at("keeping")
            held.keep(NAME, side.stored())
            death.over()
            death.at("kept")
            announce(link, outcome, death)
        if isinstance(outcome, Abort):
            send(link, b"X", data=outcome.reason.encode())
        if isinstance(outcome, Finish):
            death.at("opened")
            send(link, b"F", data=json.dumps([outcome.total.tolist(), list(outcome.included)]).encode())


def announce(link: socket.socket, outcome: Continue, death: Death) -> None:
    for to, message in outcome.messages:
        send(link, b"A", to, SUM.pack(message))
        death.at("announced")


@dataclass
class Scene:
    """Who dies where, and what else happens."""

    deaths: dict[str, deque[Death]] = field(default_factory=dict)
    drops: bool = False
    """What a party sent in its last moment does not arrive."""
    loses: str = ""
    """The party whose folder is gone when it comes back."""
    late: tuple[str, str] = ("", "")
    """A client and its message that comes too late: it is given up, and arrives when the server has come back."""


class World:
    """The wire and its parties, from the first order to the sum."""

    def __init__(self, folder: Path, scene: Scene) -> None:
        self.folder = folder
        self.scene = scene
        self.links: dict[str, socket.socket] = {}
        self.pids: dict[str, int] = {}
        self.held: dict[str, bytes] = {}
        self.unanswered: dict[str, tuple[bytes, bytes]] = {}
        self.seen: dict[tuple[str, str], set[bytes]] = {}
        """By party and step (of the server: by receiver and step): every message that was ever on the wire."""
        self.lost: set[str] = set()
        self.late = {scene.late[0]}
        self.died = 0
        self.result: Any = None
        self.withheld: list[tuple[str, bytes]] = []

    def start(self, party: str) -> None:
        ours, theirs = socket.socketpair()
        deaths = self.scene.deaths.get(party)
        death = deaths.popleft() if deaths else Death()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                ours.close()
                for link in self.links.values():
                    link.close()
                home = self.folder / party
                if party == SERVER:
                    server(theirs, home, death)
                else:
                    client(theirs, home, ClientId(party), death)
                status = 0
            except (BrokenPipeError, ConnectionResetError):
                status = 0  # the wire has the sum, and is gone
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                os._exit(status)
        theirs.close()
        self.links[party], self.pids[party], self.held[party] = ours, pid, b""

    def run(self) -> None:
        for party in (*COHORT, SERVER):
            self.start(party)
        try:
            while self.result is None:
                ready, _, _ = select.select(list(self.links.values()), [], [], PATIENCE_S)
                if not ready:
                    raise AssertionError(f"nobody says anything any more: {self.unanswered}")
                for party in [each for each, link in self.links.items() if link in ready]:
                    self._read(party)
        finally:
            for party, link in self.links.items():
                link.close()
                self.died += os.WIFSIGNALED(os.waitpid(self.pids[party], 0)[1])

    def _read(self, party: str) -> None:
        try:
            data = self.links[party].recv(1 << 16)
        except ConnectionResetError:
            data = b""
        if not data:
            self._bury(party)
            return
        found, self.held[party] = cut(self.held[party] + data)
        for kind, name, body in found:
            self._carry(party, kind, name, body)

    def _carry(self, party: str, kind: bytes, name: str, body: bytes) -> None:
        if kind in b"FX":
            self.result = body.decode() if kind == b"X" else json.loads(body)
            return
        if kind in b"OA":
            if kind == b"A":
                self._note(f"to {name}", body)
            self.unanswered[name] = (kind, body)
            self._give(name, kind, "", body)
            return
        if kind == b"L":
            self.lost.add(party)
        else:
            self._note(party, body)
            if self.scene.drops and self._dies_now(party):
                return
            if self.scene.late == (party, self._step(body)):
                self.scene.late = ("", "")
                self.withheld.append((party, body))
                kind = b"L"
        self.unanswered.pop(party, None)
        self._give(SERVER, kind, party, body)

    def _note(self, who: str, body: bytes) -> None:
        self.seen.setdefault((who, self._step(body)), set()).add(body)

    def _step(self, body: bytes) -> str:
        return type(SUM.unpack(body, WIRE)).__name__

    def _dies_now(self, party: str) -> bool:
        """Return whether a party has nothing more to say because it is dead: what it said last may be lost with it."""
        link = self.links[party]
        link.settimeout(0.05)
        try:
            return not link.recv(1, socket.MSG_PEEK)
        except TimeoutError:
            return False
        finally:
            link.settimeout(None)

    def _give(self, to: str, kind: bytes, name: str, body: bytes) -> None:
        with contextlib.suppress(BrokenPipeError):  # it is dead, which its end of the line will say
            send(self.links[to], kind, name, body)

    def _bury(self, party: str) -> None:
        self.links.pop(party).close()
        status = os.waitpid(self.pids.pop(party), 0)[1]
        if not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL):
            raise AssertionError(f"{party} ended by itself: {status}")
        self.died += 1
        if party == self.scene.loses:
            shutil.rmtree(self.folder / party)
        self.start(party)
        while party == SERVER and self.withheld:
            self._give(SERVER, b"M", *self.withheld.pop())
        if party in self.unanswered:
            kind, body = self.unanswered[party]
            self._give(party, kind, "", body)


def play(root: Path, scene: Scene) -> World:
    """Play one scene to its end, and check what must hold of every one."""
    folder = root / "scene"
    world = World(folder, scene)
    try:
        world.run()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    twice = [place for place, messages in world.seen.items() if len(messages) != 1]
    assert not twice, f"two different messages of one step: {twice}"
    assert isinstance(world.result, list), world.result
    total, included = world.result
    expected = np.sum([VALUES[ClientId(each)] for each in included], axis=0, dtype=np.uint32)
    assert total == expected.tolist(), f"a wrong sum over {included}"
    vectors = {who for who, step in world.seen if step == "Masked"}
    assert vectors >= set(included), "a sum over a vector that was never sent"
    away = world.lost | world.late
    assert set(COHORT) - set(included) <= away, f"{included} are in the sum, and away were only {away}"
    return world


def dying(party: str, *deaths: Death, drops: bool = False, loses: bool = False) -> Scene:
    return Scene(deaths={party: deque(deaths)}, drops=drops, loses=party if loses else "")


def between_steps() -> Iterator[Scene]:
    """Yield every party's deaths between two of its steps; of the clients one, since they do the same."""
    for step, point in itertools.product(range(5), ("asked", "made", "kept", "sent")):
        yield dying(COHORT[1], Death(point, step))
        if point == "sent":
            yield dying(COHORT[1], Death(point, step), drops=True)
    for number in range(len(COHORT)):
        yield dying(SERVER, Death("ordered", number))
    for number in range(5 * len(COHORT)):
        yield dying(SERVER, Death("received", number))
        yield dying(SERVER, Death("taken", number))
    for phase, point in itertools.product(range(4), ("made", "kept")):
        yield dying(SERVER, Death(point, phase))
    for number in range(4 * len(COHORT)):
        yield dying(SERVER, Death("announced", number))
    yield dying(SERVER, Death("opened"))


def stores_lost() -> Iterator[Scene]:
    """Yield deaths of a client whose store is gone afterwards, from its second step on."""
    for step, point in itertools.product(range(1, 5), ("asked", "made", "kept", "sent")):
        yield dying(COHORT[2], Death(point, step), loses=True)


def comings_late() -> Iterator[Scene]:
    """Yield deaths of the server when it has given up a client, whose message arrives when it is back.

    Four points for each step at which the client is late and each later list: the first before that list is held.
    """
    for late, step in enumerate(("Advertise", "Shares", "Masked")):
        for phase in range(late, 4):
            seen = sum(3 if late <= earlier else 4 for earlier in range(phase))
            for death in (
                Death("made", phase),
                Death("kept", phase),
                Death("announced", seen),
                Death("announced", seen + 2),
            ):
                scene = dying(SERVER, death)
                scene.late = (COHORT[0], step)
                yield scene


def all_at_once() -> Iterator[Scene]:
    """Yield deaths of everybody at one step, and again at the next."""
    for step, point in itertools.product(range(4), ("made", "kept", "sent")):
        deaths: dict[str, deque[Death]] = {each: deque([Death(point, step), Death("kept", 0)]) for each in COHORT}
        deaths[SERVER] = deque([Death("kept", step), Death("announced", 1)])
        yield Scene(deaths=deaths)


def inside_keep(root: Path, stride: int) -> Iterator[int]:
    """Play a death at every call inside a ``keep``, until one is survived; yield how many there were."""
    for party, steps in ((COHORT[3], 5), (SERVER, 4)):
        for step in range(steps):
            call = 0
            while play(root, dying(party, Death("keeping", step, call))).died:
                call += stride
            yield call


def main() -> None:
    root, part, stride = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    if part == "inside":
        found: dict[str, list[int]] = {"points": list(inside_keep(root, stride))}
    else:
        parts: dict[str, Callable[[], Iterator[Scene]]] = {
            "between": between_steps,
            "lost": stores_lost,
            "late": comings_late,
            "together": all_at_once,
        }
        worlds = [play(root, scene) for scene in itertools.islice(parts[part](), 0, None, stride)]
        found = {
            "died": [world.died for world in worlds],
            "included": [len(world.result[1]) for world in worlds],
            "lost": [len(world.lost) for world in worlds],
        }
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
