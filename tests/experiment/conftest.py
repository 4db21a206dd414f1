"""Throw-away packages with entry points, as an operator would install them."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install a package of one module: its name, its code, and its lines of entry points by group."""
    modules: list[str] = []

    def install(name: str, code: str, *, version: str = "1.0", **groups: str) -> None:
        site = tmp_path / f"site-{name}"
        info = site / f"{name}-{version}.dist-info"
        info.mkdir(parents=True)
        (site / f"{name}.py").write_text(textwrap.dedent(code))
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text("".join(f"[fedloom.{g}]\n{lines}\n" for g, lines in groups.items()))
        monkeypatch.syspath_prepend(site)
        modules.append(name)

    yield install
    for module in modules:
        sys.modules.pop(module, None)
