"""The independent composition and the broken layers, as fixtures: tests cannot import each other."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


def _loaded(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"tests_privacy_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def independent() -> ModuleType:
    return _loaded("independent")


@pytest.fixture(scope="session")
def broken_layers() -> ModuleType:
    return _loaded("broken_layers")
