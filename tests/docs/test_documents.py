"""The documents are true: their code runs, their output is what they show, and what they name exists.

Blocks of a page are worked through in order, in one folder and one namespace: ``python`` is executed, ``toml FILE``
is written to that file, ``$ fedloom`` in a ``console`` block is run as a process. A ``text`` block behind ``python``
is its output.
"""

from __future__ import annotations

import ast
import contextlib
import io
import math
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pytest

from fedloom.cli.app import app
from fedloom.core.component import to_json
from fedloom.core.private_steps import PrivateSteps
from fedloom.core.schedule import Schedule
from fedloom.experiment import catalogue
from fedloom.experiment.config import read_text
from fedloom.experiment.refusals import Code
from fedloom.experiment.schema import parameters
from fedloom.experiment.site_policy import (
    Allow,
    Approval,
    DataPolicy,
    Limits,
    PrivacyLimits,
    Site,
    read_policy_text,
)
from fedloom.experiment.spec import Experiment
from fedloom.experiment.tree import toml_value
from fedloom.privacy.target import PrivacyTarget
from fedloom.runtime.policy import RoundPolicy
from fedloom.runtime.simulation import Simulation

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
REFERENCE = ROOT / "docs/reference/experiment-file.md"
SITE_POLICY = ROOT / "docs/reference/site-policy.md"
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md"))]
EXAMPLES = sorted(ROOT.glob("examples/*.py"))
LANGUAGES = {"python", "text", "toml", "console"}

_FENCE = re.compile(r"^```([^\n`]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_EXTRA = re.compile(r"^(?:<!--|#) extra: (\w+)", re.MULTILINE)
_NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e-?\d+)?")
_NAMES = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{4}|\b[0-9a-f]{8,}\b")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block: its language, the file it stands for, its text, and its line in the page."""

    language: str
    file: str
    text: str
    line: int


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text()
    found = []
    for match in _FENCE.finditer(text):
        language, _, file = match[1].strip().partition(" ")
        found.append(Block(language, file, match[2], text.count("\n", 0, match.start()) + 2))
    return found


def skip_without_extra(path: Path) -> None:
    """Skip a page or an example that says ``extra: PACKAGE`` in a comment, where the package is not installed."""
    for package in _EXTRA.findall(path.read_text()):
        pytest.importorskip(package, reason=f"{name_of(path)} needs {package}")


def with_slow_ones_marked(paths: list[Path]) -> list[Any]:
    """Return parameters: what starts a Ray cluster takes many seconds."""
    slow = {path for path in paths if "ray" in _EXTRA.findall(path.read_text())}
    return [pytest.param(path, marks=[pytest.mark.slow] if path in slow else [], id=name_of(path)) for path in paths]


PAGES = [page for page in DOCUMENTS if any(block.language != "text" for block in blocks_of(page))]


@pytest.mark.parametrize("page", with_slow_ones_marked(PAGES))
def test_the_code_of_a_page_does_what_the_page_shows(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_without_extra(page)
    monkeypatch.chdir(tmp_path)
    blocks = blocks_of(page)
    namespace: dict[str, Any] = {"__name__": "document"}
    for block, after in zip(blocks, [*blocks[1:], None], strict=True):
        where = f"{name_of(page)}:{block.line}"
        assert block.language in LANGUAGES, f"{where}: no block in {block.language!r} is executed or compared"
        match block.language:
            case "python":
                assert not block.file, f"{where}: every python block runs, so none has a mark"
                printed = printed_by(block, namespace, where)
                if after is not None and after.language == "text":
                    assert_same_output(printed, after.text, where)
            case "toml":
                if block.text.startswith("seed"):
                    read_text(block.text, name=where, base=tmp_path)
                if block.text.startswith("[site]"):
                    read_policy_text(block.text, name=where, base=tmp_path)
                if block.file:
                    (tmp_path / block.file).write_text(block.text)
            case "console":
                for command, shown in commands_of(block):
                    assert_command(command, shown, where)


def printed_by(block: Block, namespace: dict[str, Any], where: str) -> str:
    # Empty lines before the code, so that a traceback names the line of the page.
    code = compile("\n" * (block.line - 1) + block.text, where, "exec", dont_inherit=True)
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(code, namespace)
    return out.getvalue()


def assert_same_output(printed: str, shown: str, where: str) -> None:
    """Words are equal, numbers to two per cent: another machine may round differently, and no more than that."""
    assert shape(printed) == shape(shown), f"{where} prints\n{printed}"
    for real, claimed in zip(_NUMBER.findall(printed), _NUMBER.findall(shown), strict=True):
        assert math.isclose(float(real), float(claimed), rel_tol=0.02, abs_tol=2e-3), f"{where} prints\n{printed}"


def shape(text: str) -> list[str]:
    """Return lines with every name of a run, hash and number masked, and runs of space and rule as one."""
    masked = _NUMBER.sub("#", _NAMES.sub("*", text))
    lines = (re.sub(r"([─█])[─█]*", r"\1", " ".join(line.split())) for line in masked.splitlines())
    return [line for line in lines if line]


def commands_of(block: Block) -> list[tuple[str, str]]:
    """Return each command of a console block with the output shown below it."""
    parts = re.split(r"^\$ (.*)$", block.text, flags=re.MULTILINE)
    assert not parts[0].strip(), "a console block starts with a command"
    return list(zip(parts[1::2], parts[2::2], strict=True))


def assert_command(command: str, shown: str, where: str) -> None:
    """Shown lines are printed in this order; ``...`` is what was left out. Only an error that is shown may happen."""
    program, *arguments = shlex.split(command)
    assert program == "fedloom", f"{where}: {command}"
    done = run_process("-c", "from fedloom.cli import main; main()", *arguments)
    said = done.stderr + "\n" + done.stdout
    assert (done.returncode != 0) == ("error:" in shown), f"{where}: {command} ended with {done.returncode}\n{said}"
    lines = iter(shape(said))
    for line in shape(shown):
        assert line == "..." or line in lines, f"{where}: {command} does not print {line!r} there, but\n{said}"


def run_process(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "80", "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, "-W", "error", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=50, check=False)


@pytest.mark.parametrize("example", with_slow_ones_marked(EXAMPLES))
def test_an_example_runs_and_is_short(example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    skip_without_extra(example)
    monkeypatch.chdir(tmp_path)
    assert 20 <= len(example.read_text().splitlines()) <= 60
    done = run_process(str(example))
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert not list(tmp_path.iterdir()), "an example leaves nothing behind"


def test_hello_world_is_short_and_its_file_is_the_same_experiment() -> None:
    blocks = blocks_of(README)
    hello = next(block for block in blocks if block.language == "python")
    assert len(hello.text.splitlines()) <= 15
    namespace: dict[str, Any] = {}
    printed_by(hello, namespace, "hello world")
    file = next(block for block in blocks if block.file == "hello.toml")
    assert read_text(file.text, name="hello.toml", base=ROOT).experiment.digest == namespace["experiment"].digest


@pytest.mark.parametrize("page", DOCUMENTS, ids=name_of)
def test_relative_links_lead_somewhere(page: Path) -> None:
    for link in _LINK.findall(_FENCE.sub("", page.read_text())):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), f"{name_of(page)} links to {link}"
        assert not anchor or anchor in anchors(target), f"{name_of(page)} links to {link}"


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", DOCUMENTS, ids=name_of)
def test_make_targets_commands_and_tests_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text()
    targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"`make ([a-z-]+)", text)) | set(re.findall(r"^    make ([a-z-]+)", text, re.MULTILINE))
    assert named <= targets, f"make {named - targets}"
    asked = re.findall(r"(?:`|^\$ )fedloom ([a-z]+(?: [a-z]+){0,2})", text, re.MULTILINE)
    for words in asked:
        parts = words.split()
        assert any(" ".join(parts[:count]) in COMMANDS for count in (1, 2, 3)), f"fedloom {words}"
    for path, function in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", text):
        assert (ROOT / path).is_file(), path
        assert not function or function in functions_of(ROOT / path), f"{path}::{function}"


def functions_of(path: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}


def commands(group: Any, before: str = "") -> set[str]:
    own = {
        before + (command.name or command.callback.__name__.replace("_", "-")) for command in group.registered_commands
    }
    inner = (each.typer_instance for each in group.registered_groups)
    return own.union(*(commands(each, f"{before}{each.info.name} ") for each in inner))


COMMANDS = commands(app)


def test_the_readme_names_every_command() -> None:
    sentence = re.search(r"The commands are (.*?);", README.read_text(), re.DOTALL)
    assert sentence is not None
    assert set(re.findall(r"`([^`]+)`", sentence[1])) == COMMANDS


def own_names(group: str) -> set[str]:
    """Return the names of a group that fedloom itself provides."""
    providers = ((name, catalogue.provider(group, name)) for name in catalogue.names(group))
    return {name for name, who in providers if who is not None and who.distribution == "fedloom"}


@pytest.mark.parametrize(
    "group",
    ["algorithms", "learners", "models", "datasets", "partitions", "preparations", "queries", "cohorts", "stops",
     "stages", "aggregators", "optimizers", "ramps", "engines"],
)  # fmt: skip
def test_the_readme_lists_what_there_is(group: str) -> None:
    row = re.search(rf"^\| {group} \| (.*) \|$", README.read_text(), re.MULTILINE)
    assert row is not None, group
    assert {name for name in re.findall(r"`([^`]+)`", row[1]) if "." not in name} == own_names(f"fedloom.{group}")


def test_the_reference_has_every_key_with_its_default() -> None:
    documented = tables_of(REFERENCE)
    builders: dict[str, Callable[..., Any]] = {"Top level": Experiment, "Local work": Schedule, "Policy": RoundPolicy,
                                              "Simulation": Simulation, "Privacy": PrivacyTarget,
                                              "Private steps": PrivateSteps}  # fmt: skip
    for group in {heading.split("/")[0] for heading in documented} - builders.keys():
        names = own_names(f"fedloom.{group.lower()}")
        builders |= {f"{group}/{name}": catalogue.builder(f"fedloom.{group.lower()}", name) for name in names}
    assert {heading for heading in documented if documented[heading]} <= builders.keys()
    for heading, builder in builders.items():
        expected = {key: default_of(parameter) for key, parameter in parameters(builder).items()}
        found = documented[heading]
        assert list(found) == list(expected), heading
        for key, default in found.items():
            assert default in (expected[key], "see right"), f"{heading}: {key}"


def test_the_reference_of_the_policy_has_every_key_with_its_default_and_every_code() -> None:
    documented = {heading: keys for heading, keys in tables_of(SITE_POLICY).items() if keys}
    builders = {"site": Site, "allow": Allow, "data": DataPolicy, "limits": Limits, "privacy": PrivacyLimits,
                "approval": Approval}  # fmt: skip
    assert list(documented) == list(builders)
    for heading, builder in builders.items():
        expected = {key: default_of(parameter) for key, parameter in parameters(builder).items()}
        assert documented[heading] == expected, heading
    codes = set(re.findall(r"`([A-Z]+(?:_[A-Z]+)*)`", SITE_POLICY.read_text()))
    of_tasks = {"BUDGET_EXHAUSTED", "NOT_APPROVED", "TASK_STALLED", "LOST_STATE"}
    # At their hour tasks wait: this one is said to nobody.
    assert codes == {*get_args(Code), *of_tasks} - {"POLICY_HOURS"}


def default_of(parameter: Any) -> str:
    if parameter.required:
        return "required"
    return "none" if parameter.default is None else f"`{toml_value(to_json(parameter.default))}`"


def tables_of(page: Path) -> dict[str, dict[str, str]]:
    """Return the keys and defaults below each heading of level 2, or ``level 2/level 3``."""
    found: dict[str, dict[str, str]] = {}
    group = heading = ""
    for line in _FENCE.sub("", page.read_text()).splitlines():
        if line.startswith("## "):
            group = heading = line.removeprefix("## ")
            found[heading] = {}
        elif line.startswith("### "):
            heading = f"{group}/{line.removeprefix('### ')}"
            found[heading] = {}
        elif row := re.match(r"\| `(\w+)` \| ([^|]+) \| ", line):
            found[heading][row[1]] = row[2]
    return found
