"""entropy: secret streams of random words, from the operating system or, in simulation, derived; and exact noise."""

from fedloom.entropy.discrete_noise import discrete_gaussian, discrete_laplace
from fedloom.entropy.secret import Secret, derived_secret, fresh_secret, secret_of
from fedloom.entropy.words import Words

__all__ = [
    "Secret",
    "Words",
    "derived_secret",
    "discrete_gaussian",
    "discrete_laplace",
    "fresh_secret",
    "secret_of",
]
