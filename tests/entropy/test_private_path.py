"""The path that private noise takes: no generator of anybody else, and no float, by reading the source."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import fedloom.entropy

SOURCES = sorted(Path(fedloom.entropy.__path__[0]).glob("*.py"))
INTEGERS_ONLY = {"discrete_noise.py", "exponential.py", "words.py"}
GENERATORS = {"random", "numpy.random", "torch", "jax", "uuid", "scipy"}
FLOATS = {
    "float", "float16", "float32", "float64", "double", "single", "longdouble", "exp", "exp2", "expm1", "log", "log2",
    "log1p", "sqrt", "power", "pow", "true_divide", "divide", "mean", "std", "var", "uniforms", "rint", "floor", "ceil",
}  # fmt: skip


def generators(source: str) -> list[str]:
    """Name what imports or reaches a generator that is no stream."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}", *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Attribute) and node.attr in {"random", "generator"}:
            names = ["random"]
        else:
            continue
        found += [name for name in names if any(name == one or name.startswith(f"{one}.") for one in GENERATORS)]
    return found


def floats(source: str) -> list[str]:
    """Name what is a float, or makes one."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, float | complex):
            found.append(repr(node.value))
        if isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.Div):
            found.append("/")
        if isinstance(node, ast.Name) and node.id in FLOATS:
            found.append(node.id)
        if isinstance(node, ast.Attribute) and node.attr in FLOATS:
            found.append(node.attr)
    return found


def test_every_module_is_read() -> None:
    assert {path.name for path in SOURCES} >= INTEGERS_ONLY | {"secret.py"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_no_module_draws_from_a_generator(path: Path) -> None:
    assert generators(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("name", sorted(INTEGERS_ONLY))
def test_no_sampler_uses_a_float(name: str) -> None:
    (path,) = [path for path in SOURCES if path.name == name]
    assert floats(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "import random",
        "from numpy.random import Philox",
        "from numpy import random",
        "import numpy as np\nnp.random.x",
        "key.generator()",
    ],
)
def test_a_generator_would_be_noticed(source: str) -> None:
    assert generators(source)


@pytest.mark.parametrize(
    "source", ["x = 0.5", "x / y", "x /= y", "np.exp(x)", "math.sqrt(2)", "x.astype(float)", "np.float64(x)"]
)
def test_a_float_would_be_noticed(source: str) -> None:
    assert floats(source)
