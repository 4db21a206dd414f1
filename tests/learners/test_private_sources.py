"""No generator of numpy, torch or the standard library is in reach of what protects rows."""

from __future__ import annotations

import ast
import inspect
from types import ModuleType

import pytest

from fedloom.core import private_steps
from fedloom.learners import private_linear, private_training
from fedloom.privacy import output_perturbation, shared_records

PUBLIC = ("random", "default_rng", "generator", "torch_seed", "manual_seed", "RandomState", "SystemRandom")


@pytest.mark.parametrize(
    "module",
    [private_steps, private_training, private_linear, output_perturbation, shared_records],
    ids=lambda module: module.__name__,
)
def test_private_code_names_no_public_randomness(module: ModuleType) -> None:
    check(inspect.getsource(module))


def test_private_code_for_torch_names_no_public_randomness() -> None:
    pytest.importorskip("torch")
    from fedloom.learners import torch_private

    check(inspect.getsource(torch_private))


def test_the_check_finds_what_it_looks_for() -> None:
    for source in ("import numpy.random", "from torch import randn", "keys.public.child('x')", "np.random.normal()"):
        with pytest.raises(AssertionError):
            check(source)


def check(source: str) -> None:
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [part for alias in node.names for part in alias.name.split(".")]
        elif isinstance(node, ast.Attribute):
            names = [node.attr]
        found = [name for name in names if name in PUBLIC or (name.startswith("rand") and name != "random_raw")]
        assert not found, f"line {getattr(node, 'lineno', 0)} names {found}"
        assert "public" not in names, "a public key is in reach of private steps"
