"""The page that lays runs beside each other: figures, curves, clients, cost, and the settings that differ."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from fedloom.core.component import Json
from fedloom.errors import StoreError
from fedloom.experiment.spec import NOT_IN_DIGEST
from fedloom.experiment.tree import toml_value
from fedloom.reports.clients_beside import clients_section
from fedloom.reports.differing import (
    LETTERS,
    by_task,
    different_settings,
    different_versions,
    verdicts,
    without_versions,
)
from fedloom.reports.drawing import DASHES
from fedloom.reports.main_figure import better, lower_is_better, main_figure
from fedloom.reports.overlaid import rounds_section, style_of
from fedloom.reports.overview import clients_of, title_of_run
from fedloom.reports.page import REPORT
from fedloom.reports.pieces import Section, Table, words
from fedloom.reports.readable import NONE, Cell, counted, figure, number, of_run, plain, short, title_of
from fedloom.reports.settings import cut
from fedloom.reports.side_by_side import all_figures_table, cost_table, figures_table, values_table
from fedloom.reports.stored import Stored
from fedloom.reports.templating import template
from fedloom.store import write_text

_NAMED = 5
"""Things that a sentence lists before it counts the rest."""
_SHORT = 16
"""Characters of a setting in a legend."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """One of the runs, as the page introduces it."""

    letter: str
    run: str
    place: str
    """Its folder, from the folder of the page."""
    link: str | None
    """Its report, from the folder of the page; None where there is none."""
    what: str
    apart: str
    """The settings that set it apart, in short."""
    rounds: Cell
    clients: Cell
    status: str
    colour: int
    dashes: str


def write_comparison(path: Path, runs: Sequence[Stored]) -> Path:
    """Write a page that compares runs, into a new file. It needs no other file and no network.

    Args:
        path: A file that is not there yet. Links to the runs' reports start from its folder.
        runs: 2 to 26, from ``read``; they are called A, B, ... in this order.

    Returns:
        The path of the page.

    Raises:
        StoreError: When there is such a file, it cannot be written, or the number of runs is another.
    """
    if path.exists() or path.is_symlink():
        raise StoreError(f"{path} exists and is left as it is; name another file")
    if not path.parent.is_dir():
        raise StoreError(f"{path} cannot be written: there is no folder {path.parent}. Make it, or name another file")
    write_text(path, render_comparison(runs, beside=path.parent))
    return path


def render_comparison(runs: Sequence[Stored], *, beside: Path) -> str:
    """Return the page as HTML: the same runs at the same places give the same bytes.

    Args:
        runs: 2 to 26, from ``read``.
        beside: The folder that the links to their reports start from.

    Raises:
        StoreError: When the number of runs is another.
    """
    if not 2 <= len(runs) <= len(LETTERS):
        raise StoreError(f"a comparison received {counted(len(runs), 'run')}; expected 2 to {len(LETTERS)}")
    named = dict(zip(LETTERS, runs, strict=False))
    changed = different_settings({letter: run.head.experiment for letter, run in named.items()})
    versions = different_versions({letter: run.summary.versions for letter, run in named.items()})
    labels = _labels(named, changed)
    sections = (
        _figures_section(named),
        rounds_section(named, labels),
        clients_section(named, labels),
        Section(id="cost", title="What it took", tables=(cost_table(named),)),
        _settings_section(changed, list(named)),
        _versions_section(named, versions),
    )
    return template("compare.html").render(
        title=_title(named),
        count=len(runs),
        told=_told(named, changed, versions),
        runs=[_named(letter, run, changed, letters=list(named), beside=beside) for letter, run in named.items()],
        identity=_identity(named),
        sections=[each for each in sections if each is not None],
    )


def _title(runs: Mapping[str, Stored]) -> str:
    titles = list(dict.fromkeys(title_of_run(run) for run in runs.values()))
    if len(titles) == 1:
        return titles[0]
    if len(titles) == 2:
        return f"{titles[0]} against {titles[1][0].lower()}{titles[1][1:]}"
    return f"Runs A to {list(runs)[-1]}"


def _told(
    runs: Mapping[str, Stored], changed: Mapping[str, Mapping[str, Json]], versions: Mapping[str, Mapping[str, Json]]
) -> list[str]:
    """Return what to know first: which is better, what differs, and what that means."""
    mains = list(dict.fromkeys(name for run in runs.values() if (name := main_figure(run)) is not None))
    told = [_ranked(name, runs) for name in mains] or ["No run has figures on test rows."]
    tasks = by_task(runs)
    if len(tasks) > 1:
        who = "; ".join(f"{plain(task)}: {', '.join(letters)}" for task, letters in tasks.items())
        told.append(f"The runs solve different tasks ({who}), so no figure says which of all is the best.")
    elif len(mains) > 1:
        who = "; ".join(
            f"{title_of(name)}: {', '.join(letter for letter, run in runs.items() if main_figure(run) == name)}"
            for name in mains
        )
        told.append(f"The runs have different main figures ({who}), so compare those that they share.")
    elif _data_differ(runs, changed):
        told.append(
            "The settings of the data, or the numbers of test rows, differ: a figure may be of other rows in one run."
        )
    told.append(
        f"{counted(len(changed), 'setting')} differ{'s' if len(changed) == 1 else ''}: {_listed(list(changed))}."
        if changed
        else "All settings are the same."
    )
    clauses = "; ".join(verdicts(runs, versions))
    return [*told, f"{clauses[0].upper()}{clauses[1:]}."]


def _ranked(name: str, runs: Mapping[str, Stored]) -> str:
    """Return the runs by a figure, the best first."""
    suffix = "/mean" if any(f"eval/{name}/mean" in run.summary.metrics for run in runs.values()) else ""
    values = {letter: run.summary.metrics.get(f"eval/{name}{suffix}") for letter, run in runs.items()}
    known = {letter: value for letter, value in values.items() if value is not None}
    order = sorted(known, key=lambda letter: (known[letter] * (1 if lower_is_better(name) else -1), letter))
    first = [f"{letter} {figure(known[letter])}" for letter in order]
    if len(first) > _NAMED + 1:
        first = [*first[:_NAMED], f"… {first[-1]}"]
    over = "mean over clients" if suffix else "over all test rows"
    return f"{title_of(name)}, {over} ({better(name)}): {', '.join(first) or NONE}."


def _data_differ(runs: Mapping[str, Stored], changed: Mapping[str, object]) -> bool:
    """Return whether the runs may have been evaluated on different rows, as far as their records tell."""
    tests = {
        tuple((each.client, each.test) for each in run.summary.holdings)
        for run in runs.values()
        if run.summary.holdings is not None
    }
    return len(tests) > 1 or any(key == "data" or key.startswith("data.") for key in changed)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(cut(name, 60) for name in names[:_NAMED])
    return shown + (f" and {figure(len(names) - _NAMED)} more" if len(names) > _NAMED else "")


def _labels(runs: Mapping[str, Stored], changed: Mapping[str, Mapping[str, Json]]) -> dict[str, str]:
    """Return what legends call the runs: the letter, and the one setting that differs where it is short."""
    if len(changed) == 1:
        ((key, values),) = changed.items()
        texts = {letter: short(f"{letter}: {key.rpartition('.')[2]} {_value(values, letter)}", 40) for letter in runs}
        if all(len(text) <= _SHORT + 3 for text in texts.values()):
            return texts
    return {letter: letter for letter in runs}


def _value(values: Mapping[str, Json], letter: str) -> str:
    if letter not in values:
        return "not set"
    return toml_value(values[letter])


def _named(
    letter: str, run: Stored, changed: Mapping[str, Mapping[str, Json]], *, letters: Sequence[str], beside: Path
) -> Named:
    place = _from(beside, run.folder)
    colour, dash = style_of(letter)
    pattern = DASHES[dash]
    return Named(
        letter=letter,
        run=plain(run.head.run_id),
        place=plain(place),
        link=f"./{quote(place)}/{REPORT}" if (run.folder / REPORT).exists() else None,
        what=title_of_run(run),
        apart=_apart(letter, changed, letters),
        rounds=of_run(number(run.record.rounds, "rounds"), letter),
        clients=of_run(number(clients_of(run), "clients"), letter),
        status=run.record.status,
        colour=colour,
        dashes="" if isinstance(pattern, str) else " ".join(f"{2.5 * length:g}" for length in pattern[1]),
    )


def _apart(letter: str, changed: Mapping[str, Mapping[str, Json]], letters: Sequence[str]) -> str:
    """Return the settings that set a run apart: those that differ, less those in which it is as most of them are."""
    own = []
    for key, values in changed.items():
        texts = [_value(values, each) for each in letters]
        (most, count), *rest = Counter(texts).most_common()
        mine = _value(values, letter)
        if count == 1 or mine != most or rest[0][1] == count:
            own.append(f"{cut(key, 60)} = {cut(mine, 40)}" if letter in values else f"no {cut(key, 60)}")
    more = f" and {figure(len(own) - _NAMED)} more" if len(own) > _NAMED else ""
    return "; ".join(own[:_NAMED]) + more or NONE


def _from(beside: Path, folder: Path) -> str:
    """Return a folder's path from another one; its name where no such path leads there, as between drives."""
    try:
        return Path(os.path.relpath(folder.resolve(), beside.resolve())).as_posix()
    except ValueError:
        return folder.name


def _identity(runs: Mapping[str, Stored]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for letter, run in runs.items():
        created = run.head.created.replace("T", " ").removesuffix("+00:00")
        model = run.summary.model_sha256 or NONE
        rows.append(((letter,), (plain(run.head.digest),), (plain(model),), (f"{plain(created)} UTC",)))
    columns = words("run", "experiment digest", "model SHA-256", "begun")
    return Table(title="Digests and dates", columns=columns, rows=tuple(rows), folded=True)


def _figures_section(runs: Mapping[str, Stored]) -> Section:
    text = (
        "A difference between two runs has no interval here: another seed moves figures too. To see how far, run each "
        "experiment with --seeds."
    )
    return Section(
        id="figures", title="Figures side by side", words=(text,), tables=(figures_table(runs), all_figures_table(runs))
    )


def _settings_section(changed: Mapping[str, Mapping[str, Json]], letters: Sequence[str]) -> Section:
    if not changed:
        return Section(id="settings", title="Settings", words=("All settings are the same.",))
    texts = {key: {each: toml_value(value) for each, value in values.items()} for key, values in changed.items()}
    outside = ", ".join(NOT_IN_DIGEST)
    table = values_table("Settings that differ", "setting", texts, letters)
    return Section(
        id="settings",
        title="Settings",
        words=(f"Every setting that is not the same in all runs. Of all settings {outside} do not enter the digest.",),
        tables=(table,),
    )


def _versions_section(runs: Mapping[str, Stored], versions: Mapping[str, Mapping[str, Json]]) -> Section:
    silent = without_versions(runs)
    known = len(runs) - len(silent)
    told = []
    if not versions and known > 1:
        told.append(f"The same in {'all runs' if not silent else 'all others'}.")
    elif versions:
        told.append("Other versions of NumPy or BLAS may round differently, and so may another processor.")
    if silent:
        told.append(f"Not recorded by {', '.join(silent)}.")
    texts = {name: {each: str(value or "none") for each, value in values.items()} for name, values in versions.items()}
    tables = (values_table("Versions that differ", "of", texts, list(runs)),) if versions else ()
    return Section(id="versions", title="Versions", words=(" ".join(told),), tables=tables)
