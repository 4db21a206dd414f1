"""What a coordinator offers on the line: one method per verb. It knows no gRPC; many threads call it at once.

To say no, a method raises ``Refused``. What else it raises is told to the peer as ``INTERNAL`` without its text.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from fedloom.core.ids import ClientId
from fedloom.secure.peers import Peer, Role
from fedloom.transport import admin, verbs
from fedloom.transport.errors import Refusal


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who calls: read from the certificate of the connection, never from a message."""

    peer: Peer
    """Holder of the certificate; ``DenyList.denies`` asks for it."""
    address: str
    group: str
    """Key exchange that the connection was made with."""

    @property
    def identity(self) -> str:
        """``spiffe://<federation>/<organisation>/<client>``."""
        return self.peer.uri

    @property
    def client(self) -> ClientId:
        """Name of the client, or of the operator."""
        return self.peer.client

    @property
    def organisation(self) -> str:
        """Whom it belongs to."""
        return self.peer.organisation

    @property
    def role(self) -> Role:
        """What it may ask for."""
        return self.peer.role

    @property
    def serial(self) -> str:
        """Of the certificate, hexadecimal."""
        return self.peer.serial


class BlobReader(Protocol):
    """A blob that is being read. Closed when the stream ends, however it ends."""

    @property
    def length(self) -> int:
        """Bytes of the blob."""
        ...

    def read(self, offset: int, size: int) -> bytes:
        """Return up to ``size`` bytes from ``offset`` on; fewer only at the end."""
        ...

    def close(self) -> None:
        """Release what reading took."""
        ...


class SiteService(Protocol):
    """What sites ask for."""

    def hello(self, caller: Caller, request: verbs.Hello) -> verbs.HelloReply:
        """Open a session; the one before is fenced."""
        ...

    def poll(self, caller: Caller, request: verbs.Poll) -> verbs.Offers:
        """Return work, after at most ``wait_s``."""
        ...

    def claim(self, caller: Caller, request: verbs.Claim) -> verbs.Claimed:
        """Give a task to the caller."""
        ...

    def decline(self, caller: Caller, request: verbs.Decline) -> verbs.Noted:
        """Take note that the caller does not take a task."""
        ...

    def heartbeat(self, caller: Caller, request: verbs.Heartbeat) -> verbs.HeartbeatReply:
        """Extend leases. Answered at once: it has a few threads of its own."""
        ...

    def submit(self, caller: Caller, request: verbs.Submit) -> verbs.SubmitReply:
        """Take in a result, once."""
        ...

    def fail(self, caller: Caller, request: verbs.Fail) -> verbs.SubmitReply:
        """Take in that a task could not be done, once."""
        ...

    def approve(self, caller: Caller, request: verbs.Approve) -> verbs.Noted:
        """Take in the answer of a site's operator to a run."""
        ...

    def recall(self, caller: Caller, request: verbs.Recall) -> verbs.Recalled:
        """Tell a site which heads of its store were seen last; it needs no session."""
        ...

    def record(self, caller: Caller, request: verbs.Record) -> verbs.RecordReply:
        """Tell a site what is remembered of it; it needs no session."""
        ...

    def adopt(self, caller: Caller, request: verbs.Adopt) -> verbs.Noted:
        """Take the caller's store as it is now for the one to go on with; it needs no session."""
        ...

    def goodbye(self, caller: Caller, request: verbs.Goodbye) -> verbs.Noted:
        """End a session."""
        ...


class BlobService(Protocol):
    """Blobs, in both directions."""

    def open_blob(self, caller: Caller, request: verbs.Fetch) -> BlobReader:
        """Return a blob that this caller may read, or refuse with ``NOT_FOUND``."""
        ...

    def begin_upload(self, caller: Caller, request: verbs.BeginUpload) -> verbs.UploadAt:
        """Open or find an upload. Refuses what is too large before a byte of it is sent."""
        ...

    def resume_upload(self, caller: Caller, request: verbs.Upload) -> verbs.UploadAt:
        """Return where an upload of this caller stands, or refuse with ``NOT_FOUND``."""
        ...

    def write_chunk(self, caller: Caller, upload: str, offset: int, data: memoryview) -> int:
        """Store a chunk that has been checked; return how many bytes of the upload are there.

        Bytes that are there already are left as they are. A chunk behind a gap is not stored: the answer says where
        the gap begins.
        """
        ...

    def finish_upload(self, caller: Caller, upload: str) -> None:
        """Check the digest of the whole and make it durable, or refuse with ``CORRUPT_UPLOAD``. Safe to repeat.

        After a refusal the upload stands at 0 again.
        """
        ...


class AdminService(Protocol):
    """What operators ask for."""

    def create_run(self, caller: Caller, request: admin.CreateRun) -> admin.RunAt:
        """Take in an experiment."""
        ...

    def approve_run(self, caller: Caller, request: admin.ApproveRun) -> admin.RunAt:
        """Let a run go to the sites."""
        ...

    def pause(self, caller: Caller, request: admin.Pause) -> admin.RunAt:
        """Open no further round."""
        ...

    def resume(self, caller: Caller, request: admin.Resume) -> admin.RunAt:
        """Go on."""
        ...

    def abort(self, caller: Caller, request: admin.Abort) -> admin.RunAt:
        """End a run."""
        ...

    def list_runs(self, caller: Caller, request: admin.ListRuns) -> admin.RunList:
        """Return a page of runs."""
        ...

    def watch_run(self, caller: Caller, request: admin.WatchRun) -> Iterator[admin.RunEvent]:
        """Yield the events of a run as they come. Closed when the reader has gone."""
        ...

    def list_sites(self, caller: Caller, request: admin.ListSites) -> admin.SiteList:
        """Return a page of sites."""
        ...

    def invite_site(self, caller: Caller, request: admin.InviteSite) -> admin.Invitation:
        """Issue a token."""
        ...

    def revoke(self, caller: Caller, request: admin.Revoke) -> verbs.Noted:
        """Shut out an identity."""
        ...

    def readmit(self, caller: Caller, request: admin.Readmit) -> verbs.Noted:
        """Let a site in again that was suspended."""
        ...

    def health(self, caller: Caller, request: admin.Health) -> admin.HealthReply:
        """Say whether the coordinator can work."""
        ...


class Service(SiteService, BlobService, AdminService, Protocol):
    """All of it."""

    def authorise(self, caller: Caller) -> Refusal | None:
        """Say whether this caller may speak at all: deny list, roster. Asked on every call, and while one lasts."""
        ...
