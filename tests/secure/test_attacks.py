"""Every known abuse in ``attacks/`` is mounted, fails, and fails for the reason that it should."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import fedloom.runtime.client
from fedloom.secure.secagg_client import SecAggClient
from fedloom.secure.secagg_server import SecAggServer
from fedloom.secure.terms import Terms

FOLDER = Path(__file__).parents[2] / "attacks"
SHARED = {"loot", "scene", "verdict"}
NOTHING_NEW = "the same bytes"

REASONS: Mapping[str, Sequence[str]] = {
    "coordinators_roster": (*["is not signed by this federation's root"] * 4, "0 of 7 clients advertised keys"),
    "crafted_model": ("rows are read off the sum", "0 of 28 rows"),
    "different_sharers": (*["others have shared; at least 4"] * 3, "no sum of fewer than 4"),
    "different_rolls": ("16 one sum of 4", "sessions open nothing", "sessions open nothing"),
    "few_remain": ("exact sum of 5", "at least 5") * 3 + ("exact sum of 7", "at least 5") * 2,
    "flipped_bits": (
        *["the places of the roll"] * 2,
        "not in the order of names",
        *["not signed by the key that the roster has"] * 3,
        "the delivery is not in ascending order",
        "does not authenticate",
        "committed itself to",
        "the list of survivors is not in ascending order",
        "the list of witnesses is not in ascending order",
        "a witness has not signed",
        *["not signed under these terms"] * 3,
        *["commitments of 'birch' are not signed"] * 4,
        "envelope",
        "has not signed the list of survivors",
        "opened a wrong share",
    ),
    "guess_the_mask": (*["no short seed"] * 3, "seed [837]", "another stream each time"),
    "intersection": ("recovered up to", "by the noise", "at least 7 must"),
    "late_vector": (*["was lost or was left out"] * 2, "no share of its self seed"),
    "lost_state": (*[NOTHING_NEW] * 5, "LOST_STATE", *["4 witnesses; at least 5"] * 2),
    "lowered_terms": (
        "expected 2 * threshold > 8",
        "2 survivors of whom 1 collude",
        *["not signed under these terms"] * 16,
        "takes part from 8 on",
        "this client wants 6",
        *["this client allows"] * 2,
    ),
    "one_client_in_both_lists": (*["has a place twice"] * 2, "never both"),
    "one_key_two_uses": ("all differ", *["does not authenticate"] * 2),
    "other_model": ("not signed under these terms", *["not signed by the key that the roster has"] * 2) * 2,
    "read_the_transcript": (
        "rows counted, metrics, encoded vector",
        "rows counted, encoded vector",
        *["nothing of the client"] * 2,
    ),
    "rebuild_every_key": ("the 0 that are lost", "the 2 that are lost", "the 0 that are lost"),
    "replayed_step": (
        "as it has advertised itself",
        "does not authenticate",
        "a witness has not signed",
        "not signed under these terms",
        "are not signed by the key of the roster",
        "has not signed the list",
        "the old masks do not cancel",
        "opened a wrong share",
    )
    * 2,
    "rerouted_parcel": (
        *["does not authenticate"] * 3,
        "committed itself to",
        *["from outside the roll"] * 2,
        "has a place twice",
        "3 others have shared",
    ),
    "second_unmask": (NOTHING_NEW, *["a second, different"] * 3),
    "split_the_witnesses": ("expected 2 * threshold > 8", "every word of it", "4 witnesses; at least 5"),
    "step_out_of_order": tuple(
        reason
        for done in range(1, 5)
        for reason in (*["steps were left out"] * (4 - done), *["from 'birch' in the phase"] * 4)
    ),
    "stranger_among_survivors": (*["names clients that have not shared"] * 3, "does not have this client"),
    "swapped_keys": (
        *["not signed by the key that the roster has"] * 3,
        "as it has advertised itself",
        "one key twice",
        *["not in the order of names"] * 2,
        "the places of the roll",
        *["low order"] * 15,
    ),
    "sybils": (
        "not on the roster",
        "not on the roster",
        "expected 5 to 7",
        "2 of 7 clients advertised keys",
        "two clients of one organisation",
    ),
    "too_few_survivors": (
        "does not have this client",
        *["fewer than 5 is not opened"] * 3,
        "4 witnesses; at least 5",
        "has a place twice",
        "a witness has not signed",
        "0 witnesses; at least 5",
    ),
    "too_much": (
        *["above max_weight = 100"] * 2,
        *["holds a NaN or an infinity"] * 2,
        "at most",
        *["the modulus holds less than 2**31"] * 2,
        "no wrap",
    ),
    "two_stories": (*["4 witnesses; at least 5"] * 2, *["a witness has not signed"] * 2),
    "uniform_vectors": (*["no difference from uniform"] * 8, "told apart"),
    "wrong_shares": (
        *["'birch' opened a wrong share of 'ash'"] * 3,
        "'birch' opened 294 bytes",
        "4 right shares of a secret of 'ash'",
        *["'cedar' dealt shares"] * 3,
        "shares from 'cedar' are not those",
    ),
}
"""Of each file, in the order of its attempts: words of the check that stops it, or of what it shows."""


@pytest.fixture(autouse=True)
def attacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the scripts find each other, as they do where they are run."""
    monkeypatch.syspath_prepend(str(FOLDER))


def attempts(name: str) -> list[Any]:
    return list(importlib.import_module(name).attack())


@pytest.mark.parametrize("name", sorted(REASONS))
def test_the_attack_fails_for_the_reason_that_it_should(name: str) -> None:
    tried = attempts(name)
    assert len(tried) == len(REASONS[name]), [each.tried for each in tried]
    for attempt, reason in zip(tried, REASONS[name], strict=True):
        assert attempt.holds == attempt.claimed, f"{attempt.tried}: {attempt.seen}"
        assert reason in attempt.seen, attempt.tried
        assert not (attempt.claimed and attempt.opened), "an abort, never a value"


def test_every_file_is_run_and_stands_in_the_index() -> None:
    files = {path.stem for path in FOLDER.glob("*.py")} - SHARED
    assert files == set(REASONS)
    index = set(re.findall(r"\[(\w+)\.py\]\(\1\.py\)", (FOLDER / "README.md").read_text()))
    assert index == files


def test_only_what_no_masked_sum_can_stop_and_controls_succeed() -> None:
    succeed = {
        name: [attempt.tried for attempt in attempts(name) if not attempt.claimed]
        for name in ("crafted_model", "guess_the_mask", "intersection", "split_the_witnesses")
    }
    assert {name: len(each) for name, each in succeed.items()} == dict.fromkeys(succeed, 1)


def test_the_verdict_is_the_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    verdict = importlib.import_module("verdict")
    held, broken = (verdict.Attempt(tried="an attempt", seen="why", holds=holds) for holds in (True, False))
    known = verdict.Attempt(tried="a known one", seen="why", holds=False, claimed=False)
    assert verdict.report("A story.", [held, known]) == 0
    assert "fedloom holds" in capsys.readouterr().out
    assert verdict.report("A story.", [held, broken]) == 1
    assert "THE ATTACK SUCCEEDS" in capsys.readouterr().out


# A test that could not fail would prove nothing: with one check taken out, the attack that it stops succeeds.


def _unsigned(client: SecAggClient, _entry: Any) -> Any:
    return client._roster.member(_entry.client)


def _any_survivors(client: SecAggClient, survivors: Any) -> Any:
    from fedloom.secure.messages import Consistent

    client._state.survivors = survivors.places
    return Consistent(client._identity.sign(client._survivors_signed()))


def _any_witnesses(client: SecAggClient, _witnesses: Any) -> Any:
    from fedloom.secure.messages import Unmask

    alive = set(client._state.survivors)
    return Unmask(b"".join(seed if place in alive else mask for place, mask, seed in client._state.held))


def _any_question(client: SecAggClient, message: Any) -> Any:
    return client._send(client._answer(message))


def _any_share(_server: SecAggServer, dealer: int, holder: int, kind: int, opened: bytes) -> Any:
    class Promised(bytes):
        __hash__ = bytes.__hash__

        def __ne__(self, other: object) -> bool:
            return False

    return Promised(b"")


_one_sid = property(lambda _terms: bytes(32))


def _any_parcel(client: SecAggClient, sealed: bytes, _commitments: bytes, dealer: Any, _channel: Any) -> None:
    client._state.held.append((dealer.place, sealed[:49], sealed[49:98]))


def _whole_text(_program: Any, error: Exception, *, shows: bool) -> str:
    return str(error)


CHECKS_TAKEN_OUT = [
    pytest.param("swapped_keys", SecAggClient, "_member", _unsigned, id="signatures of the roll"),
    pytest.param("too_few_survivors", SecAggClient, "_agree", _any_survivors, id="the list of survivors"),
    pytest.param("stranger_among_survivors", SecAggClient, "_agree", _any_survivors, id="who may be on it"),
    pytest.param("two_stories", SecAggClient, "_unmask", _any_witnesses, id="witnesses"),
    pytest.param("second_unmask", SecAggClient, "reply", _any_question, id="one answer a step"),
    pytest.param("lowered_terms", Terms, "sid", _one_sid, id="terms in the session id"),
    pytest.param("other_model", Terms, "sid", _one_sid, id="the model in the session id"),
    pytest.param("rerouted_parcel", SecAggClient, "_take", _any_parcel, id="seals and commitments"),
    pytest.param(
        *("read_the_transcript", fedloom.runtime.client, "_told", _whole_text),
        id="errors without figures",
        marks=pytest.mark.slow,
    ),
    pytest.param("wrong_shares", SecAggServer, "_commit", _any_share, id="commitments to shares"),
]


@pytest.mark.parametrize(("name", "side", "check", "without"), CHECKS_TAKEN_OUT)
def test_with_the_check_taken_out_the_attack_succeeds(
    name: str, side: Any, check: str, without: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(side, check, without)
    tried: Iterator[Any] = iter(importlib.import_module(name).attack())
    outcomes = []
    while True:
        try:
            outcomes.append(next(tried))
        except StopIteration:
            break
        except (AssertionError, KeyError, IndexError):
            break  # the script goes on from what a client refuses: it got something instead
    assert any(attempt.claimed and not attempt.holds for attempt in outcomes), [each.seen for each in outcomes]
