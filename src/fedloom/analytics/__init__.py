"""Questions answered by sums over clients, and the changes of rows that their answers give."""

from fedloom.analytics.categories import Categories, categories
from fedloom.analytics.class_moments import ClassMoments, class_moments
from fedloom.analytics.fold_rare import fold_rare
from fedloom.analytics.impute import impute
from fedloom.analytics.kmeans import Clusters, kmeans
from fedloom.analytics.label_set import LabelSet, label_set
from fedloom.analytics.min_max import min_max
from fedloom.analytics.moments import Moments, moments
from fedloom.analytics.one_hot import one_hot
from fedloom.analytics.ordinal import ordinal
from fedloom.analytics.quantiles import Quantiles, quantiles
from fedloom.analytics.standardise import standardise

__all__ = [
    "Categories",
    "ClassMoments",
    "Clusters",
    "LabelSet",
    "Moments",
    "Quantiles",
    "categories",
    "class_moments",
    "fold_rare",
    "impute",
    "kmeans",
    "label_set",
    "min_max",
    "moments",
    "one_hot",
    "ordinal",
    "quantiles",
    "standardise",
]
