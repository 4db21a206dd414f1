"""A step out of order.

The server asks for the opened shares before the masked vectors have come, or for the vector of a client that has dealt
no shares: what the checks of a step rest on has not happened yet. A client's side is a machine of five steps. A message
that is not the next one is a repeat, which gets the stored bytes, or ends the session.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from loot import openable
from scene import NAMES, Federation, retried
from verdict import Attempt, error_of, refused, report

from fedloom.core.ids import ClientId
from fedloom.secure.messages import Message


def attack() -> Iterator[Attempt]:
    federation = Federation()
    ash, birch = NAMES[:2]
    past = federation.session()
    past.run()
    asked = [message for name, message, _ in past.heard if name == ash and message is not None]
    said = [answer for name, _, answer in past.heard if name == birch]

    session = federation.session()  # the same terms and entropy: the very messages, at the wrong moment
    asks: dict[ClientId, Message] = session.until(1)
    for done in range(1, 5):
        for step in range(done + 1, 5):
            answer = retried(session, federation, ash, asked[step - 1])
            yield refused(f"message {step} to a client that has sent {done}", answer, opened=openable(session))
        for step in range(5):
            if step != done:
                error = error_of(partial(session.server.receive, birch, said[step]))
                yield refused(f"a client's message {step} in place of {done}, to the server", error)
        if done < 4:
            outcome = session.carry(asks, done)
            asks = dict(getattr(outcome, "messages", ()))


if __name__ == "__main__":
    raise SystemExit(report(__doc__, attack()))
