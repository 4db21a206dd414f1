"""StoredSessions: what was kept comes back or is an error; nothing is begun twice; secrets are nowhere in clear."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from fedloom.core.aggregator import InteractiveClient
from fedloom.core.ids import ClientId, RoundNumber
from fedloom.core.messages import AggregatorMessage, AggregatorRequest, Failed, Program, RoundOrder
from fedloom.errors import Error, StoreError
from fedloom.runtime.client import ClientNode
from fedloom.runtime.sessions import SessionName
from fedloom.store.sessions import FILE, KEY, StoredSessions

NORTH, SOUTH = ClientId("north"), ClientId("south")
MARK = b"a secret that is nowhere on the disk"


def name(number: int, *, retry: int = 0, program: Program = "train") -> SessionName:
    return SessionName(1, program, RoundNumber(number), retry)


@dataclass
class Side:
    """A client side that is what it stores."""

    content: bytes

    def stored(self) -> bytes:
        return self.content

    def open(self) -> bytes:
        return self.content[:4]

    def reply(self, message: object) -> bytes:
        return self.content[:4] + cast("bytes", message)


def kept(sessions: StoredSessions, client: ClientId, session: SessionName) -> bytes | None:
    side = sessions.find(client, session, Side)
    return None if side is None else side.stored()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "site"


@pytest.fixture
def sessions(folder: Path) -> Iterator[StoredSessions]:
    with StoredSessions(folder) as opened:
        yield opened


def on_disk(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def test_what_was_kept_last_is_found_by_another_process_of_the_party(folder: Path) -> None:
    with StoredSessions(folder) as sessions:
        sessions.keep(NORTH, name(1), Side(b"first"))
        sessions.keep(NORTH, name(1), Side(b"second"))
        sessions.keep(SOUTH, name(1), Side(b"another"))
        assert kept(sessions, NORTH, name(1)) == b"second"
    with StoredSessions(folder) as sessions:
        assert kept(sessions, NORTH, name(1)) == b"second"
        assert kept(sessions, SOUTH, name(1)) == b"another"
        assert kept(sessions, NORTH, name(2)) is None
        assert kept(sessions, NORTH, name(1, retry=1)) is None
        assert kept(sessions, NORTH, name(1, program="query")) is None


def test_a_sum_that_is_over_is_never_begun_again(folder: Path) -> None:
    with StoredSessions(folder) as sessions:
        sessions.keep(NORTH, name(3), Side(b"third"))
        assert not sessions.over(NORTH, name(3)), "it is still here"
        sessions.end(NORTH)
    with StoredSessions(folder) as sessions:
        assert sessions.over(NORTH, name(3))
        assert sessions.over(NORTH, name(2)), "and none before it"
        assert sessions.over(NORTH, name(2, retry=5))
        with pytest.raises(StoreError, match="begun train round 3, retry 0 of phase 1 before"):
            sessions.keep(NORTH, name(3), Side(b"again"))
        for later in (name(3, retry=1), name(4), name(3, program="evaluate")):
            assert not sessions.over(NORTH, later)
        assert not sessions.over(SOUTH, name(3))
        assert not sessions.over(NORTH, SessionName(2, "train", RoundNumber(1), 0))


def test_an_older_sum_that_is_still_kept_goes_on_beside_a_later_one(sessions: StoredSessions) -> None:
    sessions.keep(NORTH, name(3), Side(b"third"))
    sessions.keep(NORTH, name(4), Side(b"fourth"))
    assert not sessions.over(NORTH, name(3))
    sessions.keep(NORTH, name(3), Side(b"third, a step on"))
    assert sessions.over(NORTH, name(3, retry=1)), "it was not begun, and a later one was"
    sessions.end(NORTH, but=name(4))
    assert sessions.over(NORTH, name(3))
    assert kept(sessions, NORTH, name(4)) == b"fourth"


def test_an_end_deletes_all_of_a_client_but_one_and_nothing_of_the_others(sessions: StoredSessions) -> None:
    for number in (1, 2, 3):
        sessions.keep(NORTH, name(number), Side(b"%d" % number))
        sessions.keep(SOUTH, name(number), Side(b"%d" % number))
    sessions.end(NORTH, but=name(2))
    assert [kept(sessions, NORTH, name(number)) for number in (1, 2, 3)] == [None, b"2", None]
    sessions.end(NORTH, but=name(9))
    assert kept(sessions, NORTH, name(2)) is None
    assert [kept(sessions, SOUTH, name(number)) for number in (1, 2, 3)] == [b"1", b"2", b"3"]


def test_nothing_on_the_disk_shows_what_is_kept(folder: Path, sessions: StoredSessions) -> None:
    sessions.keep(NORTH, name(1), Side(MARK * 1000))
    assert MARK[:12] not in on_disk(folder)
    assert len(on_disk(folder)) > len(MARK) * 1000, "it is there"


def test_what_ends_or_is_replaced_leaves_no_byte_of_its_ciphertext(folder: Path, sessions: StoredSessions) -> None:
    def sealed() -> bytes:
        with sessions._file.reading() as database:
            return bytes(database.execute("SELECT sealed FROM session").fetchone()[0])

    sessions.keep(NORTH, name(1), Side(os.urandom(30_000)))
    first = sealed()
    assert first[8000:8016] in on_disk(folder)
    sessions.keep(NORTH, name(1), Side(os.urandom(9_000)))
    second = sealed()
    sessions.end(NORTH)
    left = on_disk(folder)
    for content in (first, second):
        pieces = [content[at : at + 16] for at in range(0, len(content) - 16, 1000)]
        assert not [piece for piece in pieces if piece in left]


def test_two_writes_of_one_content_have_nothing_in_common(folder: Path) -> None:
    found = []
    for _ in range(2):
        with StoredSessions(folder) as sessions:
            sessions.keep(NORTH, name(1), Side(MARK))
        with closing(sqlite3.connect(folder / FILE)) as database:
            found.append(database.execute("SELECT sealed FROM session").fetchone()[0])
    assert found[0][0] == found[1][0]
    first, second = ({sealed[at : at + 8] for at in range(1, 60)} for sealed in found)
    assert not first & second, "by chance with probability below 2e-16"


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE session SET round = 2",
        "UPDATE session SET client = 'south'",
        "UPDATE session SET sealed = CAST(substr(sealed, 1, 60) || x'0000' || substr(sealed, 63) AS BLOB)",
        "UPDATE session SET sealed = 'a text'",
        "UPDATE session SET sealed = substr(sealed, 1, length(sealed) - 1)",
        "UPDATE session SET sealed = x''",
        "UPDATE session SET sealed = (SELECT proof FROM single)",
    ],
)
def test_a_row_that_was_changed_or_moved_is_an_error_and_no_guess(folder: Path, change: str) -> None:
    with StoredSessions(folder) as sessions:
        sessions.keep(NORTH, name(1), Side(MARK * 3))
    with closing(sqlite3.connect(folder / FILE, isolation_level=None)) as database:
        database.execute(change)
        client, number = database.execute("SELECT client, round FROM session").fetchone()
    with StoredSessions(folder) as sessions, pytest.raises(StoreError, match=r"cannot be taken up.*does not open"):
        kept(sessions, client, name(number))


def test_a_content_that_its_machine_refuses_is_an_error_that_names_the_sum(sessions: StoredSessions) -> None:
    def refuse(stored: bytes) -> InteractiveClient:
        raise Error("of another client")

    sessions.keep(NORTH, name(7), Side(b"x"))
    with pytest.raises(StoreError, match=r"'north' in train round 7, .* of another client.*no second message"):
        sessions.find(NORTH, name(7), refuse)


def test_a_key_of_another_store_opens_nothing(tmp_path: Path) -> None:
    for each in ("one", "two"):
        StoredSessions(tmp_path / each).close()
    shutil.copy(tmp_path / "two" / KEY, tmp_path / "one" / KEY)
    before = (tmp_path / "one" / FILE).read_bytes()
    with pytest.raises(StoreError, match="is not the key that"):
        StoredSessions(tmp_path / "one")
    assert (tmp_path / "one" / FILE).read_bytes() == before


def test_one_of_two_files_alone_is_an_error_and_both_gone_are_a_new_store(folder: Path) -> None:
    with StoredSessions(folder) as sessions:
        first = sessions.epoch
    key = (folder / KEY).read_bytes()
    (folder / KEY).unlink()
    with pytest.raises(StoreError, match="without it the sums that are kept cannot be opened"):
        StoredSessions(folder)
    (folder / KEY).write_bytes(key)
    (folder / KEY).chmod(0o600)
    with StoredSessions(folder) as sessions:
        assert sessions.epoch == first
    (folder / FILE).unlink()
    with pytest.raises(StoreError, match="what it knew of sums that were begun is lost"):
        StoredSessions(folder)
    (folder / KEY).unlink()
    with StoredSessions(folder) as sessions:
        assert sessions.epoch != first


@pytest.mark.skipif(os.name != "posix", reason="modes are those of POSIX")
def test_files_are_the_owners_alone_and_a_key_that_is_not_is_refused(folder: Path) -> None:
    with StoredSessions(folder) as sessions:
        sessions.keep(NORTH, name(1), Side(b"x"))
        assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
        assert folder.stat().st_mode & 0o777 == 0o700
    (folder / KEY).chmod(0o640)
    with pytest.raises(StoreError, match=r"open to others \(mode 640\)"):
        StoredSessions(folder)


@pytest.mark.parametrize("content", [b"", b"short", bytes(32), bytes(range(33))])
def test_a_key_that_is_none_is_refused(folder: Path, content: bytes) -> None:
    StoredSessions(folder).close()
    (folder / KEY).write_bytes(content)
    with pytest.raises(StoreError, match="is no key of 32 random bytes"):
        StoredSessions(folder)


def test_the_key_may_lie_elsewhere(folder: Path, tmp_path: Path) -> None:
    with StoredSessions(folder, key=tmp_path / "elsewhere") as sessions:
        sessions.keep(NORTH, name(1), Side(MARK))
    assert [path.name for path in folder.iterdir()] == [FILE]
    with StoredSessions(folder, key=tmp_path / "elsewhere") as sessions:
        assert kept(sessions, NORTH, name(1)) == MARK
    with pytest.raises(StoreError, match="is missing"):
        StoredSessions(folder)


def test_a_folder_with_other_files_is_left_as_it_is(folder: Path) -> None:
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(StoreError, match="name a folder for the sessions alone"):
        StoredSessions(folder)
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
    assert not list(folder.parent.glob(".*.tmp"))


def test_a_second_owner_is_refused_until_the_first_has_closed(folder: Path, sessions: StoredSessions) -> None:
    sessions.keep(NORTH, name(1), Side(b"x"))
    with pytest.raises(StoreError, match=r"owned by another process.*answer twice"):
        StoredSessions(folder)
    sessions.close()
    with StoredSessions(folder) as again:
        assert kept(again, NORTH, name(1)) == b"x"


def test_a_store_of_a_newer_format_is_left_untouched(folder: Path) -> None:
    StoredSessions(folder).close()
    with closing(sqlite3.connect(folder / FILE, isolation_level=None)) as database:
        database.execute("UPDATE single SET format = 2")
    with pytest.raises(StoreError, match="store is format 2, this build knows up to 1; untouched"):
        StoredSessions(folder)


@pytest.mark.parametrize("stride", [397, pytest.param(23, marks=pytest.mark.slow)])
def test_a_flipped_byte_anywhere_is_an_error_or_changes_nothing(folder: Path, tmp_path: Path, stride: int) -> None:
    with StoredSessions(folder) as sessions:
        sessions.keep(NORTH, name(7), Side(MARK * 9))
        sessions.keep(SOUTH, name(5), Side(MARK))
        sessions.end(SOUTH)
    whole = (folder / FILE).read_bytes()
    refused = 0
    for at in range(0, len(whole), stride):
        data = bytearray(whole)
        data[at] ^= 0x15
        (folder / FILE).write_bytes(data)
        try:
            with StoredSessions(folder) as sessions:
                found = kept(sessions, NORTH, name(7))
                assert found == MARK * 9 or (found is None and sessions.over(NORTH, name(7)))
                assert sessions.over(SOUTH, name(5)), f"byte {at}: what was begun is forgotten"
        except StoreError as error:
            assert "restore" not in str(error), "a backup would repeat steps"
            refused += 1
    assert refused > 3


def test_what_was_begun_is_not_changed_by_a_hand_unnoticed(folder: Path) -> None:
    with StoredSessions(folder) as sessions:
        sessions.keep(NORTH, name(7), Side(b"x"))
    with closing(sqlite3.connect(folder / FILE, isolation_level=None)) as database:
        database.execute("UPDATE begun SET round = 6")
    with pytest.raises(StoreError, match="which sums were begun is not what was written"):
        StoredSessions(folder)


def test_a_closed_store_keeps_nothing(folder: Path) -> None:
    sessions = StoredSessions(folder)
    sessions.close()
    with pytest.raises(StoreError, match="is closed"):
        sessions.keep(NORTH, name(1), Side(b"x"))


class Plan:
    """As much of a plan as a client asks about a sum."""

    phase = 1

    def program_of(self, program: Program) -> Any:
        return None, self

    @property
    def pipeline(self) -> Any:
        return self

    @property
    def aggregator(self) -> Any:
        return self

    def resume(self, me: ClientId, stored: bytes, *, roster: object, identity: object) -> Side:
        return Side(stored)


def node(sessions: StoredSessions) -> ClientNode[Any, Any]:
    nothing = cast("Any", None)
    return ClientNode(client=NORTH, plan=cast("Any", Plan()), data=nothing, states=nothing, sessions=sessions)


def order(number: int) -> RoundOrder[Any]:
    return RoundOrder(round=RoundNumber(number), retry=0, program="train", digest="0" * 64, broadcast=None)


def test_an_order_of_a_sum_that_was_begun_is_answered_in_the_same_bytes(folder: Path) -> None:
    with StoredSessions(folder) as sessions:
        sessions.keep(NORTH, name(2), Side(b"made once"))
    with StoredSessions(folder) as sessions:
        message = node(sessions).begun(order(2))
        assert isinstance(message, AggregatorMessage)
        assert message.payload == b"made"


def test_an_order_of_a_sum_that_is_over_is_answered_by_lost_state_and_ends_nothing(sessions: StoredSessions) -> None:
    # A server could else have round 2 summed again over other survivors, and hold the difference of the two sums.
    sessions.keep(NORTH, name(2), Side(b"second"))
    assert node(sessions).begun(order(3)) is None
    assert kept(sessions, NORTH, name(2)) is None
    sessions.keep(NORTH, name(3), Side(b"third"))
    message = node(sessions).begun(order(2))
    assert isinstance(message, Failed)
    assert (message.kind, message.detail.split(":")[0]) == ("lost", "LOST_STATE")
    assert kept(sessions, NORTH, name(3)) == b"third", "a late order ends no later sum"


def test_a_request_of_a_sum_that_is_not_kept_is_answered_by_lost_state(sessions: StoredSessions) -> None:
    request = AggregatorRequest(program="train", round=RoundNumber(2), retry=0, step=1, payload=b" on")
    message = node(sessions).answer(request)
    assert isinstance(message, Failed)
    assert message.detail.startswith("LOST_STATE")
    sessions.keep(NORTH, name(2), Side(b"made"))
    answered = node(sessions).answer(request)
    assert isinstance(answered, AggregatorMessage)
    assert answered.payload == b"made on"


SCRIPT = r"""
import json, os, shutil, signal, sys
from pathlib import Path
from fedloom.store.held_sums import HeldSums
from fedloom.store.sessions import StoredSessions

root, stride = Path(sys.argv[1]), int(sys.argv[2])
watched = ("sessions.py", "held_sums.py", "owned_file.py")

def make_sessions(folder):
    StoredSessions(folder / "site").close()

def make_held(folder):
    HeldSums(folder / "held.sqlite").close()

def dies(make, folder, at):
    child = os.fork()
    if child == 0:
        left = [at]
        def hook(frame, kind, argument):
            if kind in ("c_call", "c_return") and frame.f_code.co_filename.endswith(watched):
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.setprofile(hook)
        make(folder)
        sys.setprofile(None)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, status
    return os.WIFSIGNALED(status)

points = []
for make in (make_sessions, make_held):
    at = 0
    while True:
        folder = root / "0"
        folder.mkdir()
        died = dies(make, folder, at)
        make(folder)
        shutil.rmtree(folder)
        if not died:
            break
        at += stride
    points.append(at)
print(json.dumps(points))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize("stride", [pytest.param(13, id="some"), pytest.param(1, marks=pytest.mark.slow)])
def test_a_kill_while_a_store_is_made_leaves_none_or_a_whole_one(
    tmp_path: Path, process: Callable[..., subprocess.Popen[str]], stride: int
) -> None:
    out, err = process(SCRIPT, tmp_path, stride).communicate(timeout=50)
    assert out, err
    assert min(json.loads(out)) > 30
