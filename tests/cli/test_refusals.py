"""Bad input: one block on standard error, a stable exit code, no traceback, and nothing written before a run begins."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fedloom.store import list_runs, read_model, write_model

File = Callable[..., Path]
Run = Callable[..., tuple[int, str, str]]


def files(folder: Path) -> dict[str, str]:
    """Return the digest of every file below a folder; SQLite's own helpers come and go with a look at a file."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith(("-shm", "-wal"))
    }


def block(err: str) -> str:
    """Return the one block of an error, and see to it that there is nothing else."""
    lines = err.splitlines()
    assert err.endswith("\n") and lines[0].startswith("error: ")
    assert all(line.startswith("       ") for line in lines[1:]), err
    assert "Traceback" not in err
    return err.removeprefix("error: ").rstrip("\n")


def refused(found: tuple[int, str, str], *, code: int = 2) -> str:
    """Return what a refused command said."""
    assert (found[0], found[1]) == (code, ""), found
    return block(found[2])


def test_all_violations_of_a_file_come_at_once_with_file_and_line(tmp_path: Path, file: File, command: Run) -> None:
    path = file()
    text = path.read_text()
    text = text.replace("seed = 7", 'seed = "7"').replace("l2 = 0.01", "l3 = 0.01")
    text = text.replace('name = "scaffold"', 'name = "scafold"').replace("rounds = 10", "rounds = 0")
    path.write_text(text)
    said = refused(command("run", path)).splitlines()
    assert said[0] == "4 settings cannot be used:"
    lines = path.read_text().splitlines()
    for needle, line in zip(("seed", "l3", "scafold", "rounds = 0"), said[1:], strict=True):
        at = next(place for place, each in enumerate(lines, start=1) if needle in each)
        assert line.startswith(f"       {path}:{at}: ") and needle.split()[0] in line, line
    assert "l2" in said[2] and "scaffold" in said[3]  # the nearest spelling
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("setting", "wanted"),
    [
        ("stop.0.rounds=0", "stop.0"),
        ("algorithm.local.steps=0", "steps = 0"),
        ("algorithm.local.learning_rate=-1", "learning_rate"),
        ("algorithm.local.batch_size=0", "batch_size"),
        ("cohort.size=0", "size"),
        ("cohort.size=9", "9 clients; the data have 4"),
        ("policy.quorum=7", "more than the 3 clients of a round"),
        ("policy.quorum=1.5", "quorum"),
        ("learner.l2=-1", "l2"),
        ("learner.l2=nan", "l2"),
        ("data.label=outcom", "'outcome'"),
        ("data.path=row.csv", "rows.csv"),
        ("data.test=1.5", "test"),
        ("seed=-1", "seed"),
        ("seed", "KEY=VALUE"),
        ("evaluate_every=0", "evaluate_every"),
        ("engine.workers=0", "workers"),
        ("engine.worker=2", "workers"),
        ("engine.name=rey", "ray"),
        ("output.folder=3", "folder"),
        ("cohort.fraction=7", "fraction"),
    ],
)
def test_a_setting_out_of_range_is_refused_before_anything_is_written(
    setting: str, wanted: str, tmp_path: Path, file: File, command: Run
) -> None:
    assert wanted in refused(command("run", file(), "--set", setting))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (b"seed = ", ":1: toml:"),
        (b"[data\n", ":1: toml:"),
        (b"\xff\xfe", "not UTF-8"),
        (b"", "missing"),
        (b"seed = 1\nseed = 2\n", ":2: toml:"),
    ],
)
def test_a_file_that_is_no_experiment_is_refused(content: bytes, wanted: str, tmp_path: Path, command: Run) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(content)
    said = refused(command("run", path))
    assert "bad.toml" in said and (wanted in said or wanted == "missing")


def test_a_file_that_is_not_there_is_refused(tmp_path: Path, command: Run) -> None:
    assert "cannot be read: No such file or directory" in refused(command("run", "absent.toml"))
    assert "cannot be read: Is a directory" in refused(command("run", tmp_path))


def test_json_errors_are_one_object_beside_the_block(file: File, command: Run) -> None:
    code, out, err = command("run", file(), "--set", "stop.0.rounds=0", "--json")
    error = json.loads(out)["error"]
    assert code == error["exit_code"] == 2 and error["kind"] == "ConfigError"
    assert block(err).replace("\n       ", "\n") == error["message"]


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (lambda text: text.replace(",ward,", ",", 1), "no column 'ward'"),
        (lambda text: text.replace("x1,", "", 1), "fields; expected 4"),
        (lambda text: text.splitlines()[0] + "\n", "no rows"),
        (lambda _: "", "is empty"),
        (lambda text: text.replace(",north", ",", 1), "column 'ward' is missing"),
        (lambda text: text + "1,2,abc,north,ill\n", "column 'x2' is not a number"),
        (lambda text: text + "1,2,?,north,ill\n", "column `x2` is NaN"),
        (lambda text: text + "1,2,inf,north,ill\n", "line 184: column 'x2' is infinite"),
    ],
)
def test_wrong_rows_are_refused_before_round_1(
    change: Callable[[str], str], wanted: str, tmp_path: Path, file: File, command: Run
) -> None:
    path = file()
    rows = tmp_path / "rows.csv"
    rows.write_text(change(rows.read_text()))
    assert wanted in refused(command("run", path))
    assert not (tmp_path / "runs").exists()


# ---- Folders ---------------------------------------------------------------------------------------------------------


def test_an_output_that_is_a_file_is_refused(tmp_path: Path, file: File, command: Run) -> None:
    path = file()
    (tmp_path / "taken").write_text("mine")
    assert "a file is in the way" in refused(command("run", path, "--output", "taken"))
    assert "a file is in the way" in refused(command("run", path, "--output", "taken/below"))
    assert (tmp_path / "taken").read_text() == "mine"


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="this system has no folder that nobody can write")
def test_an_output_that_nobody_can_write_is_refused(file: File, command: Run) -> None:
    assert "/proc/runs" in refused(command("run", file(), "--output", "/proc/runs"))


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() == 0, reason="root may write everywhere")
def test_an_output_without_write_access_is_refused(tmp_path: Path, file: File, command: Run) -> None:
    path = file()
    (tmp_path / "closed").mkdir(mode=0o500)
    said = refused(command("run", path, "--output", "closed"))
    assert f"uid {os.getuid()}" in said and "mode 500" in said
    assert not list((tmp_path / "closed").iterdir())


@pytest.fixture
def done(tmp_path: Path, file: File, command: Run) -> Path:
    """A completed run of two rounds."""
    assert command("run", file(rounds=2), "--json")[0] == 0
    (run,) = list_runs(tmp_path / "runs")
    return run.folder


@pytest.fixture
def unchanged(done: Path) -> Iterator[None]:
    """Nothing of the run may change in this test, once it has set up what it wants."""
    yield
    assert not list(done.glob("owner.json"))


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, done: Path, command: Run) -> None:
    (tmp_path / "empty").mkdir()
    assert "no run 'empty'" in refused(command("resume", "empty"))
    assert f"the last ones are {done.name}" in refused(command("resume", "20" + "99"))
    assert "holds no runs" in refused(command("resume", "last", "--output", "empty"))
    assert "no run 'nothing'" in refused(command("runs", "show", "nothing"))


@pytest.mark.usefixtures("unchanged")
def test_a_store_of_a_newer_format_is_refused_and_untouched(done: Path, command: Run) -> None:
    with sqlite3.connect(done / "state.sqlite") as database:
        digest = hashlib.sha256(b"single\0format\0" + b"7").digest()
        database.execute("UPDATE single SET data = ?, sha256 = ? WHERE key = 'format'", (b"7", digest))
    database.close()
    before = files(done)
    assert "store is format 7, this build knows up to 2; untouched" in refused(command("resume", "last"))
    assert files(done) == before


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "text", "absent"])
def test_a_damaged_state_file_is_refused_and_untouched(damage: str, done: Path, command: Run) -> None:
    path = done / "state.sqlite"
    data = bytearray(path.read_bytes())
    if damage == "flip":
        place = data.index(b"mean")  # inside the JSON of the state
        data[place] ^= 1
    changed = {"flip": data, "truncate": data[: len(data) // 2], "empty": b"", "text": b"not a database" * 100}
    path.unlink()
    if damage in changed:
        path.write_bytes(changed[damage])
    before = files(done)
    said = refused(command("resume", "last", "--set", "stop.0.rounds=3"))
    assert "state.sqlite" in said and "restore the folder from a backup" in said
    assert files(done) == before


@pytest.mark.parametrize("name", ["experiment.json", "record.json"])
def test_a_damaged_document_is_refused(name: str, done: Path, command: Run) -> None:
    (done / name).write_text('{"run_id": 3')
    for arguments in (("resume", done), ("runs", "show", done)):
        assert f"{name} is damaged" in refused(command(*arguments))


def test_an_experiment_that_was_edited_is_refused_by_its_paths(done: Path, command: Run) -> None:
    path = done / "experiment.json"
    path.write_text(path.read_text().replace('"seed": 7', '"seed": 8'))
    before = files(done)
    assert refused(command("resume", "last")).endswith("is a run of another experiment; it differs in: seed")
    assert files(done) == before


def test_other_rows_are_refused_and_the_run_is_untouched(tmp_path: Path, done: Path, command: Run) -> None:
    rows = tmp_path / "rows.csv"
    content = rows.read_text()
    rows.write_text(content.replace("ill", "well", 1))
    before = files(done)
    said = refused(command("resume", "last", "--set", "stop.0.rounds=3"))
    assert "the rows are not those that" in said and "put the data back" in said
    assert files(done) == before
    rows.write_text(content)
    assert command("resume", "last", "--set", "stop.0.rounds=3", "--json")[0] == 0


@pytest.mark.parametrize(
    ("setting", "wanted"),
    [
        ("seed=8", "a resume may change the stop and nothing else"),
        ("stop.1.rounds=3", "nothing else: stop.rounds=200"),
        ("stop.0.round=3", "expected one of rounds"),
        ("stop.0.rounds=0", "expected 1 or more"),
        ("stop.0.rounds=many", "rounds"),
        ("stop", "a resume may change the stop"),
    ],
)
def test_a_resume_changes_nothing_but_the_stop(setting: str, wanted: str, done: Path, command: Run) -> None:
    before = files(done)
    assert wanted in refused(command("resume", "last", "--set", setting))
    assert files(done) == before


def test_a_run_of_python_objects_is_resumed_in_python(tmp_path: Path, command: Run) -> None:
    from dataclasses import replace

    import numpy as np

    import fedloom

    draw = np.linspace(-1, 1, 40).reshape(20, 2)
    data = fedloom.data.silos({name: (draw + shift, np.tile([0, 1], 10)) for name, shift in (("a", 0), ("b", 1))})
    asked = fedloom.Experiment(
        data=data, learner=fedloom.logistic(), algorithm=fedloom.fedsgd(0.1), stop=fedloom.max_rounds(2), seed=1
    )
    unnamed = replace(asked, algorithm=replace(asked.algorithm, spec=None))
    for place, each in enumerate((asked, unnamed)):
        root = tmp_path / str(place)
        folder = fedloom.local().run(each, output=root).folder
        assert folder is not None
        before = files(folder)
        said = refused(command("resume", folder))
        assert "cannot be rebuilt by name" in said and "engine.run(experiment, resume=folder)" in said
        assert files(folder) == before


# ---- A run that has begun --------------------------------------------------------------------------------------------

PLUGIN = '''"""An algorithm that somebody is still working on."""

from fedloom.algorithms import fedavg
from fedloom.core.component import component
from fedloom.core.schedule import Schedule
from dataclasses import replace


@component("fedloom.algorithms")
def draft(local: Schedule):
    whole = fedavg(local)

    def step(state, mean):
        {body}
        return whole.step(state, mean)

    def client(broadcast, state, ctx):
        {client}
        return (yield from whole.client(broadcast, state, ctx))

    return replace(whole, name="draft", step=step, client=client)
'''


@pytest.fixture
def plugin(tmp_path: Path) -> Callable[..., Path]:
    """Install an algorithm named "draft" in a folder for PYTHONPATH."""

    def install(*, body: str = "pass", client: str = "pass") -> Path:
        site = tmp_path / "site"
        info = site / "draft-0.1.dist-info"
        info.mkdir(parents=True, exist_ok=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: draft\nVersion: 0.1\n")
        (info / "entry_points.txt").write_text("[fedloom.algorithms]\ndraft = draft_algorithm:draft\n")
        (site / "draft_algorithm.py").write_text(PLUGIN.format(body=body, client=client))
        return site

    return install


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    paths = [str(tmp_path / "site"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"}


def test_an_algorithm_that_raises_fails_the_run_which_resumes_when_mended(
    tmp_path: Path, file: File, fedloom_: Run, plugin: Any, env: Any
) -> None:
    path = file(algorithm="draft", rounds=5)
    plugin(body="if mean.round == 3: raise ZeroDivisionError('beta')")
    code, out, err = fedloom_("run", path, env=env)
    said = block(err[err.index("error: ") :])
    line = 1 + PLUGIN.splitlines().index("        {body}")
    assert (code, out) == (1, "")
    assert "round 3: the server step of draft raised ZeroDivisionError: beta" in said
    assert err.count(f"{tmp_path / 'site' / 'draft_algorithm.py'}:{line}") == 1
    assert "mend it and resume" in said and "fedloom resume runs/" in said
    (run,) = list_runs(tmp_path / "runs")
    assert (run.status, run.rounds) == ("failed", 2)
    log = (run.folder / "run.log").read_text()
    assert log.count("Traceback (most recent call last)") == 2  # the error, and what caused it: once each
    assert log.count("ERROR") == 1

    plugin()
    code, out, err = fedloom_("resume", "last", "--json", env=env)
    assert (code, err) == (0, "")
    mended = json.loads(out)
    whole = json.loads(fedloom_("run", path, "--json", env=env)[1])
    assert mended["model_sha256"] == whole["model_sha256"]


def test_a_client_that_crashes_every_round_is_in_the_summary_by_file_and_line(
    tmp_path: Path, file: File, fedloom_: Run, plugin: Any, env: Any
) -> None:
    plugin(client="if ctx.client == 'west': raise RuntimeError('no GPU')")
    line = 1 + PLUGIN.splitlines().index("        {client}")
    code, out, err = fedloom_("run", file(algorithm="draft", rounds=5), "--set", "cohort.size=4", env=env)
    assert code == 0 and "Traceback" not in err
    assert out.startswith("\ncompleted with warnings: 5 rounds done\n")
    where = tmp_path / "site" / "draft_algorithm.py"
    assert f"  west: crashed 5 times: RuntimeError: no GPU ({where}:{line})\n" in out
    assert err.count("without west crashed") == 5
    assert list_runs(tmp_path / "runs")[0].status == "completed with warnings"


def test_a_run_that_loses_its_quorum_ends_with_code_1_and_says_why(
    tmp_path: Path, file: File, fedloom_: Run, plugin: Any, env: Any
) -> None:
    plugin(client="raise RuntimeError('no GPU')")
    code, _, err = fedloom_("run", file(algorithm="draft", rounds=5), env=env)
    said = block(err[err.index("error: ") :])
    assert code == 1 and "RuntimeError: no GPU" in said and "fedloom resume" in said
    assert list_runs(tmp_path / "runs")[0].status == "failed"


def test_an_unexpected_error_is_one_block_and_its_traceback_is_in_the_log(
    tmp_path: Path, file: File, fedloom_: Run
) -> None:
    script = (
        "import fedloom.engines.local_run as module\n"
        "def compare(*_, **__): raise LookupError('a bug')\n"
        "module.compare = compare\n"
        "from fedloom.cli import main; main()"
    )
    code, out, err = fedloom_("run", file(rounds=2), "--set", "compare=true", script=script)
    said = block(err[err.index("error: ") :])
    assert (code, out) == (1, "")
    assert said.startswith("unexpected LookupError: a bug\n       at <string>:2; the traceback is in its run.log\n")
    log = (list_runs(tmp_path / "runs")[0].folder / "run.log").read_text()
    assert log.count("LookupError: a bug") == 1 and log.count("Traceback") == 1


def test_an_unexpected_error_before_a_run_is_one_block(file: File, fedloom_: Run) -> None:
    script = (
        "import fedloom.experiment.config as module\n"
        "def read(*_): raise LookupError('a bug')\n"
        "module.read = read\n"
        "from fedloom.cli import main; main()"
    )
    code, out, err = fedloom_("config", "show", file(), script=script)
    assert (code, out, block(err)) == (1, "", "unexpected LookupError: a bug\n       at <string>:2")


def test_an_unknown_command_or_option_is_a_usage_error(command: Run) -> None:
    for arguments in (("train",), ("run",), ("run", "x.toml", "--rounds", "3"), ("demo", "--seed", "x")):
        code, out, err = command(*arguments)
        assert (code, out) == (2, "") and "Usage: fedloom" in err and "Traceback" not in err


@pytest.mark.parametrize("seed", [-1, 1 << 64])
def test_a_seed_out_of_range_is_refused(seed: int, tmp_path: Path, command: Run) -> None:
    code, _, err = command("demo", "--seed", seed)
    assert code == 2 and "seed" in block(err)
    assert not (tmp_path / "runs").exists()


# ---- Surroundings ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["run", "plan"])
def test_a_missing_extra_is_named_without_a_traceback(
    verb: str, tmp_path: Path, file: File, command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = file()
    (tmp_path / "rows.parquet").write_bytes(b"PAR1")
    path.write_text(path.read_text().replace('"csv"', '"parquet"').replace("rows.csv", "rows.parquet"))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    said = refused(command(verb, path))
    assert "needs the `parquet` extra: pip install 'fedloom[parquet]'" in said
    assert not (tmp_path / "runs").exists()


MATRIX = [
    {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
    {"COLUMNS": "40", "NO_COLOR": "1", "TERM": "dumb", "PYTHONIOENCODING": "latin-1"},
]


@pytest.mark.parametrize("env", MATRIX, ids=["ascii", "narrow"])
@pytest.mark.parametrize(
    "arguments",
    [
        ["new", "other.toml", "--data", "rows.csv", "--label", "outcome"],
        ["doctor"],
        ["run", "run.toml", "--seeds", "2"],
        ["predict", "nothing", "rows.csv"],
        ["runs", "rm", "nothing"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_new_commands_are_readable_anywhere(
    arguments: list[str], env: dict[str, str], tmp_path: Path, file: File, fedloom_: Run
) -> None:
    """Rows with letters beyond ASCII and the line ends of Windows, in any terminal."""
    file(rounds=2)
    rows = (tmp_path / "rows.csv").read_text().replace("x0", "größe")
    (tmp_path / "rows.csv").write_bytes(rows.replace("\n", "\r\n").encode())
    code, out, err = fedloom_(*arguments, env=env)
    assert code in (0, 2) and "Traceback" not in err and "\x1b" not in out + err and "\r" not in out
    assert (code == 2) == (arguments[0] in ("predict", "runs")), err
    if env.get("PYTHONIOENCODING") == "ascii":
        assert (out + err).isascii()


def test_a_name_that_the_locale_cannot_read_is_refused(tmp_path: Path, file: File, fedloom_: Run) -> None:
    file()
    (tmp_path / "rows.csv").rename(tmp_path / "größe.csv")
    code, out, err = fedloom_("new", "other.toml", "--data", "größe.csv", "--label", "outcome", env=MATRIX[0])
    assert (code, out) == (2, "") and "this locale cannot read the name" in err and err.isascii()


def test_a_record_of_a_build_that_knew_less_or_more_is_still_shown(done: Path, command: Run) -> None:
    path = done / "record.json"
    record = json.loads(path.read_text())
    record["summary"] = {key: record["summary"][key] for key in ("model_sha256", "metrics", "bytes_up", "bytes_down")}
    record["from_the_future"] = {"a": 1}
    path.write_text(json.dumps(record))
    code, out, _ = command("runs", "show", done)
    assert code == 0 and "eval/auroc" in out
    assert command("runs", "compare", done, done)[0] == 0
    assert command("runs", "list")[0] == 0


def test_a_model_that_says_too_little_is_refused_by_its_path(done: Path, tmp_path: Path, command: Run) -> None:
    """As an early build wrote it: parameters and schema, and nothing of how rows were prepared."""
    layout, params, metadata = read_model(done / "model.safetensors")
    old = tmp_path / "old.safetensors"
    write_model(old, layout, params, {key: metadata[key] for key in ("digest", "schema", "prepared")})
    said = refused(command("predict", old, "rows.csv"))
    assert "old.safetensors does not say how its rows were prepared" in said and "train the model again" in said
