"""SiteRules: the policy of a site as it is now: read again when its file has changed; a broken one allows nothing."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from fedloom.core.ids import ClientId
from fedloom.engines.owned_files import Followed, read_owned
from fedloom.engines.site_folder import SiteFolder
from fedloom.engines.site_hand import Limits
from fedloom.engines.site_ledger import SiteLedger
from fedloom.errors import ConfigError, Error, Violation
from fedloom.experiment.site_policy import SitePolicy
from fedloom.store.site_store import SiteStore

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """A policy, and what follows from it."""

    policy: SitePolicy
    digest: str
    """SHA-256 of its file."""
    ledger: SiteLedger

    @property
    def limits(self) -> Limits:
        """What a worker may take."""
        limits = self.policy.limits
        return Limits(
            cpu=limits.cpu,
            memory_gb=limits.memory_gb,
            task_s=None if limits.task_minutes is None else 60.0 * limits.task_minutes,
        )


class SiteRules:
    """The rules of a site that runs. Threads may share it.

    Args:
        folder: Of the site.
        store: Of the site.
        client: The site: a policy of another name is not followed.
        now: Seconds since 1970.

    Raises:
        ConfigError: When the policy breaks a rule, or is another site's: nothing is allowed then.
        BudgetError: When the ledger counts by another policy.
        StoreError: When the policy or the ledger cannot be read.
    """

    def __init__(
        self, folder: SiteFolder, store: SiteStore, *, client: ClientId, now: Callable[[], float] = time.time
    ) -> None:
        self._folder = folder
        self._store = store
        self._client = client
        self._now = now
        self.last = self._read()
        """The latest that hold."""
        self._followed = Followed(folder.policy_path, read=lambda _: self._attempt())

    def __call__(self) -> Rules | str:
        """Return the rules of now; where the file is broken, what is wrong with it."""
        return self._followed()

    @property
    def fault(self) -> str:
        """What is wrong with the policy, so that nothing is allowed; empty: nothing."""
        found = self()
        return found if isinstance(found, str) else ""

    def _attempt(self) -> Rules | str:
        before = self.last
        try:
            self.last = self._read()
        except Error as error:
            said = f"the policy cannot be used, so that nothing is allowed until it is mended: {error}"
            log.error("event=policy_broken said=%s", said)
            return said
        if self.last.digest != before.digest:
            log.info("event=policy_followed digest=%s", self.last.digest[:12])
        return self.last

    def _read(self) -> Rules:
        data = read_owned(self._folder.policy_path, remedy="write a policy: site.toml")
        policy = self._folder.policy()
        if policy.site.name != self._client:
            words = f"{policy.site.name!r}; this folder's certificate is of {self._client!r}: write that name"
            raise ConfigError([Violation(where=str(self._folder.policy_path), path="site.name", message=words)])
        ledger = SiteLedger(self._store.ledger_path, policy, now=self._now)
        ledger.check()
        return Rules(policy=policy, digest=hashlib.sha256(data).hexdigest(), ledger=ledger)
