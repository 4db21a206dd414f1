from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import fedloom.store

LOADED = """
import sys
import fedloom.store
print(*sorted({name.partition(".")[0] for name in sys.modules} - set(sys.stdlib_module_names)))
"""


def test_an_import_loads_three_packages(process: Callable[..., subprocess.Popen[str]]) -> None:
    out, err = process(LOADED).communicate(timeout=30)
    loaded = {name for name in out.split() if not name.startswith("_")}
    companions = {"cython_runtime", "typing_extensions"}  # of numpy and msgspec
    assert loaded - companions == {"fedloom", "numpy", "safetensors", "msgspec"}, err


def test_the_public_names_are_listed_sorted_and_there() -> None:
    assert list(fedloom.store.__all__) == sorted(fedloom.store.__all__)
    assert all(hasattr(fedloom.store, name) for name in fedloom.store.__all__)
    assert "sqlite3" in sys.modules
