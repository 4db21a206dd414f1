"""Values come back from bytes as their template says; damaged or hostile bytes are a CodecError and nothing else."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedloom.core import codec
from fedloom.core.messages import AggregatorMessage, Failed, Refused, RoundOrder
from fedloom.errors import CodecError

quick = settings(max_examples=100, derandomize=True, database=None, deadline=None)
thorough = settings(max_examples=600, derandomize=True, database=None, deadline=None)
DTYPES = [
    "float64",
    "float32",
    "float16",
    "bool",
    "int64",
    "int32",
    "int16",
    "int8",
    "uint64",
    "uint32",
    "uint16",
    "uint8",
]


@dataclass(frozen=True)
class Inner:
    values: Any
    name: str


@dataclass(frozen=True)
class Outer:
    inner: Inner
    table: Any
    pair: tuple[Any, ...]
    count: int
    rate: float
    flag: bool
    nothing: None = None


arrays = st.sampled_from(DTYPES).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
)
text = st.text(max_size=6)
outers = st.builds(
    Outer,
    inner=st.builds(Inner, values=arrays, name=text),
    table=st.dictionaries(text, arrays | st.integers(-(2**63), 2**63 - 1), max_size=3),
    pair=st.tuples(arrays, text, st.floats()),
    count=st.integers(-(2**63), 2**64 - 1),
    rate=st.floats(),
    flag=st.booleans(),
)


def same(left: Any, right: Any) -> bool:
    if isinstance(left, np.ndarray):
        return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()
    if isinstance(left, Outer | Inner):
        return type(left) is type(right) and all(same(getattr(left, n), getattr(right, n)) for n in left.__dict__)
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return type(left) is type(right) and repr(left) == repr(right)


@quick
@given(outers)
def test_a_value_comes_back_from_its_bytes(value: Outer) -> None:
    again = codec.decode(codec.encode(value), value)
    assert same(again, value)
    assert codec.encode(again) == codec.encode(value), "one value, one encoding"


@quick
@given(outers)
def test_the_length_is_known_without_encoding(value: Outer) -> None:
    assert codec.encoded_length(value) == len(codec.encode(value))


def test_arrays_come_back_read_only_and_contiguous_whatever_they_were() -> None:
    table = np.arange(12.0).reshape(3, 4)
    for array in (table.T, table[:, ::2], table[::-1], np.broadcast_to(1.5, (2, 3)), table[:0]):
        again = codec.decode(codec.encode({"w": array}), {"w": array})["w"]
        np.testing.assert_array_equal(again, array)
        assert not again.flags.writeable


def test_an_array_without_axes_keeps_its_shape() -> None:
    value = {"step": np.array(3.0)}
    assert codec.decode(codec.encode(value), value)["step"].shape == ()


def test_big_endian_numbers_keep_their_values() -> None:
    value = np.arange(1.0, 4.0).astype(">f8")
    np.testing.assert_array_equal(codec.decode(codec.encode(value), value), value)


def test_an_empty_mapping_in_the_template_takes_any_scalars_and_none_takes_any_scalar() -> None:
    assert codec.decode(codec.encode({"s": {"auroc": 0.5, "why": None}}), {"s": {}}) == {
        "s": {"auroc": 0.5, "why": None}
    }
    assert codec.decode(codec.encode({"s": 3}), {"s": None}) == {"s": 3}
    for held in ({"a": [1]}, {"a": {"b": 1}}):
        with pytest.raises(CodecError):
            codec.decode(codec.encode({"s": held}), {"s": {}})
    with pytest.raises(CodecError):
        codec.decode(codec.encode({"s": [1]}), {"s": None})


@pytest.mark.parametrize(
    "value", [bytearray(b"bytes"), {1, 2}, object(), np.array(["a"]), np.array([None]), {"x": 1j}, 2**70, -(2**64)]
)
def test_what_does_not_travel_is_refused_when_it_is_encoded(value: Any) -> None:
    with pytest.raises(CodecError):
        codec.encode({"value": value})


TEMPLATE: dict[str, Any] = {"w": np.zeros(3), "n": 1, "x": 0.5, "s": "", "t": (1, 2)}


@pytest.mark.parametrize(
    "change",
    [
        {"w": np.zeros(4)},
        {"w": np.zeros((1, 3))},
        {"w": np.zeros(3, np.float32)},
        {"w": np.zeros(3, np.int64)},
        {"w": 3.0},
        {"w": None},
        {"n": np.zeros(3)},
        {"n": 1.0},
        {"n": True},
        {"n": "1"},
        {"x": "0.5"},
        {"x": None},
        {"s": 1},
        {"t": (1,)},
        {"t": (1, 2, 3)},
        {"t": {"0": 1}},
        {"surprise": 1},
    ],
    ids=str,
)
def test_what_differs_from_the_template_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(CodecError):
        codec.decode(codec.encode({**TEMPLATE, **change}), TEMPLATE)


def test_fewer_keys_other_order_and_other_types_are_refused() -> None:
    for value in ({"w": np.zeros(3)}, dict(reversed(TEMPLATE.items())), [TEMPLATE], 1, None, Inner(1, "")):
        with pytest.raises(CodecError):
            codec.decode(codec.encode(value), TEMPLATE)


def test_the_message_of_a_union_is_told_by_its_type() -> None:
    likes = [Refused(round=1, retry=0, reason=""), Failed(round=1, retry=0, kind="lost", detail="")]  # type: ignore[arg-type]
    sent = Failed(round=3, retry=1, kind="crashed", detail="x", where="a.py:3")  # type: ignore[arg-type]
    assert codec.decode_one_of(codec.encode(sent), likes) == sent  # type: ignore[type-var, comparison-overlap]
    with pytest.raises(CodecError, match="AggregatorMessage"):
        codec.decode_one_of(codec.encode(AggregatorMessage(round=1, retry=0, payload=np.zeros(2))), likes)  # type: ignore[arg-type, type-var]


# ---- Hostile bytes --------------------------------------------------------------------------------------------------

MESSAGES: list[Any] = [
    AggregatorMessage(round=1, retry=0, payload=np.arange(4.0), scores={"eval/auroc": 0.5}),  # type: ignore[arg-type]
    RoundOrder(round=1, retry=0, digest="d", program="train", broadcast=np.zeros(3), settings=(np.zeros(0),)),  # type: ignore[arg-type]
    TEMPLATE,
]


@thorough
@given(st.sampled_from(MESSAGES), st.data())
def test_damaged_bytes_are_a_codec_error_and_nothing_else(value: Any, data: st.DataObject) -> None:
    whole = codec.encode(value)
    place = data.draw(st.integers(0, len(whole) - 1))
    damaged = data.draw(
        st.one_of(
            st.just(whole[:place]),
            st.integers(1, 255).map(lambda bits: whole[:place] + bytes([whole[place] ^ bits]) + whole[place + 1 :]),
            st.binary(min_size=1, max_size=8).map(lambda more: whole[:place] + more + whole[place:]),
            st.binary(min_size=4, max_size=4).map(lambda length: length + whole[4:]),
            st.binary(max_size=100),
        )
    )
    with contextlib.suppress(CodecError):
        again = codec.decode(damaged, value)
        assert codec.encoded_length(again) == codec.encoded_length(value) or not isinstance(value, dict)
    with contextlib.suppress(CodecError):
        codec.decode_one_of(damaged, MESSAGES)


def framed(tree: Any, header: Any, body: bytes = b"") -> bytes:
    structure = tree if isinstance(tree, bytes) else msgspec.msgpack.encode(["dict", tree])
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(structure).to_bytes(4, "little") + structure + len(head).to_bytes(8, "little") + head + body


def leaf(start: int, stop: int, shape: Any, dtype: Any = "F64") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


TWO = {"a": np.zeros(3), "b": np.zeros(5)}
GOOD = {"0": leaf(0, 24, [3]), "1": leaf(24, 64, [5])}
HOSTILE = {
    "arrays of other places": framed({"a": 1, "b": 0}, GOOD, bytes(64)),
    "one array twice": framed({"a": 0, "b": 0}, GOOD, bytes(64)),
    "an index outside": framed({"a": 0, "b": 2}, GOOD, bytes(64)),
    "a negative index": framed({"a": 0, "b": -1}, GOOD, bytes(64)),
    "a bool for an index": framed({"a": False, "b": True}, GOOD, bytes(64)),
    "a huge shape": framed({"a": 0, "b": 1}, GOOD | {"0": leaf(0, 24, [2**62])}, bytes(64)),
    "a shape of no number": framed({"a": 0, "b": 1}, GOOD | {"0": leaf(0, 24, "3")}, bytes(64)),
    "a shape of floats": framed({"a": 0, "b": 1}, GOOD | {"0": leaf(0, 24, [3.0])}, bytes(64)),
    "a dtype in a list": framed({"a": 0, "b": 1}, GOOD | {"0": leaf(0, 24, [3], ["F64"])}, bytes(64)),
    "an unknown dtype": framed({"a": 0, "b": 1}, GOOD | {"0": leaf(0, 24, [3], "F128")}, bytes(64)),
    "offsets beyond the end": framed({"a": 0, "b": 1}, GOOD | {"0": leaf(0, 2**60, [3])}, bytes(64)),
    "negative offsets": framed({"a": 0, "b": 1}, GOOD | {"0": leaf(-24, 0, [3])}, bytes(64)),
    "overlapping arrays": framed({"a": 0, "b": 1}, {"0": leaf(0, 24, [3]), "1": leaf(0, 40, [5])}, bytes(40)),
    "a gap": framed({"a": 0, "b": 1}, {"0": leaf(0, 24, [3]), "1": leaf(32, 72, [5])}, bytes(72)),
    "more bytes than arrays": framed({"a": 0, "b": 1}, GOOD, bytes(65)),
    "metadata": framed({"a": 0, "b": 1}, GOOD | {"__metadata__": {"a": "b"}}, bytes(64)),
    "a header of no mapping": framed({"a": 0, "b": 1}, [GOOD], bytes(64)),
    "a huge header": framed({"a": 0, "b": 1}, GOOD)[:-1] + b"\xff" * 9,
    "text that is no UTF-8": framed(b"\x92\xa4di\xffct\x80", {}),
    "a header that is no UTF-8": framed({"a": 0, "b": 1}, b'{"\xff":1}'),
    "nested too deeply": framed(b"\x92\xa4dict" + b"\x91" * 100_000 + b"\x00", {}),
    "a header nested too deeply": framed({"a": 0, "b": 1}, b'{"0":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001),
    "keys that are no text": framed(b"\x92\xa4dict\x81\x91\x00\x00", GOOD, bytes(64)),
    "an extension type": framed(b"\x92\xa4dict\xd4\x05\x00", GOOD, bytes(64)),
    "a length of four gigabytes": b"\xff\xff\xff\xff" + bytes(100),
    "nothing": b"",
}


def test_the_frame_of_these_tests_is_that_of_the_codec() -> None:
    assert codec.decode(framed({"a": 0, "b": 1}, GOOD, bytes(64)), TWO)["b"].shape == (5,)


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_bytes_are_refused(what: str) -> None:
    with pytest.raises(CodecError):
        codec.decode(HOSTILE[what], TWO)
