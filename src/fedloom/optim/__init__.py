"""Optimizers as (init, update) pairs on vectors, and ramps: numbers that change by round."""

from fedloom.optim.adaptive import Moments, adagrad, adam, yogi
from fedloom.optim.descent import momentum, sgd
from fedloom.optim.ramps import cosine, exponential, inverse, steps, warmup

__all__ = [
    "Moments",
    "adagrad",
    "adam",
    "cosine",
    "exponential",
    "inverse",
    "momentum",
    "sgd",
    "steps",
    "warmup",
    "yogi",
]
