from __future__ import annotations

import inspect
from typing import Any, get_args

import pytest

from fedloom.core.component import GROUPS
from fedloom.errors import ComponentError, MissingExtra
from fedloom.experiment import builder, names, provider
from fedloom.experiment.schema import parameters

REGISTERED = [(group, name) for group in GROUPS for name in names(group)]


@pytest.mark.parametrize(("group", "name"), REGISTERED)
def test_a_registered_name_is_that_of_its_component(group: str, name: str) -> None:
    found: Any = builder(group, name)
    assert found.__component__ == (group, name)


@pytest.mark.parametrize(("group", "name"), REGISTERED)
def test_every_argument_of_a_registered_builder_can_stand_in_a_file(group: str, name: str) -> None:
    takes = parameters(builder(group, name))
    assert "name" not in takes, "a table's `name` is that of its component"
    for parameter in takes.values():
        assert "Any" not in get_args(parameter.shape.annotation)
        assert str(parameter.shape) != "nothing"
        assert "ndarray" not in str(parameter.shape)


def test_an_unknown_name_offers_the_nearest_and_lists_all() -> None:
    with pytest.raises(ComponentError) as error:
        builder("fedloom.cohorts", "unifrom")
    assert str(error.value) == (
        'fedloom.cohorts has no "unifrom"; did you mean "uniform"?; it has all, by_size, poisson, truncated_poisson, '
        "uniform"
    )


def test_a_plug_in_is_found_and_its_package_is_told(install: Any) -> None:
    install(
        "plug",
        """
        from fedloom.core.component import component
        from fedloom.runtime import stopping

        @component("fedloom.stops")
        def never(*, patience: int = 1) -> stopping.Stop:
            return stopping.Stop(name="never", holds=lambda records: None)
        """,
        version="2.5",
        stops="never = plug:never",
    )
    assert "never" in names("fedloom.stops")
    assert list(inspect.signature(builder("fedloom.stops", "never")).parameters) == ["patience"]
    assert str(provider("fedloom.stops", "never")) == "plug 2.5"
    assert provider("fedloom.stops", "ever") is None


def test_a_name_from_two_packages_is_an_error_that_names_both(install: Any) -> None:
    install("one", "", version="1.0", stops="twice = one:f")
    install("two", "", version="2.0", stops="twice = two:f")
    with pytest.raises(ComponentError) as error:
        builder("fedloom.stops", "twice")
    assert str(error.value) == (
        'fedloom.stops "twice" is provided twice: by one:f of one 1.0 and two:f of two 2.0. Uninstall one of them'
    )


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import no_such_module_at_all", "cannot be imported: ModuleNotFoundError: No module named"),
        ("x = 1", "cannot be imported: AttributeError"),
        ("def f(:", "cannot be imported: SyntaxError"),
        ("f = 3", "is not a function"),
    ],
)
def test_a_plug_in_that_cannot_be_imported_is_an_error_that_names_it(install: Any, code: str, message: str) -> None:
    install("broken", code, stops="broken = broken:f")
    with pytest.raises(ComponentError, match=r'fedloom\.stops "broken" \(broken:f of broken 1\.0\) ' + message):
        builder("fedloom.stops", "broken")


def test_a_missing_extra_stays_one(install: Any) -> None:
    install(
        "needy", 'from fedloom.errors import MissingExtra\nraise MissingExtra("f", extra="torch")', stops="f = needy:f"
    )
    with pytest.raises(MissingExtra):
        builder("fedloom.stops", "f")
