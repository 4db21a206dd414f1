"""``fedloom pki``: a root is made and sealed, rosters and deny lists are signed, and what a person must see is said."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from fedloom.cli import root_folder
from fedloom.cli.asking import PASSPHRASE
from fedloom.core.ids import ClientId
from fedloom.core.roster import Member
from fedloom.secure.agreement import signing_key
from fedloom.secure.anchors import open_anchor
from fedloom.secure.authorities import open_intermediate
from fedloom.secure.deny_list import open_deny_list
from fedloom.secure.fingerprints import fingerprint
from fedloom.secure.roster_pin import open_update

Run = Callable[..., tuple[int, str, str]]
WORDS = "five words of no poem"


@pytest.fixture(autouse=True)
def quick_passphrase(monkeypatch: pytest.MonkeyPatch) -> None:
    """A passphrase in the environment, and the least cost that the library takes."""
    monkeypatch.setattr(root_folder, "COST", 14)
    monkeypatch.setenv(PASSPHRASE, WORDS)


@pytest.fixture
def root(tmp_path: Path, command: Run) -> Path:
    code, _, err = command("pki", "init", "root", "--federation", "trial")
    assert (code, err) == (0, "")
    return tmp_path / "root"


@pytest.fixture
def member(tmp_path: Path) -> Callable[[str], Path]:
    """Write the file that a coordinator's operator hands to the root's owner."""

    def write(name: str, seed: int = 0) -> Path:
        key = signing_key(bytes([seed]) * 31 + name.encode()[:1])
        path = tmp_path / f"{name}.json"
        path.write_bytes(msgspec.json.encode(Member(client=ClientId(name), organisation=name, key=key.public)))
        return path

    return write


def test_a_root_is_sealed_and_hands_out_no_key_of_its_own(root: Path, command: Run) -> None:
    names = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    assert names == {
        "root.key", "anchor.json", "for-coordinator/anchor.json", "for-coordinator/intermediate.pem",
        "for-coordinator/intermediate.key",
    }  # fmt: skip
    for path in (root, root / "for-coordinator"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    for name in ("root.key", "for-coordinator/intermediate.key"):
        assert stat.S_IMODE((root / name).stat().st_mode) == 0o600
    anchor = open_anchor((root / "anchor.json").read_bytes(), meant=None)
    travels = root / "for-coordinator"
    made = open_intermediate(
        (travels / "intermediate.pem").read_bytes(), (travels / "intermediate.key").read_bytes(), federation="trial"
    )
    assert b"PRIVATE KEY" not in (root / "root.key").read_bytes()
    assert made.federation == anchor.federation == "trial"
    assert command("pki", "roster", "show", "root")[1] == "roster of trial: none is signed yet\n"


def test_init_prints_the_fingerprint_that_people_compare(tmp_path: Path, command: Run) -> None:
    found = json.loads(command("pki", "init", "root", "--federation", "trial", "--json")[1])
    assert found == {
        "federation": "trial", "root": "root", "for_coordinator": "root/for-coordinator",
        "fingerprint": open_anchor((tmp_path / "root/anchor.json").read_bytes(), meant=None).fingerprint,
    }  # fmt: skip


@pytest.mark.usefixtures("root")
def test_a_roster_is_drafted_then_signed_and_travels(root: Path, command: Run, member: Callable[..., Path]) -> None:
    north = msgspec.json.decode(member("north").read_bytes(), type=Member)
    spoken = fingerprint(north.key).upper().replace(" ", "-")
    code, out, _ = command("pki", "roster", "add", "root", "north.json", "--fingerprint", spoken)
    assert code == 0
    assert f"north: 'north' joins with the key {fingerprint(north.key)}" in out
    assert not (root / "roster.json").exists()
    member("south")
    command("pki", "roster", "add", "root", "south.json")
    code, out, err = command("pki", "roster", "sign", "root", "--yes")
    assert (code, err) == (0, "")
    data = (root / "for-coordinator/roster.json").read_bytes()
    anchor = open_anchor((root / "anchor.json").read_bytes(), meant=None)
    signed = open_update(data, root=anchor.signing, federation="trial").roster
    assert out.startswith(f"roster 1 of trial, 2 members: {fingerprint(signed.digest)}")
    assert [each.client for each in signed.members] == ["north", "south"]

    code, out, _ = command("pki", "roster", "remove", "root", "south")
    assert "south: 'south' leaves" in out
    assert command("pki", "roster", "sign", "root", "--yes", "--json")[0] == 0
    found = json.loads(command("pki", "roster", "show", "root", "--json")[1])
    assert (found["version"], [each["client"] for each in found["members"]], found["changes"]) == (2, ["north"], [])
    code, _, err = command("pki", "roster", "sign", "root", "--yes")
    assert code == 2
    assert "nothing changed since the last roster" in err


@pytest.mark.usefixtures("root")
def test_nothing_is_signed_that_nobody_agreed_to(root: Path, command: Run, member: Callable[..., Path]) -> None:
    member("north")
    command("pki", "roster", "add", "root", "north.json")
    code, _, err = command("pki", "roster", "sign", "root")
    assert code == 2
    assert "joins with the key" in err
    assert "a roster is agreed to by --yes" in err
    assert not (root / "roster.json").exists()


@pytest.mark.usefixtures("root")
def test_a_key_that_was_not_read_out_is_not_added(root: Path, command: Run, member: Callable[..., Path]) -> None:
    member("north")
    code, _, err = command("pki", "roster", "add", "root", "north.json", "--fingerprint", "aaaa " * 8)
    assert code == 2
    assert "was read out: nothing was added" in " ".join(err.split())
    assert not (root / "members.json").exists()


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("init", "root", "--federation", "trial"), "a root begins in a new folder"),
        (("init", "other", "--federation", "Trial!"), "cannot name a federation"),
        (("roster", "show", "nowhere"), "`fedloom pki init` makes one"),
        (("roster", "remove", "root", "west"), "'west' is not in the roster"),
        (("roster", "add", "root", "root/anchor.json"), "names no member"),
        (("deny", "root"), "who is to be out?"),
        (("deny", "root", "--serial", "xyz"), "is no serial of a certificate"),
    ],
)
def test_what_cannot_be_is_refused_with_what_to_do(command: Run, arguments: tuple[str, ...], message: str) -> None:
    code, out, err = command("pki", *arguments)
    assert (code, out) == (2, "")
    assert message in err


@pytest.mark.usefixtures("root")
def test_another_passphrase_opens_nothing(command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSPHRASE, "six words of a poem or other")
    code, _, err = command("pki", "deny", "root", "--client", "north")
    assert code == 2
    assert "the passphrase is another one" in err


@pytest.mark.usefixtures("root")
def test_without_a_terminal_the_passphrase_is_a_variable(command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PASSPHRASE)
    with Path(os.devnull).open() as nobody:
        monkeypatch.setattr("sys.stdin", nobody)
        code, _, err = command("pki", "deny", "root", "--client", "north")
    assert code == 2
    assert PASSPHRASE in err
    assert "nobody is at a terminal" in err


def test_a_short_passphrase_makes_no_root(tmp_path: Path, command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSPHRASE, "short")
    code, _, err = command("pki", "init", "root", "--federation", "trial")
    assert code == 2
    assert "is guessed" in err
    assert not (tmp_path / "root").exists()


@pytest.mark.usefixtures("root")
def test_deny_lists_grow(root: Path, command: Run) -> None:
    assert command("pki", "deny", "root", "--client", "north")[0] == 0
    found = json.loads(command("pki", "deny", "root", "--serial", "00AB", "--json")[1])
    assert (found["version"], found["clients"], found["serials"]) == (2, ["north"], ["ab"])
    anchor = open_anchor((root / "anchor.json").read_bytes(), meant=None)
    data = (root / "for-coordinator/deny.json").read_bytes()
    assert open_deny_list(data, root=anchor.signing, federation="trial").denies_client(ClientId("north"))


@pytest.mark.usefixtures("root")
def test_an_intermediate_is_made_again(root: Path, command: Run) -> None:
    before = (root / "for-coordinator/intermediate.pem").read_bytes()
    found = json.loads(command("pki", "intermediate", "root", "--days", "30", "--json")[1])
    after = (root / "for-coordinator/intermediate.pem").read_bytes()
    assert before != after
    key = (root / "for-coordinator/intermediate.key").read_bytes()
    assert open_intermediate(after, key, federation="trial").certificate == after
    assert found["until"] > 0
