"""The report of a run, and the comparison of several: each one HTML file that opens offline, made from run folders."""

from fedloom.reports.compare import render_comparison, write_comparison
from fedloom.reports.page import REPORT, render, write
from fedloom.reports.stored import Stored, read

__all__ = ["REPORT", "Stored", "read", "render", "render_comparison", "write", "write_comparison"]
