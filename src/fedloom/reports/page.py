"""The page itself: sections put into a template, written whole into the run's folder."""

from __future__ import annotations

from pathlib import Path

from fedloom.reports.by_round import rounds_section
from fedloom.reports.calibration import calibration_section
from fedloom.reports.holdings import holdings_section
from fedloom.reports.overview import overview
from fedloom.reports.privacy import privacy_section
from fedloom.reports.settings import preparation_section, settings
from fedloom.reports.stored import Stored, read
from fedloom.reports.templating import template
from fedloom.reports.traffic import traffic_section
from fedloom.reports.trouble import trouble_section
from fedloom.reports.worth import worth_section
from fedloom.store import write_text

REPORT = "report.html"


def write(folder: Path) -> Path:
    """Write ``report.html`` into the folder of a run that has finished, over the one that is there.

    The same record gives the same bytes. The page needs no other file and no network.

    Args:
        folder: Of one run: ``experiment.json``, ``record.json`` and ``metrics.csv`` are read.

    Returns:
        The path of the page.

    Raises:
        StoreError: When one of the three cannot be read, or the page cannot be written.
    """
    path = folder / REPORT
    write_text(path, render(read(folder)))
    return path


def render(stored: Stored) -> str:
    """Return the report of a run as HTML.

    Raises:
        StoreError: When ``metrics.csv`` is absent or damaged.
    """
    sections = (
        privacy_section(stored),
        worth_section(stored),
        rounds_section(stored),
        holdings_section(stored),
        traffic_section(stored),
        calibration_section(stored),
        trouble_section(stored),
        preparation_section(stored),
    )
    return template("report.html").render(
        head=overview(stored), sections=[each for each in sections if each is not None], settings=settings(stored)
    )
