"""A client that comes back: from its store, without it, or from a copy.

Two vectors under the same masks show their difference, and two first messages under one key show more; so a client that
was killed must send what it has sent before, byte for byte, or nothing. All of a client's side is in what it stores
before a message leaves. Without it the client says LOST_STATE and is out of the round. A store that is brought back
from a copy can be asked twice: such a client counts as one that colludes, which the threshold stands.
"""

from __future__ import annotations

from collections.abc import Iterator

from loot import openable
from scene import NAMES, Federation, retried, witnesses
from verdict import Attempt, Refusal, refused, report

from fedloom.core.ids import RoundNumber
from fedloom.core.messages import AggregatorRequest, Failed
from fedloom.pipeline import chain, clip, fixed_point, mean
from fedloom.runtime.client import ClientNode
from fedloom.runtime.ports import MemoryStates
from fedloom.runtime.sessions import MemorySessions
from fedloom.secure.messages import Message, Roll, Survivors, pack
from fedloom.secure.secure_sum import secure_sum
from fedloom.testing.fakes import counting, federation
from fedloom.testing.simulation import plan_for


def attack() -> Iterator[Attempt]:
    trees = Federation()
    ash = NAMES[0]
    past = trees.session()
    past.run()
    asked = [message for name, message, _ in past.heard if name == ash and message is not None]
    said = [pack(answer) for name, _, answer in past.heard if name == ash]
    session = trees.session()
    asks = session.until(1)
    for done in range(1, 6):
        back = trees.revive(session.clients[ash], ash)
        repeated = [pack(back.open()), *(pack(back.reply(message)) for message in asked[: done - 1])]
        back = trees.revive(session.clients[ash], ash)
        onward = [pack(back.reply(message)) for message in asked[done - 1 :]]
        alike = [*repeated, *onward] == said
        yield Attempt(
            tried=f"killed when message {done - 1} was stored, before or after it left",
            seen="refused: all messages are the same bytes, those sent before and those to come"
            if alike
            else "OTHER BYTES were sent than before",
            holds=alike,
        )
        if done < 5:
            outcome = session.carry(asks, done)
            asks = dict(getattr(outcome, "messages", ()))
    yield _without_a_store()
    yield from _from_a_copy(trees)


def _without_a_store() -> Attempt:
    """Ask a client that was begun elsewhere, or has lost its store, for its next message."""
    data = federation([3, 4, 5, 6])
    name = data.population().id(0)
    carried = chain(mean(max_weight=10.0), clip(1.0), fixed_point(), aggregator=secure_sum(protocol=True))
    plan = plan_for(data, counting(data.population()), pipeline=carried)
    node = ClientNode(client=name, plan=plan, data=data.client(name), states=MemoryStates(), sessions=MemorySessions())
    request = AggregatorRequest(program="train", round=RoundNumber(1), retry=0, step=1, payload=Roll(4, ()))
    answer = node.answer(request)
    lost = isinstance(answer, Failed) and answer.kind == "lost" and answer.detail.startswith("LOST_STATE")
    return Attempt(
        tried="asked for its next message, without what it had stored",
        seen=f"refused: {answer.detail}" if isinstance(answer, Failed) else f"TAKEN: {type(answer).__name__}",
        holds=lost,
    )


def _from_a_copy(trees: Federation) -> Iterator[Attempt]:
    """Tell a client and its copy different survivors, and each half of the others one of the two lists."""
    ash, victim, *others = trees.names
    session = trees.session()
    session.until(3)
    place = {name: number for number, name in enumerate(trees.names, start=1)}
    stories = [tuple(place.values()), tuple(number for number in place.values() if number != place[victim])]
    halves = [[victim, *others[:2]], others[2:]]
    copies: list[dict[int, Message]] = []
    for story, half in zip(stories, halves, strict=True):
        twice = retried(session, trees, ash, Survivors(story))
        assert not isinstance(twice, Refusal), "either story alone could be an honest server's"
        copies.append({place[ash]: twice})
        for name in half:
            session.ask(name, Survivors(story))
    signed = session.signatures()
    for half, copy in zip(halves, copies, strict=True):
        mine = {number: getattr(answer, "signature", b"") for number, answer in copy.items()}
        shown = witnesses({**{place[name]: signed[place[name]] for name in half}, **mine})
        answer = session.ask(half[0], shown)
        yield refused("one half and one copy of a client whose store was copied", answer, opened=openable(session))


if __name__ == "__main__":
    raise SystemExit(report(__doc__, attack()))
