"""Batteries that every component must pass, and small stand-ins to run them with; extra ``fedloom[testing]``."""

from fedloom.testing.aggregator import check_aggregator, sum_round
from fedloom.testing.algorithm import check_algorithm, run_program
from fedloom.testing.fakes import (
    ListDataset,
    counting,
    federation,
    minimise,
    pooled_rows,
    rows,
    schema_of,
    two_quadratics,
)
from fedloom.testing.learner import check_learner
from fedloom.testing.query import check_preparation, check_query
from fedloom.testing.simulation import Simulation, deliveries, plan_for, simulate
from fedloom.testing.stage import check_stage

__all__ = [
    "ListDataset",
    "Simulation",
    "check_aggregator",
    "check_algorithm",
    "check_learner",
    "check_preparation",
    "check_query",
    "check_stage",
    "counting",
    "deliveries",
    "federation",
    "minimise",
    "plan_for",
    "pooled_rows",
    "rows",
    "run_program",
    "schema_of",
    "simulate",
    "sum_round",
    "two_quadratics",
]
