"""The public report of a private run: what it promises to one who sees its models, and not a word of who took part.

Sampling counts against a reader who knows neither cohorts nor their sizes. So the page names no client, and tells
nothing of single rounds: no realised size, no bytes, no times, no failures, not even whether one closed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedloom.core.component import Json
from fedloom.experiment.tree import file_form
from fedloom.reports.overview import part_name, title_of_run
from fedloom.reports.pieces import Section
from fedloom.reports.privacy import epsilon_of, promise_table, promised, spent_panel, spent_table, unprotected
from fedloom.reports.readable import Cell, counted, figure, plain
from fedloom.reports.settings import lines_of
from fedloom.reports.stored import Promise, Stored, read, read_public_privacy
from fedloom.reports.templating import template
from fedloom.store import write_text

PUBLIC_REPORT = "report-public.html"
_SHOWN = ("prepare", "learner", "algorithm", "pipeline", "cohort", "stop", "privacy")
"""Parts of an experiment that say nothing of single clients, but for what ``_without_clients`` takes out."""
_READER = (
    "The figure holds against one who sees every model of the run, and knows of no round who took part or how many "
    "did. Against one who does know, and so against a reader of the run's full report or folder, the price is another, "
    "as a rule a much larger one: fedloom plan prints both."
)
_MODEL = "the parameters that were published last, by which a copy of the model can be checked"


def write_public(folder: Path) -> Path:
    """Write ``report-public.html`` into the folder of a private run that has finished, over the one that is there.

    Args:
        folder: Of one run: ``experiment.json`` and ``privacy.json`` are read, and the model's identity from
            ``record.json``.

    Returns:
        The path of the page.

    Raises:
        StoreError: When the run promises nothing, a document cannot be read, or the page cannot be written.
    """
    path = folder / PUBLIC_REPORT
    stored = read(folder)
    write_text(path, render_public(stored, read_public_privacy(stored)))
    return path


def render_public(stored: Stored, promise: Promise) -> str:
    """Return the public report as HTML; ``promise`` is the one to a reader of the models."""
    curve = len(promise.by_round) > 1
    kept = unprotected(promise, ("who took part in a round", "it is not told here, and no noise hides it"))
    section = Section(
        id="promise",
        title="What is promised",
        words=(_READER,),
        panels=(spent_panel(promise),) if curve else (),
        beside=spent_table(promise) if curve else None,
        tables=(promise_table(promise, *_sizes(promise)), kept),
    )
    return template("public.html").render(
        title=title_of_run(stored),
        asked=_asked(stored, promise),
        verdict=promised(promise),
        key_figures=_key_figures(promise),
        section=section,
        settings=lines_of(_public_settings(stored.head.experiment)),
        facts=_facts(stored),
    )


def _asked(stored: Stored, promise: Promise) -> str:
    clients = "" if promise.clients is None else f"{counted(promise.clients, 'client')} in all; "
    done = "the model is final" if stored.summary.model_sha256 else "the run has not come to its end"
    return f"Run {stored.head.run_id}: {clients}{done}."


def _key_figures(promise: Promise) -> list[tuple[str, Cell, str]]:
    rounds: Cell = (figure(promise.rounds),)
    found = [epsilon_of(promise), ("rounds", rounds, "planned, and all paid for")]
    if promise.expected_cohort is not None:
        found.append(("clients of a round", (_size(promise.expected_cohort),), "expected"))
    return found


def _sizes(promise: Promise) -> list[tuple[str, str]]:
    if promise.clients is None or promise.expected_cohort is None:
        return [("clients", "how many there are is protected, and so not told")]
    return [
        ("clients", figure(promise.clients)),
        ("clients of a round", f"{_size(promise.expected_cohort)} expected; no round's own number is told"),
    ]


def _size(expected: float) -> str:
    return f"{expected:,.1f}".removesuffix(".0")


def _facts(stored: Stored) -> list[tuple[str, str, str]]:
    summary, head = stored.summary, stored.head
    facts: list[tuple[str, str, str]] = [("run", head.run_id, "")]
    if summary.model_sha256:
        facts.append(("model SHA-256", summary.model_sha256, _MODEL))
    facts.append(("fedloom", plain(summary.versions.get("fedloom") or head.fedloom), ""))
    return facts


def _public_settings(experiment: Json) -> Json:
    """Return the settings that say nothing of single clients: not where the rows come from, no seed, no simulated loss.

    The cohorts of a simulation follow from its seed, and the seed can be guessed from the digest: neither is told.
    """
    if not isinstance(experiment, Mapping):
        return {}
    shown: dict[str, Json] = {}
    if (data := part_name(experiment, "data")) is not None:
        shown["data"] = {"name": data}
    parts: Any = file_form({key: experiment[key] for key in _SHOWN if experiment.get(key) not in (None, [], {})})
    return shown | {key: _without_clients(part) for key, part in parts.items()}


def _without_clients(tree: Json) -> Json:
    """Return settings with what is given client by client told as that: local steps, and declared rows."""
    match tree:
        case dict():
            return {
                key: "by client" if key in ("steps", "rows") and isinstance(value, dict) else _without_clients(value)
                for key, value in tree.items()
            }
        case list():
            return [_without_clients(item) for item in tree]
    return tree
