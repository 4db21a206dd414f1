"""What an import loads: the command line stays quick, the core small, and the public names are those listed."""

from __future__ import annotations

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

import fedloom

CLI = {"typer", "annotated_doc", "shellingham", "rich", "markdown_it", "mdurl", "pygments", "attr"}  # rich takes attrs
MODULES = [
    "fedloom.core.algorithm", "fedloom.core.codec", "fedloom.core.component", "fedloom.core.data", "fedloom.core.keys",
    "fedloom.core.learner", "fedloom.core.messages", "fedloom.core.query", "fedloom.core.ranking",
    "fedloom.core.schedule", "fedloom.core.wire",
]  # fmt: skip
HELP = "import sys; sys.argv = ['fedloom', '--help']\nfrom fedloom.cli import main\n"
TELL = "\nimport sys; print(*sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"


def third_party(script: str) -> set[str]:
    """Return the packages outside the standard library that a fresh process has loaded after a script."""
    # -S and -I would hide the packages; what the start of this interpreter loads by itself is taken off instead.
    done = [
        subprocess.run([sys.executable, "-c", each + TELL], capture_output=True, text=True, timeout=30, check=True)
        for each in ("pass", script)
    ]
    before, after = (set(each.stderr.splitlines()[-1].split()) for each in done)
    return {name for name in after - before - set(sys.stdlib_module_names) if not name.startswith("_")} - {
        "fedloom",
        "cython_runtime",
    }


def test_import_fedloom_loads_the_standard_library_only() -> None:
    assert third_party("import fedloom") == set()


def test_help_loads_typer_and_rich_and_nothing_else() -> None:
    assert third_party(f"{HELP}try: main()\nexcept SystemExit: pass") <= CLI


def test_the_core_loads_numpy_msgspec_and_safetensors_only() -> None:
    found = third_party("\n".join(f"import {module}" for module in MODULES))
    assert found <= {"numpy", "msgspec", "safetensors", "typing_extensions"}


def test_every_module_of_the_core_is_looked_at() -> None:
    files = sorted(path.stem for path in (Path(fedloom.__file__).parent / "core").glob("*.py"))
    script = "\n".join(f"import fedloom.core.{name}" for name in files if name != "__init__")
    assert third_party(script) <= {"numpy", "msgspec", "safetensors", "typing_extensions"}


def test_a_whole_run_imports_no_torch(tmp_path: Path) -> None:
    script = (
        "from pathlib import Path\nfrom fedloom.cli.demo import run_demo\n"
        f"run_demo(seed=0, output=Path({str(tmp_path)!r}), json=True)"
    )
    found = third_party(script)
    assert {"numpy", "matplotlib"} <= found, "the demonstration writes a report"
    assert not found & {"torch", "jax", "tensorflow", "ray"}


@pytest.mark.parametrize("name", fedloom.__all__)
def test_every_public_name_resolves(name: str) -> None:
    assert getattr(fedloom, name) is not None
    assert name in dir(fedloom)


def test_public_names_are_sorted_and_those_that_type_checkers_see() -> None:
    tree = ast.parse(Path(fedloom.__file__).read_text(encoding="utf-8"))
    guarded = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    (block,) = guarded
    seen = [
        (f"{statement.module}.{alias.name}", alias.asname or alias.name)
        for statement in block.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    ]
    assert sorted(name for _, name in seen) == list(fedloom.__all__) == sorted(set(fedloom.__all__))
    homes = {name: f"fedloom.{home}.{name}" if home else f"fedloom.{name}" for name, home in fedloom._HOME.items()}
    assert {name: home for home, name in seen} == homes


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'fedavgg'"):
        fedloom.fedavgg  # noqa: B018


def test_help_takes_under_three_tenths_of_a_second() -> None:
    """Best of up to twenty whole processes, so that a busy machine does not fail it: the first quick one is enough."""
    best = float("inf")
    for _ in range(20):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", f"{HELP}main()"], capture_output=True, timeout=30, check=True)
        best = min(best, time.perf_counter() - began)
        if best < 0.3:
            return
    raise AssertionError(f"fedloom --help took {best:.2f} s at best")
