"""Arguments and options that commands of several modules take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output, nothing else.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one key: algorithm.mu=0.1")]
File = Annotated[Path, typer.Argument(metavar="FILE", help="An experiment file (TOML).")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
RootFolder = Annotated[Path, typer.Argument(metavar="ROOT", help="The folder of the offline root.")]
CoordinatorFolder = Annotated[Path, typer.Argument(metavar="COORDINATOR", help="The coordinator's folder.")]
SiteFolder = Annotated[Path, typer.Argument(metavar="SITE", help="The site's folder.")]
COORDINATOR = "coordinator.toml"
"""A folder with this file is a coordinator's."""


def runs_folder(output: Path) -> Path:
    """Return the folder of runs that a person means: a coordinator's lie inside its store.

    Example:
        >>> runs_folder(Path("runs")).as_posix()
        'runs'
    """
    return output / "store" / "runs" if (output / COORDINATOR).exists() else output
