"""``fedloom doctor``: whether this machine can run experiments, and what to do where it cannot.

Only where the folder of a coordinator or site is named is the network used: to reach the other side.
"""

from __future__ import annotations

import locale
import os
import platform
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import typer

from fedloom.cli.findings import Finding
from fedloom.cli.options import COORDINATOR
from fedloom.cli.output import write_json
from fedloom.cli.progress import in_bytes
from fedloom.store.faults import explained

OLDEST_PYTHON = (3, 11)
_LEAST_DISK = 200 << 20
"""A run folder is some megabytes; saved rounds of large models are more."""
_LEAST_MEMORY = 1 << 30
_EARLIEST = 1_735_689_600
"""1 January 2025 in seconds: a clock before it was never set."""


def examine(output: Path, *, now: Callable[[], float] = time.time) -> tuple[Finding, ...]:
    """Return what was found, in the order of the listing.

    Args:
        output: Folder of all runs, which need not exist.
        now: The present.
    """
    parts = (_python(), _packages(), _blas(), _machine(), _folder(output), _surroundings(now), _extras())
    return tuple(finding for part in parts for finding in part)


def run_doctor(output: Path, *, party: Path | None = None, json: bool) -> None:
    """Print the findings.

    Args:
        output: Folder of all runs.
        party: Folder of a coordinator or a site, which is examined too.
        json: Print one object.

    Raises:
        typer.Exit: With code 1 when there is a problem.
    """
    findings = (*examine(output), *_party(party))
    problems = sum(finding.level == "problem" for finding in findings)
    if json:
        write_json({"problems": problems, "findings": [asdict(finding) for finding in findings]})
    else:
        for finding in findings:
            advice = "" if finding.advice is None else f"\n{'':9}{finding.advice}"
            sys.stdout.write(f"{finding.level:<8} {finding.subject}: {finding.value}{advice}\n")
        words = "no problems" if not problems else f"{problems} problem{'s' if problems > 1 else ''}: see above"
        sys.stdout.write(f"\n{words}\n")
    if problems:
        raise typer.Exit(1)


def _party(folder: Path | None) -> Iterator[Finding]:
    if folder is None:
        return
    from fedloom.cli.doctor_parties import examine_coordinator
    from fedloom.cli.doctor_sites import examine_site

    yield from (examine_coordinator if (folder / COORDINATOR).exists() else examine_site)(folder)


def _python() -> Iterator[Finding]:
    found = platform.python_version()
    ok = sys.version_info[:2] >= OLDEST_PYTHON
    oldest = ".".join(map(str, OLDEST_PYTHON))
    yield Finding(
        subject="Python",
        level="ok" if ok else "problem",
        value=f"{found} ({platform.python_implementation()}, {platform.system()} {platform.machine()})",
        advice=None if ok else f"install Python {oldest} or newer",
    )


def _packages() -> Iterator[Finding]:
    try:
        yield Finding(subject="fedloom", level="ok", value=version("fedloom"))
        needed = [text for text in requires("fedloom") or [] if "extra ==" not in text]
    except PackageNotFoundError:
        yield Finding(
            subject="fedloom",
            level="problem",
            value="not installed, run from its sources",
            advice="pip install it: names of components are found by its metadata",
        )
        return
    for name in sorted(_name(text) for text in needed):
        if _installed(name):
            yield Finding(subject=name, level="ok", value=version(name))
        else:
            yield Finding(subject=name, level="problem", value="not installed", advice=f"pip install {name}")


def _name(requirement: str) -> str:
    """Return the name in a requirement.

    Example:
        >>> _name("numpy>=2.0"), _name("rich (>=13.9)")
        ('numpy', 'rich')
    """
    return next(
        (requirement[:at] for at, letter in enumerate(requirement) if not (letter.isalnum() or letter in "-_.")),
        requirement,
    )


def _blas() -> Iterator[Finding]:
    from fedloom.engines.versions import versions

    threads = os.environ.get("OPENBLAS_NUM_THREADS") or os.environ.get("OMP_NUM_THREADS")
    yield Finding(
        subject="BLAS",
        level="ok",
        value=versions()["blas"] + (f", {threads} threads by the environment" if threads else ""),
        advice="a run uses one BLAS thread, so that its bytes are the same; engine.workers is for cores",
    )


def _machine() -> Iterator[Finding]:
    cores = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    yield Finding(subject="cores", level="ok", value=f"{usable} of {cores} usable")
    memory = _memory()
    if memory is None:
        yield Finding(subject="memory", level="ok", value="unknown on this system")
        return
    little = memory < _LEAST_MEMORY
    yield Finding(
        subject="memory",
        level="warning" if little else "ok",
        value=in_bytes(memory),
        advice="all rows of a simulation lie in memory: keep them under half of it" if little else None,
    )


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _folder(output: Path) -> Iterator[Finding]:
    place = next(path for path in (output, *output.absolute().parents) if path.exists())
    if not place.is_dir():
        yield Finding(
            subject="run folder",
            level="problem",
            value=f"{place} is a file",
            advice="move it, or name another folder: --output FOLDER",
        )
        return
    try:
        with explained(place), tempfile.TemporaryFile(dir=place) as file:
            file.write(b"fedloom")
        yield Finding(subject="run folder", level="ok", value=f"{output} can be written")
    except Exception as error:  # whatever a file system may say
        yield Finding(
            subject="run folder",
            level="problem",
            value=f"{output} cannot be written: {error}",
            advice="change its owner or mode, or name another folder: --output FOLDER",
        )
    free = shutil.disk_usage(place).free
    yield Finding(
        subject="free disk",
        level="ok" if free >= _LEAST_DISK else "warning",
        value=in_bytes(free),
        advice=None if free >= _LEAST_DISK else "free some: a run that finds no space is paused",
    )


def _surroundings(now: Callable[[], float]) -> Iterator[Finding]:
    encoding = sys.stdout.encoding or "unknown"
    plain = encoding.lower().replace("-", "") != "utf8"
    yield Finding(
        subject="terminal",
        level="warning" if plain else "ok",
        value=f"{encoding}, locale {locale.setlocale(locale.LC_CTYPE)}",
        advice="names with other letters print as question marks: set PYTHONIOENCODING=utf-8" if plain else None,
    )
    seconds = now()
    set_ = seconds > _EARLIEST
    yield Finding(
        subject="clock",
        level="ok" if set_ else "warning",
        value=time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds)),
        advice=None if set_ else "set it: runs are named by the time of their start",
    )


def _extras() -> Iterator[Finding]:
    """Look for the packages of each extra that the metadata name."""
    wanted: dict[str, list[str]] = {}
    try:
        lines = requires("fedloom") or []
    except PackageNotFoundError:
        return
    for line in lines:
        found = re.search(r"extra == ['\"]([\w.-]+)['\"]", line)
        if found is not None:
            wanted.setdefault(found[1], []).append(_name(line))
    for extra, names in sorted(wanted.items()):
        absent = [name for name in names if not _installed(name)]
        yield Finding(
            subject=f"extra {extra}",
            level="ok",
            value=f"not installed: {', '.join(absent)}" if absent else "installed",
            advice=f"only if you need it: pip install 'fedloom[{extra}]'" if absent else None,
        )


def _installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True
