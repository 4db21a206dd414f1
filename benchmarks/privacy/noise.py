"""Seconds for a million exact integer numbers, on one core, beside numpy's float normal, which protects nothing.

Flags: ``--size N`` (1,000,000 by default) and ``--repeat N`` (3 by default; the median is printed). The stream is
AES-256 over the operating system's entropy, as in a deployment. Limits: 1.5 s a million from sigma 16 on, 2.5 s below.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial

import numpy as np

from fedloom.entropy import Secret, discrete_gaussian, discrete_laplace, fresh_secret

SIGMAS = (Fraction(1, 2), Fraction(4), Fraction(16), Fraction(50), Fraction(1000), Fraction(4096))
LIMITS = {False: 2.5, True: 1.5}
"""Seconds a million, by whether sigma is at least 16."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=1_000_000)
    parser.add_argument("--repeat", type=int, default=3)
    flags = parser.parse_args(arguments)
    million = flags.size / 1e6
    secret = fresh_secret()
    print(f"{'sigma':>6}  {'gaussian s/1M':>13}  {'laplace s/1M':>12}  {'normal s/1M':>11}  {'limit s/1M':>10}")
    for sigma in SIGMAS:
        stream = secret.child("sigma", str(sigma))
        draws = (
            partial(_draw, discrete_gaussian, stream, sigma**2, flags.size),
            partial(_draw, discrete_laplace, stream, sigma, flags.size),
            partial(_normal, float(sigma), flags.size),
        )
        gaussian_s, laplace_s, normal_s = (_median(draw, repeat=flags.repeat) / million for draw in draws)
        limit = LIMITS[sigma >= 16]
        print(f"{float(sigma):6g}  {gaussian_s:13.3f}  {laplace_s:12.3f}  {normal_s:11.3f}  {limit:10.1f}")


def _draw(law: Callable[..., object], stream: Secret, parameter: Fraction, size: int, repeat: int) -> None:
    law(stream.child(repeat), parameter, size)


def _normal(sigma: float, size: int, repeat: int) -> None:
    sigma * np.random.default_rng(repeat).standard_normal(size)


def _median(draw: Callable[[int], None], *, repeat: int) -> float:
    """Return the median CPU seconds of the thread: another process on the core does not count."""
    taken = []
    for i in range(repeat):
        started = time.thread_time()
        draw(i)
        taken.append(time.thread_time() - started)
    return statistics.median(taken)


if __name__ == "__main__":
    main()
