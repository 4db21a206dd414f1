"""Noise in shares: each client adds a part of it before its vector is hidden in a sum, so that nobody adds the whole.

What is left of the noise when clients have dropped out, and those who collude have subtracted their own shares, is the
noise that is promised. So a share is measured by the fewest clients that are trusted in any sum that is opened,
``WireType.honest``: by the survivors that a round accepts at least, less those who are assumed to collude; never by
those who were invited.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from fedloom.core.component import component
from fedloom.core.events import DiscreteGaussianDpEvent, DpEvent
from fedloom.core.keys import Keys, SecretKey
from fedloom.core.params import Vector
from fedloom.core.wire import Stage, SumInfo, WireType
from fedloom.errors import ComponentError, PipelineError
from fedloom.privacy.mechanisms import GAUSSIAN, gaussian_event, mechanism
from fedloom.privacy.noise import gaussian_noise
from fedloom.privacy.shared_records import noise_on_rows, row_event, row_noise


@component("fedloom.stages")
def distributed_gaussian(clip: float, noise_multiplier: float) -> Stage[None]:
    """``gaussian``, with each client adding a share of the noise: the server is not trusted, and opens only the sum.

    A share is integer noise on the encoded vector. With z the multiplier, D the bound of one client on the grid and h
    the trusted clients of every sum at least, its standard deviation is ``ceil(z D / sqrt(h))`` steps: those h shares
    alone make up noise of ``z D``. Shares of more clients come on top, and add to nobody's price.

    Args:
        clip: The largest norm that passes unchanged, in units of the parameters.
        noise_multiplier: Standard deviation of the noise that trusted clients add, over the bound of one client.

    Raises:
        ComponentError: When a number is outside its range.
        PipelineError: As ``gaussian``; where single vectors are read, or floats are summed.

    Guarantee:
        Neighbouring data differ in one client's whole update, its own or zero, and nothing else: the client takes part
        in both cases and adds a share in both. That is zero-out, with a public list of clients; the unit is not those
        who collude. Of one round: (epsilon, delta) as ``fedloom plan`` prints it, towards the server together with
        as many clients as are assumed to collude, all they know and all they send included, and so towards every
        participant when at least one is assumed. Why the client's own share counts: it is drawn from the client's own
        secret, has the same law in both cases, and nobody else knows it; what those who collude subtract are their
        own shares. A sum without this client does not depend on its data at all, and who is in a sum does not depend
        on any data. Under add/remove a missing client would take its share with it, so that two neighbours had
        different noise: that promise is refused.

    Source: Kairouz, Liu, Steinke 2021, arXiv:2102.06387, Algorithms 1 and 2, and Theorem 1 for the sum of shares
        (differs: shares are measured by the fewest trusted survivors, not by the clients of a round).

    Example:
        >>> from fedloom.core.wire import WireType
        >>> stage = distributed_gaussian(clip=1.0, noise_multiplier=1.5)
        >>> wire = stage.plan(WireType(dim=3, dtype="float64", weight=False, honest=90))
        >>> wire.noise_shares, wire.l2
        (90, 1.0)
        >>> stage.event(replace(wire, dtype="uint32", modulus=2**32, l2=16_384.5))
        DiscreteGaussianDpEvent(sigma=2591.0, l2=16384.5, dim=3, draws=90)
    """
    name = "distributed_gaussian"
    whole = mechanism(name, GAUSSIAN, clip, noise_multiplier, each=True)

    def plan(wire: WireType) -> WireType:
        return replace(whole.plan(wire), noise_each=False, noise_shares=_honest(name, wire))

    def shield(values: Vector, last: WireType, secrets: Sequence[SecretKey]) -> Vector:
        share = _share(name, noise_multiplier, last)
        rows = zip(values, secrets, strict=True)
        noised: Vector = np.stack([gaussian_noise(row, last, secret, noise_multiplier=share) for row, secret in rows])
        return noised

    def event(last: WireType) -> DpEvent:
        return _summed(gaussian_event(name, last, _share(name, noise_multiplier, last)), last)

    return replace(whole, plan=plan, shield=shield, event=event)


@component("fedloom.stages")
def distributed_shared_gaussian(noise_multiplier: float) -> Stage[None]:
    """``shared_gaussian``, with each client adding a share of the noise: it hides one row, from the server too.

    Each hospital sends one clipped sum of gradients a round, with a share of noise that is measured as in
    ``distributed_gaussian``; denominators are public, and which rows a step drew stays at the hospital.

    Args:
        noise_multiplier: Standard deviation of the noise that trusted clients add, over what one row can change.

    Raises:
        ComponentError: When the number is not positive and finite.
        PipelineError: As ``shared_gaussian``; where single vectors are read.

    Guarantee:
        Neighbouring data differ in one row of one client, there or not; the client takes part either way. Towards the
        server and the clients that are assumed to collude, as ``distributed_gaussian``, for the rows of the others.
        The event is of one sum without the sampling of rows: whoever prices it adds ``rate``, because nobody but the
        client knows which rows it drew.

    Source: As ``shared_gaussian`` for the grid and ``distributed_gaussian`` for the shares.

    Example:
        >>> from fedloom.core.wire import WireType
        >>> stage = distributed_shared_gaussian(noise_multiplier=1.1)
        >>> out = stage.plan(WireType(dim=101, dtype="float64", weight=False, record=0.01, honest=4))
        >>> stage.event(out).sigma, stage.event(out).draws
        (2259.0, 4)
    """
    name = "distributed_shared_gaussian"
    whole = noise_on_rows(name, noise_multiplier)

    def plan(wire: WireType) -> WireType:
        try:
            return whole.plan(replace(wire, noise_shares=_honest(name, wire)))
        except ComponentError as error:
            raise PipelineError(name, received=wire, advice=f"Of one client's share: {error}.") from None

    def encode(
        wire: WireType, values: Vector, setting: Vector, memory: Vector, keys: Sequence[Keys]
    ) -> tuple[Vector, Vector]:
        return whole.encode(replace(wire, noise_shares=wire.honest), values, setting, memory, keys)

    def decode(wire: WireType, total: Vector, state: None, info: SumInfo) -> tuple[Vector, None]:
        return whole.decode(replace(wire, noise_shares=wire.honest), total, state, info)

    def shield(values: Vector, last: WireType, secrets: Sequence[SecretKey]) -> Vector:
        shares = [
            row_noise(row, last, secret=secret, noise_multiplier=noise_multiplier)
            for row, secret in zip(values, secrets, strict=True)
        ]
        noised: Vector = np.stack(shares)
        return noised

    def event(last: WireType) -> DpEvent:
        return _summed(row_event(last, noise_multiplier), last)

    return replace(whole, plan=plan, encode=encode, decode=decode, release=None, shield=shield, event=event)


def _honest(stage: str, wire: WireType) -> int | None:
    """Return how many trusted clients every sum has; None while neither model nor cohort is known.

    Raises:
        PipelineError: When there is no such number, or none of them is trusted.
    """
    if wire.honest is None and wire.dim is not None:
        raise PipelineError(
            stage,
            received=wire,
            advice="Everyone reads single messages under this aggregator, and a share of the noise hides none of them: "
            "use secure_sum or shares_sum, or local_gaussian, which puts all of the noise on each.",
        )
    if wire.honest is not None and wire.honest < 1:
        raise PipelineError(
            stage,
            received=wire,
            advice="Nobody is left whose share of noise is secret: accept sums of more survivors only, or assume fewer "
            "colluders.",
        )
    return wire.honest


def _share(stage: str, noise_multiplier: float, last: WireType) -> float:
    """Return the noise multiplier of one client's share.

    Raises:
        PipelineError: On a float wire.
    """
    if last.modulus is None:
        raise PipelineError(
            stage,
            received=last,
            advice="Shares of noise are whole numbers, which a sum in Z_m can hide: put fixed_point() behind it.",
        )
    assert last.noise_shares is not None, "plan() has refused sums without trusted clients"
    return noise_multiplier / math.sqrt(last.noise_shares)


def _summed(share: DpEvent, last: WireType) -> DpEvent:
    """Return the event of a sum whose noise is as many shares as it has trusted contributions."""
    assert isinstance(share, DiscreteGaussianDpEvent) and last.honest is not None, "a share is integer noise"
    return replace(share, draws=share.draws * last.honest)
