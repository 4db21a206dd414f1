"""What secure sums cost in seconds and bytes, over clients, numbers and drop-outs, beside what was promised of them.

Flags: ``--quick`` (a tenth of the numbers, and no sum of 1,000 clients) and ``--output FOLDER`` for ``secure.json`` and
``secure.png``. All primitives are real: X25519, AES-GCM, AES-CTR, Shamir's shares, Ed25519, commitments. Clients are
lost after they have shared their keys and before they send their vector, which costs the server most. Not in the
seconds: the disk, to which both sides write before a message leaves, and the network.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))

from report import machine
from sums import STEPS, Cost, Shape, measured

from fedloom.secure.messages import HASH, OPENED, SEALED, Advertise, Consistent, Masked, Shares, Unmask, length
from fedloom.secure.secure_sum import secure_sum
from fedloom.secure.shares_sum import shares_sum

COMPLETE = Shape(clients=100, dim=1_000_000, dropped=10)
REGULAR = Shape(clients=1000, dim=100_000, dropped=100, neighbours=80)
AXES: Mapping[str, tuple[Shape, ...]] = {
    "clients": tuple(Shape(clients=count, dim=100_000) for count in (5, 10, 20, 50, 100)),
    "numbers": tuple(Shape(clients=20, dim=dim) for dim in (1_000, 10_000, 100_000, 1_000_000)),
    "drop-outs": tuple(Shape(clients=100, dim=100_000, dropped=count) for count in (0, 5, 10, 15, 20)),
}
BONAWITZ_EXPANSION = 1.73
"""Of Bonawitz et al. 2017, abstract: 2**10 clients, vectors of 2**20 values of 16 bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One promise: a figure and its limit."""

    what: str
    figure: float
    limit: float
    unit: str

    def __str__(self) -> str:
        """Return the line as text."""
        held = "holds" if self.figure <= self.limit else f"misses by {self.figure / self.limit - 1:.0%}"
        return f"{self.what:<58} {self.figure:>12,.4g} {self.unit:<5} of {self.limit:>10,.4g}  {held}"


def main(arguments: Sequence[str]) -> int:
    """Measure, print, and return the exit code: 1 where a promise is missed."""
    parser = argparse.ArgumentParser(description="What secure sums cost.")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args(arguments)
    promised = [costed(COMPLETE)] if given.quick else [costed(COMPLETE), costed(REGULAR)]
    lines = [line for cost in promised for line in lines_of(cost)]
    print("\n".join(map(str, lines)))
    expansions = {
        "complete graph": expansion(1024, 2**20, others=1023),
        "graph of 80 neighbours": expansion(1024, 2**20, others=80),
        "shares to two servers": shared_expansion(2**20),
        "Bonawitz et al. 2017": BONAWITZ_EXPANSION,
    }
    print("upload over inputs of 16 bits, 2**10 clients, 2**20 values:")
    print("".join(f"  {name:<26} {figure:.2f}\n" for name, figure in expansions.items()))
    points = []
    for axis, shapes in AXES.items():
        for shape in shapes:
            if given.quick and shape.clients * shape.dim > 2_000_000:
                continue
            points.append({"axis": axis, "cost": asdict(costed(shape))})
    shared = [asdict(shares_cost(count)) for count in (2, 3)]
    for cost, count in zip(shared, (2, 3), strict=True):
        taken = f"client {cost['client']:.4f} s, all servers {cost['server']:.2f} s"
        print(f"shares_sum, {count} servers, 100 clients, 1,000,000 numbers: {taken}")
    if given.output is not None:
        given.output.mkdir(parents=True, exist_ok=True)
        document = {
            "machine": machine(),
            "lines": [asdict(line) for line in lines],
            "promised": [asdict(cost) for cost in promised],
            "expansion": expansions,
            "points": points,
            "shares_sum": shared,
        }
        (given.output / "secure.json").write_text(json.dumps(document, indent=1) + "\n")
        plot(points, given.output / "secure.png")
    return int(any(line.figure > line.limit for line in lines))


def costed(shape: Shape) -> Cost:
    """Return the cost of a secure sum, and print it."""
    asked = secure_sum(protocol=True)
    if shape.neighbours is not None:
        asked = secure_sum(protocol=True, graph="regular", neighbours=shape.neighbours, corrupt=0.05, dropout=0.1)
    cost = measured(asked, shape)
    steps = "  ".join(f"{name} {taken * 1e3:.1f}" for name, taken in zip(STEPS, cost.client_s, strict=True))
    print(
        f"n {shape.clients:>4}  d {shape.dim:>9,}  k {shape.others:>3}  lost {shape.dropped:>3}  "
        f"client {cost.client * 1e3:7.1f} ms ({steps})  server {cost.server:6.2f} s ({cost.closing:.2f} at the end)  "
        f"up {cost.up:,}  down {cost.down:,}",
        flush=True,
    )
    return cost


def shares_cost(servers: int) -> Cost:
    """Return the cost of additive shares: all servers together in ``server``."""
    return measured(shares_sum(servers, protocol=True), Shape(clients=100, dim=1_000_000))


def lines_of(cost: Cost) -> Iterator[Line]:
    """Yield what was promised of a sum of this shape."""
    shape = cost.shape
    named = f"n = {shape.clients:,}, d = {shape.dim:,}, k = {shape.others}, {shape.dropped} lost: "
    if shape == COMPLETE:
        yield Line(what=named + "client", figure=cost.client, limit=0.12, unit="s")
        yield Line(what=named + "server", figure=cost.server, limit=1.5, unit="s")
    else:
        yield Line(what=named + "server", figure=cost.server, limit=5.0, unit="s")
    up, down = 4 * shape.dim + 256 * shape.others + 4096, 512 * shape.others + 4096
    yield Line(what=named + "upload", figure=cost.up, limit=up, unit="bytes")
    yield Line(what=named + "download", figure=cost.down, limit=down, unit="bytes")


def expansion(clients: int, dim: int, *, others: int) -> float:
    """Return what one client uploads, over its values of 16 bits: of messages of the right size, packed."""
    assert others < clients, "a client shares masks with others"
    messages = (
        Advertise(bytes(32), bytes(32), bytes(64)),
        Shares(bytes(SEALED * others), bytes(HASH), bytes(2 * HASH * (others + 1)), bytes(64)),
        Masked(bytes(4 * dim)),
        Consistent(bytes(64)),
        Unmask(bytes(OPENED * (others + 1))),
    )
    return sum(map(length, messages)) / (2 * dim)


def shared_expansion(dim: int) -> float:
    """Return the same of additive shares to two servers, measured: it does not depend on the number of clients."""
    return measured(shares_sum(protocol=True), Shape(clients=3, dim=dim)).up / (2 * dim)


def plot(points: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw seconds of client and server, and bytes of a client, along each axis."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(AXES), 6.4), layout="constrained")
    panels: Any = figure.subplots(2, len(AXES), squeeze=False)
    fields = {"clients": "clients", "numbers": "dim", "drop-outs": "dropped"}
    held = {"clients": "d = 100,000", "numbers": "20 clients", "drop-outs": "100 clients, d = 100,000"}
    for column, axis in enumerate(AXES):
        mine = [point["cost"] for point in points if point["axis"] == axis]
        along = [cost["shape"][fields[axis]] for cost in mine]
        above, below = panels[0][column], panels[1][column]
        above.plot(along, [1e3 * cost["server"] for cost in mine], "o-", color="#0072b2", label="server")
        above.plot(along, [1e3 * cost["client"] for cost in mine], "s-", color="#d55e00", label="one client")
        above.set_title(f"{axis} ({held[axis]}): milliseconds", fontsize=9, loc="left")
        vectors = [4 * cost["shape"]["dim"] for cost in mine]
        sent = [cost["up"] - vector for cost, vector in zip(mine, vectors, strict=True)]
        below.plot(along, [count / 1024 for count in sent], "o-", color="#009e73", label="sent beside the vector")
        below.plot(
            along, [cost["down"] / 1024 for cost in mine], "s-", color="#cc79a8", label="received beside the model"
        )
        below.set_title("KiB of one client", fontsize=9, loc="left")
        below.set_ylim(0, 1.1 * max(cost["down"] for cost in mine) / 1024)
        above.set_yscale("log")
        above.set_ylim(1, 1000)
        for axes in (above, below):
            if axis == "numbers":
                axes.set_xscale("log")
            axes.set_xlabel(axis, fontsize=8)
            axes.tick_params(labelsize=8)
            axes.spines[["top", "right"]].set_visible(False)
    panels[0][0].legend(fontsize=8, frameon=False)
    panels[1][0].legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
