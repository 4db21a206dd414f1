"""What a site keeps of a run beside its store's rows: the experiment as it was sent, and what adds its vectors up."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from fedloom.core.aggregator import Aggregator
from fedloom.core.component import ComponentSpec
from fedloom.core.ids import RunId
from fedloom.core.messages import Program
from fedloom.errors import Error, PlanError
from fedloom.experiment.registry import resolve
from fedloom.experiment.spec import Experiment
from fedloom.secure.envelopes import body_digest


class KeptExperiments:
    """The experiments of runs that are under way, a file each.

    Args:
        folder: Made with the first of them.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, run: RunId, experiment: bytes) -> None:
        """Write an experiment down; one that is there already stays."""
        self._folder.mkdir(exist_ok=True)
        path = self._path(run)
        if not path.exists():
            temporary = path.with_suffix(".tmp")
            temporary.write_bytes(experiment)
            temporary.replace(path)

    def read(self, run: RunId) -> bytes:
        """Return an experiment.

        Raises:
            PlanError: When the run was never shown to this site, or is over.
        """
        path = self._path(run)
        if not path.exists():
            raise PlanError(f"run {run} was never shown to this site, or is over")
        return path.read_bytes()

    def forget(self, run: RunId) -> None:
        """Remove an experiment. Safe to repeat."""
        self._path(run).unlink(missing_ok=True)

    def _path(self, run: RunId) -> Path:
        # A run is named by somebody else: its name is no path.
        return self._folder / f"{body_digest(run.encode()).hex()}.json"


def read_experiment(run: RunId, data: bytes) -> Experiment:
    """Return the experiment that was sent for a run.

    Raises:
        PlanError: When it is none.
    """
    try:
        return Experiment.from_json(msgspec.json.decode(data))
    except (Error, msgspec.MsgspecError, AttributeError, TypeError, ValueError, LookupError, RecursionError) as error:
        raise PlanError(f"run {run}: what was sent is no experiment: {error}") from error


def aggregator_of(experiment: Experiment, program: Program, *, base: Path) -> Aggregator:
    """Return what adds up a program's vectors, as the experiment says: nothing else of it is built here."""
    pipeline: Any = experiment.pipeline
    if program == "evaluate" and experiment.metrics_pipeline is not None:
        pipeline = experiment.metrics_pipeline
    found = pipeline.arguments.get("aggregator") if isinstance(pipeline, ComponentSpec) else pipeline.aggregator
    if isinstance(found, Mapping):
        found = msgspec.convert(found, type=ComponentSpec)
    if found is None:
        found = ComponentSpec("fedloom.aggregators", "plain_sum", {})
    value: Any = resolve(found, base=base) if isinstance(found, ComponentSpec) else found
    deployed: Aggregator = value.deployed()
    return deployed
