"""Aggregation layers for audits: right ones, and each mistake that an audit must find, as stages of our own.

``RIGHT`` and ``BROKEN`` map a name to a function from a seed and a noise multiplier to a layer. No test module: tests
and the benchmark load it by its path.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from fedloom.core.keys import Key, Keys, SecretKey
from fedloom.core.params import Vector
from fedloom.core.wire import AnyStage, WireType
from fedloom.entropy import derived_secret
from fedloom.pipeline import BoundPipeline, Pipeline, chain, fixed_point, mean, plain_sum, rotate
from fedloom.pipeline.ball import into_ball
from fedloom.privacy.adaptive import adaptive_gaussian
from fedloom.privacy.canary_runs import Layer, noise_path
from fedloom.privacy.mechanisms import gaussian, laplace
from fedloom.privacy.noise import gaussian_noise, normals

CLIP = 0.5
EXPECTED = 4.0
Make = Callable[[int, float], Layer]


def layer(*stages: AnyStage, seed: int, noise_secret: Callable[[SecretKey, int], SecretKey] = noise_path) -> Layer:
    """Return the layer of a mean under uniform weights, with these stages behind it."""
    wire = WireType(dim=5, dtype="float32", weight=True, max_weight=1.0, most_clients=10)
    return of_pipeline(chain(mean(expected=EXPECTED), *stages).bind(wire), seed, noise_secret)


def of_pipeline(
    pipeline: BoundPipeline, seed: int, noise_secret: Callable[[SecretKey, int], SecretKey] = noise_path
) -> Layer:
    key = Key.from_seed(seed)
    return Layer(
        pipeline=pipeline,
        clip=CLIP,
        expected_clients=EXPECTED,
        secret=derived_secret(key.child("secret")),
        public=key.child("public"),
        noise_secret=noise_secret,
    )


def encoding(change: Callable[[Vector, Sequence[Keys]], Vector], noise_multiplier: float) -> AnyStage:
    """Return ``gaussian`` with other work at the client; what it claims stays."""

    def encode(
        _wire: WireType, values: Vector, _setting: Vector, memory: Vector, keys: Sequence[Keys]
    ) -> tuple[Vector, Vector]:
        return change(values, keys).astype(values.dtype), memory

    return replace(gaussian(CLIP, noise_multiplier), encode=encode)


def releasing(
    change: Callable[[Vector, Vector], Vector], noise_multiplier: float, *, drawn: float | None = None
) -> AnyStage:
    """Return ``gaussian`` with another release: a function of the sum and the noised sum."""

    def release(total: Vector, last: WireType, secret: SecretKey) -> Vector:
        noise = noise_multiplier if drawn is None else drawn
        return change(total, gaussian_noise(total, last, secret, noise_multiplier=noise))

    return replace(gaussian(CLIP, noise_multiplier), release=release)


def a_third_of_the_noise(seed: int, z: float) -> Layer:
    return layer(releasing(lambda _total, noised: noised, z, drawn=z / 3), seed=seed)


def a_third_of_the_integer_noise(seed: int, z: float) -> Layer:
    return layer(releasing(lambda _total, noised: noised, z, drawn=z / 3), fixed_point(), seed=seed)


def noise_before_the_clip(seed: int, z: float) -> Layer:
    def noised_then_clipped(values: Vector, keys: Sequence[Keys]) -> Vector:
        noise = np.stack([normals(key.secret, values.shape[1]) for key in keys])
        moved = values.astype(np.float64) + z * CLIP * noise
        into_ball(moved, CLIP)
        return moved

    return layer(replace(encoding(noised_then_clipped, z), release=None), seed=seed)


def noise_before_a_clip_of_the_sum(seed: int, z: float) -> Layer:
    def clipped(_total: Vector, noised: Vector) -> Vector:
        return noised / max(1.0, float(np.linalg.norm(noised)))

    stage = releasing(clipped, z)
    return layer(replace(stage, encode=encoding(lambda values, _: values / CLIP, z).encode), seed=seed)


def no_clip(seed: int, z: float) -> Layer:
    return layer(encoding(lambda values, _: values / CLIP, z), seed=seed)


def an_intercept_without_noise(seed: int, z: float) -> Layer:
    return layer(releasing(lambda total, noised: np.append(noised[:-1], total[-1:]), z), seed=seed)


def an_intercept_without_clip(seed: int, z: float) -> Layer:
    def clipped(values: Vector, _keys: Sequence[Keys]) -> Vector:
        into_ball(values[:, :-1], CLIP)
        values[:, -1] /= CLIP
        return values

    return layer(encoding(clipped, z), seed=seed)


def a_weight_behind_the_clip(seed: int, z: float) -> Layer:
    """Each clipped update times its client's number of rows, whatever that is."""
    right = gaussian(CLIP, z)

    def plan(wire: WireType) -> WireType:
        dim = None if wire.dim is None else wire.dim - wire.tail
        return right.plan(replace(wire, dim=dim, weight=False, weighted=True))

    def encode(
        wire: WireType, values: Vector, _setting: Vector, memory: Vector, _keys: Sequence[Keys]
    ) -> tuple[Vector, Vector]:
        parts = values[:, :-1].copy()
        into_ball(parts, CLIP)
        return parts * wire.weights(values), memory

    pipeline = Pipeline(stages=(replace(right, plan=plan, encode=encode),), aggregator=plain_sum())
    return of_pipeline(pipeline.bind(WireType(dim=5, dtype="float32", weight=True)), seed)


def the_same_noise_in_both_rounds(seed: int, z: float) -> Layer:
    return layer(gaussian(CLIP, z), seed=seed, noise_secret=lambda secret, _number: secret.child("noise"))


def a_zero_update_divided_by_its_norm(seed: int, z: float) -> Layer:
    def divided(values: Vector, _keys: Sequence[Keys]) -> Vector:
        norms = np.sqrt((values.astype(np.float64) ** 2).sum(axis=1, keepdims=True))
        with np.errstate(invalid="ignore"):
            clipped: Vector = values / norms * np.minimum(norms / CLIP, 1.0)
        return clipped

    return layer(encoding(divided, z), seed=seed)


def _named(*makers: Make) -> dict[str, Make]:
    return {maker.__name__.replace("_", " "): maker for maker in makers}


BROKEN: Mapping[str, Make] = _named(
    a_third_of_the_noise,
    a_third_of_the_integer_noise,
    noise_before_the_clip,
    noise_before_a_clip_of_the_sum,
    no_clip,
    an_intercept_without_noise,
    an_intercept_without_clip,
    a_weight_behind_the_clip,
    the_same_noise_in_both_rounds,
    a_zero_update_divided_by_its_norm,
)

RIGHT: Mapping[str, Make] = {
    "gaussian": lambda seed, z: layer(gaussian(CLIP, z), seed=seed),
    "gaussian on integers": lambda seed, z: layer(gaussian(CLIP, z), fixed_point(), seed=seed),
    "gaussian, rotated, on integers": lambda seed, z: layer(gaussian(CLIP, z), rotate(), fixed_point(), seed=seed),
    "laplace": lambda seed, z: layer(laplace(CLIP, z), seed=seed),
    "laplace on integers": lambda seed, z: layer(laplace(CLIP, z), fixed_point(), seed=seed),
    "adaptive_gaussian": lambda seed, z: layer(adaptive_gaussian(CLIP, z, bit_noise=5.0), seed=seed),
}
