"""What an operator says to a coordinator. Whatever changes something has a request id: asked twice, it is done once."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from fedloom.transport.fields import Digest, Document, Message, Name, Number, Seconds, Text


class CreateRun(Message, frozen=True):
    """Hand in an experiment."""

    request: Name
    name: Name
    experiment: Document
    digest: Digest
    priority: Number = 0


class ApproveRun(Message, frozen=True):
    """Let a run that was handed in go to the sites."""

    request: Name
    run: Name
    digest: Digest


class Pause(Message, frozen=True):
    """Open no further round of a run."""

    request: Name
    run: Name


class Resume(Message, frozen=True):
    """Go on with a run that rests; of one whose server step raised the round is named."""

    request: Name
    run: Name
    from_round: Number | None = None


class Abort(Message, frozen=True):
    """End a run."""

    request: Name
    run: Name
    reason: Text


class RunAt(Message, frozen=True):
    """A run and where it stands."""

    run: Name
    name: Name
    state: Name
    round: Number = 0
    rounds: Number | None = None
    reason: Text | None = None
    waiting_for: Annotated[tuple[Name, ...], Meta(max_length=32)] = ()
    """Sites; the first of them where there are more."""
    until_s: Seconds | None = None


class ListRuns(Message, frozen=True):
    """Ask for the runs, a page at a time."""

    after: Name | None = None
    limit: Annotated[int, Meta(ge=1, le=20)] = 20


class RunList(Message, frozen=True):
    """Runs, newest first."""

    runs: Annotated[tuple[RunAt, ...], Meta(max_length=20)]
    more: bool = False


class WatchRun(Message, frozen=True):
    """Ask for the events of a run: to its end as they come, or those that there are now."""

    run: Name
    since: Number = 0
    until: Literal["end", "now"] = "end"


class RunEvent(Message, frozen=True):
    """One event of a run, JSON in ``data``."""

    sequence: Number
    time_s: Seconds
    kind: Name
    data: Document = b"{}"


class ListSites(Message, frozen=True):
    """Ask for the sites, a page at a time."""

    after: Name | None = None
    limit: Annotated[int, Meta(ge=1, le=64)] = 64


class SiteAt(Message, frozen=True):
    """A site as the coordinator sees it."""

    client: Name
    organisation: Name
    state: Literal["connected", "away", "suspended", "revoked", "unknown"]
    heartbeat_age_s: Seconds | None = None
    certificate_left_s: Seconds | None = None
    version: Name | None = None
    tasks: Number = 0
    failures: Number = 0
    """Rounds in a row in which its work failed."""
    reason: Text | None = None
    """Why it is suspended."""


class SiteList(Message, frozen=True):
    """Sites, by name."""

    sites: Annotated[tuple[SiteAt, ...], Meta(max_length=64)]
    more: bool = False


class InviteSite(Message, frozen=True):
    """Ask for a token with which one site may join."""

    request: Name
    organisation: Name
    client: Name
    valid_s: Seconds = 86400.0


class Invitation(Message, frozen=True):
    """A token, to be handed over by another way than this."""

    token: Name
    expires_s: Seconds


class Revoke(Message, frozen=True):
    """Shut out an identity. ``document``: a deny list that the root has signed; empty: the coordinator's own."""

    request: Name
    client: Name
    reason: Text
    document: Document = b""


class Readmit(Message, frozen=True):
    """Let a site in again that was suspended."""

    request: Name
    client: Name


class Health(Message, frozen=True):
    """Ask whether the coordinator can work."""


class HealthReply(Message, frozen=True):
    """Whether it can, and what is wrong."""

    ready: bool
    version: Name
    server_time_s: Seconds
    faults: Annotated[tuple[Text, ...], Meta(max_length=32)] = ()
