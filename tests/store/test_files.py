from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedloom.core.params import Leaf, ParamSpec, model_sha256
from fedloom.errors import StoreError
from fedloom.store import read_model, write_model, write_rounds, write_text

LAYOUT = ParamSpec((Leaf("z", (2, 3)), Leaf("a", ()), Leaf("mean", (2,), "statistic"), Leaf("none", (0, 4))))
PARAMS = np.arange(9.0) / 7
METADATA = {"digest": "ab", "prepared": "[]"}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_model_comes_back_with_its_layout_and_metadata(tmp_path: Path, dtype: str) -> None:
    path, params = tmp_path / "model.safetensors", PARAMS.astype(dtype)
    write_model(path, LAYOUT, params, METADATA)
    layout, found, metadata = read_model(path)
    assert layout == LAYOUT
    assert found.dtype == params.dtype
    assert found.tobytes() == params.tobytes()
    assert metadata == {**METADATA, "model_sha256": model_sha256(LAYOUT, params)}
    data = path.read_bytes()
    write_model(path, layout, found, dict(reversed(metadata.items())))
    assert path.read_bytes() == data
    assert safetensors.numpy.load_file(path)["z"].tolist() == params[:6].reshape(2, 3).tolist()


def test_params_need_not_be_contiguous(tmp_path: Path) -> None:
    spread = np.repeat(PARAMS, 2)[::2]
    write_model(tmp_path / "m", LAYOUT, spread, {})
    assert read_model(tmp_path / "m")[1].tolist() == PARAMS.tolist()


def test_metadata_cannot_contradict_the_file(tmp_path: Path) -> None:
    for name in ("leaves", "model_sha256"):
        with pytest.raises(StoreError, match="that name is taken"):
            write_model(tmp_path / "m", LAYOUT, PARAMS, {name: "other"})
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0), mask=st.integers(1, 255))
def test_a_flipped_byte_in_a_model_is_an_error_or_harmless(tmp_path: Path, place: int, mask: int) -> None:
    path = tmp_path / "model.safetensors"
    write_model(path, LAYOUT, PARAMS, {})
    data = bytearray(path.read_bytes())
    data[place % len(data)] ^= mask
    path.write_bytes(data)
    try:
        layout, params, _ = read_model(path)
    except StoreError:
        return
    assert (layout, params.tolist()) == (LAYOUT, PARAMS.tolist())


def test_what_is_no_model_of_ours_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="does not exist"):
        read_model(tmp_path / "absent")
    safetensors.numpy.save_file({"w": PARAMS}, tmp_path / "foreign")
    with pytest.raises(StoreError, match="not a model that fedloom wrote"):
        read_model(tmp_path / "foreign")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(StoreError, match="is damaged"):
        read_model(tmp_path / "text")
    for number, data in enumerate((pickle.dumps({"weights": [1.0]}), b"PK\x03\x04" + bytes(100))):
        (tmp_path / f"pickle{number}").write_bytes(data)
        with pytest.raises(StoreError, match=r"a pickle or an archive.*never loaded"):
            read_model(tmp_path / f"pickle{number}")
    with pytest.raises(StoreError, match="is a folder"):
        read_model(tmp_path)


def test_rounds_hold_params_and_leaves(tmp_path: Path) -> None:
    rounds = np.stack([PARAMS, PARAMS + 1])
    write_rounds(tmp_path / "rounds.npz", rounds, LAYOUT)
    with np.load(tmp_path / "rounds.npz", allow_pickle=False) as found:
        assert found["params"].tobytes() == rounds.tobytes()
        assert json.loads(str(found["leaves"]))[:2] == [["z", [2, 3], "parameter"], ["a", [], "parameter"]]
    with pytest.raises(StoreError, match=r"shape \(2, 8\); expected \(rounds \+ 1, 9\)"):
        write_rounds(tmp_path / "rounds.npz", rounds[:, :8], LAYOUT)


def _write_text(path: Path) -> None:
    write_text(path, "new")


def _write_model(path: Path) -> None:
    write_model(path, LAYOUT, PARAMS, {})


def _write_rounds(path: Path) -> None:
    write_rounds(path, PARAMS[None], LAYOUT)


@pytest.mark.parametrize("write", [_write_text, _write_model, _write_rounds])
@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_crash_before_the_rename_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], None], step: str
) -> None:
    class Crash(BaseException):
        pass

    def crash(*arguments: object) -> None:
        raise Crash

    path = tmp_path / "file"
    path.write_text("old")
    monkeypatch.setattr(os, step, crash)
    with pytest.raises(Crash):
        write(path)
    monkeypatch.undo()
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "old"
    write(path)
    assert path.read_bytes() != b"old"


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    for name, function in (("fsync", os.fsync), ("replace", os.replace)):

        def step(*arguments: Any, name: str = name, function: Callable[..., None] = function) -> None:
            steps.append(name)
            function(*arguments)

        monkeypatch.setattr(os, name, step)
    write_text(tmp_path / "file", "Zürich")
    assert steps == (["fsync", "replace", "fsync"] if os.name == "posix" else ["fsync", "replace"])
    assert (tmp_path / "file").read_bytes() == "Zürich".encode()


def test_a_folder_where_the_file_should_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(StoreError, match="is a folder; a file is expected there"):
        write_text(tmp_path / "file", "new")
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
