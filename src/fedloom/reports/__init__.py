"""The report of a run: one HTML file that opens offline, made from what the run's folder holds."""

from fedloom.reports.page import REPORT, render, write
from fedloom.reports.stored import Stored, read

__all__ = ["REPORT", "Stored", "read", "render", "write"]
