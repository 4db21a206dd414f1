"""A coordinator and its sites as they are run: certificates, tokens, rosters, policies, gRPC over loopback."""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import msgspec
import pytest

import fedloom
from fedloom.cli.federated import print_end, see_through
from fedloom.cli.site_adopt import adopt, adopt_coordinator
from fedloom.core.events import GaussianDpEvent
from fedloom.core.ids import ClientId, RoundNumber, RunId
from fedloom.core.roster import Member
from fedloom.core.update import Aggregate
from fedloom.engines import site_judge
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
from fedloom.engines.handshake_round import shake_hands
from fedloom.engines.site_adoption import Remembered, SiteAdoption
from fedloom.engines.site_folder import (
    Joining,
    SiteFolder,
    approve_roster,
    collect_certificate,
    follow_roster,
    join_site,
    pause_site,
    renew,
    unpause_site,
)
from fedloom.engines.site_host import RosterLine, SiteHost
from fedloom.engines.site_inbox import approval_of, approve_run, entry_of, inbox, shown, withdraw_run
from fedloom.errors import (
    AlgorithmError,
    BudgetError,
    ConfigError,
    RunStopped,
    StoreError,
    StoreWentBack,
    TrustError,
    WorkerError,
)
from fedloom.experiment.config import read
from fedloom.experiment.examination import examine
from fedloom.experiment.spec import Experiment
from fedloom.runtime.coordinator import Coordinator
from fedloom.secure.authorities import Root, issue_intermediate, issue_site, new_root
from fedloom.secure.deny_list import denying, nobody_denied
from fedloom.secure.requests import Request
from fedloom.secure.roster import roster
from fedloom.secure.roster_pin import RosterUpdate
from fedloom.secure.tls_keys import tls_key
from fedloom.store.federation_rows import RoundKey
from fedloom.store.ledger import Ledger
from fedloom.store.ledger_books import Holding
from fedloom.store.transitions import RUN, ends
from fedloom.transport import admin, verbs
from fedloom.transport.client import Client
from fedloom.transport.errors import PortBusy, Refused, Unreachable
from fedloom.transport.probe import probe

NAMES = ("east", "north")
AUTOMATIC = "auto-if-allowed"
MEAN = """{ name = "mean", max_weight = 100 }, { name = "clip", norm = 1.0 },
  { name = "fixed_point", most_metric = 10000.0 }"""


@dataclass
class Trial:
    """A federation on this machine: its root, its coordinator, its sites, and whatever of them runs."""

    base: Path
    root: Root
    folder: CoordinatorFolder
    running: ExitStack = field(default_factory=ExitStack)
    members: list[Member] = field(default_factory=list)
    version: int = 0
    threads: list[threading.Thread] = field(default_factory=list)
    problems: list[BaseException] = field(default_factory=list)

    def start(self) -> CoordinatorHost:
        host = CoordinatorHost(self.folder, poll_s=2.0, heartbeat_s=1.0)
        self.running.enter_context(host)
        return host

    def operator(self, host: CoordinatorHost) -> Client:
        files = operator_files(self.folder)
        return self.running.enter_context(Client(f"127.0.0.1:{host.ports.sites}", files, patience_s=5.0))

    def site(self, name: str) -> SiteFolder:
        return SiteFolder(self.base / name)

    def invite(self, host: CoordinatorHost, name: str) -> str:
        asked = admin.InviteSite(request=f"invite-{name}", organisation=f"{name}-clinic", client=name)
        return self.operator(host).invite_site(asked).token

    def sign(self, *members: Member) -> bytes:
        self.version += 1
        self.members = list(members)
        listed = roster("trial", self.version, members).signed(self.root.signing)
        return RosterUpdate(roster=listed).stored()

    def admit(self, name: str) -> None:
        """Do what two operators and the owner of the root do when a site joins."""
        words = next(each for each in pending_joins(self.folder) if each.client == name)
        asked = approve_join(self.folder, words.fingerprint)
        member = Member(client=ClientId(asked.client), organisation=asked.organisation, key=asked.key)
        install_roster(self.folder, self.sign(*self.members, member))

    def join(self, host: CoordinatorHost, name: str) -> Joining:
        assert join_site(self.site(name), self.invite(host, name)).state == "waiting"
        self.admit(name)
        return collect_certificate(self.site(name))

    def work(self, name: str, **options: object) -> SiteHost:
        settings: dict[str, object] = {"examine": examine, "jitter": lambda: 0.01} | options
        site = SiteHost(self.site(name), **settings)  # type: ignore[arg-type]
        self.running.enter_context(site)
        self.background(site.serve)
        return site

    def background(self, work: Callable[[], object]) -> threading.Thread:
        def watched() -> None:
            try:
                work()
            except BaseException as error:  # the test looks at it
                self.problems.append(error)

        thread = threading.Thread(target=watched, daemon=True)
        self.threads.append(thread)
        thread.start()
        return thread

    def end(self) -> None:
        self.running.close()
        for thread in self.threads:
            thread.join(20.0)
        assert not any(thread.is_alive() for thread in self.threads)


def policy(name: str, *, mode: str = AUTOMATIC, more: str = "", min_sites: int = 1) -> str:
    return f"""
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
min_sites_in_aggregate = {min_sites}
metrics = "any"
[approval]
mode = "{mode}"
{more}
"""


def rows(base: Path, names: tuple[str, ...] = NAMES) -> None:
    draw = random.Random(7)
    header, lines = "hospital,age,bp,ill", []
    for name in names:
        for _ in range(24):
            age, bp = draw.random(), draw.random()
            ill = "yes" if age + bp + 0.3 * draw.random() > 1.1 else "no"
            lines.append(f"{name},{age:.3f},{bp:.3f},{ill}")
    (base / "all.csv").write_text("\n".join([header, *lines]) + "\n")
    for name in names:
        mine = [line for line in lines if line.startswith(name)]
        (base / name).mkdir(mode=0o700)
        (base / name / "rows.csv").write_text("\n".join([header, *mine]) + "\n")


PRIVATE = """seed = 1
[data]
name = "csv"
path = "all.csv"
client = "hospital"
label = "ill"
classes = ["no", "yes"]
test = 0.0
[learner]
name = "logistic"
[algorithm]
name = "fedavg"
weighting = "uniform"
[algorithm.local]
steps = 2
learning_rate = 0.5
[algorithm.local.private]
clip = 1.0
noise_multiplier = 4.0
rate = 0.5
rows = 24
[pipeline]
stages = [{ name = "mean", expected = 2 }]
[[stop]]
name = "max_rounds"
rounds = 2
[privacy]
unit = "record"
delta = 1e-3
"""


def private_experiment(base: Path) -> Experiment:
    (base / "private.toml").write_text(PRIVATE)
    return read(base / "private.toml", []).experiment


def experiment(base: Path, *, rounds: int = 2, aggregator: str = "plain_sum") -> Experiment:
    (base / "run.toml").write_text(
        f"""seed = 1
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
local = {{ epochs = 1, batch_size = 8, learning_rate = 0.1 }}
[pipeline]
stages = [{MEAN}]
aggregator = {{ name = "{aggregator}" }}
[[stop]]
name = "max_rounds"
rounds = {rounds}
"""
    )
    return read(base / "run.toml", []).experiment


@pytest.fixture
def trial(tmp_path: Path) -> Iterator[Trial]:
    now = time.time()
    root = new_root("trial", now=now - 30 * 86400)
    folder = CoordinatorFolder(tmp_path / "coordinator")
    init_coordinator(
        folder,
        anchor=root.anchor,
        intermediate=issue_intermediate(root, now=now - 20 * 86400),
        names=("127.0.0.1", "localhost"),
        hosts=("127.0.0.1",),
        ports=Ports(sites=0, entry=0, probe=0, health=0),
        now=now,
    )
    one = Trial(tmp_path, root, folder)
    yield one
    one.end()


@pytest.fixture
def joined(trial: Trial) -> tuple[Trial, CoordinatorHost]:
    """A coordinator that serves, and two members, none of which works yet."""
    return trial, members(trial, NAMES)


def members(trial: Trial, names: tuple[str, ...]) -> CoordinatorHost:
    rows(trial.base, names)
    host = trial.start()
    for name in names:
        assert trial.join(host, name).state == "issued"
        trial.site(name).policy_path.write_text(policy(name))
    for name in names:  # the roster of all, which the first to join has not seen yet
        pin = follow_roster(trial.site(name), trial.folder.roster_path.read_bytes())
        approve_roster(trial.site(name), pin.digest)
    return host


def handed_in(trial: Trial, host: CoordinatorHost, made: Experiment, *, request: str = "r1") -> RunId:
    asked = admin.CreateRun(
        request=request, name="heart", experiment=msgspec.json.encode(made.as_json()), digest=bytes.fromhex(made.digest)
    )
    return RunId(trial.operator(host).create_run(asked).run)


def ended(trial: Trial, host: CoordinatorHost, run: RunId, *, within_s: float = 60.0) -> str:
    until(trial, host, lambda: host.store.runs.run(run).stage in ends(RUN), within_s=within_s)
    return host.store.runs.run(run).stage


def until(trial: Trial, host: CoordinatorHost, happened: Callable[[], bool], *, within_s: float = 30.0) -> bool:
    """Wait for something that the store will show; the desk is woken by each change."""
    limit = time.monotonic() + within_s
    while not happened():
        assert not trial.problems, trial.problems
        assert time.monotonic() < limit, "it did not happen"
        host.desk.wait(host.desk.version, timeout_s=0.05)
    return True


def model_of(host: CoordinatorHost, run: RunId) -> str:
    found = json.loads((host.folder.store / "runs" / run / "record.json").read_text())
    return str(found["summary"]["model_sha256"])


def line_of(trial: Trial, name: str) -> Client:
    return Client(trial.site(name).coordinator().sites, trial.site(name).tls, patience_s=0.0)


Joined = tuple[Trial, CoordinatorHost]


def work_all(trial: Trial, host: CoordinatorHost) -> None:
    trial.background(host.serve)
    for name in NAMES:
        trial.work(name)


@pytest.mark.parametrize(("names", "aggregator"), [(NAMES, "plain_sum"), ((*NAMES, "west"), "secure_sum")])
def test_sites_train_over_the_line_what_a_simulation_trains(
    trial: Trial, names: tuple[str, ...], aggregator: str
) -> None:
    host = members(trial, names)
    made = experiment(trial.base, aggregator=aggregator)
    trial.background(host.serve)
    for name in names:
        trial.work(name)
    run = handed_in(trial, host, made)
    assert ended(trial, host, run) == "completed", host.store.runs.run(run).reason
    assert model_of(host, run) == fedloom.local().run(made, base=trial.base).model_sha256
    found = entry_of(trial.site("east"), run)
    assert found is not None
    assert (found.state, found.rows) in (("approved", 24), ("over", 24))


def test_a_run_waits_for_the_operator_of_a_site_and_goes_on_within_seconds(joined: Joined) -> None:
    trial, host = joined
    north = trial.site("north")
    north.policy_path.write_text(policy("north", mode="manual"))
    work_all(trial, host)
    run = handed_in(trial, host, experiment(trial.base, rounds=1))
    until(trial, host, lambda: [each.state for each in inbox(north)] == ["waiting"])
    assert host.store.runs.run(run).stage == "awaiting_approval"
    entry, manifest, news = shown(north, run)
    assert manifest is not None
    assert (manifest.fingerprint, news) == (entry.manifest, ("no run was approved here before",))
    with pytest.raises(StoreError, match="was shown"):
        approve_run(north, run, digest="00" * 32)
    approve_run(north, run, digest=entry.manifest)
    assert ended(trial, host, run) == "completed"


def test_a_forged_approval_allows_nothing(joined: Joined) -> None:
    trial, host = joined
    north, east = trial.site("north"), trial.site("east")
    north.policy_path.write_text(policy("north", mode="manual"))
    work_all(trial, host)
    run = handed_in(trial, host, experiment(trial.base, rounds=1))
    until(trial, host, lambda: bool(inbox(north)))
    forged = approve_run(north, run)
    path = next(north.inbox.glob("*/approval.json"))
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(forged, max_rounds=9)))
    with pytest.raises(StoreError, match="not signed by this site"):
        approval_of(north, run)
    del east


def test_d13_code_that_the_policy_does_not_name_is_refused_before_it_is_imported(joined: Joined) -> None:
    trial, host = joined
    trial.site("north").policy_path.write_text(policy("north").replace('packages = ["fedloom"]', "packages = []"))
    work_all(trial, host)
    run = handed_in(trial, host, experiment(trial.base))
    assert ended(trial, host, run) == "failed"
    assert "POLICY_COMPONENT" in host.store.runs.run(run).reason
    assert inbox(trial.site("north")) == ()


def test_d14_more_rounds_than_the_policy_allows_are_refused_with_the_limit(joined: Joined) -> None:
    trial, host = joined
    north = trial.site("north")
    north.policy_path.write_text(policy("north", more="[limits]\nmax_rounds = 3"))
    work_all(trial, host)
    run = handed_in(trial, host, experiment(trial.base, rounds=4))
    assert ended(trial, host, run) == "failed"
    assert "POLICY_ROUNDS" in host.store.runs.run(run).reason
    entry = entry_of(north, run)
    assert entry is not None
    assert entry.words[0].startswith("POLICY_ROUNDS: the run asks for 4 rounds; limits.max_rounds = 3")
    with pytest.raises(StoreError, match="does not go beyond the policy"):
        approve_run(north, run)


def test_b5_whether_the_message_of_an_error_leaves_is_the_policy_s_to_say(joined: Joined) -> None:
    trial, _ = joined
    north = trial.site("north")
    with SiteHost(north) as site:
        assert not site.judge.tells_errors()
    north.policy_path.write_text(policy("north").replace('name = "north"', 'name = "north"\nerrors = "full"'))
    with SiteHost(north) as site:
        assert site.judge.tells_errors()


def test_b23_a_policy_that_breaks_a_rule_allows_nothing_and_the_site_does_not_start(joined: Joined) -> None:
    trial, _ = joined
    trial.site("north").policy_path.write_text(policy("north") + '[limit]\nmax_rounds = "many"\n')
    with pytest.raises(ConfigError, match="limit"):
        SiteHost(trial.site("north"))


def test_a_budget_is_given_once(joined: Joined) -> None:
    trial, _ = joined
    north = trial.site("north")

    def with_budget(epsilon: float) -> str:
        return policy("north").replace("[approval]", f"epsilon_total = {epsilon}\ndelta = 1e-3\n[approval]")

    north.policy_path.write_text(with_budget(2.0))
    with SiteHost(north):
        pass
    north.policy_path.write_text(with_budget(9.0))
    with pytest.raises(BudgetError, match="A registration is never changed"):
        SiteHost(north)
    north.policy_path.write_text(with_budget(2.0))
    with SiteHost(north):  # the one that failed has let the store go
        pass


def test_an_examination_that_fails_allows_nothing(joined: Joined) -> None:
    trial, host = joined

    def failing(question: object) -> NoReturn:
        raise WorkerError("the examination of a run took more than 600 s and was ended")

    trial.background(host.serve)
    trial.work("east")
    trial.work("north", examine=failing)
    run = handed_in(trial, host, experiment(trial.base))
    assert ended(trial, host, run) == "failed"
    (entry,) = inbox(trial.site("north"))
    assert (entry.state, entry.words[0].split(":")[0]) == ("refused", "PLAN")


def test_what_was_approved_for_one_round_is_refused_in_the_second(joined: Joined) -> None:
    trial, host = joined
    north = trial.site("north")
    north.policy_path.write_text(policy("north", mode="manual"))
    work_all(trial, host)
    run = handed_in(trial, host, experiment(trial.base, rounds=2))
    until(trial, host, lambda: bool(inbox(north)))
    approve_run(north, run, max_rounds=1)
    ended(trial, host, run)
    refused = [
        sent.detail
        for each in host.store.rounds.rounds(run)
        for sent in host.store.rounds.contributions(each.key)
        if sent.site == "north" and each.program == "train" and each.round == 2
    ]
    assert refused
    assert set(refused) == {"NOT_APPROVED"}


def test_a_run_that_was_withdrawn_is_refused_from_the_next_round_on(joined: Joined) -> None:
    trial, host = joined
    north = trial.site("north")
    seen: list[int] = []

    def withdraw(record: object) -> None:
        if not seen:
            withdraw_run(north, run)
        seen.append(1)

    trial.background(lambda: host.serve(on_round=[withdraw]))
    for name in NAMES:
        trial.work(name)
    run = handed_in(trial, host, experiment(trial.base, rounds=2))
    ended(trial, host, run)
    details = {
        sent.detail
        for each in host.store.rounds.rounds(run)
        for sent in host.store.rounds.contributions(each.key)
        if sent.site == "north" and sent.kind == "refused"
    }
    assert details == {"NOT_APPROVED"}


def test_a_paused_site_begins_nothing_and_goes_on_when_it_is_not(joined: Joined) -> None:
    trial, host = joined
    pause_site(trial.site("north"))
    work_all(trial, host)
    run = handed_in(trial, host, experiment(trial.base, rounds=1))
    until(trial, host, lambda: any(task.stage == "claimed" for task in host.store.rounds.tasks(ClientId("north"))))
    assert inbox(trial.site("north")) == ()
    unpause_site(trial.site("north"))
    assert ended(trial, host, run) == "completed"


@pytest.mark.parametrize("composition", ["basic", "rdp"])
def test_d15_a_site_sets_the_worst_case_aside_and_charges_each_release(joined: Joined, composition: str) -> None:
    trial, host = joined
    budget = "epsilon_total = 5.0\ndelta = 1.5e-3"
    for name in NAMES:
        text = policy(name).replace("min_rows = 5", f'min_rows = 5\ncomposition = "{composition}"')
        trial.site(name).policy_path.write_text(text.replace("[approval]", f"{budget}\n[approval]"))
    work_all(trial, host)
    made = private_experiment(trial.base)
    first = handed_in(trial, host, made)
    assert ended(trial, host, first) == "completed", host.store.runs.run(first).reason
    entry = entry_of(trial.site("north"), first)
    assert entry is not None
    assert entry.promise is not None
    with Ledger.read(trial.site("north").store / "ledger.sqlite") as ledger:
        (held,) = ledger.holdings()
        balance = ledger.balance("cohort")
    assert (held.run, held.releases, held.most) == (first, 2, 2)
    assert held.reserved.epsilon == entry.promise.epsilon
    if composition == "basic":  # deltas add up: the second run does not fit
        assert balance.promised.delta == 1e-3
        second = handed_in(trial, host, made, request="r2")
        assert ended(trial, host, second) == "failed"
        assert "POLICY_EPSILON" in host.store.runs.run(second).reason


@pytest.mark.parametrize(("more", "stage"), [("# nothing new", "completed"), ("[limits]\nmax_rounds = 1", "refused")])
def test_a_run_is_judged_anew_when_its_site_begins_with_another_policy(joined: Joined, more: str, stage: str) -> None:
    trial, host = joined
    operator = trial.operator(host)

    def pause(record: object) -> None:
        operator.pause(admin.Pause(request="p", run=run))

    serving = trial.background(lambda: host.serve(on_round=[pause]))
    sites = {name: trial.work(name) for name in NAMES}
    run = handed_in(trial, host, experiment(trial.base, rounds=2))
    until(trial, host, lambda: host.store.runs.run(run).stage == "paused" and host.federation.current is None)
    assert serving.is_alive()
    sites["north"].__exit__(None, None, None)
    north = trial.site("north")
    north.policy_path.write_text(policy("north", more=more))
    trial.work("north")
    operator.resume(admin.Resume(request="q", run=run))
    rounds = host.store.rounds
    if stage == "completed":  # paused after each round, and resumed
        until(trial, host, lambda: sum(each.stage == "committed" for each in rounds.rounds(run)) >= 3)
        return
    until(
        trial,
        host,
        lambda: any(
            sent.site == "north" and sent.detail == "POLICY_ROUNDS"
            for each in rounds.rounds(run)
            for sent in rounds.contributions(each.key)
        ),
    )


def test_d10_what_is_no_experiment_is_refused_and_the_site_goes_on(joined: Joined) -> None:
    trial, host = joined
    for name in NAMES:
        trial.work(name)
    made = experiment(trial.base, rounds=1)
    for number, sent in enumerate((b"not json", b"[]", b'{"learner": 3}', b"[" * 5000)):
        asked = host.store.runs.create(
            RunId(f"x{number}"), "x", experiment=sent, digest=made.digest, request="", priority=0, at=0.0
        )
        with pytest.raises(RunStopped, match="site north: PlanError"):
            shake_hands(host.store, host.desk, asked, made, host.sites(), least=2)
    for number in range(4):
        host.store.runs.move(RunId(f"x{number}"), "aborted")
    trial.background(host.serve)
    assert ended(trial, host, handed_in(trial, host, made)) == "completed"


@pytest.mark.slow
def test_a_run_is_examined_in_a_process_of_its_own(joined: Joined) -> None:
    trial, host = joined
    trial.background(host.serve)
    for name in NAMES:
        trial.work(name, examine=None)
    run = handed_in(trial, host, experiment(trial.base, rounds=1))
    assert ended(trial, host, run) == "completed"


# Joining -------------------------------------------------------------------------------------------------------------


def test_nothing_is_issued_before_both_operators_and_the_root_have_said_yes(trial: Trial) -> None:
    host = trial.start()
    north = trial.site("north")
    said = join_site(north, trial.invite(host, "north"))
    (waiting,) = pending_joins(trial.folder)
    assert (said.state, said.fingerprint, waiting.client) == ("waiting", waiting.fingerprint, "north")
    member = Member(client=ClientId("north"), organisation=waiting.organisation, key=waiting.key)
    install_roster(trial.folder, trial.sign(member))
    assert collect_certificate(north).state == "waiting"  # the roster has it, and nobody has compared
    approve_join(trial.folder, waiting.fingerprint.upper().replace(" ", "-"))
    install_roster(trial.folder, trial.sign())
    assert collect_certificate(north).state == "waiting"  # compared, and not in the roster
    install_roster(trial.folder, trial.sign(member))
    found = collect_certificate(north)
    assert found.peer is not None
    assert found.peer.uri == "spiffe://trial/north-clinic/north"
    assert pending_joins(trial.folder) == ()
    assert north.coordinator().sites == f"127.0.0.1:{host.ports.sites}"
    assert north.pin().approved == ()


def test_a_key_other_than_the_rosters_gets_no_certificate(trial: Trial) -> None:
    host = trial.start()
    join_site(trial.site("north"), trial.invite(host, "north"))
    (waiting,) = pending_joins(trial.folder)
    approve_join(trial.folder, waiting.fingerprint)
    other = Member(client=ClientId("north"), organisation=waiting.organisation, key=bytes(32))
    install_roster(trial.folder, trial.sign(other))
    with pytest.raises(Refused, match="another key"):
        collect_certificate(trial.site("north"))


def test_d9_a_token_is_for_one_site_once(trial: Trial) -> None:
    host = trial.start()
    token = trial.invite(host, "north")
    assert join_site(trial.site("north"), token).state == "waiting"
    assert join_site(trial.site("north"), token).state == "waiting"  # the same request again
    with pytest.raises(Refused, match="used already"):
        join_site(trial.site("thief"), token)
    with pytest.raises(TrustError, match="mistyped"):
        join_site(trial.site("other"), token[:-1] + ("a" if token[-1] != "a" else "b"))
    stored = b"".join(path.read_bytes() for path in trial.folder.store.rglob("*") if path.is_file())
    from fedloom.secure.join import read_token

    assert read_token(token).secret not in stored
    assert read_token(token).secret.hex().encode() not in stored


def test_another_federation_at_the_address_of_the_token_is_not_believed(trial: Trial, tmp_path: Path) -> None:
    from fedloom.secure.join import read_token

    host = trial.start()
    token = read_token(trial.invite(host, "north"))
    foreign = type(token)(secret=token.secret, anchor=bytes(20), address=token.address)
    with pytest.raises(TrustError, match="Somebody else answers"):
        join_site(trial.site("north"), foreign.text)
    assert not trial.site("north").path.exists()


def test_keys_and_store_are_for_their_owner_alone(joined: Joined) -> None:
    trial, _ = joined
    trial.work("north")
    for folder in (trial.folder.path, trial.site("north").path):
        open_to_others = [
            path.relative_to(folder)
            for path in folder.rglob("*")
            if path.stat().st_mode & 0o077 and (path.is_dir() or path.suffix in (".key", ".pem", ".json"))
        ]
        keys = [path for path in folder.rglob("*.key") if path.stat().st_mode & 0o777 != 0o600]
        assert keys == []
        assert folder.stat().st_mode & 0o077 == 0
        assert [path for path in open_to_others if path.parts[0] not in ("store", "rows.csv")] == []


# Who may speak -------------------------------------------------------------------------------------------------------


def test_d5_a_denied_site_is_out_at_the_next_call_and_gets_no_certificate(joined: Joined) -> None:
    trial, host = joined
    with line_of(trial, "north") as line:
        assert line.health().ready
        banned = denying(nobody_denied("trial"), clients=[ClientId("north")]).signed(trial.root.signing)
        trial.operator(host).revoke(admin.Revoke(request="x", client="north", reason="left", document=banned.stored()))
        with pytest.raises(Refused, match=r"deny list of trial .version 1"):
            line.health()
    with pytest.raises(Refused, match="deny list"):
        renew(trial.site("north"))
    assert host.sites() == (ClientId("east"),)
    result = probe(trial.site("north").coordinator().probe, trial.site("north").tls)
    assert (result.part, result.reason) == ("site", "denied")


@pytest.mark.parametrize("how", ["suspended", "denied"])
def test_d5_a_round_does_not_wait_for_a_site_that_is_shut_out(how: str, joined: Joined) -> None:
    trial, host = joined
    banned = denying(nobody_denied("trial"), clients=[ClientId("north")]).signed(trial.root.signing).stored()

    def shut_out(record: object) -> None:
        if how == "denied":
            install_deny_list(trial.folder, banned)
        else:
            trial.operator(host).revoke(admin.Revoke(request="x", client="north", reason="its disk is full"))

    trial.background(lambda: host.serve(on_round=[shut_out]))
    sites = [trial.work(name) for name in NAMES]
    run = handed_in(trial, host, experiment(trial.base, rounds=2))
    assert ended(trial, host, run) == "completed_with_warnings"
    (second,) = (each for each in host.store.rounds.rounds(run) if (each.program, each.round) == ("train", 2))
    lost = [(sent.site, sent.detail) for sent in host.store.rounds.contributions(second.key) if sent.kind == "lost"]
    why = {"suspended": "the site is suspended: its disk is full"}
    assert lost == [("north", why.get(how, "the site is denied, or not in the roster any more"))]
    trial.problems.clear()  # who is denied ends
    assert len(sites) == 2


def test_a_deny_list_that_takes_a_name_off_is_not_installed(trial: Trial) -> None:
    one = denying(nobody_denied("trial"), clients=[ClientId("north")])
    install_deny_list(trial.folder, one.signed(trial.root.signing).stored())
    with pytest.raises(TrustError, match=r"two deny lists|leaves out"):
        install_deny_list(
            trial.folder,
            denying(nobody_denied("trial"), clients=[ClientId("east")]).signed(trial.root.signing).stored(),
        )
    with pytest.raises(TrustError, match="not signed"):
        install_deny_list(trial.folder, denying(one, clients=[ClientId("east")]).stored())
    assert trial.folder.deny_list().denies_client(ClientId("north"))


def test_a_suspended_site_is_out_without_the_root(joined: Joined) -> None:
    trial, host = joined
    site = trial.work("north")
    until(trial, host, lambda: any(each.session for each in host.store.sites.all()))
    trial.operator(host).revoke(admin.Revoke(request="x", client="north", reason="its disk is full"))
    with line_of(trial, "north") as line, pytest.raises(Refused, match="suspended: its disk is full"):
        line.health()
    (found,) = [each for each in trial.operator(host).list_sites(admin.ListSites()).sites if each.client == "north"]
    assert (found.state, found.reason) == ("suspended", "its disk is full")
    assert ClientId("north") not in host.sites()
    trial.operator(host).readmit(admin.Readmit(request="y", client="north"))
    assert ClientId("north") in host.sites()
    with line_of(trial, "north") as line:
        assert line.health().ready
    told = [(each.kind, each.detail) for each in host.store.events.since(0)][-1]
    assert told == ("readmitted", {"client": "north", "by": "admin/local"})
    site.stop()


def test_only_who_has_come_and_is_not_denied_is_let_in_again(joined: Joined) -> None:
    trial, host = joined
    with pytest.raises(Refused, match="no site 'south' has joined"):
        trial.operator(host).readmit(admin.Readmit(request="y", client="south"))
    banned = denying(nobody_denied("trial"), clients=[ClientId("north")]).signed(trial.root.signing)
    trial.operator(host).revoke(admin.Revoke(request="x", client="north", reason="left", document=banned.stored()))
    with pytest.raises(Refused, match="whoever is on it stays out for good"):
        trial.operator(host).readmit(admin.Readmit(request="y", client="north"))


def test_contents_that_nothing_refers_to_go_after_a_day(joined: Joined) -> None:
    trial, host = joined
    key = RoundKey(RunId("r"), 0, "train", RoundNumber(1), 0)
    asked, old, young = (host.store.blobs.put(each) for each in (b"asked", b"old", b"young"))
    host.store.rounds.plan(key, cohort=(ClientId("north"),))
    host.store.rounds.offer(key, 0, {ClientId("north"): (asked,)})
    for digest in (asked, old):
        path = host.store.blobs.folder / digest[:2] / digest[2:]
        os.utime(path, (time.time() - 90_000,) * 2)
    host.__exit__(None, None, None)
    again = trial.start()
    assert [again.store.blobs.has(each) for each in (asked, old, young)] == [True, False, True]


def test_a_run_goes_on_after_its_contents_were_tidied_in_every_round(joined: Joined) -> None:
    trial, host = joined
    made = experiment(trial.base, rounds=3)

    def tidy(record: object) -> None:
        for path in host.store.blobs.folder.glob("[0-9a-f][0-9a-f]/*"):
            os.utime(path, (time.time() - 90_000,) * 2)
        before = len(list(host.store.blobs.digests()))
        host._let_go()
        left.append((before, len(list(host.store.blobs.digests()))))

    left: list[tuple[int, int]] = []
    trial.background(lambda: host.serve(on_round=[tidy]))
    for name in NAMES:
        trial.work(name)
    run = handed_in(trial, host, made)
    assert ended(trial, host, run) == "completed"
    assert model_of(host, run) == fedloom.local().run(made, base=trial.base).model_sha256
    assert all(after == 0 < before for before, after in left), "between rounds nothing is needed"


def test_d7_a_certificate_without_a_place_in_the_roster_is_nobody(joined: Joined) -> None:
    trial, host = joined
    east = next(each for each in trial.members if each.client == "east")
    install_roster(trial.folder, trial.sign(east))
    with (
        line_of(trial, "north") as line,
        pytest.raises(Refused, match=r"roster in force .version 3. does not have north"),
    ):
        line.health()
    assert host.sites() == (ClientId("east"),)


def test_a_roster_that_is_older_or_not_the_roots_is_not_installed(trial: Trial) -> None:
    first, second = trial.sign(), trial.sign()
    install_roster(trial.folder, second)
    with pytest.raises(TrustError, match="has version 2; received version 1"):
        install_roster(trial.folder, first)
    stranger = new_root("trial", now=time.time())
    forged = RosterUpdate(roster=roster("trial", 3, []).signed(stranger.signing)).stored()
    with pytest.raises(TrustError, match="not signed by this federation"):
        install_roster(trial.folder, forged)


def test_a_running_site_follows_a_new_roster_and_waits_for_its_operator(joined: Joined) -> None:
    trial, host = joined
    trial.work("north")
    until(trial, host, lambda: trial.site("north").pin().newest.roster.version == 2)
    west = Member(client=ClientId("west"), organisation="west-clinic", key=bytes(range(32)))
    install_roster(trial.folder, trial.sign(*trial.members, west))
    host.desk.wake()
    until(trial, host, lambda: trial.site("north").pin().newest.roster.version == 3)
    pin = trial.site("north").pin()
    assert pin.member(ClientId("west")) is None
    assert [str(each).split(":")[0] for each in pin.pending] == ["west-clinic"]


def expire(trial: Trial, name: str) -> None:
    """Put a certificate in place that ended half a day ago."""
    files = trial.site(name).tls
    issued = issue_site(
        trial.folder.intermediate(),
        Request(public=tls_key(files.key.read_bytes()).public, signing=b"", digest=b""),
        organisation=f"{name}-clinic",
        client=name,
        now=time.time() - 7.5 * 86400,
    )
    files.chain.write_bytes(issued.chain)


def test_an_expired_certificate_is_renewed_over_the_entry_port(joined: Joined) -> None:
    trial, _ = joined
    north, now = trial.site("north"), time.time()
    expire(trial, "north")
    with pytest.raises(TrustError, match="expired"):
        north.peer(now)
    with SiteHost(north) as site:  # renews when it starts
        assert north.peer(now).not_after > now + 6 * 86400
        assert site.faults() == ()


# The operators -------------------------------------------------------------------------------------------------------


def test_an_experiment_that_cannot_be_planned_is_refused_when_it_is_handed_in(joined: Joined) -> None:
    trial, host = joined
    made = experiment(trial.base)
    tree = made.as_json()
    tree["learner"] = {"group": "fedloom.learners", "name": "no_such", "arguments": {}}
    asked = admin.CreateRun(request="a", name="x", experiment=msgspec.json.encode(tree), digest=bytes(32))
    with pytest.raises(Refused, match="no_such"):
        trial.operator(host).create_run(asked)
    with pytest.raises(Refused, match="has the digest"):
        trial.operator(host).create_run(msgspec.structs.replace(asked, experiment=msgspec.json.encode(made.as_json())))
    assert host.store.runs.all() == ()


def test_the_same_request_twice_makes_one_run(joined: Joined) -> None:
    trial, host = joined
    made = experiment(trial.base)
    assert handed_in(trial, host, made) == handed_in(trial, host, made)
    assert len(trial.operator(host).list_runs(admin.ListRuns()).runs) == 1


def test_a_run_is_paused_between_rounds_and_goes_on(joined: Joined) -> None:
    trial, host = joined
    operator = trial.operator(host)
    seen: list[int] = []

    def pause(record: object) -> None:
        seen.append(1)
        if len(seen) == 1:
            operator.pause(admin.Pause(request="p", run=run))

    trial.background(lambda: host.serve(on_round=[pause]))
    for name in NAMES:
        trial.work(name)
    made = experiment(trial.base, rounds=3)
    run = handed_in(trial, host, made)
    until(trial, host, lambda: host.store.runs.run(run).stage == "paused")
    until(trial, host, lambda: host.federation.current is None)
    assert len(seen) < 3
    operator.resume(admin.Resume(request="q", run=run))
    assert ended(trial, host, run) == "completed"
    events = list(operator.watch_run(admin.WatchRun(run=run)))
    stages = [msgspec.json.decode(each.data).get("stage") for each in events if each.kind == "run"]
    assert stages == ["draft", "awaiting_approval", "ready", "running", "paused", "running", "completed"]
    assert model_of(host, run) == fedloom.local().run(made, base=trial.base).model_sha256


def test_an_aborted_run_leaves_the_engine_free_for_the_next(joined: Joined) -> None:
    trial, host = joined
    trial.background(host.serve)
    stuck = handed_in(trial, host, experiment(trial.base))  # nobody works: it waits
    until(trial, host, lambda: host.store.rounds.open_round(stuck) is not None)
    at = trial.operator(host).abort(admin.Abort(request="a", run=stuck, reason="a mistake"))
    assert at.state == "aborted"
    for name in NAMES:
        trial.work(name)
    run = handed_in(trial, host, experiment(trial.base, rounds=1), request="r2")
    assert ended(trial, host, run) == "completed"
    assert host.store.runs.run(stuck).stage == "aborted"
    record = json.loads((trial.folder.store / "runs" / stuck / "record.json").read_text())
    assert record["summary"]["reason"] == "aborted: admin/local: a mistake"


def test_an_aborted_run_that_trains_leaves_its_round_to_no_site(joined: Joined) -> None:
    trial, host = joined
    operator = trial.operator(host)
    runs: list[RunId] = []

    def abort(record: object) -> None:
        if host.federation.current == runs[0]:
            operator.abort(admin.Abort(request="a", run=runs[0], reason="a mistake"))

    trial.background(lambda: host.serve(on_round=[abort]))
    runs.append(handed_in(trial, host, experiment(trial.base, rounds=50)))
    work = [trial.work(name) for name in NAMES]
    until(trial, host, lambda: host.store.runs.run(runs[0]).stage == "aborted")
    until(trial, host, lambda: host.store.rounds.open_round(runs[0]) is None)
    runs.append(handed_in(trial, host, experiment(trial.base, rounds=1), request="r2"))
    assert ended(trial, host, runs[1]) == "completed"
    assert len(work) == 2
    assert all(host.store.rounds.tasks(ClientId(name)) == () for name in NAMES)


def test_a14_an_operator_resumes_a_run_whose_server_step_was_mended(
    joined: Joined, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trial, host = joined
    operator, made = trial.operator(host), experiment(trial.base, rounds=3)
    monkeypatch.setattr(Coordinator, "_step", broken(Coordinator._step))
    run, follower = handed_in(trial, host, made), trial.operator(host)
    following = trial.background(lambda: see_through(follower, run, out=True))
    work_all(trial, host)
    assert ended(trial, host, run) == "failed"
    following.join(20.0)
    assert not following.is_alive()
    (at,) = operator.list_runs(admin.ListRuns()).runs
    assert (at.state, at.round, at.reason) == ("failed", 2, "algorithm error: round 2: it raised (steps.py:7)")
    with pytest.raises(RunStopped) as stopped:
        print_end(trial.folder.store / "runs" / run, at, json=False)
    said = capsys.readouterr().err + str(stopped.value)
    assert "round 1 committed: 2 of 2 sites" in said
    assert said.count("steps.py:7") == 1, "it is shown once"
    until(trial, host, lambda: host.federation.current is None)

    def resume(from_round: int | None) -> admin.RunAt:
        return operator.resume(admin.Resume(request="r", run=run, from_round=from_round))

    with pytest.raises(Refused, match=r"failed in round 2.*steps\.py:7"):
        resume(None)
    with pytest.raises(Refused, match=r"failed in round 2; received --from-round 1: a finished round is never changed"):
        resume(1)
    monkeypatch.undo()
    assert resume(2).state == "running"
    assert ended(trial, host, run) == "completed"
    assert model_of(host, run) == fedloom.local().run(made, base=trial.base).model_sha256
    assert resume(2).state == "completed", "asked twice, it is done once"


def broken(step: Callable[..., object]) -> Callable[..., object]:
    """Return a server step that raises in round 2."""

    def raising(coordinator: object, aggregate: Aggregate) -> object:
        if aggregate.round == 2:
            raise AlgorithmError("round 2: it raised (steps.py:7)")
        return step(coordinator, aggregate)

    return raising


def test_a_site_may_not_ask_what_operators_ask(joined: Joined) -> None:
    trial, _ = joined
    with line_of(trial, "north") as line, pytest.raises(Refused, match="is for admins"):
        line.list_runs(admin.ListRuns())


# The process ---------------------------------------------------------------------------------------------------------


def test_a6_what_was_drained_goes_on_at_the_next_start(joined: Joined) -> None:
    trial, host = joined
    made = experiment(trial.base, rounds=3)
    seen: list[int] = []

    def halt(record: object) -> None:
        seen.append(1)
        host.stop()

    serving = trial.background(lambda: host.serve(on_round=[halt]))
    for name in NAMES:
        trial.work(name)
    run = handed_in(trial, host, made)
    serving.join(30.0)
    assert not serving.is_alive()
    assert len(seen) == 1
    for name in NAMES:  # the ports of a test are another host's after a restart
        assert trial.site(name).coordinator().sites.endswith(str(host.ports.sites))
    on_one_port(trial, host)
    host.__exit__(None, None, None)
    again = trial.start()
    trial.background(again.serve)
    assert ended(trial, again, run) == "completed"
    assert model_of(again, run) == fedloom.local().run(made, base=trial.base).model_sha256


def on_one_port(trial: Trial, host: CoordinatorHost) -> None:
    """Let the next coordinator listen where this one did."""
    path = trial.folder.path / "coordinator.toml"
    path.write_text(path.read_text().replace("sites = 0", f"sites = {host.ports.sites}"))


def test_a20_a_site_stops_when_its_coordinator_is_not_the_one_it_knows(joined: Joined) -> None:
    trial, host = joined
    trial.work("north")
    until(trial, host, lambda: any(each.session for each in host.store.sites.all()))
    on_one_port(trial, host)
    host.__exit__(None, None, None)
    trial.folder.store.rename(trial.base / "lost")  # and an empty one is made in its place
    trial.start()
    trial.threads[0].join(20.0)
    assert [type(each) for each in trial.problems] == [StoreWentBack]
    assert "another than" in str(trial.problems[0])


def test_d1_an_expired_certificate_is_told_though_nobody_answers(
    joined: Joined, caplog: pytest.LogCaptureFixture
) -> None:
    trial, host = joined
    expire(trial, "north")
    host.__exit__(None, None, None)
    with caplog.at_level(logging.WARNING), SiteHost(trial.site("north")) as site:
        (fault,) = site.faults()
    assert "run `fedloom site renew`" in fault
    said = [each.getMessage().split()[0] for each in caplog.records if "site_host" in each.name]
    assert said[:2] == ["event=expired", "event=not_renewed"]


_PROCESS = """
import sys
from fedloom.engines.{module} import {kind}
with {kind}(__import__("pathlib").Path(sys.argv[1])) as host:
    sys.exit(host.run(ready=lambda: print("serving", flush=True)))
"""


@pytest.mark.parametrize(
    ("module", "kind", "folder"),
    [("coordinator_host", "CoordinatorHost", "coordinator"), ("site_host", "SiteHost", "north")],
)
def test_a6_a_process_ends_well_at_the_first_signal(joined: Joined, module: str, kind: str, folder: str) -> None:
    trial, host = joined
    if folder == "coordinator":
        host.__exit__(None, None, None)
    process = subprocess.Popen(
        [sys.executable, "-c", _PROCESS.format(module=module, kind=kind), str(trial.base / folder)],
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "serving\n"
        if folder == "north":  # it waits for work
            until(trial, host, lambda: any(each.session for each in host.store.sites.all()))
        process.send_signal(signal.SIGTERM)
        assert process.wait(20.0) == 0
    if folder == "north":
        assert until(trial, host, lambda: all(each.session is None for each in host.store.sites.all()))


def test_a12_a_store_has_one_coordinator(trial: Trial) -> None:
    trial.start()
    with pytest.raises(StoreError, match=r"owned|another process|in use"):
        CoordinatorHost(trial.folder)


def test_a13_a_port_has_one_listener(trial: Trial, tmp_path: Path) -> None:
    host = trial.start()
    second = CoordinatorFolder(tmp_path / "second")
    for field_name, port in (("sites", host.ports.sites), ("entry", host.ports.entry), ("health", host.ports.health)):
        folder = CoordinatorFolder(tmp_path / f"second-{field_name}")
        init_coordinator(
            folder,
            anchor=trial.root.anchor,
            intermediate=trial.folder.intermediate(),
            names=("127.0.0.1",),
            hosts=("127.0.0.1",),
            ports=Ports(**{"sites": 0, "entry": 0, "probe": 0, "health": 0, field_name: port}),
            now=time.time(),
        )
        with pytest.raises(PortBusy, match="choose another port"):
            CoordinatorHost(folder)
    del second


def test_a_coordinator_is_not_made_twice_nor_of_two_federations(trial: Trial, tmp_path: Path) -> None:
    other = new_root("other", now=time.time())
    now, names = time.time(), ("localhost",)
    with pytest.raises(StoreError, match="already"):
        init_coordinator(
            trial.folder, anchor=trial.root.anchor, intermediate=trial.folder.intermediate(), names=names, now=now
        )
    with pytest.raises(TrustError, match="both come from one root"):
        init_coordinator(
            CoordinatorFolder(tmp_path / "x"),
            anchor=trial.root.anchor,
            intermediate=issue_intermediate(other, now=time.time()),
            names=names,
            now=now,
        )
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ('colour = "red"\n', "colour: unknown key"),
        ("least = 0\n", "expected 1 or more"),
        ("names = []\n", "at least one entry"),
        ("least = \n", "no TOML"),
        ('hosts = "all"\n', "hosts"),
    ],
)
def test_settings_that_break_a_rule_are_told(trial: Trial, change: str, words: str) -> None:
    path = trial.folder.path / "coordinator.toml"
    key = change.partition(" ")[0]
    kept = [line for line in path.read_text().splitlines() if not line.startswith(f"{key} ")]
    path.write_text(change + "\n".join(kept))
    with pytest.raises(ConfigError, match=words):
        CoordinatorHost(trial.folder)


def test_health_tells_whether_it_can_work_and_its_figures(joined: Joined) -> None:
    trial, host = joined
    place = f"http://127.0.0.1:{host.ports.health}"

    def get(path: str) -> str:
        with urllib.request.urlopen(place + path, timeout=5.0) as answer:
            return str(answer.read().decode())

    assert get("/healthz") == "alive\n"
    assert get("/readyz") == "ready\n"
    figures = get("/metrics")
    assert "\nfedloom_sites 2\n" in figures
    days = float(figures.split("\nfedloom_certificate_days_left ")[1].split("\n")[0])
    assert 6.9 < days <= 7.0
    host.desk.halt("for a test")
    with pytest.raises(urllib.error.HTTPError) as refused:
        get("/readyz")
    assert (refused.value.code, refused.value.read()) == (503, b"it opens nothing more: for a test\n")
    host.desk.resume()
    trial.site("north").policy_path.write_text(policy("north"))


# Stores that were put back -------------------------------------------------------------------------------------------


@pytest.fixture
def examined_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Examine runs in this process: importing everything once more takes seconds."""
    monkeypatch.setattr(site_judge, "examine_elsewhere", lambda question, **_: examine(question))


def with_budgets(trial: Trial, *, composition: str = "basic", epsilon: float = 50.0) -> None:
    for name in NAMES:
        text = policy(name).replace("min_rows = 5", f'min_rows = 5\ncomposition = "{composition}"')
        budget = f"epsilon_total = {epsilon}\ndelta = 5e-3\n"
        trial.site(name).policy_path.write_text(text.replace("[approval]", f"{budget}[approval]"))


def holdings(trial: Trial, name: str = "north") -> tuple[Holding, ...]:
    with Ledger.read(trial.site(name).store / "ledger.sqlite") as ledger:
        return ledger.holdings()


def backup(trial: Trial, what: str) -> Callable[[], None]:
    """Copy something of the site north; return what puts it back."""
    found = {
        "ledger": [*trial.site("north").store.glob("ledger.sqlite*")],
        "ledger without head": [*trial.site("north").store.glob("ledger.sqlite")],
        "store": [trial.site("north").store],
        "folder": [trial.site("north").store, trial.site("north").inbox],
    }[what]
    kept = trial.base / "backup"
    kept.mkdir()
    for path in found:
        (shutil.copytree if path.is_dir() else shutil.copy2)(path, kept / path.name)

    def put_back() -> None:
        for path in found:
            if path.is_dir():
                shutil.rmtree(path)
                shutil.copytree(kept / path.name, path)
            else:
                shutil.copy2(kept / path.name, path)

    return put_back


def trained_once(trial: Trial, host: CoordinatorHost) -> tuple[RunId, SiteHost]:
    """Let both sites take a private run of two rounds to its end."""
    trial.background(host.serve)
    trial.work("east")
    north = trial.work("north")
    run = handed_in(trial, host, private_experiment(trial.base))
    assert ended(trial, host, run) == "completed", host.store.runs.run(run).reason
    return run, north


def refused(trial: Trial, *, code: str) -> None:
    """Start the site north, and see it refused."""
    site = trial.work("north")
    trial.threads[-1].join(20.0)
    site.__exit__(None, None, None)
    (problem,) = trial.problems
    assert isinstance(problem, Refused)
    assert problem.refusal.code == code
    assert "fedloom site adopt" in problem.refusal.remedy
    trial.problems.clear()


@pytest.mark.usefixtures("examined_here")
@pytest.mark.parametrize("what", ["ledger", "store", "folder"])
def test_b25_what_a_restored_store_forgot_is_charged_and_the_site_takes_part_again(
    joined: Joined, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    trial, host = joined
    with_budgets(trial)
    with SiteHost(trial.site("north")):
        pass
    put_back = backup(trial, what)
    run, site = trained_once(trial, host)
    site.__exit__(None, None, None)
    undisturbed = holdings(trial)
    assert [(each.run, each.releases) for each in undisturbed] == [(run, 2)]
    put_back()
    assert holdings(trial) == ()
    refused(trial, code="LOST_STATE")
    adopt(trial.site("north").path, yes=True, json=False)
    said = capsys.readouterr().out
    assert f'run {run}, data."cohort": 2 rounds are remembered, 2 of them are not in the ledger here' in said
    assert "overspent" not in said
    found = [(each.run, each.data_set, each.reserved, each.releases, each.most) for each in holdings(trial)]
    assert found == [(each.run, each.data_set, each.reserved, each.releases, each.most) for each in undisturbed]
    trial.work("north")
    again = handed_in(trial, host, private_experiment(trial.base), request="r2")
    assert ended(trial, host, again) == "completed", host.store.runs.run(again).reason
    assert [each.releases for each in holdings(trial)] == [2, 2]


@pytest.mark.usefixtures("examined_here")
def test_b25_an_adoption_that_was_cut_short_is_run_again_and_charges_once(
    joined: Joined, capsys: pytest.CaptureFixture[str]
) -> None:
    trial, host = joined
    with_budgets(trial, composition="rdp")
    with SiteHost(trial.site("north")):
        pass
    put_back = backup(trial, "folder")
    run, site = trained_once(trial, host)
    with pytest.raises(StoreError, match="owned by pid"):
        adopt(trial.site("north").path, yes=True, json=True)  # an agent runs
    site.__exit__(None, None, None)
    put_back()
    for _ in range(3):  # with each start the backup counts one more
        with SiteHost(trial.site("north")):
            pass
    refused(trial, code="LOST_STATE")
    with pytest.raises(StoreError, match="nothing was confirmed"):
        adopt(trial.site("north").path, yes=False, json=True)
    assert holdings(trial) == ()
    with SiteAdoption(trial.site("north")) as adoption:  # killed before it tells the coordinator
        record = adoption.remembered()
        assert [(each.run, len(each.rounds)) for each in record] == [(run, 2)]
        adoption.charge(record, adoption.charges(record))
    assert [each.releases for each in holdings(trial)] == [2]
    refused(trial, code="LOST_STATE")
    capsys.readouterr()
    for _ in range(2):
        adopt(trial.site("north").path, yes=True, json=True)
        said = json.loads(capsys.readouterr().out)
        assert (said["charged"][0]["rounds"], said["charged"][0]["missing"], said["overspent"]) == (2, 0, [])
    assert [(each.run, each.releases) for each in holdings(trial)] == [(run, 2)]
    assert [each.kind for each in host.store.events.since(0, limit=10_000)].count("adopt") == 2
    trial.work("north")
    assert until(trial, host, lambda: host.store.sites.site(ClientId("north")).session is not None)


@pytest.mark.usefixtures("examined_here")
def test_b25_a_run_that_is_under_way_goes_on_with_its_site_after_the_adoption(
    joined: Joined, caplog: pytest.LogCaptureFixture
) -> None:
    trial, host = joined
    with_budgets(trial)
    with SiteHost(trial.site("north")):
        pass
    put_back = backup(trial, "store")
    operator = trial.operator(host)
    seen: list[int] = []

    def pause(record: object) -> None:
        seen.append(1)
        if len(seen) == 1:
            operator.pause(admin.Pause(request="p", run=run))

    trial.background(lambda: host.serve(on_round=[pause]))
    trial.work("east")
    site = trial.work("north")
    run = handed_in(trial, host, private_experiment(trial.base))
    until(trial, host, lambda: host.store.runs.run(run).stage == "paused" and host.federation.current is None)
    site.__exit__(None, None, None)
    put_back()
    refused(trial, code="LOST_STATE")
    adopt(trial.site("north").path, yes=True, json=True)
    assert [(each.run, each.releases) for each in holdings(trial)] == [(run, 1)]
    trial.work("north")
    operator.resume(admin.Resume(request="q", run=run))
    assert ended(trial, host, run) == "completed", host.store.runs.run(run).reason
    sent = [
        each.kind
        for of in host.store.rounds.rounds(run)
        for each in host.store.rounds.contributions(of.key)
        if (of.program, each.site) == ("train", "north")
    ]
    assert sent == ["message", "message"]
    said = [each.getMessage() for each in caplog.records]
    assert not [each for each in said if "a message was refused" in each], "its messages have numbers of their own"
    assert [(each.run, each.releases) for each in holdings(trial)] == [(run, 2)]


@pytest.mark.usefixtures("examined_here")
def test_b25_a_message_that_may_have_left_is_never_made_a_second_time(
    joined: Joined, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial, host = joined
    with_budgets(trial)
    with SiteHost(trial.site("north")):
        pass
    put_back = backup(trial, "store")
    usual = RosterLine.submit
    cut = [True]

    def submit(line: RosterLine, request: verbs.Submit) -> verbs.SubmitReply:
        if cut[0] and line.folder.path.name == "north" and request.key.program == "train":
            cut.append(True)
            raise Unreachable("the line was cut behind the upload")
        return usual(line, request)

    monkeypatch.setattr(RosterLine, "submit", submit)
    trial.background(host.serve)
    trial.work("east")
    site = trial.work("north")
    run = handed_in(trial, host, private_experiment(trial.base))
    until(trial, host, lambda: len(cut) > 1)
    site.__exit__(None, None, None)
    put_back()
    cut[0] = False
    refused(trial, code="LOST_STATE")
    adopt(trial.site("north").path, yes=True, json=True)
    trial.work("north")
    ended(trial, host, run)
    said = [
        (int(of.round), each.kind, each.detail)
        for of in host.store.rounds.rounds(run)
        for each in host.store.rounds.contributions(of.key)
        if (of.program, each.site) == ("train", "north")
    ]
    assert said == [(1, "refused", "LOST_STATE"), (2, "message", "")]
    assert [(each.run, each.releases) for each in holdings(trial)] == [(run, 2)], "the first was charged, too"


@pytest.mark.usefixtures("examined_here")
def test_b25_a_ledger_without_the_rows_that_its_head_counts_is_taken_and_charged(
    joined: Joined, capsys: pytest.CaptureFixture[str]
) -> None:
    trial, host = joined
    with_budgets(trial)
    with SiteHost(trial.site("north")):
        pass
    put_back = backup(trial, "ledger without head")
    run, site = trained_once(trial, host)
    site.__exit__(None, None, None)
    put_back()
    with pytest.raises(StoreError, match="cut short or restored from a backup"):
        SiteHost(trial.site("north"))
    adopt(trial.site("north").path, yes=True, json=False)
    assert "cut short or restored from a backup" in capsys.readouterr().out
    assert [(each.run, each.releases) for each in holdings(trial)] == [(run, 2)]


@pytest.mark.usefixtures("examined_here")
def test_b25_what_does_not_fit_or_has_no_price_is_written_down_and_nothing_more_is_allowed(
    joined: Joined, capsys: pytest.CaptureFixture[str]
) -> None:
    trial, host = joined
    with_budgets(trial)
    with SiteHost(trial.site("north")):
        pass
    put_back = backup(trial, "folder")
    run, site = trained_once(trial, host)
    site.__exit__(None, None, None)
    put_back()
    rows_path = trial.site("north").path / "rows.csv"
    rows_path.rename(trial.base / "rows.csv")  # without them a run is not planned, and so not priced
    adopt(trial.site("north").path, yes=True, json=False)
    said = capsys.readouterr().out
    assert "it cannot be priced here (NO_DATA" in said
    assert "overspent: nothing more is released of these rows" in said
    (trial.base / "rows.csv").rename(rows_path)
    (held,) = holdings(trial)
    assert (held.run, held.releases, held.reserved.epsilon, held.overspent) == (run, 2, float("inf"), True)
    trial.work("north")
    again = handed_in(trial, host, private_experiment(trial.base), request="r2")
    assert ended(trial, host, again) == "failed"
    assert "site north: POLICY_EPSILON" in host.store.runs.run(again).reason


@pytest.mark.usefixtures("examined_here")
def test_b25_of_a_secure_sum_only_what_could_have_opened_it_is_charged(joined: Joined) -> None:
    trial, host = joined
    with_budgets(trial)
    run, site = trained_once(trial, host)
    site.__exit__(None, None, None)
    steps = {1: 0, 2: 2, 3: 3, 4: 4}  # in the one numbered 2 the masked vectors are sent
    made = experiment(trial.base, aggregator="secure_sum")
    record = Remembered(
        run=RunId("another"),
        sequence=0,
        experiment=msgspec.json.encode(made.as_json()),
        facts=(host.folder.store / "runs" / run / "facts.json").read_bytes(),
        rounds=tuple(verbs.Contributed(phase=0, round=each, retry=0, step=step) for each, step in steps.items()),
        over=True,
    )
    with SiteAdoption(trial.site("north")) as adoption:
        (charge,) = adoption.charges([record])
    assert charge.asked.keys == ((0, 3, 0), (0, 4, 0))
    assert charge.unpriced, "it promises nothing"


def test_a20_a_coordinator_that_was_put_back_is_confirmed_by_the_sites_operator(
    joined: Joined, capsys: pytest.CaptureFixture[str]
) -> None:
    trial, host = joined
    on_one_port(trial, host)
    host.__exit__(None, None, None)
    shutil.copytree(trial.folder.store, trial.base / "backup")
    host = trial.start()
    site = trial.work("north")
    until(trial, host, lambda: any(each.session for each in host.store.sites.all()))
    site.__exit__(None, None, None)
    host.__exit__(None, None, None)
    shutil.rmtree(trial.folder.store)
    shutil.copytree(trial.base / "backup", trial.folder.store)
    host = trial.start()
    site = trial.work("north")
    trial.threads[-1].join(20.0)
    site.__exit__(None, None, None)
    (problem,) = trial.problems
    assert isinstance(problem, StoreWentBack)
    assert "fedloom site adopt SITE --coordinator" in str(problem)
    trial.problems.clear()
    for _ in range(3):  # with each start the backup counts one more
        host.__exit__(None, None, None)
        host = trial.start()
    site = trial.work("north")
    trial.threads[-1].join(20.0)
    site.__exit__(None, None, None)
    assert [type(each) for each in trial.problems] == [StoreWentBack]
    trial.problems.clear()
    with pytest.raises(StoreWentBack):
        adopt(trial.site("north").path, yes=True, json=True)  # its record may lack what this site has done
    capsys.readouterr()
    adopt_coordinator(trial.site("north").path, yes=True, json=False)
    said = capsys.readouterr().out
    assert "seen last: store " in said
    assert "its events do not go on from those that were seen" in said
    trial.work("north")
    assert until(trial, host, lambda: any(each.session for each in host.store.sites.all()))


# A policy that changes while its site runs ---------------------------------------------------------------------------


def test_a_running_site_goes_by_its_new_policy_from_the_next_task_on(joined: Joined) -> None:
    trial, host = joined
    north = trial.site("north")
    work_all(trial, host)
    first = handed_in(trial, host, experiment(trial.base, rounds=2))
    assert ended(trial, host, first) == "completed", host.store.runs.run(first).reason
    north.policy_path.write_text(policy("north", more="[limits]\nmax_rounds = 1"))
    second = handed_in(trial, host, experiment(trial.base, rounds=2), request="r2")
    assert ended(trial, host, second) == "failed"
    assert "site north: POLICY_ROUNDS" in host.store.runs.run(second).reason
    north.policy_path.write_text(policy("north"))
    third = handed_in(trial, host, experiment(trial.base, rounds=2), request="r3")
    assert ended(trial, host, third) == "completed", host.store.runs.run(third).reason


def test_the_next_round_of_a_run_has_a_worker_by_the_new_limits(joined: Joined) -> None:
    trial, host = joined
    seen: list[int | None] = []

    def change(record: object) -> None:
        assert site._agent is not None
        seen.append(site._agent._answers._runs[run].hand._limits.cpu)  # type: ignore[attr-defined]
        trial.site("north").policy_path.write_text(policy("north", more="[limits]\ncpu = 1"))

    trial.background(lambda: host.serve(on_round=[change]))
    trial.work("east")
    site = trial.work("north")
    made = experiment(trial.base, rounds=2)
    run = handed_in(trial, host, made)
    assert ended(trial, host, run) == "completed", host.store.runs.run(run).reason
    assert (seen[0], seen[-1]) == (None, 1)
    assert model_of(host, run) == fedloom.local().run(made, base=trial.base).model_sha256


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text.replace("min_rows = 5", "min_rows = many"), "site.toml"),
        (lambda text: text.replace('name = "north"', 'name = "south"'), "certificate is of 'north'"),
        (lambda text: text.replace("min_rows = 5", "min_row = 5"), "did you mean `min_rows`"),
    ],
)
def test_b23_a_policy_that_is_broken_while_its_site_runs_allows_nothing_until_it_is_mended(
    joined: Joined, change: Callable[[str], str], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    trial, host = joined
    north = trial.site("north")
    trial.background(host.serve)
    trial.work("east")
    site = trial.work("north")
    until(trial, host, lambda: not site.faults())
    with caplog.at_level(logging.ERROR):
        north.policy_path.write_text(change(policy("north")))
        (fault,) = site.faults()
    assert fault.startswith("the policy cannot be used, so that nothing is allowed until it is mended: ")
    assert words in fault
    said = [each.getMessage() for each in caplog.records if each.getMessage().startswith("event=policy_broken")]
    assert len(said) == 1, "it is said once, not at each look"
    run = handed_in(trial, host, experiment(trial.base, rounds=1))
    until(trial, host, lambda: any(task.stage == "claimed" for task in host.store.rounds.tasks(ClientId("north"))))
    assert inbox(north) == ()
    north.policy_path.write_text(policy("north"))
    assert ended(trial, host, run) == "completed", host.store.runs.run(run).reason
    assert site.faults() == ()


@pytest.mark.usefixtures("examined_here")
def test_what_a_run_did_not_use_is_free_when_it_is_over_and_nothing_more_of_it_begins(joined: Joined) -> None:
    trial, host = joined
    with_budgets(trial, composition="rdp")
    north = trial.site("north")
    run, _ = trained_once(trial, host)
    until(trial, host, lambda: all(each.finished for each in holdings(trial)))
    entry = entry_of(north, run)
    assert entry is not None
    assert entry.state == "over"
    with pytest.raises(StoreError, match="is over: there is nothing left to approve"):
        approve_run(north, run)
    with Ledger.open(north.store / "ledger.sqlite") as ledger, pytest.raises(BudgetError, match="has finished"):
        ledger.account(run, "cohort").commit((0, 9, 0), GaussianDpEvent(1.0))
