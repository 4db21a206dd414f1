"""One flipped bit in each field of each message.

Whoever sits on the line changes what it likes. Every field that says who, what or how much is signed, sealed, committed
to, or held against what its reader knows already, so that one wrong bit is refused, or costs one helper its say. The
one field without such a check is the masked vector: a wrong bit there is a wrong bit of the sum, as if the client had
sent another vector, and opens nothing; to keep a line honest is the business of TLS and the signed envelope.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import msgspec
from loot import openable
from scene import NAMES, Federation, Session, retried
from verdict import Attempt, refused, report

from fedloom.core.aggregator import Continue, Finish
from fedloom.core.ids import ClientId
from fedloom.secure.messages import Message


def attack() -> Iterator[Attempt]:
    federation = Federation(5)
    whole = frozenset(federation.names)
    ash, birch = NAMES[:2]

    session = federation.session()
    outcome = session.begin()
    for step in range(1, 5):
        asks = dict(cast(Continue, outcome).messages)
        for field, changed in _flipped(asks[ash]):
            yield refused(f"to a client: {field}", retried(session, federation, ash, changed), opened=openable(session))
        outcome = session.carry(asks, step)
    assert isinstance(outcome, Finish)

    for step in range(5):
        said = [answer for name, _, answer in session.heard if name == birch][step]
        for number, (field, _) in enumerate(_flipped(said)):
            other = federation.session(tamper=_Flip(step, birch, number))
            yield _judged(f"to the server: {field}", other, other.run(), whole)


def _judged(tried: str, session: Session, outcome: object, whole: frozenset[str]) -> Attempt:
    """Return what the server made of it: a refusal, a helper that is named, or, for a masked vector, nothing."""
    extra = tuple(set(openable(session)) - {whole, whole - {NAMES[1]}})
    refusals = [each for each in session.refusals if each.who == "the server"]
    if refusals:
        return refused(tried, refusals[0], opened=extra)
    if session.server.blamed:
        named = session.server.blamed[0]
        return Attempt(tried=tried, seen=f"refused by the server: {named}", holds=NAMES[1] in named, opened=extra)
    unsigned = "Masked" in tried and isinstance(outcome, Finish)
    return Attempt(
        tried=tried,
        seen="not noticed, and nothing is opened by it: the sum is off by the bit. The transport's envelope signs it"
        if unsigned
        else "TAKEN",
        holds=unsigned and not extra,
        opened=extra,
    )


class _Flip:
    """On the way to the server: one message of one client, with the bit of one field turned over."""

    def __init__(self, step: int, client: ClientId, field: int) -> None:
        self._where = step, client
        self._field = field

    def __call__(self, step: int, client: ClientId, message: Message) -> Message:
        return list(_flipped(message))[self._field][1] if (step, client) == self._where else message


def _flipped(message: Message) -> Iterator[tuple[str, Message]]:
    """Return a message once for each field within it, with one bit of that field turned over."""
    kind = type(message)
    plain = list(msgspec.to_builtins(message, builtin_types=(bytes,)))  # its tag, then its fields
    for path in _paths(plain[1:]):
        field = kind.__struct_fields__[path[0]]
        place = "".join(f"[{each}]" for each in path[1:])
        yield f"{kind.__name__}.{field}{place}", msgspec.convert(_turned(plain, (path[0] + 1, *path[1:])), kind)


def _paths(value: Any, path: tuple[int, ...] = ()) -> Iterator[tuple[int, ...]]:
    """Return the way to each field; of a list of entries or places the second stands for all."""
    if isinstance(value, bytes | int | str):
        yield path
        return
    for number, each in enumerate(value):
        if len(path) != 1 or number == 1:
            yield from _paths(each, (*path, number))


def _turned(value: Any, path: tuple[int, ...]) -> Any:
    """Return a value with one bit turned over at the end of a way; of bytes, one in the middle."""
    if path:
        return [_turned(each, path[1:]) if number == path[0] else each for number, each in enumerate(value)]
    if isinstance(value, int):
        return value ^ 1
    if isinstance(value, str):
        return chr(ord(value[0]) ^ 1) + value[1:]
    middle = len(value) // 2
    return value[:middle] + bytes([value[middle] ^ 1]) + value[middle + 1 :]


if __name__ == "__main__":
    raise SystemExit(report(__doc__, attack()))
