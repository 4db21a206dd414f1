"""Names of clients, runs and rounds as types of their own."""

from __future__ import annotations

from typing import NewType

ClientId = NewType("ClientId", str)
RunId = NewType("RunId", str)
RoundNumber = NewType("RoundNumber", int)
