"""Without PyTorch: names and signatures are there, and the first use says what to install."""

from __future__ import annotations

import sys

import pytest

import fedloom
from fedloom.errors import MissingExtra
from fedloom.experiment.catalogue import builder, names
from fedloom.experiment.schema import parameters
from fedloom.testing import schema_of


def test_the_learner_names_the_extra_when_it_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # an import of it fails
    made = fedloom.torch_module(fedloom.models.mlp([4]))
    with pytest.raises(
        MissingExtra, match=r"the torch learner needs the `torch` extra: pip install 'fedloom\[torch\]'"
    ):
        made.build(schema_of("binary"))


def test_signatures_are_read_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert parameters(builder("fedloom.learners", "torch"))["model"].shape.group == "fedloom.models"
    for name in names("fedloom.models"):
        assert parameters(builder("fedloom.models", name))
