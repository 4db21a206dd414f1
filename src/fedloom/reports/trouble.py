"""What went wrong and what to know: failures grouped by what they have in common, notes in their order."""

from __future__ import annotations

from collections import Counter, defaultdict

from fedloom.reports.pieces import Section, Table, numbers, words
from fedloom.reports.readable import Cell, counted, figure, number, plain
from fedloom.reports.stored import Lost, Stored

_NAMED = 5
_GROUPS = 50
_NOTES = 300
_OPEN_NOTES = 12


def trouble_section(stored: Stored) -> Section:
    """Return failures and notes; a section that says so where there are none."""
    lost = _failures(stored)
    tables = []
    told = []
    if lost:
        tables.append(_grouped(lost))
        clients = len({each.client for each in lost})
        told.append(
            f"{counted(len(lost), 'answer')} of {counted(clients, 'client')} did not come, or could not be used."
        )
    else:
        told.append("No client failed in any round.")
    if stored.summary.notes:
        tables.append(_notes(stored.summary.notes))
    else:
        told.append("Nothing was noted about the rows.")
    return Section(id="trouble", title="Failures and notes", words=(" ".join(told),), tables=tuple(tables))


def _failures(stored: Stored) -> list[Lost]:
    if stored.summary.failures:
        return list(stored.summary.failures)
    return [
        Lost(client=f.client, phase=f.phase, kind=f.kind, detail=f.detail, where=f.where)
        for record in stored.record.records
        for f in record.failures
    ]


def _grouped(lost: list[Lost]) -> Table:
    groups: dict[tuple[str, str, str, str], Counter[str]] = defaultdict(Counter)
    for each in lost:
        groups[each.kind, each.phase, each.detail, each.where or ""][each.client] += 1
    ordered = sorted(groups.items(), key=lambda item: (-item[1].total(), item[0]))
    rows: list[tuple[Cell, ...]] = []
    for (kind, phase, detail, where), clients in ordered[:_GROUPS]:
        named = ", ".join(f"{plain(client)} ({figure(n)})" for client, n in clients.most_common(_NAMED))
        more = f" and {figure(len(clients) - _NAMED)} more" if len(clients) > _NAMED else ""
        place = f" at {plain(where)}" if where else ""
        rows.append(((kind,), (phase,), number(clients.total(), "failures"), (named + more,), (plain(detail) + place,)))
    note = (
        f"{figure(_GROUPS)} of {figure(len(ordered))} kinds; all are in record.json." if len(ordered) > _GROUPS else ""
    )
    columns = words("kind", "phase") + numbers("times") + words("clients (times)", "detail")
    return Table(title="Failures", columns=columns, rows=tuple(rows), note=note)


def _notes(notes: tuple[str, ...]) -> Table:
    kept = list(dict.fromkeys(plain(note) for note in notes))
    more = f"{figure(_NOTES)} of {figure(len(kept))}; all are in record.json." if len(kept) > _NOTES else ""
    return Table(
        title=f"Notes ({figure(len(kept))})",
        columns=words("note"),
        rows=tuple(((note,),) for note in kept[:_NOTES]),
        note=more,
        folded=len(kept) > _OPEN_NOTES,
    )
