"""Which code would run at a site, named by what is installed; nothing is imported to find out."""

from __future__ import annotations

import base64
import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedloom.core.component import ComponentSpec
from fedloom.errors import ComponentError
from fedloom.experiment import Experiment
from fedloom.experiment.examination import named_parts
from fedloom.experiment.packages import Installed, Part, installed, parts_of

GROUPS: dict[str, str] = {"learners": "best = ward_models:best"}
CODE = "raise SystemExit('imported')\n"
BEST = Part(("learner",), "fedloom.learners", "best")


def of(part: Part) -> Installed:
    (found,) = installed([part])
    return found


def write_record(site: Path, name: str, *, version: str = "1.0") -> str:
    """Write the RECORD that an installer leaves, and return its SHA-256."""
    info = f"{name}-{version}.dist-info"
    lines = []
    for path in [f"{name}.py", f"{info}/METADATA", f"{info}/entry_points.txt"]:
        digest = base64.urlsafe_b64encode(hashlib.sha256((site / path).read_bytes()).digest()).rstrip(b"=").decode()
        lines.append(f"{path},sha256={digest},{(site / path).stat().st_size}")
    text = "\n".join([*lines, f"{info}/RECORD,,"]) + "\n"
    (site / info / "RECORD").write_text(text)
    return hashlib.sha256(text.encode()).hexdigest()


def test_a_package_is_named_by_its_record(install: Callable[..., None], tmp_path: Path) -> None:
    install("ward_models", CODE, version="2.1", **GROUPS)
    assert of(BEST).record is None
    record = write_record(tmp_path / "site-ward_models", "ward_models", version="2.1")
    found = of(BEST)
    assert (found.distribution, found.version, found.record, found.altered) == ("ward_models", "2.1", record, ())
    assert str(found) == f"ward_models==2.1 sha256:{record}"
    assert "ward_models" not in sys.modules


def test_b24_a_file_changed_after_it_was_installed_is_told(install: Callable[..., None], tmp_path: Path) -> None:
    install("ward_models", CODE, **GROUPS)
    site = tmp_path / "site-ward_models"
    write_record(site, "ward_models")
    (site / "ward_models.py").write_text("stolen = 1\n")
    assert of(BEST).altered == ("ward_models.py",)
    (site / "ward_models.py").unlink()
    assert "ward_models.py" in of(BEST).altered


def test_b24_another_module_of_the_same_name_is_told(
    install: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package is installed and whole, and Python would import something else."""
    install("ward_models", CODE, **GROUPS)
    write_record(tmp_path / "site-ward_models", "ward_models")
    other = tmp_path / "other"
    other.mkdir()
    (other / "ward_models.py").write_text("best = print\n")
    monkeypatch.syspath_prepend(other)
    assert of(BEST).altered == (f"ward_models is found in {other / 'ward_models.py'}",)


def test_a_name_that_two_packages_provide_is_refused(install: Callable[..., None]) -> None:
    install("ward_models", CODE, **GROUPS)
    install("other_models", CODE, learners="best = other_models:best")
    with pytest.raises(ComponentError, match="provided twice"):
        of(BEST)


def test_a_name_that_nothing_provides_has_no_package() -> None:
    found = of(BEST)
    assert (found.distribution, str(found)) == ("", "no installed package")


def test_fedloom_provides_its_own() -> None:
    found = of(Part(("learner",), "fedloom.learners", "logistic"))
    assert found.distribution == "fedloom" and found.version


def spec(group: str, name: str, **arguments: Any) -> dict[str, Any]:
    return {"group": f"fedloom.{group}", "name": name, "arguments": arguments}


EXPERIMENT = Experiment(
    data=ComponentSpec("fedloom.datasets", "csv", {"path": "all.csv", "label": "ill", "client": "ward"}),
    learner=ComponentSpec("fedloom.learners", "logistic", {}),
    algorithm=ComponentSpec("fedloom.algorithms", "fedavg", {"local": {"epochs": 1}}),
    stop=ComponentSpec("fedloom.stops", "max_rounds", {"rounds": 2}),
    seed=5,
)


def test_every_named_part_of_an_experiment_is_found() -> None:
    tree = EXPERIMENT.as_json()
    names = {(part.group, part.name) for part in parts_of(tree)}
    assert names >= {
        ("fedloom.datasets", "csv"),
        ("fedloom.learners", "logistic"),
        ("fedloom.algorithms", "fedavg"),
        ("fedloom.pipelines", "chain"),
        ("fedloom.stages", "mean"),
        ("fedloom.cohorts", "all"),
        ("fedloom.stops", "max_rounds"),
    }
    assert [part.field for part in named_parts(tree, "npz")][-1] == "policy.source"


@pytest.mark.parametrize(
    "hidden",
    [
        {"name": "evil"},
        {"name": "evil", "rate": 1},
        {"name": "evil", "arguments": {}},
        {"group": "fedloom.optimizers", "name": "evil", "arguments": {}, "also": 1},
        {"group": "fedloom.optimizers", "name": "evil", "arguments": 7},
        {"group": 3, "name": "evil", "arguments": {}},
        {"group": "fedloom.optimizers", "name": "evil"},
    ],
)
def test_a_name_cannot_stand_where_it_would_not_be_seen(hidden: dict[str, Any]) -> None:
    tree = EXPERIMENT.as_json()
    tree["algorithm"]["arguments"]["local"]["optimizer"] = hidden
    with pytest.raises(ComponentError):
        list(parts_of(tree))


def test_a_list_hides_no_name_either() -> None:
    tree = EXPERIMENT.as_json()
    tree["prepare"] = [[{"x": [spec("preparations", "evil", inner={"name": "worse"})]}]]
    with pytest.raises(ComponentError, match="worse"):
        list(parts_of(tree))


def test_settings_that_are_nested_without_end_are_refused() -> None:
    tree: Any = {}
    for _ in range(100_000):
        tree = {"a": tree}
    with pytest.raises(ComponentError, match="too deeply"):
        named_parts(tree, "csv")
