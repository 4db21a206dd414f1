"""The report of a run, and the comparison of several: each one HTML file that opens offline, made from run folders."""

from fedloom.reports.compare import render_comparison, write_comparison
from fedloom.reports.page import REPORT, render, write
from fedloom.reports.public import PUBLIC_REPORT, render_public, write_public
from fedloom.reports.stored import Stored, read

__all__ = [
    "PUBLIC_REPORT",
    "REPORT",
    "Stored",
    "read",
    "render",
    "render_comparison",
    "render_public",
    "write",
    "write_comparison",
    "write_public",
]
