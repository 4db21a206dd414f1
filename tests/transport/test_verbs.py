"""Messages: what is not one is refused before anything is made of it, and none is too large for the line (C7, D10)."""

from __future__ import annotations

import tracemalloc
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import inspect

from fedloom.transport import admin, calls, verbs
from fedloom.transport.calls import VERBS, decode_answer, decode_request, encode
from fedloom.transport.chunks import CHUNK, MAX_FRAME, frame, frames, is_frame, read_frame
from fedloom.transport.errors import Code, Refusal, Refused
from fedloom.transport.fields import MAX_MESSAGE

quick = settings(max_examples=200, derandomize=True, database=None, deadline=None)
KEY = verbs.TaskKey(run="r1", phase=0, program="train", round=3, retry=0, step=0)
BLOB = verbs.Blob(digest=b"d" * 32, length=10)
SUBMIT = verbs.Submit(session="s", task="t", key=KEY, blob=BLOB)


def refused(verb: calls.Verb[Any, Any], data: bytes) -> str:
    with pytest.raises(Refused) as error:
        decode_request(verb, data)
    assert error.value.refusal.code in {Code.MALFORMED, Code.TOO_LARGE}
    return str(error.value)


def changed(message: msgspec.Struct, **fields: Any) -> bytes:
    """Encode a message with fields that its constructor would let pass and its decoder must not."""
    values = [getattr(message, name) for name in message.__struct_fields__]
    for name, value in fields.items():
        values[message.__struct_fields__.index(name)] = value
    return msgspec.msgpack.encode([type(message).__name__, *values])


# ---- Sizes -----------------------------------------------------------------------------------------------------------


def largest(kind: inspect.Type) -> int:
    """Return the most bytes that a value of this type takes in msgpack."""
    match kind:
        case inspect.StructType(fields=fields):
            return 5 + 5 + len(kind.cls.__name__) + sum(largest(field.type) for field in fields)
        case inspect.StrType(max_length=int(length)):
            return 5 + 4 * length
        case inspect.BytesType(max_length=int(length)):
            return 5 + length
        case inspect.IntType(le=int()) | inspect.FloatType() | inspect.BoolType() | inspect.NoneType():
            return 9
        case inspect.VarTupleType(item_type=item, max_length=int(length)):
            return 5 + length * largest(item)
        case inspect.DictType(key_type=key, value_type=value, max_length=int(length)):
            return 5 + length * (largest(key) + largest(value))
        case inspect.UnionType(types=types):
            return max(largest(each) for each in types)
        case inspect.LiteralType(values=values):
            return max(5 + 4 * len(str(value)) for value in values)
    raise AssertionError(f"a field without a limit: {kind}")


def test_no_message_can_be_larger_than_the_line_allows() -> None:
    sizes = {
        kind.__name__: largest(inspect.type_info(kind))
        for verb in VERBS
        for kind in (verb.request, verb.reply, Refusal)
    }
    assert len(sizes) > 35
    assert max(sizes.values()) <= MAX_MESSAGE, sizes


def test_every_verb_has_a_method_of_its_own_and_a_role() -> None:
    assert len({verb.path for verb in VERBS}) == len({verb.method for verb in VERBS}) == len(VERBS) == 27
    assert all(verb.roles for verb in VERBS)
    assert {verb.request.__name__ for verb in VERBS if "site" in verb.roles} == {
        "Hello", "Poll", "Claim", "Decline", "Heartbeat", "BeginUpload", "Upload", "Fetch", "Submit", "Fail", "Approve",
        "Recall", "Record", "Adopt", "Goodbye", "Health",
    }  # fmt: skip


def test_c7_a_message_too_large_is_refused_at_either_end_by_its_name() -> None:
    with pytest.raises(Refused, match=r"RunEvent takes 1100.* bytes; at most 1048576"):
        encode(admin.RunEvent(sequence=1, time_s=0.0, kind="round", data=bytes(1_100_000)))
    assert "TOO_LARGE: Submit came with 1048577 bytes" in refused(calls.SUBMIT, bytes(MAX_MESSAGE + 1))


def test_a_length_that_is_announced_costs_nothing() -> None:
    head = msgspec.msgpack.encode(["Poll", "s", 1, 0.0])[:-1].replace(b"\x94", b"\x95", 1)
    tracemalloc.start()
    for bomb in (b"\xdd\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff"):
        refused(calls.POLL, head + b"\x00" + bomb)
        refused(calls.POLL, bomb)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000


# ---- Fields ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"session": ""}, "length >= 1"),
        ({"session": "x" * 201}, "length <= 200"),
        ({"task": 7}, "Expected `str`, got `int`"),
        ({"rows": -1}, ">= 0"),
        ({"rows": 1 << 63}, "<= 9223372036854775807"),
        ({"rows": 1.5}, "Expected `int | null`, got `float`"),
        ({"code_hash": b"short"}, "length >= 32"),
        ({"scores": {"auc": float("nan")}}, "Expected `float"),
        ({"scores": {"auc": float("inf")}}, "Expected `float"),
        ({"scores": {str(number): 1.0 for number in range(201)}}, "length <= 200"),
        ({"envelope": bytes(4097)}, "length <= 4096"),
        ({"blob": ["Blob", b"d" * 32, -1]}, ">= 0"),
        ({"blob": ["Blob", b"d" * 32, 1 << 51]}, "<= "),
        ({"blob": ["Blob", b"d" * 32, 1, "more"]}, "at most length 2, got 3"),
        ({"blob": ["Claim", b"d" * 32, 1]}, "Invalid value"),
    ],
)
def test_a_field_outside_its_limits_is_refused_by_its_place(fields: dict[str, Any], says: str) -> None:
    text = refused(calls.SUBMIT, changed(SUBMIT, **fields))
    assert says in text
    assert "$[" in text


def test_a_field_too_many_or_too_few_and_another_message_are_refused() -> None:
    good = msgspec.msgpack.decode(encode(SUBMIT))
    refused(calls.SUBMIT, msgspec.msgpack.encode([*good, 1]))
    refused(calls.SUBMIT, msgspec.msgpack.encode(good[:3]))
    refused(calls.SUBMIT, encode(verbs.Goodbye(session="s", reason="done")))
    refused(calls.SUBMIT, encode(SUBMIT) + b"\0")
    refused(calls.SUBMIT, b"")
    refused(calls.SUBMIT, b"\x91" * 100_000)
    assert decode_request(calls.SUBMIT, encode(SUBMIT)) == SUBMIT


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ([["Part", "w", "float32", [1 << 40, 1 << 40], 4]], "takes"),
        ([["Part", "w", "float32", [-1], 4]], ">= 0"),
        ([["Part", "w", "object", [1], 4]], "Invalid enum value 'object'"),
        ([["Part", "w", "float32", [1] * 9, 4]], "length <= 8"),
        ([["Part", "w", "uint8", [2], 2], ["Part", "w", "uint8", [3], 3]], "twice"),
        ([["Part", "w", "uint8", [11], 11]], "more than the 10 bytes"),
        ([["Part", str(number), "uint8", [0], 0] for number in range(1001)], "length <= 1000"),
    ],
)
def test_a_manifest_that_cannot_be_is_refused(parts: list[Any], says: str) -> None:
    begin = verbs.BeginUpload(session="s", task="t", retry=0, blob=BLOB)
    assert says in refused(calls.BEGIN_UPLOAD, changed(begin, parts=parts))


@quick
@given(st.binary(max_size=200))
def test_whatever_arrives_is_a_message_or_refused(data: bytes) -> None:
    for verb in VERBS:
        try:
            assert isinstance(decode_request(verb, data), verb.request)
        except Refused as error:
            assert error.refusal.code == Code.MALFORMED


@quick
@given(st.integers(0, 200), st.integers(0, 255))
def test_a_changed_byte_gives_a_message_or_a_refusal(place: int, byte: int) -> None:
    data = bytearray(encode(SUBMIT))
    data[place % len(data)] = byte
    try:
        decode_request(calls.SUBMIT, bytes(data))
    except Refused as error:
        assert error.refusal.code == Code.MALFORMED


# ---- Replies, envelopes, what is told --------------------------------------------------------------------------------


def test_an_answer_is_a_reply_a_refusal_or_no_answer() -> None:
    refusal = Refusal(code="OF_ANOTHER_VERSION", sentence="no.", remedy="Wait.", retryable=True, retry_after_s=3.0)
    reply = verbs.SubmitReply(verdict="TOO_LATE")
    assert decode_answer(calls.SUBMIT, encode(reply)) == reply
    with pytest.raises(Refused) as error:
        decode_answer(calls.SUBMIT, encode(refusal))
    assert error.value.refusal == refusal
    for other in (b"", encode(verbs.Noted()), bytes(MAX_MESSAGE + 1)):
        with pytest.raises(Refused, match="the answer to Submit"):
            decode_answer(calls.SUBMIT, other)


def test_what_is_signed_is_all_but_the_envelope() -> None:
    signed = msgspec.structs.replace(SUBMIT, envelope=b"signature")
    assert verbs.signed_part(signed) == verbs.signed_part(SUBMIT)
    for field, value in {"session": "s2", "task": "t2", "blob": verbs.Blob(digest=b"e" * 32, length=10)}.items():
        other = msgspec.structs.replace(signed, **{field: value})
        assert verbs.signed_part(other) != verbs.signed_part(signed)


def test_what_a_result_tells_openly_is_listed() -> None:
    assert verbs.told_openly(SUBMIT) == ()
    assert verbs.told_openly(msgspec.structs.replace(SUBMIT, scores={}, rows=0)) == ("scores", "rows")


# ---- Frames ----------------------------------------------------------------------------------------------------------


def test_a_blob_travels_in_chunks_from_any_offset() -> None:
    data = bytes(range(256)) * 10_000
    for start in (0, 1, CHUNK, len(data) - 1, len(data)):
        chunks = [read_frame(each) for each in frames(lambda o, n: data[o : o + n], len(data), start=start)]
        assert b"".join(bytes(chunk.data) for chunk in chunks) == data[start:]
        assert [chunk.offset for chunk in chunks] == list(range(start, len(data), CHUNK))


@quick
@given(st.integers(0, 2**50), st.binary(min_size=1, max_size=300), st.integers(0, 10**6), st.integers(1, 255))
def test_a_frame_with_a_changed_byte_is_noticed(offset: int, data: bytes, place: int, change: int) -> None:
    whole = bytearray(frame(offset, data))
    assert is_frame(bytes(whole))
    whole[place % len(whole)] ^= change
    with pytest.raises(Refused) as error:
        read_frame(bytes(whole))
    assert error.value.refusal.code == Code.CORRUPT_UPLOAD


def test_no_chunk_is_empty_or_larger_than_a_chunk() -> None:
    for data in (b"", bytes(12)):
        with pytest.raises(Refused, match="MALFORMED"):
            read_frame(data)
    assert len(frame(0, bytes(CHUNK))) == MAX_FRAME
    with pytest.raises(Refused, match=f"TOO_LARGE: a chunk of {CHUNK + 1} bytes"):
        read_frame(frame(0, bytes(CHUNK + 1)))


def test_a_blob_that_ends_early_is_an_error() -> None:
    with pytest.raises(EOFError, match="ends at 3; 5 bytes were announced"):
        list(frames(lambda o, n: b"abc"[o : o + n], 5, start=0))


def test_no_refusal_looks_like_a_frame() -> None:
    for code in Code:
        for sentence in ("", "x" * 2000):
            assert not is_frame(encode(Refusal(code=code, sentence=sentence)))
