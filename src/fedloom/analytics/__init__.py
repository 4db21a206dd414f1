"""Questions answered by sums over clients, and the changes of rows that their answers give."""

from fedloom.analytics.label_set import LabelSet, label_set
from fedloom.analytics.moments import Moments, moments
from fedloom.analytics.standardise import standardise

__all__ = ["LabelSet", "Moments", "label_set", "moments", "standardise"]
