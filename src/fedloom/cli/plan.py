"""``fedloom plan``: everything that will leave a client, before anything is trained."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

from fedloom.cli.output import write_json
from fedloom.cli.progress import in_bytes
from fedloom.cli.tables import print_table
from fedloom.engines.accounting import check_ledger
from fedloom.engines.preparing import answer_preparations
from fedloom.errors import Error
from fedloom.experiment.config import read
from fedloom.experiment.listing import Phase, PlanListing, list_plan
from fedloom.experiment.privacy_listing import PrivacyListing

_ITEMS = 12
"""Pieces of a vector that are listed one by one; beyond, the rest are counted."""


def plan_file(file: Path, overrides: Sequence[str], *, ask: bool, json: bool) -> None:
    """Print what the experiment of a file will send."""
    settings = read(file, overrides)
    answers = answer_preparations(settings.experiment, base=settings.base) if ask else ()
    listing = list_plan(settings.experiment, answers, base=settings.base)
    if json:
        write_json({**listing.as_json(), "bytes_up": listing.bytes_up, "bytes_down": listing.bytes_down})
        return
    _print(listing, asked=ask, runs=settings.output)


def _print(listing: PlanListing, *, asked: bool, runs: Path) -> None:
    out = sys.stdout
    out.write(f"experiment {listing.digest}\n{listing.clients} clients\n\n")
    out.write("What leaves a client\n")
    rows = [
        [
            phase.title,
            _count(phase.rounds),
            _expected(phase.clients),
            _count(phase.numbers),
            _bytes(phase.client_up),
            _bytes(phase.round_up),
            _bytes(phase.total_up),
            phase.protection if phase.unknown is None else "?",
        ]
        for phase in listing.phases
    ]
    rows.append(["all", "", "", "", "", "", _bytes(listing.bytes_up), ""])
    header = ["phase", "rounds", "clients", "numbers", "a message", "a round", "all rounds", "protection"]
    print_table(header, rows)
    down = "" if listing.bytes_down is None else f"{in_bytes(listing.bytes_down)} come down to the clients. "
    out.write("\n" + _filled(f"{down}{_how_exact(listing.phases, asked=asked)}") + "\n")
    for phase in listing.phases:
        _print_phase(phase)
    if listing.privacy is not None:
        _print_privacy(listing.privacy, runs=runs)
    out.write("\nWho provides what\n")
    for part in listing.components:
        who = "made in Python" if part.distribution is None else f"{part.distribution} {part.version}"
        out.write(f"  {part.field} = {part.name} ({who})\n")


def _print_phase(phase: Phase) -> None:
    out = sys.stdout
    out.write(f"\n{phase.title}\n")
    if phase.unknown is not None:
        out.write(f"  sizes are {phase.unknown}\n")
        return
    for item in phase.items[:_ITEMS]:
        shape = "x".join(str(size) for size in item.shape)
        out.write(f"  {item.kind:<7} {item.name}  {shape} {phase.dtype}\n")
    if len(phase.items) > _ITEMS:
        rest = phase.items[_ITEMS:]
        out.write(f"  and {len(rest)} more, {sum(item.numbers for item in rest)} numbers\n")
    if phase.stages:
        out.write(f"  goes through {', '.join(phase.stages)} and is added by {phase.aggregator}\n")
    for sentence in phase.learns:
        out.write(_filled(f"server learns {sentence}", indent="  ") + "\n")
    for note in phase.notes:
        out.write(_filled(note, indent="  ") + "\n")
    if phase.in_clear:
        covered = "nothing protects any of this" if phase.protection == "none" else "the server reads each message"
        out.write(f"  in clear: {covered}\n")


def _print_privacy(privacy: PrivacyListing, *, runs: Path) -> None:
    out = sys.stdout
    out.write("\nPrivacy\n")
    for line in (*privacy.lines, *_ledger_says(privacy, runs)):
        out.write(_filled(line, indent="  ") + "\n")
    rows = [[str(at.rounds), f"{at.models:g}", f"{at.participation:g}"] for at in privacy.by_round]
    out.write("\n")
    print_table(["rounds", "epsilon, reader of the models", "epsilon, holder of participation data"], rows)


def _ledger_says(privacy: PrivacyListing, runs: Path) -> Iterator[str]:
    """Yield whether the ledger beside the runs would let the run begin now."""
    if privacy.whole.protection.target.data_set is None:
        return
    try:
        check_ledger(privacy.whole, runs, new=True)
    except Error as refusal:
        yield f"as it is, the run would be refused: {refusal}"
    else:
        yield "the ledger has room for it"


def _how_exact(phases: Sequence[Phase], *, asked: bool) -> str:
    if any(phase.unknown is not None for phase in phases):
        return "A size marked ? is known when the preparations have been answered" + (
            "." if asked else ": leave --no-preparations out."
        )
    if any(phase.total_up is None for phase in phases):
        return "The stop sets no bound on rounds that could be counted, so there is no total."
    if all(phase.exact for phase in phases):
        return "These are the bytes that the run will count if no client fails and no stop holds earlier."
    return (
        "These are about the bytes that the run will count: one client's message stands for those of all where there "
        "are many clients, and a round that is short of updates is tried again."
    )


def _filled(text: str, *, indent: str = "") -> str:
    width = max(30, min(100, shutil.get_terminal_size().columns))
    return textwrap.fill(text, width, initial_indent=indent, subsequent_indent=indent + "  " if indent else "")


def _count(value: int | None) -> str:
    return "?" if value is None else str(value)


def _expected(value: float | None) -> str:
    return "?" if value is None else f"{value:g}"


def _bytes(value: int | None) -> str:
    return "?" if value is None else in_bytes(value)
