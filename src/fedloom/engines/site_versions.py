"""Versions of software at sites, looked at before the first round: what stops a run, and what is kept with it."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from fedloom.core.ids import ClientId, RunId
from fedloom.errors import RunStopped
from fedloom.experiment.handshake import SiteFacts, compare_versions, installed_versions
from fedloom.experiment.spec import Experiment
from fedloom.store.federation import FederationStore

log = logging.getLogger(__name__)


def check_versions(
    store: FederationStore, run: RunId, experiment: Experiment, held: Mapping[ClientId, SiteFacts]
) -> None:
    """Stop a run that sites would compute with other software; note smaller differences as events of the store.

    Args:
        store: The coordinator's.
        run: Which run the events are of.
        experiment: Its packages must have one version everywhere.
        held: What each site has said of itself.

    Raises:
        RunStopped: Where versions cannot work together; it names each site, what it has and what it needs.
    """
    packages = sorted(experiment.as_json()["versions"])
    found = compare_versions(installed_versions(packages), held, exactly=packages)
    errors = [each for each in found if each.kind == "error"]
    if errors:
        raise RunStopped("the sites do not have the same versions:\n" + "\n".join(f"  {each}" for each in errors))
    for each in found:
        log.warning("run=%s %s", run, each)
        store.events.append("versions", {"run": run, "site": each.site, "words": each.words})
