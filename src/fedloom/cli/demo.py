"""``fedloom demo``: four hospitals with different patients train one classifier."""

from __future__ import annotations

import shutil
import sys
import textwrap
from pathlib import Path
from typing import Any

from fedloom.cli.progress import progress
from fedloom.cli.report import report_of
from fedloom.cli.run import print_result
from fedloom.cli.tables import bar, figure, marks_for, print_table
from fedloom.core.component import ComponentSpec
from fedloom.core.ids import ClientId
from fedloom.engines import RunResult, local
from fedloom.experiment.registry import resolve
from fedloom.experiment.spec import Experiment

ROUNDS = 20
INTRODUCTION = (
    "Four hospitals hold breast-cancer biopsies of different patients. No row leaves a hospital: each trains on its "
    "own and sends the change of 31 parameters, and histograms of its test scores; all get the weighted mean back."
)
_BAR = 30


def experiment(seed: int) -> Experiment:
    """Return the experiment of the demonstration; every part of it has a name, so its run can be resumed."""
    schedule = {"epochs": 2, "batch_size": 16, "learning_rate": 0.2}
    return Experiment(
        data=ComponentSpec("fedloom.datasets", "hospitals", {"seed": seed}),
        prepare=[ComponentSpec("fedloom.preparations", "standardise", {})],
        learner=ComponentSpec("fedloom.learners", "logistic", {"l2": 1e-3}),
        algorithm=ComponentSpec("fedloom.algorithms", "fedavg", {"local": schedule}),
        stop=ComponentSpec("fedloom.stops", "max_rounds", {"rounds": ROUNDS}),
        seed=seed,
    )


def run_demo(*, seed: int, output: Path, json: bool) -> None:
    """Run the demonstration and print what the federation was worth to each hospital."""
    asked = experiment(seed)
    width = min(100, shutil.get_terminal_size().columns)
    if not json:
        sys.stdout.write(textwrap.fill(INTRODUCTION, width) + "\n\n")
    with progress(ROUNDS) as shown:
        result = local().run(asked, output=output, on_round=() if json else (shown,))
    report = report_of(result)
    if json:
        print_result(result, json=True, report=report)
        return
    _print_worth(asked, result)
    assert result.worth is not None, "what is compared is judged"
    for words in result.worth.words[:1]:
        sys.stdout.write("\n" + textwrap.fill(f"Worth of joining: {words}", width) + "\n")
    sys.stdout.write(
        f"\nModel and record: {result.folder}\nReport:           {report}\n"
        f"Look again:       fedloom runs show last --output {output}\n"
    )


def _print_worth(asked: Experiment, result: RunResult) -> None:
    """Print each hospital's own model, the federated one and the pooled one, on the hospital's test rows."""
    comparison = result.comparison
    assert comparison is not None, "four clients are compared by default"
    data: Any = resolve(asked.data) if isinstance(asked.data, ComponentSpec) else asked.data
    sys.stdout.write("\nAUROC on test rows that no model was trained on\n")
    rows: list[list[str]] = []
    bars: list[tuple[ClientId, list[tuple[str, float | None]]]] = []
    for hospital, federated in result.clients.items():
        labels = data.client(hospital).arrays["label"]
        beside = comparison.clients[hospital]
        values = [beside.get("local/auroc"), federated.get("eval/auroc"), beside.get("pooled/auroc")]
        share = f"{(labels == 1).mean():.0%}"
        rows.append([hospital, str(len(labels)), share, *(figure(value) for value in values)])
        bars.append((hospital, list(zip(("own", "federated", "pooled"), values, strict=True))))
    metrics = result.metrics
    totals = [metrics.get(f"{name}/auroc") for name in ("local", "eval", "pooled")]
    rows.append(["all", str(sum(int(row[1]) for row in rows)), "", *(figure(value) for value in totals)])
    print_table(["hospital", "rows", "malignant", "own model", "federated", "pooled"], rows)
    sys.stdout.write("\nAUROC from 0.80 to 1.00, by hospital\n")
    marks = marks_for(sys.stdout.encoding)
    width = max(8, min(_BAR, shutil.get_terminal_size().columns - 28))
    for hospital, lines in bars:
        for place, (name, value) in enumerate(lines):
            title = hospital if place == 0 else ""
            drawn = bar(value, low=0.8, high=1.0, width=width, marks=marks)
            sys.stdout.write(f"  {title:<8}{name:<10} {drawn:<{width}} {figure(value)}\n")
