"""Durable truth of a run: one folder each, a state file that a kill cannot tear, and an index of all."""

from fedloom.store.documents import FinalStatus, Status
from fedloom.store.files import read_model, write_model, write_rounds, write_text
from fedloom.store.index import RunSummary, find, list_runs
from fedloom.store.run_folder import RunFolder, Saved

__all__ = [
    "FinalStatus",
    "RunFolder",
    "RunSummary",
    "Saved",
    "Status",
    "find",
    "list_runs",
    "read_model",
    "write_model",
    "write_rounds",
    "write_text",
]
