"""The page that compares runs: what it says is what the records say, and no record breaks it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import fedloom
from fedloom.errors import StoreError
from fedloom.reports import read, readable, render_comparison, write, write_comparison
from fedloom.reports.differing import LETTERS, by_task, verdicts
from fedloom.reports.overlaid import spread, style_of
from fedloom.reports.side_by_side import best_of
from fedloom.reports.stored import Stored

Make = Callable[..., Path]

HOSTILE = '<script>alert("x")</script>'
ODD = [HOSTILE, "$\\frac{", "o'\"`\x1b[31m", "医院", "a\u202eb", "x" * 300, "{{ 7 * 7 }}"]
STYLE = Path(fedloom.__file__).with_name("reports") / "templates" / "style.css"


class Page(HTMLParser):
    """A page taken apart: balanced tags, text, numbers with their attributes, and every attribute by name."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.text: list[str] = []
        self.numbers: list[tuple[dict[str, str], str]] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.tags: list[str] = []
        self._number: dict[str, str] | None = None
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, key, value or "") for key, value in attrs]
        if tag not in {"br", "meta", "link"}:
            self.open.append(tag)
        if tag == "data":
            self._number = {key: value or "" for key, value in attrs}

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, key, value or "") for key, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag == "data":
            self._number = None

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "style":
            return
        self.text.append(data)
        if self._number is not None:
            self.numbers.append((self._number, data))

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


@pytest.fixture
def several(make: Make, tmp_path: Path) -> Callable[..., list[Stored]]:
    """Write run folders, one for each change to the documents of the usual run."""

    numbers = count()

    def write_all(*changes: Callable[..., object] | None, clients: tuple[str, ...] = ("east", "west")) -> list[Stored]:
        folders = (make(list(clients), change=change) for change in changes)
        return [read(folder.rename(tmp_path / f"run-{next(numbers)}")) for folder in folders]

    return write_all


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> list[Stored]:
    """Two runs that were really made: they differ in the penalty."""
    root = tmp_path_factory.mktemp("real")
    return [ran(root, learner=fedloom.logistic(l2=l2)) for l2 in (1e-3, 1.0)]


def ran(root: Path, **changes: Any) -> Stored:
    fields: dict[str, Any] = {
        "data": fedloom.data.sklearn_set("breast_cancer", partition=fedloom.data.dirichlet(4, alpha=0.5)),
        "prepare": [fedloom.standardise()],
        "learner": fedloom.logistic(l2=1e-3),
        "algorithm": fedloom.fedavg(fedloom.Schedule(batch_size=16, learning_rate=0.1)),
        "stop": fedloom.max_rounds(3),
        "compare": False,
        "seed": 3,
    }
    folder = fedloom.local().run(fedloom.Experiment(**fields | changes), output=root / "runs").folder
    assert folder is not None
    return read(folder)


def page_of(runs: list[Stored]) -> Page:
    return Page(render_comparison(runs, beside=runs[0].folder.parent))


def learning_rate(value: float) -> Callable[..., None]:
    def change(summary: dict[str, Any], records: list[dict[str, Any]], head: dict[str, Any]) -> None:
        head["experiment"]["algorithm"]["arguments"]["local"]["learning_rate"] = value
        head["digest"] = f"{round(value * 1000):064x}"
        summary["model_sha256"] = f"{round(value * 1000) + 7:064x}"
        for own in (summary["metrics"], *(record["metrics"] for record in records)):
            own.update({key: number - value / 10 for key, number in own.items() if key[:5] == "eval/"})

    return change


def regression(summary: dict[str, Any], records: list[dict[str, Any]], head: dict[str, Any]) -> None:
    def turned(own: dict[str, Any]) -> dict[str, Any]:
        own = {key.replace("auroc", "rmse").replace("accuracy", "r2"): value for key, value in own.items()}
        return {key: value * 300 for key, value in own.items() if "log_loss" not in key}

    for record in records:
        record["metrics"] = turned(record["metrics"])
        record["clients"] = {client: turned(own) for client, own in record["clients"].items()}
    summary["metrics"] = turned(summary["metrics"])
    summary["clients"] = {client: turned(own) for client, own in summary["clients"].items()}
    summary.update(task="regression", classes=None, calibration=None, worth=None)
    head["experiment"]["learner"]["name"] = "ridge"


# ---- Numbers: the page and the records agree -----------------------------------------------------------------------


def test_every_number_is_the_one_of_its_run(real: list[Stored]) -> None:
    runs = dict(zip(LETTERS, real, strict=False))
    rounds = {letter: {int(r.round): r.metrics for r in run.trained} for letter, run in runs.items()}
    seen = {"metric": 0, "round": 0, "client": 0, "difference": 0}
    for attributes, text in page_of(real).numbers:
        metric, value, letter = attributes["data-metric"], float(attributes["data-value"]), attributes["data-run"]
        assert attributes["value"] == attributes["data-value"]
        if metric.endswith("/difference"):
            name, client = metric.removesuffix("/difference"), attributes.get("data-client")
            told = [run.summary.metrics if client is None else run.summary.clients[client] for run in real]
            one, other = (own[name] for own in told)
            assert one is not None and other is not None
            assert letter == "B" and value == other - one and text == readable.signed(value)
            seen["difference"] += 1
            continue
        summary = runs[letter].summary
        if "data-client" in attributes:
            known, kind = summary.clients[attributes["data-client"]][metric], "client"
        elif "data-round" in attributes:
            known, kind = rounds[letter][int(attributes["data-round"])][metric], "round"
        elif metric in summary.metrics:
            known, kind = summary.metrics[metric], "metric"
        else:
            continue
        assert value == known and text == readable.figure(known)
        seen[kind] += 1
    named = {(a["data-metric"], a["data-run"]) for a, _ in page_of(real).numbers}
    assert {(name, letter) for letter, run in runs.items() for name, value in run.summary.metrics.items()} <= named
    own = [figures["eval/auroc"] for run in real for figures in run.summary.clients.values()]
    assert (
        seen["client"] == sum(value is not None for value in own) >= 4
        and seen["round"] >= 24
        and seen["metric"] > 20
        and seen["difference"] > 20
    )


def test_the_cost_is_that_of_the_record(real: list[Stored]) -> None:
    page = page_of(real)
    for letter, run in zip("AB", real, strict=True):
        told = {a["data-metric"]: a["data-value"] for a, _ in page.numbers if a["data-run"] == letter}
        summary = run.summary
        assert told["bytes_up"] == str(summary.bytes_up) and told["bytes_down"] == str(summary.bytes_down)
        assert told["seconds"] == repr(summary.seconds) and told["rounds"] == "3" and told["updates"] == "12"
        assert told["failures"] == told["not_closed"] == "0" and told["clients"] == "4"
        bytes_ = sum(record.bytes_up + record.bytes_down for record in run.trained)
        assert told["bytes_of_a_round"] == str(round(bytes_ / 3))


def test_the_best_of_a_row_is_marked_where_rows_were_held_back(real: list[Stored]) -> None:
    page = page_of(real)
    a, b = (run.summary.metrics for run in real)
    told = {"log_loss": min, "brier": min, "auroc": max, "accuracy": max, "balanced_accuracy": max}
    for name, pick in [(f"eval/{name}{over}", pick) for name, pick in told.items() for over in ("", "/mean", "/worst")]:
        one, other = a[name], b[name]
        assert one is not None and other is not None
        best = {letter for letter, value in (("A", one), ("B", other)) if value == pick(one, other) and one != other}
        marked = {
            x["data-run"]
            for x, _ in page.numbers
            if x["data-metric"] == name and "class" in x and "data-round" not in x
        }
        assert marked == best, name
    marked_metrics = {x["data-metric"] for x, _ in page.numbers if x.get("class") == "best"}
    assert not [name for name in marked_metrics if not name.startswith("eval/") or name.endswith("/spread")]


def test_no_best_of_one_value_of_equal_ones_or_of_an_unknown_figure() -> None:
    assert best_of("eval/auroc", {"A": 0.5, "B": None}) == best_of("eval/auroc", {"A": 0.5, "B": 0.5}) == frozenset()
    assert best_of("eval/my_own", {"A": 0.5, "B": 0.7}) == best_of("eval/auroc/spread", {"A": 0, "B": 1}) == frozenset()
    assert best_of("eval/brier", {"A": 0.5, "B": 0.1, "C": 0.1}) == {"B", "C"}
    assert best_of("plain", {"A": 0.5, "B": 0.7}) == frozenset()


# ---- Words ---------------------------------------------------------------------------------------------------------


def test_the_words_name_the_better_run_the_settings_and_the_digests(real: list[Stored]) -> None:
    text = page_of(real).words
    figures = {letter: run.summary.metrics["eval/auroc/mean"] for letter, run in zip("AB", real, strict=True)}
    order = sorted(figures, key=lambda letter: -(figures[letter] or 0))
    told = ", ".join(f"{letter} {readable.figure(figures[letter])}" for letter in order)
    assert f"AUROC, mean over clients (higher is better): {told}." in text
    assert "1 setting differs: learner.l2." in text and "2 digests; the models differ." in text
    assert "learner.l2 = 0.001" in text and "learner.l2 = 1.0" in text and "A: l2 0.001" in text
    assert "Versions The same in all runs." in text


def test_the_same_run_twice_is_the_same_experiment(real: list[Stored]) -> None:
    text = page_of([real[0], real[0]]).words
    assert "One digest: the same experiment; the models are the same, byte by byte." in text
    assert "All settings are the same." in text and "best" not in text.replace("none is called the best", "")


def test_versions_that_differ_explain_models_that_do(several: Callable[..., list[Stored]]) -> None:
    def other(summary: dict[str, Any], records: list[dict[str, Any]], head: dict[str, Any]) -> None:
        summary["versions"] = {"numpy": "2.9", "blas": None, "fedloom": "0.1.0", "python": "3.11.7"}
        summary["model_sha256"] = "ab" * 32

    def silent(summary: dict[str, Any], records: list[dict[str, Any]], head: dict[str, Any]) -> None:
        del summary["versions"]

    runs = several(None, other, silent)
    text = page_of(runs).words
    assert "the models differ; other versions may round differently: numpy." in text
    assert "Not recorded by C." in text and "numpy 2.4.6 2.9 not set" in text
    stopped = several(None, lambda summary, records, head: records.pop() and summary.update(model_sha256="cd" * 32))
    assert "they were stopped after 2, 3 rounds" in verdicts(dict(zip("AB", stopped, strict=True)), {})


def test_regression_beside_classification_is_said(several: Callable[..., list[Stored]]) -> None:
    runs = several(None, regression, learning_rate(0.2))
    assert by_task(dict(zip("ABC", runs, strict=True))) == {"classification": ["A", "C"], "regression": ["B"]}
    page = page_of(runs)
    assert (
        "The runs solve different tasks (classification: A, C; regression: B), so no figure says which of all is the "
        "best." in page.words
    )
    assert "No AUROC in B." in page.words and "Only B has it." in page.words
    assert "Training objective by round, regression" in page.words
    assert "Logistic model trained by fedavg on hospitals against ridge model" in page.words
    train = {a["data-run"] for a, _ in page.numbers if a["data-metric"] == "train/objective/difference"}
    assert train == set()
    rmse = {a["data-run"] for a, _ in page.numbers if a["data-metric"] == "eval/rmse"}
    assert rmse == {"B"}


def test_a_regression_and_a_classification_that_were_really_run(tmp_path: Path) -> None:
    data = fedloom.data.sklearn_set("diabetes", partition=fedloom.data.iid(3))
    runs = [ran(tmp_path), ran(tmp_path, data=data, learner=fedloom.ridge(l2=0.1))]
    text = page_of(runs).words
    assert "so no figure says which of all is the best" in text and "RMSE by round" in text
    assert "Client by client" not in text


def test_other_rows_are_said(several: Callable[..., list[Stored]]) -> None:
    def other_seed(summary: dict[str, Any], records: list[dict[str, Any]], head: dict[str, Any]) -> None:
        head["experiment"]["data"]["arguments"]["seed"] = 1

    def other_rows(summary: dict[str, Any], records: list[dict[str, Any]], head: dict[str, Any]) -> None:
        summary["holdings"][0]["test"] += 1

    said = "a figure may be of other rows in one run"
    assert said not in page_of(several(None, None)).words
    assert said in page_of(several(None, other_seed)).words and said in page_of(several(None, other_rows)).words


# ---- Curves --------------------------------------------------------------------------------------------------------


def drawn(page: Page) -> set[str]:
    return {
        name for _, key, value in page.attributes if key == "style" for name in re.findall(r"var\((--[^)]*)\)", value)
    }


def test_ten_runs_share_their_axes(several: Callable[..., list[Stored]]) -> None:
    runs = several(*(learning_rate(place / 100) for place in range(10)))
    page = page_of(runs)
    assert {f"--run-{place}" for place in range(6)} <= drawn(page)
    assert page.tags.count("figure") == page.text.count("In words") + page.text.count("In words and numbers")
    letters = [text for text in page.text if text in set(LETTERS[:10])]
    assert all(letters.count(letter) > 5 for letter in LETTERS[:10])
    told = {
        letter: f"{letter} algorithm.local.learning_rate = {place / 100}" for place, letter in enumerate("ABCDEFGHIJ")
    }
    assert [each for each in told.values() if each not in page.words] == []
    assert "10 digests" in page.words and "J 0." in page.words


def test_no_two_runs_look_alike() -> None:
    assert len({style_of(letter) for letter in LETTERS}) == 26


@pytest.mark.slow
def test_twenty_six_runs_have_a_page(several: Callable[..., list[Stored]]) -> None:
    runs = several(*(learning_rate(place / 100) for place in range(26)))
    text = render_comparison(runs, beside=runs[0].folder.parent)
    assert "Z" in Page(text).text and len(text) < 2_000_000


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(0.01, 0.2))
def test_letters_at_the_ends_of_lines_keep_apart_and_in_order(places: list[float], gap: float) -> None:
    found = spread(places, gap)
    least = min(gap, 1 / len(places))
    assert all(least / 2 - 1e-9 <= place <= 1 - least / 2 + 1e-9 for place in found)
    order = sorted(range(len(places)), key=lambda rank: (places[rank], rank))
    assert all(found[b] - found[a] >= least - 1e-9 for a, b in pairwise(order))
    far = all(abs(a - b) >= gap for i, a in enumerate(places) for b in places[:i])
    if far and all(gap / 2 <= place <= 1 - gap / 2 for place in places):
        assert found == pytest.approx(places)


def test_the_lines_stand_out_from_the_paper_by_day_and_by_night() -> None:
    def light(colour: str) -> float:
        shares = [int(colour[place : place + 2], 16) / 255 for place in (0, 2, 4)]
        linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    found = re.findall(r"--run-\d: #([0-9a-f]{6})", STYLE.read_text())
    assert len(found) == 12
    for place, colour in enumerate(found):
        paper = 1.0 if place < 6 else light("15171a")
        low, high = sorted((light(colour), paper))
        assert (high + 0.05) / (low + 0.05) >= 3


# ---- Clients -------------------------------------------------------------------------------------------------------


def test_the_same_clients_stand_beside_each_other(several: Callable[..., list[Stored]]) -> None:
    def better_at_west(summary: dict[str, Any], records: list[dict[str, Any]], head: dict[str, Any]) -> None:
        summary["clients"]["west"]["eval/auroc"] += 0.01
        summary["clients"]["east"]["eval/auroc"] = None

    page = page_of(several(None, better_at_west, clients=("east", "west", "north")))
    assert "B is better than A for 1 of 2 clients, A for 0, and 1 have the same." in page.words
    marked = {
        (a["data-client"], a["data-run"]) for a, _ in page.numbers if "data-client" in a and a.get("class") == "best"
    }
    assert marked == {("west", "B")} and "AUROC at each client" in page.words


def test_other_clients_are_compared_by_quantiles(several: Callable[..., list[Stored]], make: Make) -> None:
    runs = several(None)
    runs.append(read(make(["east", "south", "north"])))
    text = page_of(runs).words
    assert "The runs have different clients (A 2, B 3; 1 in all of them)." in text
    assert "Quantiles of AUROC over clients" in text and "AUROC at each client" not in text


def test_above_fifty_clients_are_quantiles(several: Callable[..., list[Stored]]) -> None:
    page = page_of(several(None, None, clients=tuple(f"client-{place}" for place in range(51))))
    assert "Of more than 50 clients the quantiles are shown." in page.words
    assert not [a for a, _ in page.numbers if "data-client" in a]
    assert [a["data-value"] for a, _ in page.numbers if a["data-metric"] == "eval/auroc/clients"] == ["51", "51"]


# ---- Hostile and poor records --------------------------------------------------------------------------------------


def test_names_that_are_code_stay_text(make: Make, tmp_path: Path) -> None:
    def hostile(summary: dict[str, Any], records: list[dict[str, Any]], head: dict[str, Any]) -> None:
        summary.update(task=HOSTILE, reason=HOSTILE, versions={HOSTILE: HOSTILE}, model_sha256=HOSTILE)
        summary["metrics"]["eval/<b>"] = summary["metrics"]["<i>"] = 0.5
        head["experiment"]["data"]["arguments"] = {HOSTILE: HOSTILE, "a\nb": ["$x$", "\x1b"]}
        head["experiment"]["learner"]["name"] = HOSTILE
        head.update(digest=HOSTILE, created=HOSTILE)

    names = ("javascript:alert(1)", 'x" onclick="alert(1)')
    runs: list[Stored] = []
    for name in names:
        folder = make(ODD, change=hostile if runs else None).rename(tmp_path / name)
        write(folder)
        runs.append(read(folder))
    page = page_of(runs)
    assert not {"script", "b", "i", "iframe", "object", "img"} & set(page.tags)
    assert "\x1b" not in page.words and "\u202e" not in page.words and "{{ 7 * 7 }}" in page.words
    for tag, key, value in page.attributes:
        assert not key.startswith("on")
        if key in {"href", "src"}:
            assert value.startswith(("#", "data:", "./")) and ":" not in value.removeprefix("data:"), (tag, value)
    links = [value for tag, key, value in page.attributes if tag == "a" and value.startswith("./")]
    assert links == ["./javascript%3Aalert%281%29/report.html", "./x%22%20onclick%3D%22alert%281%29/report.html"]


def test_a_page_needs_nothing_but_itself(real: list[Stored]) -> None:
    text = render_comparison(real, beside=real[0].folder)
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in text and "://" not in text
    assert not {"script", "iframe", "object", "embed", "img"} & set(Page(text).tags)
    ids = [value for _, key, value in Page(text).attributes if key == "id"]
    assert len(ids) == len(set(ids))
    references = {name for name in re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', text) for name in name if name}
    assert references <= set(ids)
    assert not re.findall(r'style="[^"]*#[0-9a-f]{6}', text)


def failed_before_a_round(summary: dict[str, Any], records: list[dict[str, Any]], head: dict[str, Any]) -> None:
    records.clear()
    summary.clear()
    summary["status"] = "failed"


def bare(summary: dict[str, Any], records: list[dict[str, Any]], head: dict[str, Any]) -> None:
    for key in ("worth", "calibration", "holdings", "versions", "task", "classes", "columns", "notes", "clients"):
        del summary[key]
    summary["metrics"] = dict.fromkeys(summary["metrics"])


def objects_without_names(summary: dict[str, Any], records: list[dict[str, Any]], head: dict[str, Any]) -> None:
    head["experiment"].update(data="local:1234", algorithm="local:unnamed", prepare=["local:unnamed"])


@pytest.mark.parametrize("change", [failed_before_a_round, bare, objects_without_names])
def test_poor_records_have_a_page(several: Callable[..., list[Stored]], change: Callable[..., None]) -> None:
    for changes in ((None, change), (change, change), (change, None, learning_rate(0.3))):
        page = page_of(several(*changes))
        assert "nan" not in page.words.lower().split() and "inf" not in page.words.lower().split()
        assert "What it took" in page.words


def test_one_round_has_a_page(make: Make, tmp_path: Path) -> None:
    runs = [read(make(rounds=1).rename(tmp_path / name)) for name in ("one", "two")]
    assert "AUROC by round" in page_of(runs).words


# ---- Files ---------------------------------------------------------------------------------------------------------


def test_the_same_runs_give_the_same_bytes_in_another_process(real: list[Stored], tmp_path: Path) -> None:
    root = real[0].folder.parent
    first = write_comparison(tmp_path / "first.html", real).read_bytes()
    assert write_comparison(tmp_path / "again.html", real).read_bytes() == first
    script = (
        "from pathlib import Path\nfrom fedloom.reports import read, write_comparison\n"
        f"runs = [read(Path({str(root)!r}) / name) for name in {[run.folder.name for run in real]!r}]\n"
        f"write_comparison(Path({str(tmp_path / 'other.html')!r}), runs)"
    )
    environment = os.environ | {"PYTHONHASHSEED": "77", "TZ": "Asia/Tokyo", "LC_ALL": "C"}
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60, env=environment)
    assert (tmp_path / "other.html").read_bytes() == first


def test_a_link_leads_to_the_report_where_there_is_one(several: Callable[..., list[Stored]], tmp_path: Path) -> None:
    runs = several(None, None)
    report = write(runs[1].folder)
    (tmp_path / "pages").mkdir()
    page = Page(write_comparison(tmp_path / "pages" / "both.html", runs).read_text(encoding="utf-8"))
    (link,) = (value for tag, _, value in page.attributes if tag == "a" and not value.startswith("#"))
    assert (tmp_path / "pages" / link).resolve() == report.resolve()
    assert "../run-0" in page.words and str(tmp_path) not in page.words


def test_no_file_is_overwritten(real: list[Stored], tmp_path: Path) -> None:
    path, dangling = tmp_path / "page.html", tmp_path / "dangling.html"
    path.write_text("mine")
    dangling.symlink_to(tmp_path / "nowhere")
    for taken in (path, dangling, tmp_path):
        with pytest.raises(StoreError, match=re.escape(f"{taken} exists and is left as it is")):
            write_comparison(taken, real)
    assert path.read_text() == "mine" and not (tmp_path / "nowhere").exists()
    with pytest.raises(StoreError, match="there is no folder"):
        write_comparison(tmp_path / "no" / "page.html", real)


def test_two_to_twenty_six_runs_are_compared(real: list[Stored], tmp_path: Path) -> None:
    for runs, told in ((real[:1], "1 run"), (real * 14, "28 runs")):
        with pytest.raises(StoreError, match=f"received {told}; expected 2 to 26"):
            write_comparison(tmp_path / "page.html", runs)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_thousand_clients_and_two_hundred_rounds_stay_small_and_quick(make: Make, tmp_path: Path) -> None:
    clients = [f"client-{place:04}" for place in range(1000)]
    runs = [read(make(clients, rounds=200).rename(tmp_path / name)) for name in ("one", "two")]
    page_of(runs)  # matplotlib loads
    began = time.perf_counter()
    text = render_comparison(runs, beside=tmp_path)
    assert time.perf_counter() - began < 10  # about 1 s on a quiet machine
    assert len(text.encode()) < 500_000 and "26 of 200 rounds" in text


def test_a_setting_that_is_very_long_is_cut(several: Callable[..., list[Stored]]) -> None:
    def change(summary: dict[str, Any], records: list[dict[str, Any]], head: dict[str, Any]) -> None:
        head["experiment"]["data"]["arguments"]["columns"] = [f"column {place}" for place in range(500)]

    text = page_of(several(None, change)).words
    assert "column 3" in text and "column 400" not in text and "…" in text
    assert json.dumps("hospitals") not in text  # the same in both, so not among what differs
