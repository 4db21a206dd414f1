"""The audit of the aggregation layer: what a pipeline claims, tested on runs with a canary client and without it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from fedloom.core.component import Json
from fedloom.core.events import DpEvent, SelfComposedDpEvent
from fedloom.core.keys import Key, SecretKey
from fedloom.errors import PlanError
from fedloom.pipeline import BoundPipeline, Pipeline
from fedloom.privacy.accountants import epsilon as epsilon_of
from fedloom.privacy.audit import LEVEL, Claim, Verdict, claim_of, judge, most_epsilon
from fedloom.privacy.canary_runs import CANARIES, SUMS, WITHIN, Canary, Layer, noise_path, parameters_of, played
from fedloom.privacy.guarantee import Method

RELEASES = 5_000
"""With each canary, and without any."""
PARAMETERS = 4
"""Of the short vector; the last one is the intercept."""
MOST_SHARES = 4
"""Shares of noise that are played; where a plan counts on more, the layer of so many is audited, each share larger."""
FALSE_ALARM = 4 * LEVEL
"""Chance at most that a claim which holds is rejected for one canary."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What the releases with one canary show."""

    canary: Canary
    verdict: Verdict
    refused: int
    """Times that a stage refused to encode its update: such a client is lost, and adds nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerAudit:
    """The audit of a pipeline's claim about two sums, canary by canary."""

    event: DpEvent
    """Claimed of one sum, whatever the cohort was drawn by."""
    delta: float
    epsilon: float
    """Claimed of both sums together at ``delta``."""
    releases: int
    """With each canary, and without any."""
    shares: int
    """Shares of noise in a sum, where clients add them; 0: the server adds the noise."""
    parameters: int
    most_epsilon: float
    """So many releases cannot reject more, were every one of them told apart."""
    testable: bool
    """Whether they could reject the claim at all: of very little noise so much is claimed that nothing breaks it."""
    findings: tuple[Finding, ...]

    @property
    def rejected(self) -> bool:
        """Whether any canary breaks the claim."""
        return any(finding.verdict.rejected for finding in self.findings)

    @property
    def epsilon_low(self) -> float:
        """The largest epsilon that was rejected at ``delta``: a lower bound, and no more."""
        return max(finding.verdict.epsilon_low for finding in self.findings)

    @property
    def false_alarm(self) -> float:
        """Chance at most that a claim which holds is rejected."""
        return FALSE_ALARM * len(self.findings)

    def as_json(self) -> dict[str, Json]:
        """Return it as plain JSON, which has no infinite number."""
        return {
            "event": repr(self.event),
            "sums": SUMS,
            "delta": self.delta,
            "claimed_epsilon": "inf" if math.isinf(self.epsilon) else self.epsilon,
            "rejected": self.rejected,
            "epsilon_low": self.epsilon_low,
            "most_epsilon": self.most_epsilon,
            "testable": self.testable,
            "releases": self.releases,
            "shares": self.shares,
            "parameters": self.parameters,
            "false_alarm": self.false_alarm,
            "canaries": [
                {
                    "norm": finding.canary.norm,
                    "place": finding.canary.place,
                    "rejected": finding.verdict.rejected,
                    "epsilon_low": finding.verdict.epsilon_low,
                    "refused": finding.refused,
                }
                for finding in self.findings
            ],
        }


def shortened(pipeline: BoundPipeline, parameters: int = PARAMETERS) -> BoundPipeline:
    """Return a pipeline bound to a vector of a few parameters, everything else as it was.

    Grid, modulus and noise follow from the length, so the claim that is audited is that of the short vector. Where
    clients add noise in shares, it is that of a sum with ``MOST_SHARES`` trusted clients, if it has more.
    """
    whole = Pipeline(stages=pipeline.stages, aggregator=pipeline.aggregator)
    wire = pipeline.wires[0]
    short = whole.bind(replace(wire, dim=parameters + wire.tail))
    if short.sent.noise_shares is None:
        return short
    wires = [replace(short.wires[0], honest=min(short.sent.noise_shares, MOST_SHARES))]
    for stage in short.stages:
        wires.append(stage.plan(wires[-1]))
    return replace(short, wires=tuple(wires))


def layer_of(
    pipeline: BoundPipeline,
    *,
    secret: SecretKey,
    public: Key,
    expected_clients: float,
    noise_secret: Callable[[SecretKey, int], SecretKey] = noise_path,
) -> Layer:
    """Return what there is to audit in a pipeline of an experiment.

    Raises:
        PlanError: When none of its stages adds noise to the sum, or the bound that noise is measured by is not known.
    """
    in_shares = pipeline.sent.noise_shares is not None
    noised = [stage for stage in pipeline.stages if (stage.shield if in_shares else stage.release) is not None]
    if not noised:
        raise PlanError(
            "the aggregation layer adds no noise, so it makes no claim to audit. Where clients take private steps, "
            "the noise is theirs; else put gaussian(clip=..., noise_multiplier=...) into the pipeline"
        )
    spec, record = noised[0].spec, pipeline.wires[0].record
    clip = None if spec is None else spec.arguments.get("clip")
    known = clip if clip is not None else record
    if not isinstance(known, int | float):
        raise PlanError(
            f"{noised[0].name} does not tell the bound that its noise is measured by: build it by a @component with an "
            "argument `clip`, or audit it from Python by Layer(clip=...)"
        )
    short = shortened(pipeline)
    return Layer(
        pipeline=short,
        clip=float(known),
        canaries=CANARIES if clip is not None else WITHIN,
        expected_clients=expected_clients,
        secret=secret,
        public=public,
        noise_secret=noise_secret,
        shares=short.sent.noise_shares or 0,
    )


def audit_layer(layer: Layer, *, delta: float, releases: int = RELEASES, method: Method = "best") -> LayerAudit:
    """Return what all canaries show of a layer's claim.

    Args:
        layer: What is audited.
        delta: At which epsilons are told; the verdict is on the whole curve.
        releases: With each canary, and without any.
        method: How the claim is priced: "best" as it is promised; "gaussian_limit" as the noise really is, where its
            grid is fine: a missing part of it shows earlier, but what is rejected then need not be the promise.

    Raises:
        PlanError: When the layer claims nothing, or the method cannot price it.
        ComponentError: When delta is none, or the releases are too few.

    Guarantee: A layer that keeps its claim is rejected with probability at most ``FALSE_ALARM`` for each canary, 1e-3
        for five. One that is not rejected may still be wrong: in what no canary does, or by less than shows.

    Example:
        >>> from fedloom.core.wire import WireType
        >>> from fedloom.entropy import derived_secret
        >>> from fedloom.pipeline import chain
        >>> from fedloom.privacy.canary_runs import Layer
        >>> from fedloom.privacy.mechanisms import gaussian
        >>> wire = WireType(dim=4, dtype="float32", weight=False)
        >>> layer = Layer(
        ...     pipeline=chain(gaussian(clip=0.5, noise_multiplier=1.0)).bind(wire),
        ...     clip=0.5,
        ...     public=Key.from_seed(1),
        ...     secret=derived_secret(Key.from_seed(1)),
        ... )
        >>> audit_layer(layer, delta=1e-5, releases=200).rejected
        False
    """
    claim = claim_of_layer(layer, releases=releases, method=method)
    whole = SelfComposedDpEvent(claim.event, SUMS)
    found = tuple(findings(layer, claim, delta=delta, releases=releases))
    return LayerAudit(
        event=claim.event,
        delta=delta,
        epsilon=epsilon_of(whole, delta=delta, adjacency="zero_out", method=method),
        releases=releases,
        shares=layer.shares,
        parameters=parameters_of(layer.pipeline),
        most_epsilon=most_epsilon(releases),
        testable=claim.testable(releases),
        findings=found,
    )


def claim_of_layer(layer: Layer, *, releases: int, method: Method = "best") -> Claim:
    """Return what a layer claims of both sums, as far as so many releases can reject it.

    Raises:
        PlanError: When it claims nothing.
    """
    return claim_of(layer.pipeline.event(), sums=SUMS, most_epsilon=most_epsilon(releases), method=method)


def findings(layer: Layer, claim: Claim, *, delta: float, releases: int) -> Iterator[Finding]:
    """Yield what each canary shows, in order: who asks for a rejection only may stop at the first."""
    dropped, _ = played(layer, None, releases)
    for canary in layer.canaries:
        kept, refused = played(layer, canary, releases)
        yield Finding(canary=canary, verdict=judge(kept, dropped, claim, delta=delta), refused=refused)
