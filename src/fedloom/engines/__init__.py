"""Engines: schedules of a run, nothing more."""

from fedloom.engines.comparison import Comparison
from fedloom.engines.local import LocalEngine, local
from fedloom.engines.result import RunInterrupted, RunResult

__all__ = ["Comparison", "LocalEngine", "RunInterrupted", "RunResult", "local"]
