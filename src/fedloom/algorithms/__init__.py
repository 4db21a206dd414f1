"""One file per algorithm."""

from fedloom.algorithms.fedavg import (
    FedAvgState,
    fedadagrad,
    fedadam,
    fedavg,
    fedavgm,
    fedprox,
    fedsgd,
    fedyogi,
)
from fedloom.algorithms.scaffold import ScaffoldState, scaffold

__all__ = [
    "FedAvgState",
    "ScaffoldState",
    "fedadagrad",
    "fedadam",
    "fedavg",
    "fedavgm",
    "fedprox",
    "fedsgd",
    "fedyogi",
    "scaffold",
]
