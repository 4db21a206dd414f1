"""The report of a run: what it holds, that it says what the record says, and that no record breaks it."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from fedloom.errors import StoreError
from fedloom.reports import readable, write

Make = Callable[..., Path]

VOID = {"br", "meta", "link", "hr", "img", "input"}
HOSTILE = '<script>alert("x")</script>'
ODD = [
    "$\\frac{",
    "&amp;",
    "o'\"`\x1b[31m",
    "医院",
    "a\u202eb",
    "x" * 300,
    'style="fill: #0072b2"',
    "{{ 7 * 7 }}",
    HOSTILE,
]


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
        if tag not in VOID:
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


def page_of(folder: Path) -> Page:
    return Page(write(folder).read_text(encoding="utf-8"))


def read_page(folder: Path) -> Page:
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def words_of(page: Page) -> str:
    return " ".join(" ".join(page.text).split())


def test_the_verdict_in_words_comes_before_every_figure(usual: Path) -> None:
    text = words_of(read_page(usual))
    places = [
        text.index(each) for each in ("Joining was worth it for east.", "AUROC, federated", "Was it worth joining")
    ]
    assert places == sorted(places)


def test_the_same_record_gives_the_same_bytes(usual: Path) -> None:
    first = (usual / "report.html").read_bytes()
    assert write(usual).read_bytes() == first


def test_the_same_record_gives_the_same_bytes_in_another_process(usual: Path) -> None:
    first = (usual / "report.html").read_bytes()
    script = f"from pathlib import Path\nfrom fedloom.reports import write\nwrite(Path({str(usual)!r}))"
    environment = os.environ | {"PYTHONHASHSEED": "77", "TZ": "Asia/Tokyo", "LC_ALL": "C"}
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60, env=environment)
    assert (usual / "report.html").read_bytes() == first


def test_a_users_settings_of_matplotlib_change_nothing_and_are_left_alone(usual: Path) -> None:
    import matplotlib as mpl

    first = (usual / "report.html").read_bytes()
    with mpl.rc_context({"font.size": 30, "axes.grid": True, "lines.linewidth": 9, "axes.facecolor": "red"}):
        assert write(usual).read_bytes() == first
        assert mpl.rcParams["font.size"] == 30


def test_the_page_needs_nothing_but_itself(usual: Path) -> None:
    page = read_page(usual)
    assert not {"script", "iframe", "object", "embed", "img"} & set(page.tags)
    for _, key, value in page.attributes:
        assert not key.startswith("on")
        if key in {"href", "src", "xlink:href"}:
            assert value.startswith(("#", "data:"))
        assert "://" not in value


def test_names_inside_drawings_are_unique_and_every_reference_is_met(usual: Path) -> None:
    page = read_page(usual)
    ids = [value for _, key, value in page.attributes if key == "id"]
    assert len(ids) == len(set(ids))
    references = {value[1:] for _, key, value in page.attributes if key == "href" and value.startswith("#")}
    references |= {name for _, _, value in page.attributes for name in re.findall(r"url\(#([^)]+)\)", value)}
    assert references and references <= set(ids)


def test_drawings_take_their_colours_and_typeface_from_the_page(usual: Path) -> None:
    page = read_page(usual)
    drawn = [value for tag, key, value in page.attributes if key == "style"]
    assert any("var(--federated)" in value for value in drawn) and any("currentColor" in value for value in drawn)
    assert not [value for value in drawn if re.search(r"#[0-9a-f]{6}|font-family", value)]


def test_every_plot_has_a_title_words_and_axes_with_labels(usual: Path) -> None:
    page = read_page(usual)
    plots = [value for tag, key, value in page.attributes if key == "class" and value == "plot"]
    told = [value for tag, key, value in page.attributes if tag == "div" and key == "aria-label" and value]
    assert len(plots) == 9 == page.tags.count("svg") == page.tags.count("figure")
    assert sum(len(each) > 40 for each in told) >= len(plots)
    text = words_of(page)
    for label in (
        "AUROC (higher is better)", "log-loss: federated − local-only", "round",
        "mean loss of a training row", "share of the client's rows, %", "kB in a round", "probability predicted",
    ):  # fmt: skip
        assert label in text


# ---- Numbers: the page, the record and the table agree -------------------------------------------------------------


def test_every_number_is_the_one_of_the_record(usual: Path) -> None:
    page = read_page(usual)
    record = json.loads((usual / "record.json").read_text())
    summary = record["summary"]
    rounds = {r["round"]: r for r in record["records"] if r["program"] == "train"}
    seen = {"clients": 0, "metrics": 0, "rounds": 0}
    for attributes, text in page.numbers:
        metric, value = attributes["data-metric"], float(attributes["data-value"])
        client, number = attributes.get("data-client"), attributes.get("data-round")
        assert attributes["value"] == attributes["data-value"] == repr(json.loads(attributes["data-value"]))
        known: Any = None
        if client is not None:
            known = summary["clients"][client].get(metric)
            seen["clients"] += known is not None
        elif number is not None:
            known = rounds[int(number)]["metrics"].get(metric)
            seen["rounds"] += known is not None
        else:
            known = summary["metrics"].get(metric)
            seen["metrics"] += known is not None
        if known is not None:
            assert value == known and text in {readable.figure(known), readable.signed(known)}
    assert seen["clients"] == 12 and seen["rounds"] == 15 and seen["metrics"] > 36


def test_every_number_of_a_round_stands_in_the_table_of_metrics(usual: Path) -> None:
    with (usual / "metrics.csv").open(newline="") as file:
        lines = {
            line["round"]: line for line in csv.DictReader(file) if line["program"] == "train" and not line["client"]
        }
    found = 0
    for attributes, _ in read_page(usual).numbers:
        if "data-round" in attributes:
            assert lines[attributes["data-round"]][attributes["data-metric"]] == attributes["data-value"]
            found += 1
    assert found == 3 * 10


def test_the_bounds_of_an_interval_are_those_of_the_record(usual: Path) -> None:
    worth = json.loads((usual / "record.json").read_text())["summary"]["worth"]["clients"]
    numbers = {(a.get("data-client"), a["data-metric"]): float(a["data-value"]) for a, _ in read_page(usual).numbers}
    for client, told in worth.items():
        for metric, within in told["intervals"].items():
            assert numbers[client, f"{metric}/low"] == within["low"]
            assert numbers[client, f"{metric}/high"] == within["high"]
        change = told["differences"]["log_loss"]
        found = [numbers[client, f"worth/log_loss{each}"] for each in ("", "/low", "/high")]
        assert found == [change["value"], change["low"], change["high"]]


# ---- Records of every kind -----------------------------------------------------------------------------------------


def failed_before_a_round(summary: dict[str, Any], records: list[dict[str, Any]], head: dict[str, Any]) -> None:
    records.clear()
    summary.clear()
    summary["status"] = "failed"


def failed_while_preparing(summary: dict[str, Any], records: list[dict[str, Any]], head: dict[str, Any]) -> None:
    del records[1:]
    summary.clear()
    summary.update(status="interrupted", reason="Ctrl-C")


def never_evaluated(summary: dict[str, Any], records: list[dict[str, Any]], head: dict[str, Any]) -> None:
    for record in records:
        record["metrics"] = {k: v for k, v in record["metrics"].items() if not k.startswith("eval/")}
        record["clients"] = {}
    summary["metrics"] = dict(records[-1]["metrics"])
    summary.update(clients={}, worth=None, calibration=None)


def never_compared(summary: dict[str, Any], records: list[dict[str, Any]], head: dict[str, Any]) -> None:
    keep = ("eval/", "train/", "fit/")
    summary["metrics"] = {k: v for k, v in summary["metrics"].items() if k.startswith(keep)}
    summary["clients"] = {
        c: {k: v for k, v in own.items() if k.startswith(keep)} for c, own in summary["clients"].items()
    }
    summary["worth"] = None


def regression(summary: dict[str, Any], records: list[dict[str, Any]], head: dict[str, Any]) -> None:
    def turned(own: dict[str, Any]) -> dict[str, Any]:
        own = {key.replace("auroc", "rmse").replace("accuracy", "r2"): value for key, value in own.items()}
        return {key: value * 3e4 if "rmse" in key else value for key, value in own.items() if "log_loss" not in key}

    for record in records:
        record["metrics"] = turned(record["metrics"])
        record["clients"] = {client: turned(own) for client, own in record["clients"].items()}
    summary["metrics"] = turned(summary["metrics"])
    summary["clients"] = {client: turned(own) for client, own in summary["clients"].items()}
    summary.update(task="regression", classes=None, calibration=None)
    summary["worth"]["measure"] = "squared_error"
    for each in summary["holdings"]:
        each["classes"] = None
    for told in summary["worth"]["clients"].values():
        told["intervals"] = {key.replace("auroc", "rmse"): None for key in told["intervals"]}
        told["differences"] = {"squared_error": {"value": -1234.5, "low": -2000.0, "high": -300.25}}


def many_classes(summary: dict[str, Any], records: list[dict[str, Any]], head: dict[str, Any]) -> None:
    names = [f"letter-{place}" for place in range(26)]
    summary.update(classes=names, calibration=None)
    for place, each in enumerate(summary["holdings"]):
        each["classes"] = {name: (place * 31 + rank * 7) % 13 for rank, name in enumerate(names)}


def figures_are_missing(summary: dict[str, Any], records: list[dict[str, Any]], head: dict[str, Any]) -> None:
    summary["clients"]["east"].update(dict.fromkeys(list(summary["clients"]["east"])))
    summary["metrics"]["eval/auroc"] = None
    summary["worth"]["clients"]["east"].update(intervals={"eval/auroc": None}, differences={}, verdict="not compared")
    summary["worth"]["clients"]["north"]["differences"] = {"log_loss": {"value": 0.1, "low": None, "high": None}}
    records[-1]["metrics"]["train/objective"] = None
    for record in records:
        record["clients"].get("east", {}).update({"eval/auroc": None})


def rounds_went_wrong(summary: dict[str, Any], records: list[dict[str, Any]], head: dict[str, Any]) -> None:
    lost = {
        "client": "west",
        "phase": "train",
        "kind": "crashed",
        "detail": f"ValueError: {HOSTILE}",
        "where": "my.py:3",
    }
    again = records[2] | {"retry": 0, "status": "retried", "included": [], "failures": [lost] * 3, "metrics": {}}
    skipped = records[3] | {"status": "skipped", "included": ["east"], "metrics": {}, "clients": {}}
    records[2] = records[2] | {"retry": 1}
    records[3] = skipped
    records.insert(2, again)
    summary.update(status="completed with warnings", failures=[lost] * 3)


def objects_without_names(summary: dict[str, Any], records: list[dict[str, Any]], head: dict[str, Any]) -> None:
    head["experiment"].update(data="local:1234", algorithm="local:unnamed", prepare=["local:unnamed"])


def intervals_are_pairs(summary: dict[str, Any], records: list[dict[str, Any]], head: dict[str, Any]) -> None:
    for told in summary["worth"]["clients"].values():
        told["intervals"] = {metric: [each["low"], each["high"]] for metric, each in told["intervals"].items()}


def without_half_the_keys(summary: dict[str, Any], records: list[dict[str, Any]], head: dict[str, Any]) -> None:
    for key in ("worth", "calibration", "holdings", "versions", "task", "classes", "columns", "notes"):
        del summary[key]


def unknown_keys(summary: dict[str, Any], records: list[dict[str, Any]], head: dict[str, Any]) -> None:
    summary["new"] = {"of": "a later build"}
    head["new"] = 1


@pytest.mark.parametrize(
    ("change", "told", "untold"),
    [
        (failed_before_a_round, ["No round of training was closed", "failed."], ["AUROC"]),
        (failed_while_preparing, ["No round of training was closed", "interrupted: Ctrl-C"], ["AUROC"]),
        (never_evaluated, ["Loss by round", "does not say whether joining was worth it"], ["AUROC", "Calibration"]),
        (never_compared, ["does not say whether joining", "The model at each client"], ["Was it worth"]),
        (
            regression,
            ["RMSE (lower is better)", "change in squared error", "−1,234.5", "← better", "in squared error lower is"],
            ["AUROC", "Calibration", "Classes by client"],
        ),
        (many_classes, ["letter-25", "shade: share of the client's rows"], ["Calibration"]),
        (figures_are_missing, ["not compared", "Joining was worth it for east."], []),
        (
            rounds_went_wrong,
            [
                "3 answers of 1 client did not come", "west (3)", "my.py:3", "Clients by round",
                "1 round opened again, 1 round skipped",
            ],
            [],
        ),
        (objects_without_names, ["Logistic model", "local:1234"], []),
        (intervals_are_pairs, ["Bars are 95% intervals."], []),
        (unknown_keys, ["Joining was worth it for east."], []),
        (without_half_the_keys, ["AUROC on each client's test rows"], ["Calibration", "Rows of 4"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)  # fmt: skip
def test_every_kind_of_record_has_its_report(
    make: Make, change: Callable[..., None], told: list[str], untold: list[str]
) -> None:
    page = page_of(make(change=change))
    text = words_of(page)
    assert "Failures and notes" in text and "nan" not in text.lower().split()
    assert page.tags.count("svg") == page.tags.count("figure")
    assert [each for each in told if each not in text] == []
    assert [each for each in untold if each in text] == []


def test_one_client_and_one_round(make: Make) -> None:
    text = words_of(page_of(make(["only"], rounds=1)))
    assert "1 client;" in text and "only" in text


# ---- Hostile names -------------------------------------------------------------------------------------------------


def test_names_that_are_code_stay_text(make: Make) -> None:
    def change(summary: dict[str, Any], records: list[dict[str, Any]], head: dict[str, Any]) -> None:
        summary.update(notes=[HOSTILE, "{% for x in y %}"], classes=[HOSTILE, "$x$"], reason=HOSTILE, task=HOSTILE)
        summary["columns"] = [HOSTILE]
        summary["worth"]["words"] = [HOSTILE]
        summary["versions"] = {HOSTILE: HOSTILE}
        summary["metrics"]["eval/<b>"] = 0.5
        summary["failures"] = [
            {"client": HOSTILE, "phase": HOSTILE, "kind": HOSTILE, "detail": HOSTILE, "where": HOSTILE}
        ]
        for each in summary["holdings"]:
            each["classes"] = {HOSTILE: 3, "$x$": 4}
        head["experiment"]["data"]["arguments"] = {HOSTILE: HOSTILE}
        head["experiment"]["learner"]["name"] = HOSTILE

    folder = make(ODD, change=change)
    page = page_of(folder)
    assert "script" not in page.tags and "b" not in page.tags
    text = words_of(page)
    for name in ODD:
        assert " ".join(readable.plain(name).split()) in text
    assert "{{ 7 * 7 }}" in text and "\x1b" not in text
    assert set(ODD) <= {attributes.get("data-client") for attributes, _ in page.numbers}


# ---- Large runs ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_thousand_clients_and_two_hundred_rounds_stay_small_and_quick(make: Make) -> None:
    folder = make([f"client-{place:04}" for place in range(1000)], rounds=200)
    write(folder)  # matplotlib loads
    began = time.perf_counter()
    path = write(folder)
    assert time.perf_counter() - began < 10  # about 2 s on a quiet machine
    assert path.stat().st_size < 1_000_000
    text = words_of(Page(path.read_text()))
    assert "The 10 clients with the worst change in log-loss" in text and "Quantiles over clients" in text


def test_above_fifty_clients_the_extremes_are_listed_and_the_rest_counted(make: Make) -> None:
    text = words_of(page_of(make([f"client-{place}" for place in range(51)])))
    assert "The 10 clients with the worst change in log-loss" in text
    assert "gains at 17, loses at 17, unclear at 17" in text


def test_a_long_run_is_thinned_and_says_so(make: Make) -> None:
    page = page_of(make(["east", "west"], rounds=1000))
    rounds = [int(a["data-round"]) for a, _ in page.numbers if a["data-metric"] == "included"]
    assert len(rounds) == 200 and rounds[0] == 1 and rounds[-1] == 1000
    assert "200 of 1,000 rounds; all are in metrics.csv." in words_of(page)


# ---- What cannot be read -------------------------------------------------------------------------------------------


def refused(folder: Path) -> str:
    with pytest.raises(StoreError) as error:
        write(folder)
    assert not (folder / "report.html").exists()
    return str(error.value)


def test_a_folder_that_is_none_and_one_that_is_no_run(tmp_path: Path) -> None:
    assert "there is no such folder" in refused(tmp_path / "nothing")
    assert "it has no experiment.json" in refused(tmp_path)


def test_a_run_that_has_not_finished(make: Make) -> None:
    folder = make()
    (folder / "record.json").unlink()
    assert "the run has not finished" in refused(folder) and "fedloom resume" in refused(folder)


@pytest.mark.parametrize("name", ["record.json", "experiment.json"])
@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff\xfe", b'{"run_id": 3}'])
def test_a_damaged_document_is_named(make: Make, name: str, data: bytes) -> None:
    folder = make()
    (folder / name).write_bytes(data)
    assert f"{name} is damaged" in refused(folder)


def test_a_document_cut_in_the_middle(make: Make) -> None:
    folder = make()
    data = (folder / "record.json").read_bytes()
    (folder / "record.json").write_bytes(data[: len(data) // 2])
    assert "is damaged" in refused(folder)


def test_a_record_that_a_newer_build_wrote_in_another_form(make: Make) -> None:
    def newer(summary: dict[str, Any], records: list[dict[str, Any]], head: dict[str, Any]) -> None:
        summary["versions"]["fedloom"] = "99.1.0"
        summary["notes"] = {"in": "another form"}

    assert "was written by fedloom 99.1.0" in refused(make(change=newer))


def test_a_record_of_another_run(make: Make) -> None:
    folder = make()
    text = (folder / "record.json").read_text().replace("bd83", "bd84")
    (folder / "record.json").write_text(text)
    assert "it is of run 20261121T103917Z-bd84" in refused(folder)


def test_a_table_of_metrics_that_is_absent_or_damaged(make: Make) -> None:
    folder = make()
    path = folder / "metrics.csv"
    text = path.read_text()
    path.unlink()
    assert "metrics.csv is missing" in refused(folder)
    path.write_text("")
    assert "names no program, no round" in refused(folder)
    path.write_text(text.replace("train,2,0,east,0.", "train,2,0,east,zero.").replace(",0.8", ",eight"))
    assert re.search(r"metrics\.csv is damaged \(line \d+: could not convert", refused(folder))


def test_a_page_that_cannot_be_written_leaves_the_old_one(make: Make) -> None:
    folder = make()
    before = write(folder).read_bytes()
    (folder / "record.json").write_text("{")
    with pytest.raises(StoreError):
        write(folder)
    assert (folder / "report.html").read_bytes() == before
    assert not list(folder.glob(".*.tmp"))


# ---- Nothing outside the folder ------------------------------------------------------------------------------------


def test_no_file_outside_the_folder_and_the_temporary_one_and_no_word(make: Make, tmp_path: Path) -> None:
    folder = make(ODD)
    home, temporary = tmp_path / "home", tmp_path / "temporary"
    home.mkdir()
    temporary.mkdir()
    kept = {k: v for k, v in os.environ.items() if k not in {"MPLCONFIGDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"}}
    script = (
        f"import os\nfrom pathlib import Path\nfrom fedloom.reports import write\nwrite(Path({str(folder)!r}))\n"
        "assert 'MPLCONFIGDIR' not in os.environ"
    )
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", script],
        check=True, timeout=60, capture_output=True, env=kept | {"HOME": str(home), "TMPDIR": str(temporary)},
    )  # fmt: skip
    assert (done.stdout, done.stderr) == (b"", b"")
    assert list(home.rglob("*")) == []
    (cache,) = temporary.iterdir()
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700


def test_a_folder_of_another_is_not_trusted_with_our_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fedloom.reports import drawing

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    own = drawing._private_folder()
    assert own.parent == tmp_path and drawing._private_folder() == own
    own.chmod(0o777)
    other = drawing._private_folder()
    assert other != own and stat.S_IMODE(other.stat().st_mode) == 0o700


# ---- Figures as people read them -----------------------------------------------------------------------------------


def _values() -> Iterator[float]:
    for exponent in range(-9, 13):
        yield from (sign * digit * 10.0**exponent for sign in (1, -1) for digit in (1.0, 2.5, 9.9949))


def test_a_figure_for_people_is_the_figure_to_three_digits_or_more() -> None:
    for value in _values():
        text = readable.figure(value).replace("−", "-").replace(",", "")
        assert math.isclose(float(text), value, rel_tol=0.06, abs_tol=0.00051)
        assert len(text) <= 14


def test_what_is_no_number_is_a_dash_without_a_value() -> None:
    assert readable.number(None, "eval/auroc") == readable.number(float("nan"), "eval/auroc") == ("–",)
    assert readable.number(float("inf"), "eval/auroc") == ("–",)
