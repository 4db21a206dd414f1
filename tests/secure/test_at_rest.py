"""What is sealed at rest opens for its owner, in its place, unchanged; and not otherwise."""

from __future__ import annotations

import pytest

from fedloom.entropy import fresh_secret, secret_of
from fedloom.errors import Error
from fedloom.secure.at_rest import open_at_rest, seal_at_rest

OWNER = secret_of(bytes(range(32)))
CONTENT = b"shares of a key"
GOLDEN = bytes.fromhex(
    "0187f07fbd6d24f35037d5f751806092ffea8b9776430d57a821d1ef707568777467c17fc953df7c0333a2026f4188c41e5c66418c"
)
"""Of ``b"what is kept"`` in the place ``b"row 1"``, by the first build that sealed anything."""


@pytest.mark.parametrize("content", [b"", b"x", bytes(1000), bytes(range(256)) * 4096])
def test_the_owner_opens_what_it_has_sealed(content: bytes) -> None:
    sealed = seal_at_rest(OWNER, content, place=b"here")
    assert len(sealed) == len(content) + 41
    assert open_at_rest(secret_of(OWNER.stored()), sealed, place=b"here") == content


def test_what_an_earlier_build_has_sealed_opens() -> None:
    assert open_at_rest(OWNER, GOLDEN, place=b"row 1") == b"what is kept"


def test_no_two_seals_have_a_salt_or_a_key_in_common() -> None:
    sealed = {seal_at_rest(OWNER, CONTENT, place=b"here") for _ in range(200)}
    assert len({each[1:25] for each in sealed}) == 200
    assert len({each[25:33] for each in sealed}) == 200, "by chance with probability below 2e-15"


def test_any_changed_bit_is_refused() -> None:
    sealed = seal_at_rest(OWNER, CONTENT, place=b"here")
    for at in range(len(sealed)):
        for bit in (0, 7):
            changed = bytearray(sealed)
            changed[at] ^= 1 << bit
            with pytest.raises(Error, match="does not open"):
                open_at_rest(OWNER, bytes(changed), place=b"here")


def test_any_part_alone_is_refused() -> None:
    sealed = seal_at_rest(OWNER, CONTENT, place=b"here")
    for length in range(len(sealed)):
        with pytest.raises(Error, match="does not open"):
            open_at_rest(OWNER, sealed[:length], place=b"here")


def test_another_place_and_another_owner_are_refused() -> None:
    sealed = seal_at_rest(OWNER, CONTENT, place=b"here")
    for owner, place in ((OWNER, b"there"), (OWNER, b""), (fresh_secret(), b"here"), (OWNER.child("x"), b"here")):
        with pytest.raises(Error, match="sealed under another key"):
            open_at_rest(owner, sealed, place=place)
