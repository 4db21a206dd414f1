"""Framed fields: what they are byte for byte, and that they can be read again, so that no two statements are one."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom.errors import Error
from fedloom.secure import encoding
from fedloom.secure.encoding import frame

quick = settings(max_examples=100, derandomize=True, database=None, deadline=None)
fields = st.lists(st.binary(max_size=6) | st.text(max_size=4) | st.integers(-(2**70), 2**70), max_size=5)
Field = bytes | str | int


def read(framed: bytes) -> list[Field]:
    """Read a frame, as somebody would who has only its description."""
    found: list[Field] = []
    while framed:
        tag, length = struct.unpack_from(">cQ", framed)
        content, framed = framed[9 : 9 + length], framed[9 + length :]
        match tag:
            case b"b":
                found.append(content)
            case b"s":
                found.append(content.decode())
            case b"i":
                found.append(int(content))
    return found


@quick
@given(fields)
def test_the_fields_can_be_read_again(some: list[Field]) -> None:
    again = read(frame(*some))
    assert again == some
    assert [type(field) for field in again] == [type(field) for field in some]


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (("ab", "c"), ("a", "bc")),
        (("ab",), (b"ab",)),
        ((1,), ("1",)),
        ((12, 3), (1, 23)),
        (("",), ()),
        (("é",), ("e\u0301",)),
        (("a", frame("b")), ("a", "b")),
    ],
)
def test_fields_that_look_alike_are_framed_apart(left: tuple[Field, ...], right: tuple[Field, ...]) -> None:
    assert frame(*left) != frame(*right)


@pytest.mark.parametrize("field", [True, None, 1.0, bytearray(b"x"), "\ud800"])
def test_what_has_no_one_form_is_refused(field: Field) -> None:
    with pytest.raises(Error, match="framed"):
        frame("a", field)


def test_every_label_is_another_and_names_protocol_and_version() -> None:
    labels = [value for name, value in vars(encoding).items() if name.isupper() and not name.startswith("_")]
    assert len(labels) == len(set(labels)) >= 9
    assert all(label.startswith(b"fedloom/sa/v1/") for label in labels)
