"""The head of the report: what was run, what came of it in words, and its key figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fedloom.core.component import Json
from fedloom.reports.main_figure import MODELS, main_figure
from fedloom.reports.pieces import Column, Table, numbers, words
from fedloom.reports.privacy import epsilon_of, promised
from fedloom.reports.readable import Cell, Number, counted, duration, figure, in_bytes, number, plain, title_of
from fedloom.reports.stored import Stored

_NO_VERDICT = (
    "No local-only and pooled models were trained beside the federated one, so this report does not say whether "
    "joining was worth it. Set compare = true to have it said; that needs all rows in one place, as in a simulation."
)
_PRIVATE = (
    "No other model was trained beside the federated one, and none was evaluated: figures of private rows are releases "
    "of their own, which nothing pays for. Judge the model on rows that are public, or that were kept out of the run: "
    "fedloom evaluate."
)
_UNTRAINED = "No round of training was closed, so there is no model to compare."


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """What stands above the first section."""

    title: str
    status: str
    asked: str
    ended: str
    verdict: tuple[str, ...]
    key_figures: tuple[tuple[str, Cell, str], ...]
    """Name, value, and what to know of it."""
    models: Table | None


def overview(stored: Stored) -> Overview:
    """Return the head of the report of a run."""
    summary, record = stored.summary, stored.record
    ended = f"{record.status}: {plain(summary.reason)}" if summary.reason else record.status
    return Overview(
        title=title_of_run(stored),
        status=record.status,
        asked=_asked(stored),
        ended=f"Begun {stored.head.created.replace('T', ' ').removesuffix('+00:00')} UTC; {ended}.",
        verdict=_verdict(stored),
        key_figures=tuple(_key_figures(stored)),
        models=_models(stored),
    )


def part_name(experiment: Json, key: str) -> str | None:
    """Return the name of a part of an experiment, None where it has none."""
    match experiment:
        case dict() if isinstance(part := experiment.get(key), Mapping) and isinstance(part.get("name"), str):
            return plain(part["name"])
    return None


def clients_of(stored: Stored) -> int:
    """Return how many clients took part, as far as the record tells."""
    summary = stored.summary
    included = {client for record in stored.record.records for client in record.included}
    invited = max((record.invited for record in stored.record.records), default=0)
    return max(len(summary.clients), len(summary.holdings or ()), len(included), invited)


def totals(stored: Stored) -> tuple[int, int, float]:
    """Return the bytes that clients sent, those they received, and the seconds in rounds."""
    summary, records = stored.summary, stored.record.records
    up = sum(r.bytes_up for r in records) if summary.bytes_up is None else summary.bytes_up
    down = sum(r.bytes_down for r in records) if summary.bytes_down is None else summary.bytes_down
    return up, down, sum(r.seconds for r in records) if summary.seconds is None else summary.seconds


def title_of_run(stored: Stored) -> str:
    """Return what was trained by what on what."""
    algorithm, learner, data = (part_name(stored.head.experiment, key) for key in ("algorithm", "learner", "data"))
    what = f"{learner} model" if learner else "federated model"
    text = what + (f" trained by {algorithm}" if algorithm else "") + (f" on {data}" if data else "")
    return text[0].upper() + text[1:]


def _asked(stored: Stored) -> str:
    summary = stored.summary
    clients = clients_of(stored)
    told = [counted(clients, "client"), f"{counted(stored.record.rounds, 'round')} closed"]
    if summary.task == "classification" and summary.classes:
        names = [plain(name) for name in summary.classes]
        told.append("classes " + (", ".join(names) if len(names) <= 6 else f"{names[0]} to {names[-1]} ({len(names)})"))
    elif summary.task:
        told.append(summary.task)
    if summary.columns:
        told.append(counted(len(summary.columns), "feature"))
    return f"Run {stored.head.run_id}: {'; '.join(told)}."


def _verdict(stored: Stored) -> tuple[str, ...]:
    summary, trained, private = stored.summary, stored.record.rounds > 0, stored.promised_to is not None
    if summary.worth is not None and summary.worth.words:
        return tuple(plain(sentence) for sentence in summary.worth.words)
    told = () if stored.promise is None else promised(stored.promise)
    return (*told, (_PRIVATE if private else _NO_VERDICT) if trained else _UNTRAINED)


def _key_figures(stored: Stored) -> list[tuple[str, Cell, str]]:
    summary, records = stored.summary, stored.record.records
    up, down, seconds = totals(stored)
    found: list[tuple[str, Cell, str]] = []
    name = main_figure(stored)
    if name is not None:
        suffix = "/mean" if f"eval/{name}/mean" in summary.metrics else ""
        over = "mean over clients" if suffix else "over all test rows"
        for phase, model in MODELS.items():
            metric = f"{phase}/{name}{suffix}"
            if metric in summary.metrics:
                found.append((f"{title_of(name)}, {model}", number(summary.metrics[metric], metric), over))
    if stored.promise is not None:
        found.append(epsilon_of(stored.promise))
    asked = len({r.round for r in records if r.program == "query"})
    first = f"and {figure(asked)} of preparation" if asked else "of training"
    found.append(("rounds", number(stored.record.rounds, "rounds"), first))
    found.append(("clients", number(clients_of(stored), "clients"), "took part"))
    found.append(("sent", in_bytes(up, "bytes_up"), "by all clients"))
    found.append(("received", in_bytes(down, "bytes_down"), "by all clients"))
    found.append(("time", (Number(text=duration(seconds), exact=repr(seconds), metric="seconds"),), "in rounds"))
    return found


def _models(stored: Stored) -> Table | None:
    """Return every figure on test rows of the models that there are; None without any."""
    metrics = stored.summary.metrics
    phases = [phase for phase in MODELS if any(key.startswith(f"{phase}/") for key in metrics)]
    names = list(dict.fromkeys(key.split("/")[1] for key in sorted(metrics) if key.split("/")[0] in phases))
    main = main_figure(stored)
    names.sort(key=lambda name: name != main)
    over = {"": "all test rows", "/mean": "mean over clients", "/worst": "worst client", "/spread": "spread"}
    rows = tuple(
        ((title_of(name),), (MODELS[phase],), *(number(metrics.get(key + each), key + each) for each in over))
        for name in names
        for phase in phases
        for key in (f"{phase}/{name}",)
    )
    if not rows:
        return None
    columns: tuple[Column, ...] = words("figure", "model") + numbers(*over.values())
    note = "Spread is the standard deviation over clients."
    if "auroc" in names:
        note += " A client whose test rows are of one class has no AUROC; it is left out of mean, worst and spread."
    return Table(title="All figures on test rows", columns=columns, rows=rows, note=note, folded=True)
