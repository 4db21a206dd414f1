"""Mechanisms at the client: noise on each update before it leaves, so that nobody is trusted with it."""

from __future__ import annotations

from fedloom.core.component import component
from fedloom.core.wire import Stage
from fedloom.privacy.mechanisms import GAUSSIAN, LAPLACE, mechanism


@component("fedloom.stages")
def local_gaussian(clip: float, noise_multiplier: float) -> Stage[None]:
    """``gaussian``, with the noise at every client: the sum of n clients has sqrt(n) times the noise.

    It needs far more clients, or far less of an answer, than noise on the sum: for statistics and large populations.

    Args:
        clip: The largest L2 norm that passes unchanged, in units of the parameters.
        noise_multiplier: Standard deviation of each client's noise over the bound of its vector.

    Raises:
        ComponentError: When a number is outside its range.
        PipelineError: As ``gaussian``.

    Guarantee:
        Neighbouring data differ in one client's update, whatever takes its place, so by twice the clip. Of one round:
        (epsilon, delta) as ``fedloom plan`` prints it, towards everybody but the client: the server is not trusted.

    Source: Kasiviswanathan, Lee, Nissim, Raskhodnikova, Smith 2011, "What can we learn privately?", section 2, for the
        local model; the noise is that of ``gaussian``.

    Example:
        >>> from fedloom.core.wire import WireType
        >>> stage = local_gaussian(clip=1.0, noise_multiplier=4.0)
        >>> stage.event(stage.plan(WireType(dim=3, dtype="float64", weight=False)))
        GaussianDpEvent(noise_multiplier=4.0)
    """
    return mechanism("local_gaussian", GAUSSIAN, clip, noise_multiplier, each=True)


@component("fedloom.stages")
def local_laplace(clip: float, noise_multiplier: float) -> Stage[None]:
    """``laplace``, with the noise at every client; as ``local_gaussian`` in all else.

    Args:
        clip: The largest L1 norm that passes unchanged.
        noise_multiplier: Scale of each client's noise over the L1 bound of its vector: the epsilon of one round is
            twice its inverse, because a replaced vector differs by twice the clip.

    Raises:
        ComponentError: When a number is outside its range.
        PipelineError: As ``laplace``.

    Guarantee:
        (2 / noise_multiplier, 0) for one round, towards everybody but the client.

    Example:
        >>> from fedloom.core.wire import WireType
        >>> stage = local_laplace(clip=1.0, noise_multiplier=4.0)
        >>> stage.event(stage.plan(WireType(dim=3, dtype="float64", weight=False)))
        LaplaceDpEvent(noise_multiplier=4.0)
    """
    return mechanism("local_laplace", LAPLACE, clip, noise_multiplier, each=True)
