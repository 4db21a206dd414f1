"""What was asked and by what it was run: preparations and their answers, settings, versions, files, commands."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from fedloom.core.component import Json
from fedloom.experiment.tree import dotted, file_form, leaves, toml_value
from fedloom.reports.pieces import Column, Section, Table, words
from fedloom.reports.readable import NONE, Cell, figure, plain
from fedloom.reports.stored import MODEL, Stored
from fedloom.store.documents import PUBLIC_PRIVACY
from fedloom.store.rounds import METRICS, METRICS_PARQUET

_LONG = 240
_PUBLIC = "write a page that may be shown to anyone who sees the models"
_FILES = {
    "record.json": "what came of it: the summary, and every round",
    "experiment.json": "what was asked, with every default",
    METRICS: "every figure by round and client, one flat table",
    METRICS_PARQUET: "the same table, for programs that read Parquet",
    MODEL: "the final parameters, the answers of the preparations, the digest",
    PUBLIC_PRIVACY: "what the run promises to one who sees its models, and not this page; read by --public",
    "rounds.npz": "the parameters after every round",
    "run.log": "warnings, and the tracebacks of clients that failed",
    "state.sqlite": "all that a resume needs",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The last section, which is no plot and no table."""

    lines: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]
    """Tables of the experiment: name, then keys and values."""
    facts: tuple[tuple[str, str], ...]
    files: tuple[tuple[str, str], ...]
    commands: tuple[tuple[str, str], ...]


def settings(stored: Stored) -> Settings:
    """Return how a run was set, and how it is looked at, continued and repeated."""
    # The name of the folder of all runs and no path: a page is passed on, and is the same from wherever it is made.
    root = plain(stored.folder.resolve().parent.name)
    run = stored.head.run_id if root == "runs" else f"{stored.head.run_id} --output {shlex.quote(root)}"
    return Settings(
        lines=lines_of(stored.head.experiment),
        facts=tuple(_facts(stored)),
        files=tuple((name, what) for name, what in _FILES.items() if (stored.folder / name).exists()),
        commands=(
            (f"fedloom runs show {run}", "print what was asked and what came of it"),
            (f"fedloom resume {run}", "continue it; with --set, under another stop"),
            (f"fedloom report {run}", "write this page again"),
            *([] if not stored.promised_to else [(f"fedloom report {run} --public", _PUBLIC)]),
        ),
    )


def preparation_section(stored: Stored) -> Section | None:
    """Return what was asked of the data before training; None where nothing was."""
    experiment = stored.head.experiment
    asked = experiment.get("prepare") if isinstance(experiment, dict) else None
    if not isinstance(asked, list) or not asked:
        return None
    rows: list[tuple[Cell, ...]] = []
    for place, each in enumerate(asked):
        tree = file_form(each)
        name = str(tree.get("name", "?")) if isinstance(tree, dict) else "unnamed"
        arguments = {k: v for k, v in tree.items() if k != "name" and v is not None} if isinstance(tree, dict) else {}
        answer = _in_short(stored.prepared[place]) if place < len(stored.prepared) else NONE
        rows.append(((plain(name),), (cut(toml_value(arguments)) if arguments else "defaults",), (answer,)))
    text = "Asked of every client by rounds that train nothing; the answer over all clients changed their rows alike."
    table = Table(
        title="Preparations",
        columns=(*words("preparation", "asked with"), Column("answer", words=True, long=True)),
        rows=tuple(rows),
    )
    return Section(id="preparation", title="Preparation", words=(text,), tables=(table,))


def _facts(stored: Stored) -> list[tuple[str, str]]:
    summary, head = stored.summary, stored.head
    facts = [("run", head.run_id), ("experiment digest", head.digest)]
    if summary.model_sha256:
        facts.append(("model SHA-256", summary.model_sha256))
    facts.append(("fedloom", plain(summary.versions.get("fedloom") or head.fedloom)))
    facts += [
        (plain(name), plain(version)) for name, version in summary.versions.items() if version and name != "fedloom"
    ]
    return facts


def lines_of(experiment: Json) -> tuple[tuple[str, tuple[tuple[str, str], ...]], ...]:
    """Return an experiment's plain values by table, in the keys and the form of an experiment file."""
    tree = file_form(experiment)
    if not isinstance(tree, dict):
        return (("experiment", (("", cut(toml_value(tree))),)),)
    plain_values: list[tuple[str, str]] = []
    tables: list[tuple[str, tuple[tuple[str, str], ...]]] = []
    for key, value in tree.items():
        found = leaves(value)
        if () in found:
            plain_values.append((plain(key), cut(toml_value(found[()]))))
        else:
            tables.append((plain(key), tuple((plain(dotted(t)), cut(toml_value(v))) for t, v in found.items())))
    return (("", tuple(plain_values)), *tables)


def _in_short(answer: Json) -> str:
    """Return an answer in a line: names, and how many of what."""
    if not isinstance(answer, Mapping):
        return cut(toml_value(answer))
    told = []
    for key, value in answer.items():
        if isinstance(value, list) and len(value) > 6:
            told.append(f"{plain(key)}: {figure(len(value))} values, {', '.join(map(_value, value[:3]))}, …")
        else:
            told.append(f"{plain(key)}: {_value(value)}")
    return "; ".join(told)


def _value(value: Json) -> str:
    match value:
        case float():
            return figure(value)
        case list():
            return ", ".join(map(_value, value)) or "none"
    return cut(value if isinstance(value, str) else toml_value(value), 120)


def cut(text: str, most: int = _LONG) -> str:
    """Return text of at most so many characters, all of which show."""
    text = plain(text)
    return text if len(text) <= most else text[: most - 1] + "…"
