"""``fedloom coordinator``, ``submit``, ``logs``, ``stop``: an operator on the coordinator's own host."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from fedloom.cli import root_folder
from fedloom.cli.asking import PASSPHRASE
from fedloom.cli.listening import announce, forget
from fedloom.core.ids import ClientId, RoundNumber, RunId
from fedloom.engines.coordinator_folder import CoordinatorFolder, PendingJoin, note_join
from fedloom.engines.coordinator_host import CoordinatorHost
from fedloom.engines.remote_team import Patience
from fedloom.engines.site_calls import HANDSHAKE
from fedloom.secure.agreement import signing_key
from fedloom.secure.fingerprints import fingerprint
from fedloom.secure.join import read_token
from fedloom.secure.peers import COORDINATOR
from fedloom.store.federation_rows import Contribution, RoundKey

Run = Callable[..., tuple[int, str, str]]
KEY = signing_key(bytes(range(32))).public
SPOKEN = fingerprint(KEY)


@pytest.fixture(autouse=True)
def quick_passphrase(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(root_folder, "COST", 14)
    monkeypatch.setenv(PASSPHRASE, "five words of no poem")


@pytest.fixture
def root(command: Run) -> None:
    assert command("pki", "init", "root", "--federation", "trial")[0] == 0


@pytest.fixture
def folder(root: None, tmp_path: Path, command: Run) -> CoordinatorFolder:
    """A coordinator on the same machine as its root, which lets the system choose ports."""
    del root
    code, _, err = command("coordinator", "init", "coord", "--root", "root", "--port", 0, "--listen", "127.0.0.1")
    assert (code, err) == (0, "")
    return CoordinatorFolder(tmp_path / "coord")


@pytest.fixture
def host(folder: CoordinatorFolder) -> Iterator[CoordinatorHost]:
    """The coordinator, serving in this process; nothing takes its runs on."""
    with CoordinatorHost(folder) as running:
        announce(folder, running.ports)
        yield running
    forget(folder)


def asked(folder: CoordinatorFolder, client: str = "north") -> None:
    """Lay out a request to join, as the entry port does."""
    waiting = PendingJoin(
        role="site", organisation="North Trust", client=client, fingerprint=SPOKEN, key=KEY, asked_at=0.0, address="::1"
    )
    note_join(folder, msgspec.structs.replace(waiting, organisation="north-trust"))


def test_init_on_the_machine_of_the_root_enrols_the_coordinator(folder: CoordinatorFolder) -> None:
    update = folder.roster()
    assert update is not None
    assert [(each.client, each.key) for each in update.roster.members] == [(COORDINATOR, folder.signing_key().public)]
    assert stat.S_IMODE((folder.path / "signing.key").stat().st_mode) == 0o600


@pytest.mark.usefixtures("root")
def test_a_coordinator_elsewhere_is_enrolled_by_hand(tmp_path: Path, command: Run) -> None:
    (tmp_path / "root/for-coordinator").rename(tmp_path / "carried")
    code, out, err = command("coordinator", "init", "coord", "--from", "carried", "--host", "fl.example.org")
    assert (code, err) == (0, "")
    assert "adds coord/member.json to the roster" in out
    (tmp_path / "carried").rename(tmp_path / "root/for-coordinator")
    assert command("pki", "roster", "add", "root", "coord/member.json")[0] == 0
    assert command("pki", "roster", "sign", "root", "--yes")[0] == 0
    code, out, _ = command("coordinator", "install", "coord", "root/roster.json")
    assert code == 0
    assert out.startswith("roster 1, 1 members: ")
    settings = CoordinatorFolder(tmp_path / "coord").settings()
    assert (settings.names, settings.ports.entry) == (("fl.example.org",), 7444)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("init", "new"), "needs one of --from FOLDER"),
        (("init", "coord", "--root", "root"), "is the folder of a coordinator already"),
        (("init", "new", "--from", "nowhere"), "is missing: it comes from the root's folder"),
        (("init", "new", "--root", "root", "--host", "not a name"), "is no DNS name and no address"),
        (("status", "nowhere"), "run `fedloom coordinator init`"),
        (("approve", "coord"), "nobody waits to join"),
        (("approve", "coord", "aaaa"), "nobody with the fingerprint 'aaaa' has asked to join"),
        (("invite", "coord", "north"), "chooses its ports when it starts"),
        (("install", "coord", "root/anchor.json"), "this is no"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_what_cannot_be_is_refused_with_what_to_do(command: Run, arguments: tuple[str, ...], message: str) -> None:
    code, out, err = command("coordinator", *arguments)
    assert (code, out) == (2, "")
    assert message in " ".join(err.split())


def test_nothing_of_another_root_is_installed(folder: CoordinatorFolder, command: Run) -> None:
    before = {path.name: path.read_bytes() for path in folder.path.iterdir() if path.is_file()}
    command("pki", "init", "other", "--federation", "trial")
    command("coordinator", "init", "strange", "--root", "other")
    for file in ("other/roster.json", "other/for-coordinator/intermediate.pem"):
        code, _, err = command("coordinator", "install", "coord", file)
        assert code == 2, file
        assert err.startswith("error: ")
    assert {path.name: path.read_bytes() for path in folder.path.iterdir() if path.is_file()} == before


def test_a_new_intermediate_is_installed(folder: CoordinatorFolder, command: Run) -> None:
    before = folder.intermediate().certificate
    command("pki", "intermediate", "root", "--days", 90)
    code, out, _ = command("coordinator", "install", "coord", "root/for-coordinator/intermediate.pem")
    assert code == 0
    assert out.startswith("intermediate, until ")
    assert folder.intermediate().certificate != before


def test_nobody_is_approved_unasked(folder: CoordinatorFolder, command: Run) -> None:
    asked(folder)
    code, _, err = command("coordinator", "approve", "coord")
    assert code == 2
    assert f"north of north-trust: {SPOKEN}" in " ".join(err.split())
    assert "name the fingerprint that the site's operator reads out" in " ".join(err.split())


def test_approval_hands_the_key_to_the_roots_owner(folder: CoordinatorFolder, tmp_path: Path, command: Run) -> None:
    asked(folder)
    code, out, _ = command("coordinator", "approve", "coord", SPOKEN.upper())
    assert code == 0
    assert "fedloom pki roster add ROOT coord/members/north.json" in out
    assert command("pki", "roster", "add", "root", "coord/members/north.json", "--fingerprint", SPOKEN)[0] == 0
    command("pki", "roster", "sign", "root", "--yes")
    command("coordinator", "install", "coord", "root/roster.json")
    update = folder.roster()
    assert update is not None
    member = update.roster.member(ClientId("north"))
    assert member is not None
    assert (member.organisation, member.key) == ("north-trust", KEY)
    assert (tmp_path / "coord/members/north.json").exists()


def test_approval_beside_the_root_signs_at_once(folder: CoordinatorFolder, command: Run) -> None:
    asked(folder)
    found = json.loads(command("coordinator", "approve", "coord", "--root", "root", "--yes", "--json")[1])
    assert (found["roster"], [each["client"] for each in found["approved"]]) == (2, ["north"])
    update = folder.roster()
    assert update is not None
    assert update.roster.version == 2


@pytest.mark.usefixtures("root")
def test_an_invitation_needs_no_running_coordinator_where_ports_are_set(tmp_path: Path, command: Run) -> None:
    command("coordinator", "init", "coord", "--root", "root", "--port", 9443, "--host", "fl.example.org")
    code, out, _ = command("coordinator", "invite", "coord", "north", "--organisation", "trust", "--out", "north.token")
    assert code == 0
    assert "for north of trust, once, until " in out
    token = tmp_path / "north.token"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    found = read_token(token.read_text())
    assert found.address == "fl.example.org:9444"
    assert found.anchor == CoordinatorFolder(tmp_path / "coord").anchor().short
    code, _, err = command("coordinator", "invite", "coord", "south", "--out", "north.token")
    assert code == 2
    assert "is there already" in err


def test_status_without_a_process(folder: CoordinatorFolder, command: Run) -> None:
    asked(folder)
    code, out, _ = command("coordinator", "status", "coord")
    assert code == 0
    assert "coordinator of trial does not run; roster 1, deny list 0" in out
    assert f"north of north-trust waits to join: {SPOKEN}" in out
    found = json.loads(command("coordinator", "status", "coord", "--json")[1])
    assert (found["running"], found["waiting"][0]["client"]) == (False, "north")


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    "arguments", [("submit", "coord", "run.toml"), ("stop", "coord"), ("resume", "r", "--output", "coord")]
)
def test_what_needs_a_process_says_how_to_start_it(
    command: Run, file: Callable[..., Path], arguments: tuple[str, ...]
) -> None:
    file()
    code, _, err = command(*arguments)
    assert code == 2
    assert "does not run: fedloom coordinator start" in " ".join(err.split())


def test_an_operator_invites_submits_looks_and_stops(
    host: CoordinatorHost, tmp_path: Path, command: Run, file: Callable[..., Path]
) -> None:
    token = json.loads(command("coordinator", "invite", "coord", "north", "--json")[1])["token"]
    assert read_token(token).address == f"localhost:{host.ports.entry}"

    path = file()
    (tmp_path / "rows.csv").unlink()  # a coordinator opens no rows
    made = json.loads(command("submit", "coord", path, "--json")[1])
    assert made.get("state") == "awaiting_approval", made
    code, out, err = command("coordinator", "status", "coord")
    assert (code, err) == (0, "")
    assert f"{made['run']} awaiting approval" in " ".join(out.split())
    assert [each["run_id"] for each in json.loads(command("runs", "list", "--output", "coord", "--json")[1])] == [
        made["run"]
    ]

    assert (
        json.loads(command("stop", "coord", made["run"][:17], "--reason", "wrong file", "--json")[1])["state"]
        == "aborted"
    )
    code, out, _ = command("logs", "coord")
    assert code == 0
    assert "run is awaiting approval" in out
    assert "run is aborted: admin/local: wrong file" in out
    code, _, err = command("stop", "coord", "nothing")
    assert code == 2
    assert "has no run 'nothing'" in err


def test_logs_print_what_there_is_and_end(host: CoordinatorHost, command: Run, file: Callable[..., Path]) -> None:
    made = json.loads(command("submit", "coord", file(), "--json")[1])
    code, out, _ = command("logs", "coord")  # nothing takes the run on: it would be followed for ever
    assert (code, out.splitlines()[-1].split("  ")[1]) == (0, "run is awaiting approval")
    host.store.runs.move(RunId(made["run"]), "failed", reason="it raised")
    for flags in ((), ("--follow",), ("-f",)):
        code, out, _ = command("logs", "coord", made["run"], *flags)
        assert (code, out.splitlines()[-1].split("  ")[1]) == (0, "run is failed: it raised")


def test_a_round_is_told_with_its_loss_and_its_bytes(
    host: CoordinatorHost, command: Run, file: Callable[..., Path]
) -> None:
    run = json.loads(command("submit", "coord", file(), "--json")[1])["run"]
    told = {"run": run, "program": "train", "round": 3, "retry": 0, "status": "closed", "included": 2, "invited": 3,
            "loss": 0.41234, "up": 12_300, "down": 450}  # fmt: skip
    host.store.events.append("record", told)
    host.store.events.append("record", {**told, "round": 4, "loss": None, "status": "skipped", "included": 0})
    host.store.events.append("record", {**told, "round": 5, "status": "retried"})
    lines = [line.split("  ", 1)[1] for line in command("logs", "coord")[1].splitlines()]
    assert lines[-2:] == [
        "round 3 committed: 2 of 3 sites, loss 0.4123, 12.3 kB up, 450 B down",
        "round 4 skipped: 0 of 3 sites, 12.3 kB up, 450 B down",
    ]


def test_a_run_that_failed_in_its_server_step_is_resumed_from_that_round(
    host: CoordinatorHost, command: Run, file: Callable[..., Path]
) -> None:
    run = RunId(json.loads(command("submit", "coord", file(), "--json")[1])["run"])
    key = RoundKey(run, 0, "train", RoundNumber(4), 0)
    host.store.rounds.plan(key, cohort=(ClientId("north"),))
    host.store.runs.move(run, "failed", reason="algorithm error: round 4: it raised (a.py:3)")
    code, _, err = command("resume", run, "--output", "coord")
    assert code != 0
    assert "--from-round 4" in err
    code, _, err = command("resume", run, "--output", "coord", "--from-round", 3)
    assert code != 0
    assert "a finished round is never changed" in " ".join(err.split())
    code, out, err = command("resume", run, "--output", "coord", "--from-round", 4)
    assert (code, out) == (0, f"run {run}: running, resumed from round 4\n"), err


def test_a_run_that_waits_for_its_sites_says_for_whom_and_goes_on(
    host: CoordinatorHost, command: Run, file: Callable[..., Path]
) -> None:
    run = RunId(json.loads(command("submit", "coord", file(), "--json")[1])["run"])
    key = RoundKey(run, 0, "train", RoundNumber(4), 1)
    host.store.rounds.plan(key, cohort=(ClientId("north"), ClientId("south")))
    host.store.rounds.offer(key, 0, {ClientId("north"): (), ClientId("south"): ()})
    host.store.rounds.give_up(key, 0, ClientId("south"), kind="lost", detail="nothing was heard of it")
    blob = host.store.blobs.put(b"update")
    sent = Contribution(**key._asdict(), step=0, site=ClientId("north"), kind="message", blob=blob)
    host.store.rounds.accept(sent)
    host.store.rounds.move(key, "aborted")
    for stage in ("ready", "running", "waiting_for_sites"):
        host.store.runs.move(run, stage, reason="1 of 2 clients sent an update")
    out = command("coordinator", "status", "coord")[1]
    assert f"{run} waiting for sites 0 south" in " ".join(out.split())
    assert f"{run} waits: 1 of 2 clients sent an update" in out
    code, _, err = command("resume", run, "--output", "coord", "--from-round", 4)
    assert code != 0
    assert "it goes on by itself from the round behind its last one" in " ".join(err.split())
    code, out, _ = command("resume", run, "--output", "coord")
    assert (code, out) == (0, f"run {run}: running, resumed by admin/local\n")


def test_a_round_is_named_for_runs_of_a_coordinator_alone(command: Run) -> None:
    code, _, err = command("resume", "last", "--from-round", 2)
    assert code == 2
    assert "received 2; runs is no folder of a coordinator" in " ".join(err.split())


def test_a_suspended_site_is_shown_with_its_failures_and_let_in_again(host: CoordinatorHost, command: Run) -> None:
    host.store.sites.add(ClientId("north"), "north-trust")
    for _ in range(3):
        host.store.sites.count(failed={ClientId("north"): "crashed"}, well=[], most=3)
    out = command("coordinator", "status", "coord")[1]
    assert "north is suspended: its work failed in 3 rounds in a row, in the last one: crashed" in out
    assert "fedloom coordinator readmit coord north" in out
    (site,) = json.loads(command("coordinator", "status", "coord", "--json")[1])["sites"]
    assert (site["state"], site["failures"]) == ("suspended", 3)
    assert command("coordinator", "readmit", "coord", "north")[0] == 0
    assert host.store.sites.suspended(ClientId("north")) is None
    code, _, err = command("coordinator", "readmit", "coord", "south")
    assert code == 2
    assert "no site 'south' has joined" in err


def test_a_run_that_waits_is_listed_with_whom_it_waits_for(
    host: CoordinatorHost, command: Run, file: Callable[..., Path]
) -> None:
    runs = [RunId(json.loads(command("submit", "coord", file(), "--json")[1])["run"]) for _ in range(2)]
    for run, name in zip(runs, ("north", "south"), strict=True):
        key = RoundKey(run, HANDSHAKE, "query", RoundNumber(0), 0)
        host.store.rounds.plan(key, cohort=(ClientId(name),))
        host.store.rounds.offer(key, 0, {ClientId(name): ()})
    lines = [" ".join(line.split()) for line in command("runs", "list", "--output", "coord")[1].splitlines()]
    assert lines[-2:] == [f"{runs[0]} awaiting approval - - north", f"{runs[1]} awaiting approval - - south"]
    found = json.loads(command("runs", "list", "--output", "coord", "--json")[1])
    assert [(each["state"], each["waiting_for"]) for each in found] == [
        ("awaiting_approval", ["north"]), ("awaiting_approval", ["south"]),
    ]  # fmt: skip


@pytest.mark.usefixtures("root")
def test_settings_of_patience_are_written_and_read(tmp_path: Path, command: Run) -> None:
    flags = ("--deadline", 60, "--lost-after", 30, "--approval", 3600, "--suspend-after", 0, "--least", 3)
    assert command("coordinator", "init", "coord", "--root", "root", *flags)[0] == 0
    settings = CoordinatorFolder(tmp_path / "coord").settings()
    assert settings.patience == Patience(deadline_s=60.0, lost_after_s=30.0, approval_s=3600.0)
    assert (settings.least, settings.suspend_after) == (3, None)


def test_the_doctor_looks_at_a_coordinator(folder: CoordinatorFolder, host: CoordinatorHost, command: Run) -> None:
    del host
    found = json.loads(command("doctor", "coord", "--json")[1])
    assert "findings" in found, found
    said = {each["subject"]: (each["level"], each["value"]) for each in found["findings"]}
    assert said["settings"] == ("ok", "coordinator of trial")
    assert said["roster"] == ("ok", "version 1, 0 sites")
    assert said["TLS as 127.0.0.1"] == ("ok", "both sides accept each other, as spiffe://trial/admin/local")
    (folder.path / "signing.key").chmod(0o644)
    (folder.path / "roster.json").unlink()
    code, out, _ = command("doctor", "coord")
    assert code == 1
    assert "problem  signing.key: others may read this key" in out
    assert "problem  roster: none is installed" in out
