"""``fedloom audit``: a claim of privacy, measured against what is released. Exit code 1 where it is rejected."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import typer

from fedloom.cli.output import write_json
from fedloom.cli.tables import print_table
from fedloom.core.data import Schema
from fedloom.core.keys import Key
from fedloom.core.query import AnyPreparation
from fedloom.entropy import derived_secret, fresh_secret
from fedloom.errors import PlanError
from fedloom.experiment.config import read
from fedloom.experiment.plan import AnyPlan, build_learner, check_data, prepare_plan, resolve_experiment, train_plan
from fedloom.experiment.privacy import protection_of
from fedloom.experiment.spec import Experiment
from fedloom.privacy.audit_layer import MOST_SHARES, LayerAudit, audit_layer, layer_of
from fedloom.privacy.canary_runs import SUMS
from fedloom.privacy.guarantee import rounded_up
from fedloom.runtime.coordinator import noise_secret

CAVEAT = "lower bound: absence of evidence is not privacy"
_WIDTH = 100


def audit_file(file: Path, overrides: Sequence[str], *, layer: bool, releases: int, fresh: bool, json: bool) -> None:
    """Audit the aggregation layer of a file's experiment.

    Raises:
        PlanError: When nothing says what to audit, or the experiment promises no privacy.
        typer.Exit: With code 1, when the claim is rejected.
    """
    if not layer:
        raise PlanError("what is to be audited? --layer: clip, sum and noise of the pipeline")
    settings = read(file, overrides)
    experiment = resolve_experiment(settings.experiment, base=settings.base)
    if experiment.privacy is None:
        raise PlanError(
            "the experiment promises no privacy, so there is no claim to audit: set privacy, "
            'e.g. privacy = { unit = "client", delta = 1e-5 }'
        )
    plan = _training(experiment)
    key = Key.from_seed(experiment.seed).child("audit")
    found = audit_layer(
        layer_of(
            plan.exchange.pipeline,
            secret=fresh_secret() if fresh else derived_secret(key.child("secret")),
            public=key,
            expected_clients=plan.cohort.expected(len(plan.population)),
            noise_secret=lambda secret, number: noise_secret(secret, phase=plan.phase, round_number=number, retry=0),
        ),
        delta=experiment.privacy.delta,
        releases=releases,
    )
    if json:
        write_json({"digest": experiment.digest, **found.as_json(), "caveat": CAVEAT})
    else:
        _print(found, experiment, plan)
    if found.rejected:
        raise typer.Exit(1)


def _training(experiment: Experiment) -> AnyPlan:
    """Return the plan of training. Nobody is asked anything: preparations of a private run have public answers."""
    dataset = experiment.data
    population = check_data(dataset)  # type: ignore[arg-type]
    schema: Schema = dataset.schema()  # type: ignore[union-attr]
    for number in range(len(experiment.prepare)):
        preparation: AnyPreparation = experiment.prepare[number]  # type: ignore[assignment]
        state = preparation.query.init(schema)
        if not preparation.query.done(state):
            prepare_plan(experiment, number, schema, population)  # a private run refuses it, and says why
        schema = preparation.transform(preparation.query.result(state)).schema(schema)
    return train_plan(experiment, build_learner(experiment, schema), population, ("train",))


def _print(found: LayerAudit, experiment: Experiment, plan: AnyPlan) -> None:
    pipeline, learner = plan.exchange.pipeline, plan.learner
    assert learner is not None, "training has a learner"
    protection = protection_of(experiment, plan.algorithm, pipeline, plan.population, parameters=learner.layout.size)
    assert protection is not None, "the experiment promises privacy"
    out = sys.stdout
    out.write(f"experiment {experiment.digest}\n")
    out.write(f"layer      {', '.join(stage.name for stage in pipeline.stages)}\n")
    out.write(f"noise      {protection.mechanism}\n")
    out.write(f"claim      epsilon {rounded_up(found.epsilon):g} at delta {found.delta:g} for {SUMS} sums\n\n")
    rows = [
        [
            finding.canary.words,
            f"{finding.verdict.epsilon_low:.2f}",
            "REJECTED" if finding.verdict.rejected else "not rejected",
        ]
        for finding in found.findings
    ]
    print_table(["canary", f"epsilon rejected at delta {found.delta:g}", "claim"], rows)
    out.write("\n")
    for text in _notes(found):
        out.write(textwrap.fill(text, width=_WIDTH) + "\n")


def _notes(found: LayerAudit) -> list[str]:
    """Return what a reader of the table must know."""
    notes = [
        CAVEAT,
        f"{found.releases:,} pairs of rounds with each canary, and as many without, by the code of every stage, on a "
        f"vector of {found.parameters} parameters in place of the model's; the last one is the intercept. The claim is "
        "the whole curve of epsilon and delta that the layer's own event has for that vector, without sampling. One "
        f"that holds is rejected with probability {found.false_alarm:.1g} at most; so many releases can reject no "
        f"epsilon above {found.most_epsilon:.2f}.",
    ]
    if found.shares:
        notes.append(
            f"Clients add the noise: each sum has the shares of {found.shares} whom nobody can subtract, the canary's "
            f"among them. Where a plan counts on more than {MOST_SHARES}, the layer of so many is played."
        )
    if not found.testable:
        notes.append(
            "So little noise claims so little that nothing these releases could show would reject it: add --releases, "
            "or noise."
        )
    refused = [f"{finding.canary.words}: {finding.refused:,}" for finding in found.findings if finding.refused]
    if refused:
        notes.append(f"Updates that a stage refused, so that their clients were lost: {'; '.join(refused)}.")
    if found.rejected:
        notes.append("The claim is false: do not use this pipeline. See which canaries show it.")
    return notes
