"""What is hashed, signed and derived from: fields in a form that only they have, under a label for each purpose."""

from __future__ import annotations

from fedloom.errors import Error

CHANNEL = b"fedloom/sa/v1/channel"
PAIR_MASK = b"fedloom/sa/v1/pairmask"
SELF_MASK = b"fedloom/sa/v1/selfmask"
MASK_CHUNK = b"fedloom/sa/v1/mask-chunk"
ADVERTISE_SIGNATURE = b"fedloom/sa/v1/adv-sig"
SHARES_SIGNATURE = b"fedloom/sa/v1/shares-sig"
CONSISTENCY_SIGNATURE = b"fedloom/sa/v1/consistency-sig"
COMMIT = b"fedloom/sa/v1/commit"
GRAPH = b"fedloom/sa/v1/graph"

_LENGTH = 8


def frame(*fields: bytes | str | int) -> bytes:
    """Return the fields as bytes from which they can be read again.

    A field is one byte for its type (``b``, ``s`` or ``i``), its length as 8 bytes in big-endian order, and its
    content: bytes as they are, a text in UTF-8 and not normalised, an integer in decimal digits with ``-`` before a
    negative one. So two lists of fields give the same bytes only if they are equal, types included.

    Args:
        fields: A label of this module first, wherever the result is hashed, signed or derived from.

    Raises:
        Error: If a field has another type (a bool would pass for 0 or 1), or a text has no UTF-8.

    Security:
        Adversary: one who chooses names or contents so that two statements get the same bytes; there are none. Leaks:
        what is framed.

    Constant time:
        No: it depends on lengths and on the digits of integers. Give it secrets as bytes.

    Source:
        Ours. A type and a length in front of every field: names are never just put together.

    Example:
        >>> frame("é", -7).hex(" ", 1)
        '73 00 00 00 00 00 00 00 02 c3 a9 69 00 00 00 00 00 00 00 02 2d 37'
        >>> frame("ab", "c") == frame("a", "bc")
        False
    """
    return b"".join(map(_framed, fields))


def _framed(field: bytes | str | int) -> bytes:
    match field:
        case bytes():
            tag, content = b"b", field
        case str():
            tag, content = b"s", _utf8(field)
        case int() if not isinstance(field, bool):
            tag, content = b"i", b"%d" % field
        case _:
            raise Error(f"a framed field is bytes, a text or an integer; received a {type(field).__name__}")
    return tag + len(content).to_bytes(_LENGTH, "big") + content


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise Error(
            f"a framed text must have a UTF-8 form; {text!r} has a lone surrogate. Rename the client"
        ) from error
