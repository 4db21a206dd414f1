"""privacy: mechanisms of differential privacy, their noise, and what they cost."""

from fedloom.privacy.adaptive import adaptive_gaussian
from fedloom.privacy.distributed import distributed_gaussian, distributed_shared_gaussian
from fedloom.privacy.local import local_gaussian, local_laplace
from fedloom.privacy.mechanisms import gaussian, laplace
from fedloom.privacy.output_perturbation import OutputPerturbation
from fedloom.privacy.shared_records import shared_gaussian
from fedloom.privacy.target import PrivacyTarget

__all__ = [
    "OutputPerturbation",
    "PrivacyTarget",
    "adaptive_gaussian",
    "distributed_gaussian",
    "distributed_shared_gaussian",
    "gaussian",
    "laplace",
    "local_gaussian",
    "local_laplace",
    "shared_gaussian",
]
