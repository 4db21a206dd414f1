"""RunResult: what a run hands back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from fedloom.core.calibration import CalibrationBin
from fedloom.core.component import ComponentSpec, Json, to_json
from fedloom.core.data import ClientDataset, Schema, Transform
from fedloom.core.ids import ClientId, RunId
from fedloom.core.learner import Learner
from fedloom.core.params import Vector, model_sha256
from fedloom.core.query import AnyPreparation
from fedloom.data import Holding
from fedloom.engines.comparison import Comparison
from fedloom.engines.trained_model import TrainedModel
from fedloom.engines.versions import versions
from fedloom.engines.worth import Worth
from fedloom.errors import Error
from fedloom.runtime.record import Figures, RoundRecord

Status = Literal["completed", "completed with warnings", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """The model of a run, its history, and where its record is."""

    status: Status
    reason: str
    """Why it ended."""
    digest: str
    learner: Learner
    raw: Schema
    """Before any preparation: what rows of a person's own must have."""
    schema: Schema
    """After all preparations."""
    transforms: Sequence[Transform]
    preparations: Sequence[AnyPreparation]
    prepared: Sequence[Json]
    """What each preparation found."""
    learner_spec: ComponentSpec | None
    params: Vector
    records: Sequence[RoundRecord]
    """Rounds of training; rounds of preparations come first and have ``program == "query"``."""
    history: Vector | None
    """``(rounds + 1, d)``, row 0 the start, where rounds were saved."""
    notes: Sequence[str]
    """What a person should know about the data and the run."""
    comparison: Comparison | None
    holdings: Sequence[Holding] | None
    """Rows and classes by client; None above 1,000 clients."""
    run_id: RunId | None
    folder: Path | None
    privacy: Mapping[str, Json] | None = None
    """What the run promises about privacy and what it costs, where it does; simulated noise protects nothing."""

    @property
    def model_sha256(self) -> str:
        """Identity of the final model."""
        return model_sha256(self.learner.layout, self.params)

    @property
    def rounds(self) -> Sequence[RoundRecord]:
        """The rounds of training that were closed or skipped."""
        return [r for r in self.records if r.program == "train" and r.status != "retried"]

    @property
    def metrics(self) -> Figures:
        """The figures of the last round, and of the comparison with local-only and pooled models."""
        last: Figures = next((dict(r.metrics) for r in reversed(self.rounds) if r.status == "closed"), {})
        return last if self.comparison is None else last | self.comparison.figures

    @property
    def clients(self) -> Mapping[ClientId, Figures]:
        """Each client's own figures at the last evaluation."""
        return next((r.clients.as_dict() for r in reversed(self.rounds) if r.clients), {})

    @property
    def calibration(self) -> Sequence[CalibrationBin]:
        """The reliability curve over all test rows at the last evaluation."""
        return next((r.calibration for r in reversed(self.rounds) if r.calibration), ())

    @property
    def worth(self) -> Worth | None:
        """What joining was worth to each client, where it was compared."""
        return None if self.comparison is None else self.comparison.worth

    @property
    def model(self) -> TrainedModel:
        """The final model with its preparations: it predicts raw rows."""
        return TrainedModel(
            learner=self.learner, params=self.params, raw=self.raw, schema=self.schema, transforms=self.transforms
        )

    @property
    def bytes_up(self) -> int:
        """Bytes that clients sent, preparations and evaluations included."""
        return sum(record.bytes_up for record in self.records)

    @property
    def bytes_down(self) -> int:
        """Bytes that clients received."""
        return sum(record.bytes_down for record in self.records)

    def leaves(self) -> dict[str, Vector]:
        """Return the parameters by name."""
        return self.learner.layout.unflatten(self.params)

    def prepare(self, data: ClientDataset) -> ClientDataset:
        """Return raw rows as the model sees them."""
        return self.model.prepare(data)

    def as_json(self) -> dict[str, Json]:
        """Return the summary that ``--json`` prints."""
        failures = [failure for record in self.records for failure in record.failures]
        return {
            "status": self.status,
            "reason": self.reason,
            "run": self.run_id,
            "folder": None if self.folder is None else str(self.folder),
            "digest": self.digest,
            "model_sha256": self.model_sha256,
            "rounds": len(self.rounds),
            "metrics": dict(sorted(self.metrics.items())),
            "clients": self._clients_compared(),
            "bytes_up": self.bytes_up,
            "bytes_down": self.bytes_down,
            "seconds": sum(record.seconds for record in self.records),
            "failures": [
                {"client": f.client, "phase": f.phase, "kind": f.kind, "detail": f.detail, "where": f.where}
                for f in failures
            ],
            "notes": list(self.notes),
            "task": "regression" if self.schema.classes is None else "classification",
            "classes": to_json(self.schema.classes),
            "columns": list(self.schema.columns),
            "holdings": None if self.holdings is None else msgspec.to_builtins(list(self.holdings)),
            "calibration": msgspec.to_builtins(tuple(self.calibration)) or None,
            "worth": msgspec.to_builtins(self.worth),
            "versions": dict(versions()),
            **({} if self.privacy is None else {"privacy": dict(self.privacy)}),
        }

    def _clients_compared(self) -> dict[str, Json]:
        compared = {} if self.comparison is None else self.comparison.clients
        figures = self.clients
        return {client: figures.get(client, {}) | compared.get(client, {}) for client in {**figures, **compared}}


class RunInterrupted(Error):
    """Ctrl-C: what was committed is kept; the folder can be resumed."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        kept = "" if folder is None else f"; continue with: fedloom resume {folder}"
        super().__init__(f"interrupted{kept}")
