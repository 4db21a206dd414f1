"""fedloom: federated learning with reproducible runs.

The public names, loaded when they are first used: ``import fedloom`` alone loads the standard library only.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedloom import data as data
    from fedloom.algorithms import fedadagrad as fedadagrad
    from fedloom.algorithms import fedadam as fedadam
    from fedloom.algorithms import fedavg as fedavg
    from fedloom.algorithms import fedavgm as fedavgm
    from fedloom.algorithms import fedprox as fedprox
    from fedloom.algorithms import fedsgd as fedsgd
    from fedloom.algorithms import fedyogi as fedyogi
    from fedloom.algorithms import scaffold as scaffold
    from fedloom.analytics import categories as categories
    from fedloom.analytics import class_moments as class_moments
    from fedloom.analytics import fold_rare as fold_rare
    from fedloom.analytics import impute as impute
    from fedloom.analytics import kmeans as kmeans
    from fedloom.analytics import label_set as label_set
    from fedloom.analytics import min_max as min_max
    from fedloom.analytics import moments as moments
    from fedloom.analytics import one_hot as one_hot
    from fedloom.analytics import ordinal as ordinal
    from fedloom.analytics import quantiles as quantiles
    from fedloom.analytics import standardise as standardise
    from fedloom.core.algorithm import Algorithm as Algorithm
    from fedloom.core.algorithm import ClientContext as ClientContext
    from fedloom.core.algorithm import ClientProgram as ClientProgram
    from fedloom.core.algorithm import ask as ask
    from fedloom.core.algorithm import evaluate as evaluate
    from fedloom.core.algorithm import gradient as gradient
    from fedloom.core.algorithm import train as train
    from fedloom.core.component import ComponentSpec as ComponentSpec
    from fedloom.core.component import Recipe as Recipe
    from fedloom.core.component import component as component
    from fedloom.core.data import ClientDataset as ClientDataset
    from fedloom.core.data import Schema as Schema
    from fedloom.core.keys import Key as Key
    from fedloom.core.learner import Capabilities as Capabilities
    from fedloom.core.params import Leaf as Leaf
    from fedloom.core.params import ParamSpec as ParamSpec
    from fedloom.core.private_steps import PrivateSteps as PrivateSteps
    from fedloom.core.query import Preparation as Preparation
    from fedloom.core.query import Query as Query
    from fedloom.core.schedule import Ramp as Ramp
    from fedloom.core.schedule import Schedule as Schedule
    from fedloom.core.update import Aggregate as Aggregate
    from fedloom.core.update import Update as Update
    from fedloom.core.wire import Stage as Stage
    from fedloom.core.wire import WireType as WireType
    from fedloom.core.work import LocalEvaluation as LocalEvaluation
    from fedloom.core.work import LocalGradient as LocalGradient
    from fedloom.core.work import LocalQuery as LocalQuery
    from fedloom.core.work import LocalWork as LocalWork
    from fedloom.engines import RunInterrupted as RunInterrupted
    from fedloom.engines import RunResult as RunResult
    from fedloom.engines import TrainedModel as TrainedModel
    from fedloom.engines import local as local
    from fedloom.engines import ray as ray
    from fedloom.errors import AlgorithmError as AlgorithmError
    from fedloom.errors import BudgetError as BudgetError
    from fedloom.errors import ComponentError as ComponentError
    from fedloom.errors import ConfigError as ConfigError
    from fedloom.errors import DataError as DataError
    from fedloom.errors import Error as Error
    from fedloom.errors import PlanError as PlanError
    from fedloom.errors import RunStopped as RunStopped
    from fedloom.errors import StoreError as StoreError
    from fedloom.estimators import FederatedGaussianNB as FederatedGaussianNB
    from fedloom.estimators import FederatedKMeans as FederatedKMeans
    from fedloom.estimators import FederatedLinearRegression as FederatedLinearRegression
    from fedloom.estimators import FederatedLogisticRegression as FederatedLogisticRegression
    from fedloom.estimators import FederatedMLPClassifier as FederatedMLPClassifier
    from fedloom.estimators import FederatedStandardScaler as FederatedStandardScaler
    from fedloom.estimators import to_sklearn as to_sklearn
    from fedloom.experiment import Experiment as Experiment
    from fedloom.learners import logistic as logistic
    from fedloom.learners import models as models
    from fedloom.learners import ridge as ridge
    from fedloom.learners.sklearn_estimator import sklearn_estimator as sklearn_estimator
    from fedloom.learners.torch_module import ModuleLoss as ModuleLoss
    from fedloom.learners.torch_module import torch_module as torch_module
    from fedloom.optim import adagrad as adagrad
    from fedloom.optim import adam as adam
    from fedloom.optim import cosine as cosine
    from fedloom.optim import exponential as exponential
    from fedloom.optim import inverse as inverse
    from fedloom.optim import momentum as momentum
    from fedloom.optim import sgd as sgd
    from fedloom.optim import steps as steps
    from fedloom.optim import warmup as warmup
    from fedloom.optim import yogi as yogi
    from fedloom.pipeline import chain as chain
    from fedloom.pipeline import clip as clip
    from fedloom.pipeline import fixed_point as fixed_point
    from fedloom.pipeline import mean as mean
    from fedloom.pipeline import plain_sum as plain_sum
    from fedloom.pipeline import rotate as rotate
    from fedloom.pipeline import rounded as rounded
    from fedloom.privacy import OutputPerturbation as OutputPerturbation
    from fedloom.privacy import PrivacyTarget as PrivacyTarget
    from fedloom.privacy import adaptive_gaussian as adaptive_gaussian
    from fedloom.privacy import distributed_gaussian as distributed_gaussian
    from fedloom.privacy import distributed_shared_gaussian as distributed_shared_gaussian
    from fedloom.privacy import gaussian as gaussian
    from fedloom.privacy import laplace as laplace
    from fedloom.privacy import local_gaussian as local_gaussian
    from fedloom.privacy import local_laplace as local_laplace
    from fedloom.privacy import shared_gaussian as shared_gaussian
    from fedloom.runtime.cohort import by_size as by_size
    from fedloom.runtime.cohort import everyone as everyone
    from fedloom.runtime.cohort import poisson as poisson
    from fedloom.runtime.cohort import truncated_poisson as truncated_poisson
    from fedloom.runtime.cohort import uniform as uniform
    from fedloom.runtime.policy import RoundPolicy as RoundPolicy
    from fedloom.runtime.record import RoundRecord as RoundRecord
    from fedloom.runtime.simulation import Daily as Daily
    from fedloom.runtime.simulation import Simulation as Simulation
    from fedloom.runtime.stopping import all_of as all_of
    from fedloom.runtime.stopping import any_of as any_of
    from fedloom.runtime.stopping import divergence as divergence
    from fedloom.runtime.stopping import max_rounds as max_rounds
    from fedloom.runtime.stopping import patience as patience
    from fedloom.runtime.stopping import small_update as small_update
    from fedloom.runtime.stopping import target as target
    from fedloom.runtime.stopping import wall_clock as wall_clock
    from fedloom.secure import secure_sum as secure_sum
    from fedloom.secure import shares_sum as shares_sum

_HOME = {
    "StoreError": "errors",
    "RunStopped": "errors",
    "PlanError": "errors",
    "DataError": "errors",
    "ConfigError": "errors",
    "ComponentError": "errors",
    "AlgorithmError": "errors",
    "BudgetError": "errors",
    "Aggregate": "core.update",
    "Algorithm": "core.algorithm",
    "Capabilities": "core.learner",
    "ClientContext": "core.algorithm",
    "ClientDataset": "core.data",
    "ClientProgram": "core.algorithm",
    "ComponentSpec": "core.component",
    "Daily": "runtime.simulation",
    "Error": "errors",
    "Experiment": "experiment",
    "FederatedGaussianNB": "estimators",
    "FederatedKMeans": "estimators",
    "FederatedLinearRegression": "estimators",
    "FederatedLogisticRegression": "estimators",
    "FederatedMLPClassifier": "estimators",
    "FederatedStandardScaler": "estimators",
    "Key": "core.keys",
    "Leaf": "core.params",
    "LocalEvaluation": "core.work",
    "LocalGradient": "core.work",
    "LocalQuery": "core.work",
    "LocalWork": "core.work",
    "ModuleLoss": "learners.torch_module",
    "OutputPerturbation": "privacy",
    "ParamSpec": "core.params",
    "Preparation": "core.query",
    "PrivacyTarget": "privacy",
    "PrivateSteps": "core.private_steps",
    "Query": "core.query",
    "Ramp": "core.schedule",
    "Recipe": "core.component",
    "RoundPolicy": "runtime.policy",
    "RoundRecord": "runtime.record",
    "RunInterrupted": "engines",
    "RunResult": "engines",
    "Schedule": "core.schedule",
    "Schema": "core.data",
    "Simulation": "runtime.simulation",
    "Stage": "core.wire",
    "TrainedModel": "engines",
    "Update": "core.update",
    "WireType": "core.wire",
    "adagrad": "optim",
    "adam": "optim",
    "adaptive_gaussian": "privacy",
    "all_of": "runtime.stopping",
    "any_of": "runtime.stopping",
    "ask": "core.algorithm",
    "categories": "analytics",
    "by_size": "runtime.cohort",
    "chain": "pipeline",
    "class_moments": "analytics",
    "clip": "pipeline",
    "component": "core.component",
    "cosine": "optim",
    "data": "",
    "distributed_gaussian": "privacy",
    "distributed_shared_gaussian": "privacy",
    "divergence": "runtime.stopping",
    "evaluate": "core.algorithm",
    "everyone": "runtime.cohort",
    "exponential": "optim",
    "fedadagrad": "algorithms",
    "fedadam": "algorithms",
    "fedavg": "algorithms",
    "fedavgm": "algorithms",
    "fedprox": "algorithms",
    "fedsgd": "algorithms",
    "fedyogi": "algorithms",
    "fixed_point": "pipeline",
    "fold_rare": "analytics",
    "gaussian": "privacy",
    "gradient": "core.algorithm",
    "impute": "analytics",
    "inverse": "optim",
    "kmeans": "analytics",
    "label_set": "analytics",
    "laplace": "privacy",
    "local": "engines",
    "local_gaussian": "privacy",
    "local_laplace": "privacy",
    "logistic": "learners",
    "max_rounds": "runtime.stopping",
    "mean": "pipeline",
    "min_max": "analytics",
    "models": "learners",
    "moments": "analytics",
    "momentum": "optim",
    "one_hot": "analytics",
    "ordinal": "analytics",
    "patience": "runtime.stopping",
    "plain_sum": "pipeline",
    "poisson": "runtime.cohort",
    "quantiles": "analytics",
    "ray": "engines",
    "ridge": "learners",
    "rotate": "pipeline",
    "rounded": "pipeline",
    "scaffold": "algorithms",
    "secure_sum": "secure",
    "sgd": "optim",
    "sklearn_estimator": "learners.sklearn_estimator",
    "shared_gaussian": "privacy",
    "shares_sum": "secure",
    "small_update": "runtime.stopping",
    "standardise": "analytics",
    "steps": "optim",
    "target": "runtime.stopping",
    "torch_module": "learners.torch_module",
    "to_sklearn": "estimators",
    "train": "core.algorithm",
    "truncated_poisson": "runtime.cohort",
    "uniform": "runtime.cohort",
    "wall_clock": "runtime.stopping",
    "warmup": "optim",
    "yogi": "optim",
}
"""Public name to the module that holds it; an empty module is a package of that name."""

__all__ = sorted(_HOME)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    """Load a public name from its module, once."""
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'fedloom' has no attribute {name!r}")
    value = import_module(f"fedloom.{home or name}")
    if home:
        value = getattr(value, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names."""
    return __all__
