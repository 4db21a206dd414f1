"""Engines: schedules of a run, nothing more."""

from fedloom.engines.comparison import Comparison
from fedloom.engines.local import LocalEngine, local
from fedloom.engines.ray_engine import RayEngine, ray
from fedloom.engines.result import RunInterrupted, RunResult
from fedloom.engines.trained_model import TrainedModel

__all__ = ["Comparison", "LocalEngine", "RayEngine", "RunInterrupted", "RunResult", "TrainedModel", "local", "ray"]
