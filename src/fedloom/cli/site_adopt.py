"""``fedloom site adopt``: what a site's operator confirms when a store was put back from a backup."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from fedloom.cli.asking import agreed
from fedloom.cli.output import write_json
from fedloom.core.component import Json
from fedloom.engines.site_adoption import Charge, SiteAdoption
from fedloom.engines.site_folder import SiteFolder
from fedloom.errors import StoreError
from fedloom.store.epochs import compare, parse_epoch
from fedloom.store.ledger_books import Balance
from fedloom.store.ledger_price import within
from fedloom.store.site_rows import Peer

_SAYS = {
    "first": "it was never seen here",
    "same": "it is the one that was seen last",
    "later": "it is the one that was seen last, started again",
    "older": "it is older than the one that was seen last: it was put back from a backup",
    "copy": "it is a copy of the one that was seen last: it was put back from a backup, or runs twice",
    "other": "it is another store: the one that was seen last is gone",
}


def adopt(path: Path, *, yes: bool, json: bool) -> None:
    """Charge what the coordinator remembers of this site, and go on with the store that is here.

    Raises:
        StoreError: When nobody has agreed; nothing is charged then.
    """
    with SiteAdoption(SiteFolder(path)) as adoption:
        doubt = adoption.doubt()
        if doubt:
            _say(f"{doubt}\n", json=json)
            _agree("Take this ledger as it is, and charge what it lacks next?", yes=yes)
            adoption.take_ledger()
        record = adoption.remembered()
        charges = adoption.charges(record)
        _say(_words(charges), json=json)
        _agree("Charge this, and let this store go on as the site's?", yes=yes)
        balances = adoption.charge(record, charges)
        adoption.tell()
    if json:
        described: list[Json] = [_described(each) for each in charges]
        write_json({"charged": described, "overspent": [each.budget.data_set for each in balances if _over(each)]})
        return
    for each in balances:
        sys.stdout.write(f'data."{each.budget.data_set}": {each.promised} of {each.budget.price}\n')
        if _over(each):
            sys.stdout.write("  overspent: nothing more is released of these rows\n")
    sys.stdout.write("the coordinator goes on with this store; secure sums that were open stay lost\n")
    sys.stdout.write(f"next: fedloom site start {path}\n")


def adopt_coordinator(path: Path, *, yes: bool, json: bool) -> None:
    """Confirm that the coordinator's store is the one to go on with, though it is not the one that was seen.

    Raises:
        StoreError: When nobody has agreed.
    """
    with SiteAdoption(SiteFolder(path)) as adoption:
        seen, now, goes_on = adoption.coordinator()
        verdict = compare(None if seen is None else parse_epoch(seen.epoch), parse_epoch(now.epoch))
        says = _SAYS[verdict] + ("" if goes_on else "; its events do not go on from those that were seen")
        words = f"seen last: {_store(seen)}\nnow: {_store(now)}\nof the coordinator's store: {says}\n"
        _say(words, json=json)
        _agree("Has its operator told you why, and do you go on with it?", yes=yes)
        adoption.take_coordinator(now)
    if json:
        write_json({"seen": None if seen is None else seen.epoch, "now": now.epoch, "verdict": verdict})
        return
    sys.stdout.write(f"this site goes on with the coordinator's store\nnext: fedloom site start {path}\n")


def _agree(question: str, *, yes: bool) -> None:
    if not yes and not agreed(question):
        raise StoreError("nothing was confirmed, and the site stays as it is: agree at a terminal, or by --yes")


def _say(text: str, *, json: bool) -> None:
    out = sys.stderr if json else sys.stdout
    out.write(text)
    out.flush()


def _words(charges: Sequence[Charge]) -> str:
    if not charges:
        return "no run of the coordinator's record costs anything by this site's policy\n"
    return "".join(line for each in charges for line in _lines(each))


def _lines(each: Charge) -> tuple[str, ...]:
    asked = each.asked
    head = f'run {asked.run}, data."{asked.data_set}": {len(asked.keys)} rounds are remembered'
    if not each.missing:
        return (f"{head}, and all are in the ledger here\n",)
    lines = f"{head}, {len(each.missing)} of them are not in the ledger here\n"
    if each.unpriced:
        return (
            lines,
            f"  it cannot be priced here ({each.unpriced}), and is charged without bound: after that nothing is\n"
            "  released of these rows. If you can put that right, say no, and adopt again\n",
        )
    return lines, f"  it is charged: the whole run costs {asked.worst.price} at most\n"


def _described(each: Charge) -> Json:
    return {
        "run": each.asked.run,
        "data_set": each.asked.data_set,
        "rounds": len(each.asked.keys),
        "missing": len(each.missing),
        "unpriced": each.unpriced or None,
    }


def _over(balance: Balance) -> bool:
    return not within(balance.promised, balance.budget.price)


def _store(peer: Peer | None) -> str:
    if peer is None:
        return "nothing"
    epoch = parse_epoch(peer.epoch)
    events = "no events" if peer.chain is None else f"{peer.chain.partition(':')[0]} events"
    return f"store {epoch.store}, start {epoch.start}, {events}"
