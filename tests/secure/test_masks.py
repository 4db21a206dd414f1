"""Masks: recorded words, from single AES blocks as well; they cancel, and what they leave is uniform."""

from __future__ import annotations

import hashlib
import hmac
import json
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import chdtrc

from fedloom.errors import Error
from fedloom.secure.masks import BLOCK_BYTES, CHUNK_BYTES, add_masks

VECTORS = Path(__file__).parents[1] / "vectors"
KNOWN = json.loads((VECTORS / "secure_aggregation.json").read_text(encoding="utf-8"))["masks"]
quick = settings(max_examples=25, derandomize=True, database=None, deadline=None)
SEED, OTHER = bytes(range(32)), bytes(range(32, 64))
DTYPES = [np.uint32, np.uint64]
Vector = npt.NDArray[Any]


def mask(seed: bytes, size: int, dtype: Any = np.uint32) -> Vector:
    values = np.zeros(size, dtype)
    add_masks(values, [(seed, 1)])
    return values


def word_by_hand(seed: bytes, place: int, width: int) -> int:
    """The word of a mask: HKDF (RFC 5869) for the chunk's key, one AES block for the counter."""
    chunk, offset = divmod(place * width, 2**22)
    label = b"fedloom/sa/v1/mask-chunk"
    number = str(chunk).encode()
    info = struct.pack(">cQ", b"b", len(label)) + label + struct.pack(">cQ", b"i", len(number)) + number
    key = hmac.digest(hmac.digest(bytes(32), seed, "sha256"), info + b"\x01", "sha256")
    block, start = divmod(offset, 16)
    stream = Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(block.to_bytes(16, "big"))
    return int.from_bytes(stream[start : start + width], "little")


@pytest.mark.parametrize("case", KNOWN, ids=lambda case: case["dtype"])
def test_words_are_those_that_were_recorded(case: dict[str, Any]) -> None:
    """Another version that masks otherwise would give a wrong sum: a change is a new label."""
    seed = bytes.fromhex(case["seed"])
    places = [entry["place"] for entry in case["words"]]
    values = mask(seed, max(places) + 1, case["dtype"])
    width = values.dtype.itemsize
    assert {place * width // CHUNK_BYTES for place in places} == {0, 1, 2}
    for entry in case["words"]:
        place = entry["place"]
        assert f"{int(values[place]):0{2 * width}x}" == entry["word"]
        assert int(values[place]) == word_by_hand(seed, place, width)


def test_a_whole_block_is_the_one_from_single_aes_blocks() -> None:
    assert mask(SEED, 64).tolist() == [word_by_hand(SEED, place, 4) for place in range(64)]
    assert mask(SEED, 33, np.uint64).tolist() == [word_by_hand(SEED, place, 8) for place in range(33)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("around", [0, BLOCK_BYTES, CHUNK_BYTES])
def test_a_shorter_vector_begins_with_the_same_mask(dtype: Any, around: int) -> None:
    size = around // np.dtype(dtype).itemsize
    longest = mask(SEED, size + 3, dtype)
    for length in range(max(size - 1, 0), size + 2):
        assert np.array_equal(mask(SEED, length, dtype), longest[:length])


@quick
@given(st.data())
def test_masks_of_both_signs_cancel_to_the_bit(data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(DTYPES))
    top = 2 ** (8 * np.dtype(dtype).itemsize) - 1
    before = np.array(data.draw(st.lists(st.integers(0, top), max_size=9)), dtype)
    seeds = data.draw(st.lists(st.binary(min_size=32, max_size=32), max_size=5))
    signs = data.draw(st.lists(st.sampled_from([1, -1]), min_size=len(seeds), max_size=len(seeds)))
    masks = list(zip(seeds, signs, strict=True))
    values = before.copy()
    add_masks(values, masks)
    add_masks(values, [(seed, -sign) for seed, sign in reversed(masks)])
    assert np.array_equal(values, before)


@pytest.mark.parametrize("dtype", DTYPES)
def test_pairwise_masks_leave_the_sum_of_the_vectors(dtype: Any) -> None:
    """Four clients over a boundary of blocks: each adds for those after it and subtracts for those before it."""
    clients, size = range(4), BLOCK_BYTES // np.dtype(dtype).itemsize + 5
    plain = [np.arange(size).astype(dtype) * dtype(client + 1) - dtype(7) * dtype(client) for client in clients]

    def seed(u: int, v: int) -> bytes:
        return hashlib.sha256(bytes([min(u, v), max(u, v)])).digest()

    masked = [values.copy() for values in plain]
    for u in clients:
        add_masks(masked[u], [(seed(u, v), 1 if u < v else -1) for v in clients if v != u])
        assert np.mean(masked[u] == plain[u]) < 1e-3
    total = np.zeros(size, dtype)
    for values in masked:
        total += values
    expected = np.zeros(size, dtype)
    for values in plain:
        expected += values
    assert np.array_equal(total, expected)


def test_masks_add_up_in_any_order_and_grouping() -> None:
    masks = [(hashlib.sha256(bytes([i])).digest(), 1 - 2 * (i % 2)) for i in range(5)]
    at_once, reversed_, one_by_one = (np.arange(1000, dtype=np.uint32) for _ in range(3))
    add_masks(at_once, masks)
    add_masks(reversed_, masks[::-1])
    for one in masks:
        add_masks(one_by_one, [one])
    assert np.array_equal(at_once, reversed_)
    assert np.array_equal(at_once, one_by_one)


def test_a_view_is_masked_where_it_lies() -> None:
    storage = np.zeros(200, np.uint32)
    add_masks(storage[::2], [(SEED, 1)])
    assert np.array_equal(storage[::2], mask(SEED, 100))
    assert not storage[1::2].any()


def test_no_masks_and_no_values_change_nothing() -> None:
    values = np.arange(5, dtype=np.uint32)
    add_masks(values, [])
    assert values.tolist() == [0, 1, 2, 3, 4]
    add_masks(values[:0], [(SEED, 1)])


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.zeros(3, np.int32), "received int32"),
        (np.zeros(3, np.float64), "received float64"),
        (np.zeros(3, np.uint16), "received uint16"),
        (np.zeros((2, 2), np.uint32), r"shape \(2, 2\)"),
        (np.zeros(3, np.dtype(np.uint32).newbyteorder()), "received [<>]u4"),
        (np.broadcast_to(np.uint32(0), 3), "read-only"),
    ],
)
def test_what_is_no_vector_of_residues_is_refused(values: Vector, said: str) -> None:
    with pytest.raises(Error, match=said):
        add_masks(values, [(SEED, 1)])


@pytest.mark.parametrize("wrong", [(SEED[:31], 1), (SEED + b"x", 1), (b"", -1), (SEED, 0), (SEED, 2)])
def test_a_wrong_mask_is_refused_before_anything_is_added(wrong: tuple[bytes, int]) -> None:
    values = np.zeros(3, np.uint32)
    with pytest.raises(Error, match="32 bytes and 1 or -1"):
        add_masks(values, [(OTHER, 1), wrong])
    assert not values.any()


def test_little_is_held_beside_the_vector() -> None:
    values = np.zeros(3 * CHUNK_BYTES // 8, np.uint32)
    tracemalloc.start()
    try:
        add_masks(values, [(SEED, 1), (OTHER, -1)])
        assert tracemalloc.get_traced_memory()[1] < 2 * BLOCK_BYTES
    finally:
        tracemalloc.stop()


# ---- Statistics. The seeds are fixed, so each verdict is the same for ever; random words fail in 2 of 10**6 cases ----


def uniform(cells: npt.NDArray[Any], count: int) -> float:
    """The probability that uniform words are at least so uneven over the cells."""
    counts = np.bincount(cells, minlength=count)
    expected = len(cells) / count
    return float(chdtrc(count - 1, ((counts - expected) ** 2 / expected).sum()))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_byte_of_a_mask_is_uniform(dtype: Any) -> None:
    octets = mask(SEED, 2**15, dtype).view(np.uint8).reshape(2**15, -1)
    for column in octets.T:
        assert 1e-6 < uniform(column, 256) < 1 - 1e-6


@pytest.mark.parametrize("plain", [0, 1, 2**31, 2**32 - 1])
def test_a_masked_vector_is_uniform_whatever_it_hides(plain: int) -> None:
    values: npt.NDArray[np.uint32] = np.full(2**15, plain, np.uint32)
    add_masks(values, [(SEED, 1), (OTHER, -1)])
    assert 1e-6 < uniform(values >> 22, 1024) < 1 - 1e-6
    assert 1e-6 < uniform(values & 1023, 1024) < 1 - 1e-6


def test_a_masked_vector_is_independent_of_what_it_hides() -> None:
    """Cells of (16 values of the input, 16 of the masked word's top bits): uniform if the two are independent."""
    plain: npt.NDArray[np.uint32] = (np.arange(2**16) % 16 << 28).astype(np.uint32)
    masked = plain.copy()
    add_masks(masked, [(SEED, -1)])
    assert 1e-6 < uniform((plain >> 24) | (masked >> 28), 256) < 1 - 1e-6


def test_masks_of_two_seeds_and_of_two_chunks_are_unrelated() -> None:
    words = CHUNK_BYTES // 4
    long = mask(SEED, words + 2**12)
    for left, right in ((long[: 2**12], long[words:]), (long[: 2**12], mask(OTHER, 2**12))):
        assert 1e-6 < uniform((left - right) >> 24, 256) < 1 - 1e-6
        assert 1e-6 < uniform((left ^ right) & 255, 256) < 1 - 1e-6
