"""``fedloom site``: joining with a token, what a person compares, the policy to begin with, and the operator's word."""

from __future__ import annotations

import json
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from msgspec import structs
from msgspec.json import encode as json_bytes

from fedloom.cli import root_folder
from fedloom.cli.asking import PASSPHRASE
from fedloom.cli.doctor_sites import examine_site
from fedloom.cli.findings import Finding
from fedloom.cli.listening import announce, forget
from fedloom.cli.site_files import source_of, starter_policy
from fedloom.core.component import ComponentSpec
from fedloom.core.ids import RunId
from fedloom.engines.coordinator_folder import CoordinatorFolder
from fedloom.engines.coordinator_host import CoordinatorHost
from fedloom.engines.site_folder import SiteFolder
from fedloom.engines.site_inbox import Entry, approval_of, lay_out
from fedloom.errors import DataError
from fedloom.experiment.manifest import Manifest
from fedloom.experiment.site_policy import read_policy_text
from fedloom.secure.fingerprints import fingerprint

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def quick_passphrase(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(root_folder, "COST", 14)
    monkeypatch.setenv(PASSPHRASE, "five words of no poem")


@pytest.fixture
def host(tmp_path: Path, command: Run) -> Iterator[CoordinatorHost]:
    """A coordinator that serves in this process, and nobody in its roster."""
    command("pki", "init", "root", "--federation", "trial")
    command("coordinator", "init", "coord", "--root", "root", "--port", 0, "--listen", "127.0.0.1")
    folder = CoordinatorFolder(tmp_path / "coord")
    with CoordinatorHost(folder) as running:
        announce(folder, running.ports)
        yield running
    forget(folder)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "north.csv"
    path.write_text("age,bp,ill\n61,140,yes\n40,120,no\n")
    return path


@pytest.fixture
def member(host: CoordinatorHost, rows: Path, tmp_path: Path, command: Run) -> SiteFolder:
    """A site whose certificate has come, and whose operator has approved the roster."""
    del host, rows
    command("coordinator", "invite", "coord", "north", "--organisation", "north-trust", "--out", "north.token")
    command("site", "join", "ward", "north.token", "--data", "north.csv")
    command("coordinator", "approve", "coord", "--root", "root", "--yes")
    command("site", "join", "ward", "north.token")
    code, _, err = command("site", "approve", "ward", "--roster", "--yes")
    assert (code, err) == (0, "")
    return SiteFolder(tmp_path / "ward")


@pytest.mark.usefixtures("host", "rows")
def test_a_site_joins_when_three_people_have_said_yes(tmp_path: Path, command: Run) -> None:
    command("coordinator", "invite", "coord", "north", "--organisation", "north-trust", "--out", "north.token")
    code, out, err = command("site", "join", "ward", "north.token", "--data", "north.csv")
    assert (code, err) == (0, "")
    folder = SiteFolder(tmp_path / "ward")
    spoken = fingerprint(folder.signing_key().public)
    assert f"\n  {spoken}\n" in out
    for name in ("signing.key", "tls.key"):
        assert stat.S_IMODE((folder.path / name).stat().st_mode) == 0o600

    waiting = command("coordinator", "status", "coord")[1]
    assert f"north of north-trust waits to join: {spoken}" in waiting
    assert json.loads(command("site", "join", "ward", "north.token", "--json")[1])["state"] == "waiting"
    code, out, _ = command("coordinator", "approve", "coord", spoken)
    assert code == 0
    assert json.loads(command("site", "join", "ward", "north.token", "--json")[1])["state"] == "waiting"
    command("pki", "roster", "add", "root", "coord/members/north.json", "--fingerprint", spoken)
    command("pki", "roster", "sign", "root", "--yes")
    command("coordinator", "install", "coord", "root/roster.json")
    code, out, err = command("site", "join", "ward", "north.token")
    assert (code, err) == (0, "")
    assert out.startswith("member of trial as north, until ")
    assert folder.policy().site.name == "north", "the federation knows it by this name, whatever its folder is called"

    assert "roster 2 waits: fedloom site approve ward --roster" in command("site", "inbox", "ward")[1]
    code, _, err = command("site", "approve", "ward", "--roster")
    assert code == 2
    assert "the roster was not approved" in err
    assert f"joins with the key {spoken}" in " ".join(err.split())
    words = fingerprint(folder.pin().digest)
    assert command("site", "approve", "ward", "--roster", "--fingerprint", "aaaa" * 8)[0] == 2
    found = json.loads(command("site", "approve", "ward", "--roster", "--fingerprint", words, "--json")[1])
    assert (found["version"], [each["client"] for each in found["members"]]) == (2, ["coordinator", "north"])
    assert command("site", "inbox", "ward")[1] == "no run has asked\n"


def test_a_site_says_who_it_is_and_renews(member: SiteFolder, command: Run) -> None:
    code, out, err = command("site", "status", "ward")
    assert (code, err) == (0, "")
    assert out.startswith("north of north-trust, federation trial, not running\n")
    found = json.loads(command("site", "status", "ward", "--json")[1])
    assert (found["name"], found["roster"], found["roster_approved"], found["waiting"]) == ("north", 2, 2, [])
    before = member.tls.chain.read_bytes()
    code, out, _ = command("site", "renew", "ward")
    assert code == 0
    assert out.startswith("certificate of north, until ")
    assert member.tls.chain.read_bytes() != before


def test_a_site_rests_without_asking_anybody(member: SiteFolder, command: Run) -> None:
    assert command("site", "pause", "ward")[0] == 0
    assert member.paused_path.exists()
    assert "federation trial, paused" in command("site", "status", "ward")[1]
    assert json.loads(command("site", "pause", "ward", "--off", "--json")[1]) == {"paused": False}
    assert not member.paused_path.exists()


def test_a_store_is_adopted_when_somebody_agrees(member: SiteFolder, command: Run) -> None:
    code, out, err = command("site", "adopt", "ward")
    assert code == 2
    assert "no run of the coordinator's record costs anything" in out
    assert "nothing was confirmed" in err
    assert "--yes" in err
    assert json.loads(command("site", "adopt", "ward", "--yes", "--json")[1]) == {"charged": [], "overspent": []}
    code, out, _ = command("site", "adopt", "ward", "--coordinator", "--yes")
    assert code == 0
    assert "of the coordinator's store: it is the one that was seen last\n" in out
    code, _, err = command("site", "adopt", "nowhere", "--yes")
    assert code == 2
    assert "nowhere" in err


def test_a_policy_is_checked_and_told(member: SiteFolder, command: Run) -> None:
    code, out, _ = command("site", "policy", "ward")
    assert code == 0
    assert "may ask: spiffe://trial/coordinator\n" in out
    assert "required: secure-aggregation\n" in out
    assert "approval: manual\n" in out
    member.policy_path.write_text(member.policy_path.read_text().replace("min_rows", "min_row"))
    code, _, err = command("site", "policy", "ward")
    assert code == 2
    assert "min_row" in err


def test_the_doctor_looks_at_a_site(member: SiteFolder, command: Run) -> None:
    found = json.loads(command("doctor", "ward", "--json")[1])
    assert "findings" in found, found
    said = {each["subject"]: (each["level"], each["value"]) for each in found["findings"]}
    assert said["TLS"] == ("ok", "both sides accept each other, as spiffe://trial/north-trust/north")
    assert said["roster"] == ("ok", "version 2, approved")
    assert said['data."rows"'] == ("ok", "has 3 columns")
    command("pki", "deny", "root", "--client", "north")
    command("coordinator", "install", "coord", "root/deny.json")
    (member.path.parent / "north.csv").unlink()
    code, out, _ = command("doctor", "ward")
    assert code == 1
    assert "problem  TLS: denied (site): north is on the deny list" in out
    assert 'problem  data."rows":' in out


@pytest.fixture
def asked(member: SiteFolder) -> Manifest:
    """A run that waits for the operator's word, and one that the policy refuses."""
    found = Manifest(
        run="20261121T211909Z-99e6", digest="ab" * 32, experiment={"seed": 1}, code=(), model=(), plan=None, rounds=4,
        sites=("north", "south"), data="rows", columns=("age", "bp"), label="ill", classes=None, leaves=(),
        privacy=None,
    )  # fmt: skip
    entry = Entry(
        run=RunId(found.run), experiment=found.digest, facts="f", policy="p", data="rows", asked_at=1.8e9,
        state="waiting", rows=61, manifest=found.fingerprint,
    )  # fmt: skip
    lay_out(member, entry, received=b"{}", facts=b"{}", manifest=found)
    refused = structs.replace(
        entry, run=RunId("20261120T000000Z-0001"), state="refused", codes=("POLICY_ROUNDS",), asked_at=1.7e9,
        words=("POLICY_ROUNDS: 900 rounds are asked for; limits.max_rounds is 100",),
    )  # fmt: skip
    lay_out(member, refused, received=b"{}", facts=b"{}", manifest=None)
    return found


def test_an_operator_looks_and_says_yes_then_no(member: SiteFolder, asked: Manifest, command: Run) -> None:
    listed = json.loads(command("site", "inbox", "ward", "--json")[1])
    states = {each["run"]: each["state"] for each in listed["runs"]}
    assert states == {"20261121T211909Z-99e6": "waiting", "20261120T000000Z-0001": "refused"}
    code, out, err = command("site", "show", "ward", "last")
    assert (code, err) == (0, "")
    assert f"to approve: {asked.fingerprint}" in out
    assert "rows here: 61 (this is told to nobody)" in out
    assert "no run was approved here before" in out

    code, _, err = command("site", "approve", "ward", "last", "--digest", "00" * 32)
    assert code == 2
    assert "look at it, and approve again" in err
    shown = ("--digest", asked.fingerprint, "--until", "2100-01-31", "--max-rounds", 3)
    code, out, _ = command("site", "approve", "ward", "20261121", *shown)
    assert code == 0
    assert "3 rounds at most" in out
    word = approval_of(member, RunId(asked.run))
    assert word is not None
    assert (word.manifest, word.max_rounds, word.withdrawn) == (asked.fingerprint, 3, False)
    assert "approved" in command("site", "inbox", "ward")[1]

    assert command("site", "refuse", "ward", "last")[0] == 0
    word = approval_of(member, RunId(asked.run))
    assert word is not None
    assert word.withdrawn
    assert json.loads(command("site", "inbox", "ward", "--json")[1])["runs"][0]["state"] == "no"


@pytest.mark.usefixtures("asked")
def test_no_approval_goes_beyond_the_policy(command: Run) -> None:
    out = command("site", "show", "ward", "20261120")[1]
    assert "refused: POLICY_ROUNDS: 900 rounds are asked for; limits.max_rounds is 100" in out
    code, _, err = command("site", "approve", "ward", "20261120")
    assert code == 2
    assert "An approval does not go beyond the policy" in " ".join(err.split())
    code, _, err = command("site", "approve", "ward", "2026")
    assert code == 2
    assert "begins 2 runs" in err


def causes(findings: Iterable[Finding]) -> dict[str, str]:
    """Return what was found that is not as it should be."""
    return {each.subject: each.value for each in findings if each.level != "ok"}


def test_the_doctor_names_a_clock_and_an_end(member: SiteFolder) -> None:
    now = time.time()
    assert causes(examine_site(member.path, now=now)) == {}
    assert causes(examine_site(member.path, now=now + 120))["clock"].endswith("s ahead of the coordinator's")
    assert "expired" in causes(examine_site(member.path, now=now + 8 * 86400))["certificate"]
    before = causes(examine_site(member.path, now=now - 86400))
    assert "is valid from" in before["certificate"]
    assert "behind the coordinator's" in before["clock"]


@pytest.mark.parametrize(
    ("address", "subject", "cause"),
    [
        ("nowhere.invalid:7444", "name nowhere.invalid", "is not known here"),
        ("localhost:1", "port 1", "refused"),
    ],
)
def test_the_doctor_names_what_is_wrong_on_the_way(member: SiteFolder, address: str, subject: str, cause: str) -> None:
    place = structs.replace(member.coordinator(), entry=address)
    (member.path / "coordinator.json").write_bytes(json_bytes(place))
    assert cause in causes(examine_site(member.path))[subject]


def test_the_doctor_names_another_federations_coordinator(member: SiteFolder, tmp_path: Path, command: Run) -> None:
    command("pki", "init", "other", "--federation", "trial")
    command("coordinator", "init", "strange", "--root", "other", "--port", 0, "--listen", "127.0.0.1")
    with CoordinatorHost(CoordinatorFolder(tmp_path / "strange")) as strange:
        place = structs.replace(
            member.coordinator(), entry=f"localhost:{strange.ports.entry}", probe=f"localhost:{strange.ports.probe}"
        )
        (member.path / "coordinator.json").write_bytes(json_bytes(place))
        found = causes(examine_site(member.path))
    assert "other_authority (coordinator)" in found["TLS"]
    assert "is not the coordinator of this federation" in found["entry port"]


def test_the_doctor_names_a_roster_a_policy_and_a_proxy(member: SiteFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    member.policy_path.write_text(member.policy_path.read_text().replace("spiffe://trial", "spiffe://other"))
    monkeypatch.setenv("https_proxy", "http://proxy.invalid:3128")
    member.pin_path.unlink()
    (member.path / "signing.key").chmod(0o644)
    found = causes(examine_site(member.path))
    assert "does not have spiffe://trial/coordinator" in found["policy"]
    assert "https_proxy is set" in found["proxy"]
    assert found["signing.key"] == "others may read this key"
    member.policy_path.write_text("nonsense")
    assert "site.toml:1" in causes(examine_site(member.path))["policy"]


@pytest.mark.usefixtures("host", "rows")
def test_a_token_is_used_once(command: Run) -> None:
    command("coordinator", "invite", "coord", "north", "--out", "north.token")
    assert command("site", "join", "ward", "north.token")[0] == 0
    code, _, err = command("site", "join", "thief", "north.token")
    assert code == 2
    assert "this token was used already" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("join", "ward", "nonsense"), "this is no join token"),
        (("join", "ward", "nonsense", "--approval", "sometimes"), "expected one of manual, auto-if-allowed"),
        (("join", "ward", "nonsense", "--data", "absent.csv"), "name the file with this site's rows"),
        (("start", "ward"), "has not joined: --join TOKEN"),
        (("status", "ward"), "run `fedloom site join`"),
        (("inbox", "ward"), "run `fedloom site join`"),
        (("approve", "ward"), "name the run that you approve, or --roster"),
        (("show", "ward", "r1"), "no run 'r1' has asked here"),
        (("refuse", "ward", "r1"), "no run 'r1' has asked here"),
        (("approve", "ward", "r1", "--until", "tomorrow"), "expected a day or a time"),
    ],
)
def test_what_cannot_be_is_refused_with_what_to_do(command: Run, arguments: tuple[str, ...], message: str) -> None:
    code, out, err = command("site", *arguments)
    assert (code, out) == (2, "")
    assert message in " ".join(err.split())


@pytest.mark.parametrize("protection", ["secure-aggregation", "none"])
def test_a_policy_to_begin_with_is_one(protection: str, tmp_path: Path) -> None:
    source = {"name": "csv", "path": "/rows of mine.csv", "partition": {"name": "iid", "clients": 2}}
    text = starter_policy("north", federation="trial", source=source, protection=protection)  # type: ignore[arg-type]
    policy = read_policy_text(text, name="site.toml", base=tmp_path)
    assert policy.approval.mode == "manual"
    assert list(policy.privacy.require) == ([protection] if protection != "none" else [])
    assert isinstance(policy.data["rows"].source, ComponentSpec)
    assert policy.data["rows"].kind == "private"
    rehearsed = starter_policy("north", federation="trial", source=source, kind="synthetic", mode="auto-if-allowed")
    found = read_policy_text(rehearsed, name="site.toml", base=tmp_path)
    assert (found.data["rows"].allow_rehearsal, found.approval.mode) == (True, "auto-if-allowed")


def test_a_source_is_named_by_its_file(tmp_path: Path) -> None:
    (tmp_path / "a.csv").touch()
    (tmp_path / "rows.xls").touch()
    assert source_of(tmp_path / "a.csv") == {"name": "csv", "path": str(tmp_path / "a.csv")}
    assert source_of(tmp_path)["name"] == "folder"
    with pytest.raises(DataError, match=r"a name that ends in \.csv"):
        source_of(tmp_path / "rows.xls")
