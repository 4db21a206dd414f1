"""How many clients a torch module trains at once, and how: a pure function of what is known when the schema is agreed.

Three routes, each the same mathematics:

- ``loop``: one client after the other, the module as it is. Works for everything.
- ``mlp``: linear layers with activations between them, a few clients at once, with gradients written by hand.
- ``vmap``: any module of independent rows, stacked by ``torch.func``.

Nothing here looks at the machine, so every party and every engine chooses alike; a device is an argument of the
learner, and counts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from fedloom.errors import ComponentError

Route = Literal["loop", "mlp", "vmap"]
BlockChoice = Literal["auto", "loop", "mlp", "vmap"]

STACKED_ON_CPU = 16_384
"""Parameters up to which a stack of 32 takes at most half the time of a loop on a CPU, at 10 rows a batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a choice depends on."""

    parameters: int
    device: Literal["cpu", "cuda"]
    slow_stacked: str = ""
    """Layers that a CPU computes best one client at a time; empty: none."""
    not_mlp: str = ""
    """Why the module is no perceptron; empty where it is one."""
    not_stacked: Callable[[], str] = str
    """Tells why the module cannot be stacked, empty where it can. Trying takes a second: it is asked late."""


FEWEST = 6
"""Clients from which a stack is faster than they are one by one."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A route, and why it was taken, as half a sentence."""

    route: Route
    reason: str
    fewest: int = 1
    """Clients below which they are trained one by one all the same."""

    @property
    def sentence(self) -> str:
        """The choice in words."""
        return f'clients are trained by block = "{self.route}": {self.reason}'


def choose(facts: Facts, wanted: BlockChoice) -> Choice:
    """Return the route of a module.

    Raises:
        ComponentError: When the route that is wanted cannot work, with the reason.

    Example:
        >>> choose(
        ...     Facts(parameters=1_000_000, device="cpu", slow_stacked="convolutions", not_mlp="it has"), "auto"
        ... ).route
        'loop'
    """
    match wanted:
        case "loop":
            return Choice("loop", "asked for")
        case "mlp":
            return _forced("mlp", facts.not_mlp)
        case "vmap":
            return _forced("vmap", facts.not_stacked())
        case "auto":
            return _best(facts)
    raise ComponentError(f'torch(block={wanted!r}): expected "auto", "loop", "mlp" or "vmap"')


def _forced(route: Literal["mlp", "vmap"], obstacle: str) -> Choice:
    if obstacle:
        raise ComponentError(f'torch(block="{route}"): {obstacle}. Use block = "auto" or "loop"')
    return Choice(route, "asked for")


def _best(facts: Facts) -> Choice:
    if not facts.not_mlp:
        return Choice("mlp", "linear layers with activations between them")
    if facts.device == "cpu" and facts.slow_stacked:
        return Choice("loop", f"a CPU computes {facts.slow_stacked} fastest for one client at a time")
    if facts.device == "cpu" and facts.parameters > STACKED_ON_CPU:
        many = f"{facts.parameters:,} parameters are more than {STACKED_ON_CPU:,}"
        return Choice("loop", f"{many}, beyond which a stack of clients gains little on a CPU")
    if obstacle := facts.not_stacked():
        return Choice("loop", obstacle)
    if facts.device == "cuda":
        return Choice("vmap", "a GPU is busy only when many clients share a step", FEWEST)
    few = f"with {facts.parameters:,} parameters calls cost more than products, and a stack of clients shares them"
    return Choice("vmap", few, FEWEST)
