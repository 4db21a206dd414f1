"""``fedloom site``: one site of a federation: how it joins, what it is asked, and what its operator says."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import get_args

from fedloom.cli.asking import agreed
from fedloom.cli.output import write_json
from fedloom.cli.site_files import Mode, Protection, source_of, starter_policy
from fedloom.cli.tables import print_table
from fedloom.core.component import Json
from fedloom.core.ids import RunId
from fedloom.engines.owned_files import write_owned
from fedloom.engines.site_folder import (
    Joining,
    SiteFolder,
    approve_roster,
    collect_certificate,
    join_site,
    pause_site,
    unpause_site,
)
from fedloom.engines.site_folder import renew as renew_certificate
from fedloom.engines.site_inbox import Entry, approval_of, inbox, shown
from fedloom.engines.site_inbox import approve_run as approve_one
from fedloom.engines.site_inbox import withdraw_run as withdraw_one
from fedloom.errors import ConfigError, Error, StoreError, Violation
from fedloom.experiment.site_policy import SitePolicy
from fedloom.secure.certificates import at
from fedloom.secure.fingerprints import fingerprint, same_fingerprint
from fedloom.secure.peers import Peer
from fedloom.store.lock import is_held


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyWish:
    """What a new site's policy begins with."""

    data: Path | None
    protection: str
    approval: str

    def __post_init__(self) -> None:
        """Refuse words that a policy has not."""
        for flag, value, known in (
            ("--protection", self.protection, get_args(Protection)),
            ("--approval", self.approval, get_args(Mode)),
        ):
            if value not in known:
                raise _flag(flag, f"{value!r}: expected one of {', '.join(known)}")


def join(path: Path, token: str, wish: PolicyWish, *, json: bool) -> None:
    """Ask to become a member, or whether the answer has come."""
    folder = SiteFolder(path)
    said = ask_to_join(folder, token, wish)
    if json:
        write_json(
            {
                "state": said.state,
                "federation": said.federation,
                "fingerprint": said.fingerprint,
                "name": None if said.peer is None else said.peer.client,
                "policy": folder.policy_path if folder.policy_path.exists() else None,
            }
        )
        return
    out = sys.stdout
    if said.peer is not None:
        out.write(f"member of {said.federation} as {said.peer.client}, until {at(said.peer.not_after)}\n")
        out.write(f"next: fedloom site approve {path} --roster, then fedloom site start {path}\n")
    else:
        out.write(
            f"asked to join {said.federation}; the coordinator's operator needs the fingerprint of this site's key:\n"
            f"  {said.fingerprint}\n"
            "read it out over the telephone, to a person you know\n"
            f"next: fedloom site start {path}, which waits for the certificate\n"
        )
    if not folder.policy_path.exists():
        out.write(f"there is no policy yet: {folder.policy_path}, or join with --data ROWS for one to begin with\n")


def ask_to_join(folder: SiteFolder, token: str, wish: PolicyWish) -> Joining:
    """Join, and write a policy to begin with where there is none."""
    source = None if wish.data is None else source_of(wish.data)  # before anything is asked
    said = join_site(folder, _token_text(token))
    if source is not None and not folder.policy_path.exists():
        text = starter_policy(
            folder.path.resolve().name,
            federation=said.federation,
            source=source,
            protection="none" if wish.protection == "none" else "secure-aggregation",
            mode="manual" if wish.approval == "manual" else "auto-if-allowed",
        )
        write_owned(folder.policy_path, text.encode())
    if said.peer is not None:
        name_policy(folder, said.peer)
    return said


def collect(folder: SiteFolder) -> Joining:
    """Ask whether the certificate is there."""
    said = collect_certificate(folder)
    if said.peer is not None:
        name_policy(folder, said.peer)
    return said


def name_policy(folder: SiteFolder, peer: Peer) -> None:
    """Put the name that the federation knows a site by into its policy: before the certificate it is not known."""
    if not folder.policy_path.exists():
        return
    text = folder.policy_path.read_text()
    named = re.sub(r'(?m)^name = ".*"$', f'name = "{peer.client}"', text, count=1)
    if named != text:
        write_owned(folder.policy_path, named.encode())


def show_inbox(path: Path, *, json: bool) -> None:
    """Print the runs that have asked, and whether a roster waits."""
    folder = SiteFolder(path)
    folder.anchor()
    entries, waiting = inbox(folder), roster_waits(folder)
    if json:
        described: list[Json] = [_described(folder, each) for each in entries]
        write_json({"runs": described, "roster": None if waiting is None else waiting[0]})
        return
    if waiting is not None:
        sys.stdout.write(f"roster {waiting[0]} waits: fedloom site approve {path} --roster\n")
    if not entries:
        sys.stdout.write("no run has asked\n")
        return
    print_table(
        ["run", "state", "asked", "data", "why"],
        [[each.run, _state(folder, each), at(each.asked_at), each.data, ", ".join(each.codes)] for each in entries],
    )


def show(path: Path, name: str, *, json: bool) -> None:
    """Print what a run would do here, in plain words, and what differs from the run that was approved last."""
    folder = SiteFolder(path)
    entry, manifest, changes = shown(folder, _run(folder, name))
    if json:
        write_json(
            {**_described(folder, entry), "manifest": None if manifest is None else manifest, "changes": list(changes)}
        )
        return
    out = sys.stdout
    out.write(f"{_state(folder, entry)}, asked {at(entry.asked_at)}\n")
    for words in entry.words:
        out.write(f"refused: {words}\n")
    for words in entry.warnings:
        out.write(f"note: {words}\n")
    if manifest is not None:
        out.writelines(f"{line}\n" for line in manifest.lines())
        if entry.rows is not None:
            out.write(f"rows here: {entry.rows} (this is told to nobody)\n")
        out.write("beside the run that was approved last:\n")
        out.writelines(f"  {line}\n" for line in changes or ("nothing differs",))
    if entry.state in ("waiting", "approved"):
        out.write(f"next: fedloom site approve {path} {entry.run}, or fedloom site refuse {path} {entry.run}\n")


def approve(path: Path, name: str, *, until: str | None, max_rounds: int | None, digest: str, json: bool) -> None:
    """Say yes to a run as it was shown."""
    folder = SiteFolder(path)
    word = approve_one(folder, _run(folder, name), until=_moment(until), max_rounds=max_rounds, digest=digest)
    if json:
        write_json({"run": word.run, "manifest": word.manifest, "until": word.until, "max_rounds": word.max_rounds})
        return
    ends = "" if word.until is None else f", until {at(word.until)}"
    most = "" if word.max_rounds is None else f", {word.max_rounds} rounds at most"
    sys.stdout.write(f"run {word.run} is approved: manifest {word.manifest[:12]}{ends}{most}\n")


def one_of(run: str | None, *, roster: bool) -> bool:
    """Return whether the roster is meant, where a run or the roster was to be named.

    Raises:
        ConfigError: When neither is, or both.
    """
    if (run is None) != roster:
        raise _flag("RUN", "name the run that you approve, or --roster for the roster: one of both")
    return roster


def refuse(path: Path, name: str, *, json: bool) -> None:
    """Say no to a run, or take back a yes: nothing more of it begins here."""
    folder = SiteFolder(path)
    word = withdraw_one(folder, _run(folder, name))
    if json:
        write_json({"run": word.run, "manifest": word.manifest, "withdrawn": True})
        return
    sys.stdout.write(f"run {word.run}: nothing more of it begins here\n")


def approve_members(path: Path, *, read_out: str | None, yes: bool, json: bool) -> None:
    """Say yes to the newest roster, after its fingerprints were compared.

    Raises:
        StoreError: When nobody has agreed.
    """
    folder = SiteFolder(path)
    pin = folder.pin()
    words = fingerprint(pin.digest)
    if read_out is not None and not same_fingerprint(read_out, words):
        raise StoreError(f"the newest roster here has the fingerprint {words}; {read_out} was read out: do not go on")
    lines = [str(each) for each in pin.pending]
    if read_out is None and not yes and lines:
        sys.stderr.write(_roster_words(folder))
        if not agreed("Do you know these, and are their fingerprints right?"):
            raise StoreError(
                "the roster was not approved; it is agreed to by --yes, or --fingerprint as it was read out"
            )
    approved = approve_roster(folder, pin.digest)
    if json:
        members: list[Json] = [
            {"client": each.client, "organisation": each.organisation, "fingerprint": fingerprint(each.key)}
            for each in approved.approved
        ]
        write_json({"version": approved.version, "digest": words, "members": members})
        return
    sys.stdout.write(f"roster {approved.version} is approved here, {len(approved.approved)} members: {words}\n")


def roster_waits(folder: SiteFolder) -> tuple[int, tuple[str, ...]] | None:
    """Return the version of a roster that waits for a word, and what it changes; None: there is none."""
    if not folder.pin_path.exists():
        return None
    pin = folder.pin()
    if not pin.pending:
        return None
    return pin.newest.roster.version, tuple(str(each) for each in pin.pending)


def ask_about_roster(folder: SiteFolder) -> None:
    """Ask the person at the terminal about a roster that waits; where nobody sits, say what to do."""
    if roster_waits(folder) is None:
        return
    sys.stderr.write(_roster_words(folder))
    digest = folder.pin().digest
    if agreed("Do you know these, and are their fingerprints right?"):
        approve_roster(folder, digest)
        return
    sys.stderr.write(f"the roster waits: fedloom site approve {folder.path} --roster\n")
    sys.stderr.flush()


def policy(path: Path, *, json: bool) -> None:
    """Check a policy, and say what it allows."""
    folder = SiteFolder(path)
    found = folder.policy()
    if json:
        write_json(_policy_json(found))
        return
    out = sys.stdout
    out.write(f"{folder.policy_path} holds, for {found.site.name}\n")
    out.writelines(f"{key}: {value}\n" for key, value in _policy_words(found))
    if is_held(folder.store):
        out.write("the site runs: it goes by this policy from its next task on\n")


def status(path: Path, *, json: bool) -> None:
    """Print who a site is, until when, and what it does."""
    folder = SiteFolder(path)
    anchor, entries = folder.anchor(), inbox(folder)
    joined = folder.tls.chain.exists()
    running = folder.store.exists() and is_held(folder.store)
    trouble, peer = "", None
    if joined:
        try:
            peer = folder.peer(time.time())
        except Error as error:
            trouble = str(error)
    roster = folder.pin() if folder.pin_path.exists() else None
    waiting = [each for each in entries if _state(folder, each) == "waiting"]
    if json:
        write_json(
            {
                "federation": anchor.federation,
                "root": anchor.fingerprint,
                "fingerprint": fingerprint(folder.signing_key().public),
                "name": None if peer is None else peer.client,
                "organisation": None if peer is None else peer.organisation,
                "certificate_until": None if peer is None else peer.not_after,
                "trouble": trouble or None,
                "running": running,
                "paused": folder.paused_path.exists(),
                "roster": None if roster is None else roster.newest.roster.version,
                "roster_approved": None if roster is None else roster.version,
                "waiting": [each.run for each in waiting],
            }
        )
        return
    out = sys.stdout
    who = "not a member yet" if peer is None else f"{peer.client} of {peer.organisation}"
    state = "paused" if folder.paused_path.exists() else "running" if running else "not running"
    out.write(f"{who}, federation {anchor.federation}, {state}\n")
    out.write(f"fingerprint of this site's key: {fingerprint(folder.signing_key().public)}\n")
    if peer is not None:
        out.write(f"its certificate holds until {at(peer.not_after)}\n")
    if trouble:
        out.write(f"its certificate: {trouble}\n")
    if roster is not None:
        out.write(f"roster {roster.newest.roster.version}, approved here: {roster.version or 'none'}\n")
    if waiting:
        out.write(f"runs that wait for a word: {', '.join(each.run for each in waiting)}\n")


def renew(path: Path, *, json: bool) -> None:
    """Ask for another certificate, before the old one has ended or after."""
    peer = renew_certificate(SiteFolder(path))
    if json:
        write_json({"name": peer.client, "until": peer.not_after, "serial": peer.serial})
        return
    sys.stdout.write(f"certificate of {peer.client}, until {at(peer.not_after)}\n")


def pause(path: Path, *, off: bool, json: bool) -> None:
    """Begin nothing more, or go on: both work without a coordinator."""
    folder = SiteFolder(path)
    folder.anchor()
    (unpause_site if off else pause_site)(folder)
    if json:
        write_json({"paused": not off})
        return
    sys.stdout.write("the site goes on\n" if off else "the site begins nothing more; what is at work ends first\n")


def _token_text(token: str) -> str:
    """Return a token: it was given, or the file that holds it."""
    path = Path(token) if len(token) < 250 else None
    return path.read_text() if path is not None and path.is_file() else token


def _run(folder: SiteFolder, name: str) -> RunId:
    """Return the run that a person means: an id, the start of one, or "last"."""
    entries = inbox(folder)
    if name == "last" and entries:
        return entries[0].run
    found = [each.run for each in entries if each.run.startswith(name)]
    if len(found) > 1 and name not in found:
        raise StoreError(f"{name!r} begins {len(found)} runs: {', '.join(found)}")
    return found[0] if len(found) == 1 else RunId(name)


def _state(folder: SiteFolder, entry: Entry) -> str:
    if entry.state in ("refused", "over"):
        return entry.state
    word = approval_of(folder, entry.run)
    if word is not None and word.withdrawn:
        return "no"
    return "approved" if entry.state == "approved" or word is not None else "waiting"


def _moment(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError as error:
        raise _flag("--until", f"{text!r}: expected a day or a time, such as 2027-01-31 or 2027-01-31T18:00") from error


def _described(folder: SiteFolder, entry: Entry) -> dict[str, Json]:
    return {
        "run": entry.run,
        "state": _state(folder, entry),
        "asked_at": entry.asked_at,
        "data": entry.data,
        "codes": list(entry.codes),
        "words": list(entry.words),
        "digest": entry.manifest,
    }


def _roster_words(folder: SiteFolder) -> str:
    pin = folder.pin()
    lines = "".join(f"  {each}\n" for each in pin.pending)
    return f"roster {pin.newest.roster.version} of {pin.federation}, {fingerprint(pin.digest)}:\n{lines}"


def _policy_words(found: SitePolicy) -> Sequence[tuple[str, str]]:
    limits = {key: getattr(found.limits, key) for key in ("max_rounds", "max_runs_per_day", "max_upload_mb", "hours")}
    privacy = found.privacy
    budget = "no limit" if privacy.epsilon_total is None else f"{privacy.epsilon_total:g} in all"
    rows = (f'"{name}" ({each.source.name}, {each.min_rows} rows or more)' for name, each in found.data.items())
    return (
        ("may ask", ", ".join(found.allow.coordinators) or "nobody"),
        ("may run", ", ".join(found.allow.packages) or "nothing"),
        ("tasks", ", ".join(found.allow.tasks)),
        ("rows", ", ".join(rows)),
        ("limits", ", ".join(f"{key} {value}" for key, value in limits.items() if value is not None) or "none"),
        ("required", ", ".join(privacy.require) or "no protection"),
        ("sites in a sum", f"{privacy.min_sites_in_aggregate} or more"),
        ("epsilon", budget),
        ("approval", found.approval.mode),
    )


def _policy_json(found: SitePolicy) -> dict[str, Json]:
    return {"site": found.site.name, **{key.replace(" ", "_"): value for key, value in _policy_words(found)}}


def _flag(name: str, message: str) -> ConfigError:
    return ConfigError([Violation(where=name, path="site", message=message)])
