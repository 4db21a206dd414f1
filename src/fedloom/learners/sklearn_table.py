"""Which scikit-learn estimators train inside a round, what a file may say of each, and what the run itself sets."""

from __future__ import annotations

import difflib
import inspect
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

from fedloom.core.component import Json
from fedloom.errors import ComponentError

Kind = Literal["linear", "network"]
Task = Literal["classification", "regression"]

_PENALTY = ("penalty", "alpha", "l1_ratio", "fit_intercept")
_NETWORK = ("hidden_layer_sizes", "activation", "solver", "alpha", "momentum", "nesterovs_momentum", "beta_1", "beta_2")
_STILL: Mapping[str, Any] = {"shuffle": False, "random_state": 0}
_CONSTANT: Mapping[str, Any] = {**_STILL, "learning_rate": "constant"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One estimator: where it is, what may be said of it, and what is set for it."""

    name: str
    module: str
    kind: Kind
    task: Task
    takes: tuple[str, ...]
    """Arguments that a file may give."""
    fixed: Mapping[str, Any]
    """Arguments that the run sets: order and learning rate are the schedule's."""
    rate: tuple[str, ...]
    """Attributes that hold the learning rate of a step."""
    loss: str | None = None
    """Its loss, where no argument says so."""
    begins: Mapping[str, Any]
    """Defaults of ours, where scikit-learn's would not be a plain step."""


def _entry(
    name: str,
    task: Task,
    takes: tuple[str, ...],
    *,
    kind: Kind = "linear",
    fixed: Mapping[str, Any] = _CONSTANT,
    rate: tuple[str, ...] = ("eta0",),
    loss: str | None = None,
    begins: Mapping[str, Any] | None = None,
) -> Entry:
    module = "sklearn.neural_network" if kind == "network" else "sklearn.linear_model"
    return Entry(
        name=name,
        module=module,
        kind=kind,
        task=task,
        takes=takes,
        fixed=fixed,
        rate=rate,
        loss=loss,
        begins={} if begins is None else begins,
    )


_PLAIN_NETWORK: Mapping[str, Any] = {"solver": "sgd", "momentum": 0.0, "nesterovs_momentum": False}
_ENTRIES = (
    _entry("SGDClassifier", "classification", ("loss", *_PENALTY, "epsilon", "class_weight")),
    _entry("SGDRegressor", "regression", ("loss", *_PENALTY, "epsilon")),
    _entry("Perceptron", "classification", (*_PENALTY, "class_weight"), fixed=_STILL, loss="perceptron"),
    _entry(
        "PassiveAggressiveClassifier",
        "classification",
        ("loss", "fit_intercept", "class_weight"),
        fixed=_STILL,
        rate=("C", "eta0"),
        loss="hinge",
    ),
    _entry(
        "PassiveAggressiveRegressor",
        "regression",
        ("loss", "fit_intercept", "epsilon"),
        fixed=_STILL,
        rate=("C", "eta0"),
        loss="epsilon_insensitive",
    ),
    _entry(
        "MLPClassifier",
        "classification",
        (*_NETWORK, "epsilon"),
        kind="network",
        fixed=_CONSTANT,
        rate=("learning_rate_init",),
        loss="log_loss",
        begins=_PLAIN_NETWORK,
    ),
    _entry(
        "MLPRegressor",
        "regression",
        (*_NETWORK, "epsilon"),
        kind="network",
        fixed=_CONSTANT,
        rate=("learning_rate_init",),
        loss="squared_error",
        begins=_PLAIN_NETWORK,
    ),
)
SUPPORTED: Mapping[str, Entry] = {entry.name: entry for entry in _ENTRIES}
"""By the name of the class."""

_INSTEAD = {
    "LogisticRegression": 'take the learner "logistic": it minimises the same function',
    "Ridge": 'take the learner "ridge": it minimises the same function',
    "LinearRegression": 'take the learner "ridge" with l2 = 0',
    "LinearSVC": 'take "SGDClassifier" with arguments = { loss = "squared_hinge" }',
    "SVC": 'take "SGDClassifier" with arguments = { loss = "hinge" }; kernels have no parameters that add up',
    "LinearSVR": 'take "SGDRegressor" with arguments = { loss = "epsilon_insensitive" }',
    "GaussianNB": "it needs no rounds of training: fedloom.FederatedGaussianNB fits it by sums",
    "KMeans": "it has rounds of its own: fedloom.FederatedKMeans",
    "MiniBatchKMeans": "it has rounds of its own: fedloom.FederatedKMeans",
}


def entry_of(name: str) -> Entry:
    """Return what is known of an estimator.

    Raises:
        ComponentError: When it cannot train inside a round; says what can.

    Example:
        >>> entry_of("SGDClassifier").task
        'classification'
    """
    found = SUPPORTED.get(name)
    if found is None:
        advice = _INSTEAD.get(name) or _nearest(name, SUPPORTED)
        raise ComponentError(
            f'sklearn: estimator "{name}" does not train inside a round; those that do: {", ".join(SUPPORTED)}'
            f"{'; ' + advice if advice else ''}"
        )
    return found


def estimator_of(entry: Entry, arguments: Mapping[str, Json]) -> Any:
    """Return the estimator, with what a file says and what the run sets; nothing is fitted.

    Raises:
        ComponentError: When an argument is unknown or is the run's to set, or this scikit-learn has no such class.
    """
    made = _class_of(entry)
    signature = tuple(name for name in inspect.signature(made.__init__).parameters if name != "self")
    for key in arguments:
        if key in entry.takes and key in signature:
            continue
        if key in signature:
            raise ComponentError(
                f"sklearn: arguments has `{key}` of {entry.name}, which is not for a file to set: order, batches, "
                f"learning rate and number of steps are those of the schedule. It takes {', '.join(entry.takes)}"
            )
        near = _nearest(key, [*entry.takes, *signature])
        raise ComponentError(
            f"sklearn: arguments has `{key}`, which {entry.name} does not take{'; ' + near if near else ''}; it takes "
            f"{', '.join(entry.takes)}"
        )
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in arguments.items()}
    settings = {**entry.fixed, **entry.begins, **given}
    with warnings.catch_warnings():
        # A class that scikit-learn will drop warns when it is made: it is asked for by name, and works until then.
        warnings.simplefilter("ignore", FutureWarning)
        return made(**{key: value for key, value in settings.items() if key in signature})


def _class_of(entry: Entry) -> Any:
    found = getattr(import_module(entry.module), entry.name, None)
    if found is None:
        import sklearn

        raise ComponentError(f"sklearn: scikit-learn {sklearn.__version__} has no {entry.name}; take SGDClassifier")
    return found


def _nearest(name: str, known: Mapping[str, Any] | list[str]) -> str:
    lowered = {each.lower(): each for each in known}
    close = difflib.get_close_matches(name.lower(), lowered, n=1)
    return f"did you mean `{lowered[close[0]]}`?" if close else ""
