"""Secrets of a simulated run: derived from its seed, so that a run can be repeated, and so that they hide nothing."""

from __future__ import annotations

from fedloom.core.ids import ClientId
from fedloom.core.keys import NO_SECRET, Key, SecretKey
from fedloom.entropy import Secret, derived_secret
from fedloom.experiment.plan import AnyPlan

SIMULATED = (
    "simulated noise and sampling: not private. They come from the seed of the run, so that it can be repeated; the "
    "figures are those that a federation of the same plan would have"
)


def server_secret(plan: AnyPlan) -> SecretKey:
    """Return what the coordinator draws cohorts and noise from; of a run without protection, a key that refuses."""
    return derived_secret(plan.key.child("server secret")) if plan.keeps_secrets else NO_SECRET


def rehearsed_secret(phase: Key, client: ClientId) -> Secret:
    """Return what a client of a rehearsal draws from, given the key of the phase: what everybody can compute."""
    return derived_secret(phase.child("client secret", client))


def client_secret(plan: AnyPlan, client: ClientId) -> SecretKey:
    """Return what a client draws its rows, noise and masks from; of a run without protection, a key that refuses."""
    return derived_secret(plan.key.child("client secret", client)) if plan.keeps_secrets else NO_SECRET
