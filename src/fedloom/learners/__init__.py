"""One file per framework that can train a client's model."""

from fedloom.learners import models
from fedloom.learners.linear import LinearLearner, logistic, ridge

__all__ = ["LinearLearner", "logistic", "models", "ridge"]
