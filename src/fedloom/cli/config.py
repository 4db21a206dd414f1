"""``fedloom config show``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from fedloom.cli.output import write_json
from fedloom.experiment import config


def show_file(file: Path, overrides: Sequence[str], *, resolved: bool, json: bool) -> None:
    """Check a file; print what it sets, or everything with defaults and origins."""
    settings = config.read(file, overrides)
    lines = [s for s in config.resolved(settings) if resolved or s.origin != "default"]
    if json:
        shown = [{"path": line.path, "value": line.value, "origin": line.origin} for line in lines]
        digest = settings.experiment.digest
        write_json({"digest": digest, "settings": shown})
        return
    for line in lines:
        sys.stdout.write(f"{line}\n")
    sys.stdout.write(f"# digest {settings.experiment.digest}\n")
