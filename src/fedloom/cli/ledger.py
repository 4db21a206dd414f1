"""``fedloom ledger``: what has been released of each data set, and whether the ledger is what was written."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from fedloom.cli.output import write_json
from fedloom.cli.tables import print_table
from fedloom.core.component import Json
from fedloom.errors import BudgetError, StoreError
from fedloom.privacy.guarantee import Adjacency, Unit, rounded_up
from fedloom.store.files import write_text
from fedloom.store.ledger import Ledger
from fedloom.store.ledger_books import Balance, Holding
from fedloom.store.ledger_entries import Budget, Composition
from fedloom.store.ledger_head import head_path, parse_head
from fedloom.store.ledger_price import Price


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A budget as flags ask for it; None where a flag is not given."""

    epsilon: float | None
    delta: float | None
    unit: str | None
    adjacency: str | None
    composition: str | None
    shares_units_with: tuple[str, ...] = ()

    @property
    def given(self) -> bool:
        """Whether any flag is given."""
        return self != Asked(epsilon=None, delta=None, unit=None, adjacency=None, composition=None)


def show(path: Path, *, json: bool) -> None:
    """Print every data set with its budget, and every run with what it holds."""
    with Ledger.read(path) as ledger:
        head = ledger.head()
        balances = [ledger.balance(budget.data_set) for budget in ledger.budgets()]
        holdings = ledger.holdings()
    if json:
        described: list[Json] = [_described(balance) for balance in balances]
        write_json({"ledger": path, "head": str(head), "data_sets": described, "runs": [*map(_holding, holdings)]})
        return
    sys.stdout.write(f"ledger {path}, {head.rows} rows\n")
    _print_balances(balances)
    if holdings:
        sys.stdout.write("\n")
        _print_holdings(holdings)


def verify(path: Path, *, heads: Sequence[str], accept: bool, json: bool) -> None:
    """Read the whole ledger again and print its head."""
    remembered = tuple(map(parse_head, heads))
    if accept:
        with Ledger.accept(path) as ledger:
            head = ledger.verify(remembered=remembered)
    else:
        with Ledger.read(path, remembered=remembered) as ledger:
            head = ledger.verify(remembered=remembered)
    if json:
        write_json({"ledger": path, "rows": head.rows, "sha256": head.sha256, "head": str(head)})
        return
    compared = f" and {len(remembered)} of yours" if remembered else ""
    sys.stdout.write(
        f"{path}: {head.rows} rows verify, with the head in {head_path(path).name}{compared}\n"
        f"head {head}\n"
        "Note this head elsewhere: `fedloom ledger verify --head` then notices rows lost after today.\n"
    )


def budget(path: Path, data_set: str | None, asked: Asked, *, json: bool) -> None:
    """Print budgets, or give a data set one.

    Raises:
        BudgetError: When the data set has another budget, or the flags do not make one.
    """
    if asked.given:
        wished = _asked_for(data_set, asked)
        with Ledger.open_or_create(path) as ledger:
            ledger.register(wished)
    with Ledger.read(path) as ledger:
        names = [each.data_set for each in ledger.budgets()] if data_set is None else [data_set]
        balances = [ledger.balance(name) for name in names]
    if json:
        described: list[Json] = [_described(balance) for balance in balances]
        write_json(described[0] if data_set is not None else {"data_sets": described})
        return
    _print_balances(balances)
    if data_set is not None:
        _print_details(balances[0])


def finish(path: Path, run: str, *, json: bool) -> None:
    """End a run's releases for ever, so that what it did not use is free again where that can be."""
    with Ledger.open(path) as ledger:
        ledger.finish(run)
        holdings = [holding for holding in ledger.holdings() if holding.run == run]
    if json:
        write_json({"run": run, "held": [*map(_holding, holdings)]})
        return
    for holding in holdings:
        made = f"{holding.releases} of {holding.most} releases made"
        sys.stdout.write(f"run {run} has finished on data set {holding.data_set}: {made}\n")


def export(path: Path, out: Path | None, *, json: bool) -> None:
    """Write every row as a line of JSON.

    Raises:
        StoreError: When the file is there already.
    """
    if out is not None and out.exists():
        raise StoreError(f"{out} is there already: name a new file")
    with Ledger.read(path) as ledger:
        lines = list(ledger.export())
        head = ledger.head()
    if out is None:
        sys.stdout.flush()
        sys.stdout.buffer.writelines(lines)
        sys.stdout.buffer.flush()
        return
    write_text(out, b"".join(lines).decode())
    if json:
        write_json({"ledger": path, "file": out, "rows": len(lines), "head": str(head)})
        return
    sys.stdout.write(f"{out}: {len(lines)} rows\n")


def _asked_for(data_set: str | None, asked: Asked) -> Budget:
    """Return the budget that flags describe; what is wrong in a value, the budget itself says."""
    missing = [f"--{field.name}" for field in dataclasses.fields(asked) if getattr(asked, field.name) is None]
    if data_set is None or missing:
        needs = missing if data_set is not None else ["the data set's id", *missing]
        raise BudgetError(f"a budget needs all of its flags; missing: {', '.join(needs)}")
    assert asked.epsilon is not None and asked.delta is not None, "none is missing"
    return Budget(
        data_set=data_set,
        unit=cast("Unit", asked.unit),
        adjacency=cast("Adjacency", asked.adjacency),
        epsilon=asked.epsilon,
        delta=asked.delta,
        composition=cast("Composition", asked.composition),
        shares_units_with=asked.shares_units_with,
    )


def _print_balances(balances: Sequence[Balance]) -> None:
    if not balances:
        sys.stdout.write("no data set has a budget\n")
        return
    rows = [
        [
            each.budget.data_set,
            each.budget.unit,
            each.budget.composition,
            _number(each.budget.epsilon),
            _number(each.spent.epsilon),
            _number(each.promised.epsilon),
            f"{each.budget.delta:.3g}",
            str(len(each.runs)),
            str(each.releases),
        ]
        for each in balances
    ]
    header = ["data set", "unit", "across runs", "epsilon", "spent", "with open runs", "delta", "runs", "releases"]
    print_table(header, rows)


def _print_holdings(holdings: Sequence[Holding]) -> None:
    rows = [
        [
            each.run,
            each.data_set,
            ("finished" if each.finished else "open") + (", overspent" if each.overspent else ""),
            _number(each.reserved.epsilon),
            f"{each.reserved.delta:.3g}",
            f"{each.releases} of {each.most}",
        ]
        for each in holdings
    ]
    print_table(["run", "data set", "state", "epsilon", "delta", "releases"], rows)


def _print_details(balance: Balance) -> None:
    out = sys.stdout
    out.write(f"\nadjacency {balance.budget.adjacency}\n")
    sharing = ", ".join(balance.sharing) or "no other data set"
    out.write(f"shares units with {sharing}\n")
    out.write(f"open runs: {', '.join(balance.open_runs) or 'none'}\n")
    if balance.budget.composition == "basic":
        left = _left(balance)
        out.write(f"left for new runs: {left}\n")
    else:
        out.write("left for new runs: decided order by order, `fedloom plan` says whether one fits\n")


def _left(balance: Balance) -> Price:
    """Return what a budget under basic addition still has for new runs."""
    budget, promised = balance.budget, balance.promised
    left = math.inf if math.isinf(budget.epsilon) else max(0.0, budget.epsilon - promised.epsilon)
    return Price(left, max(0.0, budget.delta - promised.delta))


def _described(balance: Balance) -> dict[str, Json]:
    budget = balance.budget
    return {
        "data_set": budget.data_set,
        "unit": budget.unit,
        "adjacency": budget.adjacency,
        "composition": budget.composition,
        "budget": _price(budget.price),
        "spent": _price(balance.spent),
        "promised": _price(balance.promised),
        "shares_units_with": list(balance.sharing),
        "runs": list(balance.runs),
        "open_runs": list(balance.open_runs),
        "releases": balance.releases,
    }


def _holding(holding: Holding) -> dict[str, Json]:
    return {
        "run": holding.run,
        "data_set": holding.data_set,
        "finished": holding.finished,
        "reserved": _price(holding.reserved),
        "releases": holding.releases,
        "releases_reserved": holding.most,
        "overspent": holding.overspent,
        "fingerprint": holding.fingerprint,
    }


def _price(price: Price) -> dict[str, Json]:
    """Return a price as JSON, which has no infinite number."""
    return {"epsilon": "inf" if math.isinf(price.epsilon) else price.epsilon, "delta": price.delta}


def _number(value: float) -> str:
    return f"{rounded_up(value):g}"
