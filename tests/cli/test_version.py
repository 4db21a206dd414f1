"""``fedloom --version``."""

from __future__ import annotations

from importlib.metadata import version

from typer.testing import CliRunner

from fedloom.cli.app import app


def test_the_version_is_that_of_the_installed_package() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert result.exit_code == 0
    assert result.output == f"fedloom {version('fedloom')}\n"
