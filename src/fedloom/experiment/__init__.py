"""Experiments: what decides a run, its digest, and its parts by name. ``fedloom.experiment.config`` reads files."""

from fedloom.experiment.registry import Provider, builder, complete, names, provider, resolve
from fedloom.experiment.spec import Experiment, differences

__all__ = [
    "Experiment",
    "Provider",
    "builder",
    "complete",
    "differences",
    "names",
    "provider",
    "resolve",
]
