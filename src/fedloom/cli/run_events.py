"""Events of a coordinator's run as lines for people: what is not worth a line has none."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import msgspec

from fedloom.cli.progress import in_bytes
from fedloom.transport.admin import RunEvent

_SAID = (
    "awaiting_approval", "running", "paused", "waiting_for_sites",
    "completed", "completed_with_warnings", "failed", "aborted",
)  # fmt: skip
"""Stages of a run that a person wants to know of."""


def described(event: RunEvent) -> str:
    """Return an event as a line; empty where it says nothing to a person.

    Example:
        >>> data = msgspec.json.encode({"run": "r1", "stage": "running", "reason": ""})
        >>> described(RunEvent(sequence=1, time_s=0.0, kind="run", data=data))
        '00:00:00  run is running'
    """
    data = msgspec.json.decode(event.data)
    words = _words(event.kind, data) if isinstance(data, dict) else ""
    return f"{time.strftime('%H:%M:%S', time.gmtime(event.time_s))}  {words}" if words else ""


def stage_of(event: RunEvent) -> str | None:
    """Return the stage that an event brought its run to; None: it is of something else."""
    return str(msgspec.json.decode(event.data).get("stage")) if event.kind == "run" else None


def _words(kind: str, data: Mapping[str, Any]) -> str:
    match kind:
        case "run":
            stage = str(data.get("stage"))
            return _with_reason(f"run is {stage.replace('_', ' ')}", data) if stage in _SAID else ""
        case "round":
            return _round(data)
        case "record":
            return _record(data)
        case "suspend":
            return f"{data.get('site')} is suspended: {data['reason']}" if data.get("reason") else ""
        case "contribution":
            return "" if data.get("kind") == "message" else f"{_which(data)}: {data.get('site')} {data.get('kind')}"
        case "too late":
            return f"{_which(data)}: {data.get('site')} came too late"
        case "reoffer":
            return f"{data.get('site')} is asked again"
        case "versions":
            return f"{data.get('site')} {data.get('words')}"
        case "approval":
            word = "approves" if data.get("approved") else "says no"
            return f"{data.get('site')} {word} {data.get('code') or ''}".rstrip()
    return ""


def _round(data: Mapping[str, Any]) -> str:
    """Return a line for rounds that ended, and for what is asked before the first."""
    stage, before = data.get("stage"), data.get("phase") == -1
    if before and stage == "planned":
        return f"{_which(data)}: {', '.join(data.get('cohort', []))} are asked what they have, and whether they approve"
    if before and stage == "committed":
        return f"{_which(data)} agreed"
    return _with_reason(f"{_which(data)} aborted", data) if stage == "aborted" else ""


def _record(data: Mapping[str, Any]) -> str:
    """Return a line for what a round did; of one that was short its end says it all."""
    if data.get("status") == "retried":
        return ""
    word = "committed" if data.get("status") == "closed" else str(data.get("status"))
    words = [f"{_which(data)} {word}: {data.get('included')} of {data.get('invited')} sites"]
    if data.get("loss") is not None:
        words.append(f"loss {data['loss']:.4f}")
    return ", ".join([*words, f"{in_bytes(int(data.get('up', 0)))} up", f"{in_bytes(int(data.get('down', 0)))} down"])


def _which(data: Mapping[str, Any]) -> str:
    if data.get("phase") == -1:
        return "sites"
    retry = f", retry {data['retry']}" if data.get("retry") else ""
    name = {"train": "round", "evaluate": "evaluation", "query": "preparation, round"}.get(str(data.get("program")))
    return f"{name} {data.get('round')}{retry}"


def _with_reason(words: str, data: Mapping[str, Any]) -> str:
    return f"{words}: {data['reason']}" if data.get("reason") else words
