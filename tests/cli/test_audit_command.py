"""``fedloom audit --layer``: a claim that holds, one that does not, and what cannot be audited."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedloom.core.params import Vector
from fedloom.privacy import mechanisms
from fedloom.privacy.noise import gaussian_noise

Run = Callable[..., tuple[int, str, str]]
NOISED = '{ name = "mean", expected = 10 }, { name = "gaussian", clip = 0.5, noise_multiplier = 1.0 }'
FEW = ("--releases", "200")


@pytest.fixture
def private(tmp_path: Path) -> Callable[..., Path]:
    """Write an experiment that promises privacy."""

    def write(
        *, stages: str = NOISED, privacy: str = '{ unit = "client", delta = 1e-3 }', local: str = "", prepare: str = ""
    ) -> Path:
        path = tmp_path / "private.toml"
        path.write_text(
            "\n".join(
                [
                    "seed = 3",
                    f"privacy = {privacy}" if privacy else "",
                    '[data]\nname = "generated"\nclients = 100\nrows = 10\nfeatures = 6',
                    prepare,
                    '[learner]\nname = "logistic"',
                    '[algorithm]\nname = "fedavg"\nweighting = "uniform"',
                    f"local = {{ steps = 2, learning_rate = 0.1{local} }}",
                    f"[pipeline]\nstages = [{stages}]",
                    '[cohort]\nname = "poisson"\nrate = 0.1',
                    '[[stop]]\nname = "max_rounds"\nrounds = 5',
                ]
            )
        )
        return path

    return write


def test_people_read_the_claim_and_what_each_canary_shows(tmp_path: Path, private: Any, command: Run) -> None:
    code, out, err = command("audit", "--layer", private(), *FEW)
    assert (code, err) == (0, "")
    for text in (
        "mean, gaussian", "float Gaussian noise, 1 times the bound", "for 2 sums", "1,000 C in the intercept",
        "C in a coordinate", "0 in a coordinate", "lower bound: absence of evidence is not privacy",
    ):  # fmt: skip
        assert text in out, text
    assert out.count("not rejected") == 5
    assert "a vector of 4 parameters in place of the model's" in " ".join(out.split())
    assert not (tmp_path / "runs").exists()


def test_the_same_in_json_and_the_same_again(private: Any, command: Run) -> None:
    code, out, err = command("audit", "--layer", private(), *FEW, "--json")
    assert (code, err) == (0, "")
    assert out.count("\n") == 1
    found = json.loads(out)
    assert (found["rejected"], found["releases"], found["delta"], len(found["canaries"])) == (False, 200, 1e-3, 5)
    assert found["claimed_epsilon"] > found["epsilon_low"]
    assert json.loads(command("audit", "--layer", private(), *FEW, "--json")[1]) == found


def test_a_false_claim_ends_with_code_1(private: Any, command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def less_noise(total: Vector, last: Any, secret: Any, *, noise_multiplier: float) -> Vector:
        return gaussian_noise(total, last, secret, noise_multiplier=noise_multiplier / 4)

    monkeypatch.setattr(mechanisms, "GAUSSIAN", replace(mechanisms.GAUSSIAN, noise=less_noise))
    code, out, err = command("audit", "--layer", private(), *FEW)
    assert (code, err) == (1, "")
    assert out.count("REJECTED") == 4
    assert "The claim is false" in out
    code, out, _ = command("audit", "--layer", private(), *FEW, "--json")
    assert code == 1
    assert json.loads(out)["rejected"]


def test_real_entropy_is_for_integers(private: Any, command: Run) -> None:
    whole = private(stages=NOISED + ', { name = "fixed_point" }')
    assert command("audit", "--layer", whole, "--releases", "100", "--fresh")[0] == 0
    code, _, err = command("audit", "--layer", private(), *FEW, "--fresh")
    assert code == 2
    assert "Add fixed_point() behind the mechanism" in " ".join(err.split())


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"privacy": "", "stages": '{ name = "mean" }'}, "promises no privacy"),
        ({"stages": '{ name = "mean", expected = 10 }'}, "nothing protects"),
        (
            {
                "stages": '{ name = "mean", expected = 10 }',
                "privacy": '{ unit = "record", delta = 1e-4 }',
                "local": ", private = { clip = 1.0, noise_multiplier = 1.0, rate = 0.5, rows = 10 }",
            },
            "makes no claim to audit",
        ),
        ({"prepare": '[[prepare]]\nname = "standardise"'}, "nothing protects the answer"),
    ],
)
def test_what_makes_no_claim_is_not_audited(changed: Any, says: str, private: Any, command: Run) -> None:
    code, out, err = command("audit", "--layer", private(**changed), *FEW)
    assert (code, out) == (2, "")
    assert says in " ".join(err.split())


def test_what_to_audit_must_be_said_and_enough_of_it(private: Any, command: Run) -> None:
    code, _, err = command("audit", private())
    assert code == 2
    assert "--layer" in err
    code, _, err = command("audit", "--layer", private(), "--releases", "10")
    assert code == 2
    assert "at least 100 releases" in err
