"""SIGKILL at the points of each step: the ledger verifies, never counts too little, and the run goes on to its end."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SCRIPT = r"""
import json, os, shutil, signal, sys
from pathlib import Path
from fedloom.core.events import GaussianDpEvent
from fedloom.errors import StoreError
from fedloom.store.ledger import Ledger
from fedloom.store.ledger_entries import Budget, Reservation
from fedloom.store.ledger_price import ORDERS

root, stride = Path(sys.argv[1]), int(sys.argv[2])
noise, rounds = GaussianDpEvent(2.0), 3
one = tuple(order / 8 for order in ORDERS)
worst = Reservation(epsilon=4.0, delta=1e-5, releases=rounds, rdp=tuple(rounds * each for each in one))
budget = Budget(data_set="ward", unit="client", adjacency="zero_out", epsilon=9.0, delta=1e-5, composition=sys.argv[3])
watched = {"ledger.py", "ledger_chain.py", "ledger_head.py", "files.py"}

def step_reserve(folder):
    with Ledger.open(folder / "ledger.sqlite") as ledger:
        yield
        ledger.reserve("r1", "ward", worst)

def step_commit(folder):
    with Ledger.open(folder / "ledger.sqlite") as ledger:
        account = ledger.reserve("r1", "ward", worst)
        yield
        account.commit((1, 1, 0), noise, one)

def step_keep(folder):
    with Ledger.open(folder / "ledger.sqlite") as ledger:
        account = ledger.reserve("r1", "ward", worst)
        yield
        account.keep((1, 1, 0), b"released")

def step_finish(folder):
    with Ledger.open(folder / "ledger.sqlite") as ledger:
        yield
        ledger.finish("r1")

def step_run(folder):
    # All rounds: what is stored is used; what is not is charged, drawn, stored, and only then seen.
    with Ledger.open(folder / "ledger.sqlite") as ledger:
        yield
        account = ledger.reserve("r1", "ward", worst)
        for number in range(1, rounds + 1):
            key = (1, number, 0)
            released = account.kept(key)
            if released is None:
                account.commit(key, noise, one)
                released = os.urandom(8)
                account.keep(key, released)
            with (folder / "seen").open("a") as seen:
                seen.write(f"{number} {released.hex()}\n")

def step_create(folder):
    yield
    with Ledger.open_or_create(folder / "new.sqlite") as ledger:
        ledger.register(budget)

def dies(step, folder, at):
    # Carry out a step in a child that kills itself at a call of a watched file; say whether it did.
    child = os.fork()
    if child == 0:
        left = [at]
        def hook(frame, kind, argument):
            if kind in ("c_call", "c_return") and os.path.basename(frame.f_code.co_filename) in watched:
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
        steps = step(folder)
        next(steps)
        sys.setprofile(hook)
        next(steps, None)
        sys.setprofile(None)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, status
    return os.WIFSIGNALED(status)

def look(folder):
    with Ledger.open(folder / "ledger.sqlite") as ledger:
        ledger.verify()
        balance = ledger.balance("ward")
        held = [holding.finished for holding in ledger.holdings()]
        data = ledger.account("r1", "ward").kept((1, 1, 0)) if held and not held[0] else None
        return [len(held), held == [True], balance.releases, data is not None, balance.promised.epsilon]

def finish_step(step, folder):
    steps = step(folder)
    next(steps)
    next(steps, None)

template = root / "0"
template.mkdir()
with Ledger.create(template / "ledger.sqlite") as ledger:
    ledger.register(budget)
result = {}
for step in (step_create, step_run, step_reserve, step_commit, step_keep, step_finish):
    name, looks, at = step.__name__[5:], [], 0
    before = look(template)
    while True:
        folder = root / f"{name}-{at}"
        shutil.copytree(template, folder)
        died = dies(step, folder, at)
        found = look(folder)
        finish_step(step, folder)
        looks.append([found, look(folder)])
        if name == "create":
            with Ledger.open(folder / "new.sqlite") as ledger:
                assert ledger.verify().rows == 2
        if name == "run":
            seen = {}
            for line in (folder / "seen").read_text().splitlines():
                number, released = line.split()
                assert seen.setdefault(number, released) == released, "a release was drawn twice and seen twice"
            assert sorted(seen) == ["1", "2", "3"]
        shutil.rmtree(folder)
        if not died:
            break
        at += stride
    result[name] = {"before": before, "points": at, "looks": looks}
    if name not in ("create", "run"):
        finish_step(step, template)
print(json.dumps(result))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize("composition", ["basic", "rdp"])
@pytest.mark.parametrize("stride", [37, pytest.param(1, marks=[pytest.mark.slow, pytest.mark.timeout(300)])])
def test_a_kill_at_any_point_of_a_step_leaves_it_done_or_not_begun(
    process: Callable[..., subprocess.Popen[str]], composition: str, stride: int
) -> None:
    memory = Path("/dev/shm")  # no power is cut here, so files in memory will do
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        out, err = process(SCRIPT, folder, stride, composition).communicate(timeout=280)
    result: dict[str, Any] = json.loads(out) if out else {}
    assert set(result) == {"create", "run", "reserve", "commit", "keep", "finish"}, err
    for name in ("reserve", "commit", "keep", "finish"):
        before, looks = result[name]["before"], result[name]["looks"]
        after = looks[-1][0]
        assert after != before
        assert result[name]["points"] > 30
        found = [look for look, _ in looks]
        assert all(look in (before, after) for look in found)
        assert found == sorted(found, key=lambda look: look == after), "once done it stays done"
        assert all(again == after for _, again in looks), "the step again, and nothing more"
    assert result["finish"]["looks"][-1][0][2] == 1
    released = [look[2] for look, _ in result["run"]["looks"]]
    assert released == sorted(released)
    assert all(again[2] == 3 for _, again in result["run"]["looks"]), "one release per round"
    promised = [result["finish"]["before"][4], result["finish"]["looks"][-1][0][4]]
    assert promised[1] == promised[0] if composition == "basic" else 0 < promised[1] < promised[0]
