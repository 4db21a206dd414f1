"""Two reports of a private run: each with the figure of its own reader, the public one without a word of clients."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import pytest

import fedloom
from fedloom.errors import StoreError
from fedloom.privacy.guarantee import rounded_up
from fedloom.reports import render, write, write_public
from fedloom.reports.stored import read, read_public_privacy

Make = Callable[..., Path]
CLIENTS, RATE, ROUNDS = 400, 0.3, 4


def private(root: Path, **fields: Any) -> fedloom.RunResult:
    values: dict[str, Any] = {
        "data": fedloom.data.generated(clients=CLIENTS, rows=4, features=3),
        "learner": fedloom.logistic(),
        "algorithm": fedloom.fedavg(fedloom.Schedule(steps=1, batch_size=4, learning_rate=0.2), weighting="uniform"),
        "pipeline": fedloom.chain(
            fedloom.mean(expected=RATE * CLIENTS),
            fedloom.gaussian(clip=0.5, noise_multiplier=1.0),
            fedloom.fixed_point(),
        ),
        "cohort": fedloom.poisson(RATE),
        "stop": fedloom.max_rounds(ROUNDS),
        "privacy": fedloom.PrivacyTarget(unit="client", delta=1e-3),
        "seed": 90_210,
        **fields,
    }
    return fedloom.local().run(fedloom.Experiment(**values), output=root)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> fedloom.RunResult:
    """A private run that was really made, for tests that only read."""
    return private(tmp_path_factory.mktemp("private"))


def folder_of(result: fedloom.RunResult) -> Path:
    assert result.folder is not None
    return result.folder


def words_of(page: Path) -> str:
    """Return everything that a page says, drawings and attributes included, but for its style sheet."""
    text = re.sub(r"<style>.*?</style>", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"</?\w+|[<>]", " ", text)).split())


def numbers_in(text: str) -> set[float]:
    return {float(found.replace(",", "")) for found in re.findall(r"(?<![\w.])\d[\d,]*(?:\.\d+)?(?![\w.])", text)}


def figures_of(folder: Path) -> tuple[float, float]:
    """Return epsilon against a reader of the models, and against a holder of participation data."""
    recorded = json.loads((folder / "record.json").read_text())["summary"]["privacy"]
    return json.loads((folder / "privacy.json").read_text())["epsilon"], recorded["epsilon"]


def test_neither_figure_stands_where_the_other_does(ran: fedloom.RunResult) -> None:
    folder = folder_of(ran)
    models, participation = figures_of(folder)
    assert 0 < models < participation
    full, public = words_of(write(folder)), words_of(write_public(folder))
    record = (folder / "record.json").read_text() + "".join(ran.notes) + json.dumps(ran.as_json())
    for figure in (repr(models), f"{rounded_up(models):g}", "against a reader of the models"):
        assert figure in public and figure not in full and figure not in record, figure
    for figure in (repr(participation), f"{rounded_up(participation):g}", "against a holder of participation"):
        assert figure in full and figure in record and figure not in public, figure
    assert "fedloom report --public" in full and "fedloom report --public" in record


def test_no_epsilon_of_a_round_before_the_last_stands_on_the_other_page(ran: fedloom.RunResult) -> None:
    folder = folder_of(ran)
    full, public = words_of(write(folder)), words_of(write_public(folder))
    stored = read(folder)
    assert stored.summary.privacy is not None
    own, others = stored.summary.privacy.by_round, read_public_privacy(stored).by_round
    assert [spent.rounds for spent in own] == [spent.rounds for spent in others] == [1, 2, 3, ROUNDS]
    for mine, their in zip(own, others, strict=True):
        assert repr(mine.epsilon) in full and repr(their.epsilon) in public
        assert repr(mine.epsilon) not in public and repr(their.epsilon) not in full


def test_the_public_page_tells_no_client_and_no_number_of_a_round(ran: fedloom.RunResult) -> None:
    text = words_of(write_public(folder_of(ran)))
    assert not re.search(r"client-\d", text) and "90210" not in text and ran.digest not in text
    told = {len(r.included) for r in ran.rounds} | {r.invited for r in ran.rounds}
    told |= {r.bytes_up for r in ran.rounds} | {r.bytes_down for r in ran.rounds} | {ran.bytes_up, ran.bytes_down}
    shown = numbers_in(text)
    assert told and CLIENTS not in told and {float(CLIENTS), RATE * CLIENTS} <= shown
    assert not (told - {int(RATE * CLIENTS)}) & shown
    assert {len(r.included) for r in ran.rounds} - {int(RATE * CLIENTS)} <= numbers_in(words_of(write(folder_of(ran))))
    assert ran.model_sha256 in text and "integer Gaussian noise" in text and "zero_out" in text


def test_both_pages_begin_with_what_takes_the_promise_back(ran: fedloom.RunResult) -> None:
    for page in (write(folder_of(ran)), write_public(folder_of(ran))):
        text = words_of(page)
        assert 0 < text.index("Simulated noise and sampling: not private") < text.index("at delta 0.001")


def test_a_private_report_says_why_nothing_is_compared(ran: fedloom.RunResult) -> None:
    text = words_of(write(folder_of(ran)))
    assert "figures of private rows are releases of their own" in text and "compare = true" not in text


def test_a_public_page_that_is_written_again_has_the_same_bytes(ran: fedloom.RunResult) -> None:
    first = write_public(folder_of(ran)).read_bytes()
    assert write_public(folder_of(ran)).read_bytes() == first


def test_the_command_writes_the_public_page(tmp_path: Path, command: Callable[..., tuple[int, str, str]]) -> None:
    folder = folder_of(private(tmp_path / "runs", stop=fedloom.max_rounds(1)))
    code, out, err = command("report", "last", "--public")
    assert (code, out.strip(), err) == (0, str(Path("runs") / folder.name / "report-public.html"), "")
    code, out, _ = command("report", "last", "--public", "--json")
    assert code == 0 and json.loads(out)["report"].endswith("report-public.html")
    assert not (folder / "report.html").exists()


def test_a_run_that_promises_nothing_has_no_public_report(
    usual: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    with pytest.raises(StoreError, match=r"promises no privacy.*its models may tell anything of the rows"):
        write_public(usual)
    code, out, err = command("report", str(usual), "--public")
    assert code == 2 and not out and "promises no privacy" in err
    assert not (usual / "report-public.html").exists()


def promise_of(**fields: Any) -> dict[str, Any]:
    return {
        "simulated": True, "unit": "record", "adjacency": "add_remove", "delta": 1e-5, "mechanism": "noise <b>",
        "noise_by": "clients", "sampling": "every client", "rounds": 3, "reader": "reader of the models",
        "epsilon": 1.25, "words": "epsilon 1.25", "notes": ["take care"], "clients": 4, "expected_cohort": 4.0,
        "by_round": [{"rounds": 1, "epsilon": 0.5}, {"rounds": 3, "epsilon": 1.25}], **fields,
    }  # fmt: skip


def by_hand(make: Make, *, reader: str = "participation", public: bool = True, **fields: Any) -> Path:
    """Write the folder of a private run whose record and settings name clients wherever they can."""

    def change(told: dict[str, Any], records: list[dict[str, Any]], head: dict[str, Any]) -> None:
        told["privacy"] = promise_of(reader="holder of participation data", epsilon=8.5, words="epsilon 8.5")
        told["status"], told["reason"] = "completed with warnings", "clients went away"
        told["failures"] = [{"client": "west", "phase": "train", "kind": "lost", "detail": "cable cut"}]
        records[-1] |= {"included": ["east", "north"], "status": "skipped"}
        head["experiment"] |= {
            "privacy": {"unit": "record", "delta": 1e-5, "epsilon": 9.0, "reader": reader},
            "data": {"group": "fedloom.datasets", "name": "folder", "arguments": {"path": "/srv/east", "seed": 4}},
            "simulate": {"away": {"south": [[1, 2]]}},
        }
        local = head["experiment"]["algorithm"]["arguments"]["local"]
        local |= {"steps": {"east": 3, "west": 4}, "private": {"clip": 1.0, "rows": {"north": 120}}}

    folder = make(change=change, worth=None)
    if public:
        (folder / "privacy.json").write_text(json.dumps(promise_of(**fields)))
    return folder


def test_the_public_page_leaves_out_whatever_a_record_and_its_settings_say_of_clients(make: Make) -> None:
    text = words_of(write_public(by_hand(make)))
    for name in ("east", "north", "south", "west", "cable", "warnings", "went away", "skipped", "/srv", "lost", "kB"):
        assert name not in text, name
    for told in ("by client", "each client", "every client", "take care", "folder"):
        assert told in text, told


def test_the_reader_of_a_capped_run_is_told_whose_cap_it_is(make: Make) -> None:
    assert "the most which the models may cost" in words_of(write(by_hand(make, reader="models")))
    assert "the most which the models may cost" not in words_of(write(by_hand(make)))


def test_who_is_hidden_by_being_there_or_not_is_not_counted_in_public(make: Make) -> None:
    folder = by_hand(make, unit="client", clients=None, expected_cohort=None)
    text = words_of(write_public(folder))
    assert "how many there are is protected" in text and "expected" not in text


def test_the_number_of_clients_is_written_down_unless_it_is_protected(tmp_path: Path) -> None:
    target = fedloom.PrivacyTarget(unit="client", delta=1e-3, adjacency="add_remove")
    folder = folder_of(private(tmp_path, stop=fedloom.max_rounds(1), privacy=target))
    public = json.loads((folder / "privacy.json").read_text())
    assert public["clients"] is public["expected_cohort"] is None and public["adjacency"] == "add_remove"


def test_a_figure_that_nothing_bounds_is_infinite(make: Make) -> None:
    folder = by_hand(make, epsilon=None, by_round=[{"rounds": 1, "epsilon": 2.0}, {"rounds": 3, "epsilon": None}])
    assert "infinite" in words_of(write_public(folder))


def test_a_run_whose_price_was_never_known_has_no_public_report(make: Make) -> None:
    with pytest.raises(StoreError, match=r"privacy\.json is not there.*fedloom resume"):
        write_public(by_hand(make, public=False))


def test_a_damaged_promise_is_an_error(make: Make) -> None:
    folder = by_hand(make)
    (folder / "privacy.json").write_text('{"rounds": "many"}')
    with pytest.raises(StoreError, match=r"privacy\.json"):
        write_public(folder)


def test_a_private_run_that_failed_still_has_its_report(make: Make) -> None:
    folder = by_hand(make)
    told = json.loads((folder / "record.json").read_text())
    del told["summary"]["privacy"]
    (folder / "record.json").write_text(json.dumps(told))
    page = render(read(folder))
    assert 'id="privacy"' not in page and "compare = true" not in page and "--public" in page


def test_a_promise_of_another_build_is_no_reason_to_fail(make: Make) -> None:
    folder = by_hand(make)
    told = json.loads((folder / "record.json").read_text())
    told["summary"]["privacy"] = {"readers": {"reader of the models": {"epsilon": 0.777}}}
    (folder / "record.json").write_text(json.dumps(told))
    assert "0.777" not in words_of(write(folder))
    (folder / "privacy.json").write_text("{}")
    with pytest.raises(StoreError, match=r"privacy\.json"):
        write_public(folder)
