"""The inbox of a site: what runs ask for, in files that people read while the agent runs, and the operator's answers.

The agent owns the store, so a command beside it says yes or no through a file: signed by the site's key, over the
digest of what was shown. Whoever can write the folder and has not the key allows nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct, structs

from fedloom.core.component import Json
from fedloom.core.ids import RunId
from fedloom.engines.owned_files import make_folder, write_owned
from fedloom.engines.site_folder import SiteFolder
from fedloom.errors import StoreError
from fedloom.experiment.examination import Releases
from fedloom.experiment.manifest import Manifest, difference, read_manifest
from fedloom.experiment.site_check import Promise
from fedloom.secure.agreement import verify
from fedloom.secure.encoding import frame
from fedloom.store.faults import explained

_LABEL = b"fedloom/site/approval/v1"
State = Literal["refused", "waiting", "approved", "over"]


class Entry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A run that has asked, and what the site found. It leaves the site in no message."""

    run: RunId
    experiment: str
    """Digest."""
    facts: str
    """Digest of what the sites have agreed on."""
    policy: str
    """SHA-256 of the policy that it was held against."""
    data: str
    """Id of the rows."""
    asked_at: float
    state: State
    codes: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    """Why it is refused, for the operator."""
    warnings: tuple[str, ...] = ()
    rows: int | None = None
    manifest: str = ""
    """Digest of what is approved."""
    promise: Promise | None = None
    price: dict[str, Json] | None = None
    releases: Releases | None = None
    begun_at: float | None = None


class Approval(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The operator's word on a run."""

    run: RunId
    manifest: str
    until: float | None = None
    """Seconds since 1970; None: without end."""
    max_rounds: int | None = None
    withdrawn: bool = False
    signature: bytes = b""

    def said(self, federation: str, client: str) -> bytes:
        """Return what is signed."""
        limits = ["" if each is None else repr(each) for each in (self.until, self.max_rounds)]
        word = "no" if self.withdrawn else "yes"
        return frame(_LABEL, federation, client, self.run, self.manifest, *limits, word)


def inbox(folder: SiteFolder) -> tuple[Entry, ...]:
    """Return the runs that have asked, the newest first."""
    paths = folder.inbox.glob("*/entry.json") if folder.inbox.exists() else ()
    return tuple(sorted(map(_read, paths), key=lambda each: (-each.asked_at, each.run)))


def entry_of(folder: SiteFolder, run: RunId) -> Entry | None:
    """Return what was found of a run; None: it has not asked."""
    path = _home(folder, run) / "entry.json"
    return _read(path) if path.exists() else None


def shown(folder: SiteFolder, run: RunId) -> tuple[Entry, Manifest | None, tuple[str, ...]]:
    """Return a run, its manifest, and in words what differs from the one that was approved last.

    Raises:
        StoreError: When no such run has asked.
    """
    entry = _known(folder, run)
    found = manifest_of(folder, run)
    last = folder.inbox / "approved.json"
    approved = read_manifest(last.read_bytes()) if last.exists() else None
    return entry, found, () if found is None else difference(found, approved)


def approve_run(
    folder: SiteFolder, run: RunId, *, until: float | None = None, max_rounds: int | None = None, digest: str = ""
) -> Approval:
    """Say yes to a run as it was shown. The agent goes by it within seconds.

    Args:
        folder: Of the site.
        run: Which has asked.
        until: Seconds since 1970, after which nothing more is done; None: without end.
        max_rounds: Of training at most; None: as many as the manifest says.
        digest: Of the manifest that was shown; empty: of the one that is there now.

    Raises:
        StoreError: When no such run has asked, the policy refuses it, or another manifest was shown.
    """
    entry = _known(folder, run)
    if entry.state == "refused":
        raise StoreError(
            f"run {run} is refused by the policy: {'; '.join(entry.words) or ', '.join(entry.codes)}. An approval "
            "does not go beyond the policy: change it in site.toml, and have the run handed in anew"
        )
    if entry.state == "over":
        raise StoreError(f"run {run} is over: there is nothing left to approve")
    if digest and digest != entry.manifest:
        raise StoreError(
            f"run {run} has the manifest {entry.manifest[:12]} now; {digest[:12]} was shown: look at it, and approve "
            "again"
        )
    if max_rounds is not None and max_rounds < 1:
        raise StoreError(f"max_rounds = {max_rounds}: expected 1 or more; leave it out for what the manifest says")
    return _signed(folder, Approval(run=run, manifest=entry.manifest, until=until, max_rounds=max_rounds))


def withdraw_run(folder: SiteFolder, run: RunId) -> Approval:
    """Take back what was said to a run, or say no to it: nothing more of it begins here. It needs no coordinator.

    Raises:
        StoreError: When no such run has asked.
    """
    entry = _known(folder, run)
    return _signed(folder, Approval(run=run, manifest=entry.manifest, withdrawn=True))


def approval_of(folder: SiteFolder, run: RunId) -> Approval | None:
    """Return the operator's word on a run, if the site's key has signed it; None: there is none.

    Raises:
        StoreError: When the file is no approval, or somebody else wrote it.
    """
    path = approval_path(folder, run)
    if not path.exists():
        return None
    with explained(path):
        data = path.read_bytes()
    try:
        found = msgspec.json.decode(data, type=Approval)
    except msgspec.MsgspecError as error:
        raise StoreError(f"{path} is no approval: {error}. Approve the run again") from error
    identity = folder.identity()
    said = structs.replace(found, signature=b"").said(folder.anchor().federation, identity.client)
    if found.run != run or not verify(identity.public, found.signature, said):
        raise StoreError(f"{path} is not signed by this site's key: nothing is allowed by it. Approve the run again")
    return found


def approval_path(folder: SiteFolder, run: RunId) -> Path:
    """Return where the operator's word on a run is."""
    return _home(folder, run) / "approval.json"


def lay_out(folder: SiteFolder, entry: Entry, *, received: bytes, facts: bytes, manifest: Manifest | None) -> None:
    """Write down what was found of a run, for people and for the agent itself."""
    home = _home(folder, entry.run)
    make_folder(folder.inbox)
    make_folder(home)
    write_owned(home / "experiment.json", received)
    write_owned(home / "facts.json", facts)
    if manifest is not None:
        write_owned(home / "manifest.json", manifest.canonical)
    write_owned(home / "entry.json", msgspec.json.encode(entry))


def taken(folder: SiteFolder, entry: Entry) -> None:
    """Write down that a run may begin, and that its manifest is the one that was approved last."""
    write_owned(_home(folder, entry.run) / "entry.json", msgspec.json.encode(entry))
    found = manifest_of(folder, entry.run)
    if found is not None:
        write_owned(folder.inbox / "approved.json", found.canonical)


def over(folder: SiteFolder, run: RunId) -> None:
    """Write down that a run which had begun here is over. The entry stays, for people and for what counts by days."""
    entry = entry_of(folder, run)
    if entry is not None and entry.state == "approved":
        write_owned(_home(folder, run) / "entry.json", msgspec.json.encode(structs.replace(entry, state="over")))


def manifest_of(folder: SiteFolder, run: RunId) -> Manifest | None:
    """Return the manifest of a run; None: none was made."""
    path = _home(folder, run) / "manifest.json"
    return read_manifest(path.read_bytes()) if path.exists() else None


def received(folder: SiteFolder, run: RunId) -> tuple[bytes, bytes]:
    """Return the experiment and the facts of a run, as they were judged."""
    home = _home(folder, run)
    return (home / "experiment.json").read_bytes(), (home / "facts.json").read_bytes()


def begun_since(entries: Sequence[Entry], moment: float, *, but: RunId) -> int:
    """Return how many other runs have begun since a moment."""
    return sum(each.begun_at is not None and each.begun_at >= moment and each.run != but for each in entries)


def _known(folder: SiteFolder, run: RunId) -> Entry:
    found = entry_of(folder, run)
    if found is None:
        known = ", ".join(each.run for each in inbox(folder)) or "none"
        raise StoreError(f"no run {run!r} has asked here: expected one of {known}")
    return found


def _signed(folder: SiteFolder, word: Approval) -> Approval:
    identity = folder.identity()
    signed = structs.replace(word, signature=identity.sign(word.said(folder.anchor().federation, identity.client)))
    write_owned(approval_path(folder, word.run), msgspec.json.encode(signed))
    return signed


def _read(path: Path) -> Entry:
    with explained(path):
        data = path.read_bytes()
    try:
        return msgspec.json.decode(data, type=Entry)
    except msgspec.MsgspecError as error:
        raise StoreError(f"{path} cannot be read: {error}. Remove its folder; the run asks again") from error


def _home(folder: SiteFolder, run: RunId) -> Path:
    # A run is named by somebody else: its name is no path.
    return folder.inbox / hashlib.sha256(run.encode()).hexdigest()[:32]
