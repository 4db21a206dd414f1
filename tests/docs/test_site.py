"""The site of the documents: every public name has its place, and the pages ask nothing of the network."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import fedloom

ROOT = Path(__file__).parents[2]
API = ROOT / "docs/reference/api"
PACKAGES = ("data", "testing")
MODULES = {"models": "learners.models"}

_DIRECTIVE = re.compile(r"^\.\. public-names:: (.*)$", re.MULTILINE)
_TAG = re.compile(r"<[^>]+>")
_LOADED = re.compile(r"<(?:script|link|img|iframe)\b[^>]*?\b(?:src|href)=\"((?:https?:)?//[^\"]*)\"")


def test_every_home_of_public_names_has_one_page() -> None:
    described = [home for page in sorted(API.glob("*.rst")) for found in _DIRECTIVE.findall(page.read_text())
                 for home in found.split()]  # fmt: skip
    homes = {home for home in fedloom._HOME.values() if home} | set(PACKAGES) | set(MODULES)
    assert sorted(described) == sorted(homes)


def test_every_page_of_the_api_is_listed() -> None:
    listed = set((API / "index.rst").read_text().split())
    assert {page.stem for page in API.glob("*.rst")} - {"index"} <= listed


def test_the_ten_lines_are_ten() -> None:
    page = (ROOT / "docs/tutorials/ten-lines.md").read_text()
    first = re.search(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    assert first is not None
    assert len([line for line in first[1].splitlines() if line]) == 10


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("sphinx") is None, reason="`make docs` installs Sphinx")
def test_the_site_has_every_public_name_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "-q", "-n", "-W", "--keep-going", "-b", "html"]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    built = subprocess.run(
        [*command, "-d", str(tmp_path / "doctrees"), str(ROOT / "docs"), str(tmp_path / "site")],
        env=environment, capture_output=True, text=True, timeout=55, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    pages = {page.relative_to(tmp_path / "site"): page.read_text() for page in (tmp_path / "site").rglob("*.html")}
    assert [(page, found) for page, text in pages.items() for found in _LOADED.findall(text)] == []
    assert [page for page, text in pages.items() if re.search(r"=\s*&lt;|~typing|_Supports", _TAG.sub("", text))] == []
    for sheet in (tmp_path / "site/_static").rglob("*.css"):
        assert not re.search(r"@import|url\(\s*[\"']?(?:https?:)?//", sheet.read_text()), sheet
    anchors = {anchor for text in pages.values() for anchor in re.findall(r'id="(fedloom\.[\w.]+)"', text)}
    named = {f"fedloom.{name}" for name, home in fedloom._HOME.items() if home and name not in MODULES}
    named |= {f"fedloom.{MODULES['models']}.{name}" for name in ("char_lstm", "cnn", "mlp", "resnet")}
    for package in PACKAGES:
        named |= {f"fedloom.{package}.{name}" for name in import_module(f"fedloom.{package}").__all__}
    assert named <= anchors
