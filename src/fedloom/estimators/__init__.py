"""Estimators with scikit-learn's interface, fitted over silos: one table of rows for each organisation."""

from fedloom.estimators.clusters import FederatedKMeans
from fedloom.estimators.export import to_sklearn
from fedloom.estimators.linear import FederatedLinearRegression, FederatedLogisticRegression
from fedloom.estimators.naive_bayes import FederatedGaussianNB
from fedloom.estimators.network import FederatedMLPClassifier
from fedloom.estimators.scaler import FederatedStandardScaler
from fedloom.estimators.silos import SiloError

__all__ = [
    "FederatedGaussianNB",
    "FederatedKMeans",
    "FederatedLinearRegression",
    "FederatedLogisticRegression",
    "FederatedMLPClassifier",
    "FederatedStandardScaler",
    "SiloError",
    "to_sklearn",
]
