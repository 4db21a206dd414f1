"""Commitments: recorded, written a second time, and another one for every other statement."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import pytest

from fedloom.errors import Error
from fedloom.secure.commitments import commit_seed, commit_share

VECTORS = Path(__file__).parents[1] / "vectors"
KNOWN = json.loads((VECTORS / "secure_aggregation.json").read_text(encoding="utf-8"))["commitments"]
SHARE: dict[str, Any] = {
    "sid": bytes(range(32)),
    "dealer": "north",
    "holder": "south",
    "kind": "mask",
    "share": bytes(33),
    "salt": bytes(16),
}


def framed(*fields: bytes | str) -> bytes:
    contents = [(b"s", field.encode()) if isinstance(field, str) else (b"b", field) for field in fields]
    return b"".join(struct.pack(">cQ", tag, len(content)) + content for tag, content in contents)


def test_the_commitment_to_a_seed_is_the_one_that_was_recorded() -> None:
    case = KNOWN["seed"]
    sid, seed = bytes.fromhex(case["sid"]), bytes.fromhex(case["seed"])
    committed = commit_seed(sid=sid, owner=case["owner"], seed=seed)
    assert committed.hex() == case["commitment"]
    assert committed == hashlib.sha256(framed(b"fedloom/sa/v1/commit", sid, case["owner"], seed)).digest()


@pytest.mark.parametrize("case", KNOWN["shares"], ids=lambda case: case["kind"])
def test_the_commitment_to_a_share_is_the_one_that_was_recorded(case: dict[str, Any]) -> None:
    sid, share, salt = (bytes.fromhex(case[key]) for key in ("sid", "share", "salt"))
    dealer, holder, kind = case["dealer"], case["holder"], case["kind"]
    committed = commit_share(sid=sid, dealer=dealer, holder=holder, kind=kind, share=share, salt=salt)
    assert committed.hex() == case["commitment"]
    label = b"fedloom/sa/v1/commit"
    assert committed == hashlib.sha256(framed(label, sid, dealer, holder, kind, share, salt)).digest()


def test_another_value_of_any_field_is_another_commitment() -> None:
    others: list[dict[str, Any]] = [
        {},
        {"sid": bytes(32)},
        {"dealer": "nort"},
        {"holder": "east"},
        {"dealer": "south", "holder": "north"},
        {"dealer": "northsouth", "holder": ""},
        {"kind": "self"},
        {"share": bytes(32) + b"\x01"},
        {"salt": bytes(15) + b"\x01"},
        {"share": bytes(34), "salt": bytes(15)},
        {"share": bytes(32), "salt": bytes(17)},
    ]
    assert len({commit_share(**SHARE | other) for other in others}) == len(others)
    seeds = [(bytes(32), "a", bytes(32)), (b"x", "a", bytes(32)), (bytes(32), "b", bytes(32)), (bytes(32), "a", b"x")]
    assert len({commit_seed(sid=sid, owner=owner, seed=seed) for sid, owner, seed in seeds}) == len(seeds)


def test_a_kind_that_is_none_is_refused() -> None:
    with pytest.raises(Error, match="'mask' or 'self'; received 'both'"):
        commit_share(**SHARE | {"kind": "both"})
