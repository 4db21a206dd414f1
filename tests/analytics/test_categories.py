"""The categories of all clients, without any of them sending a name; rare ones are not followed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedloom.analytics import categories
from fedloom.core.data import ClientDataset, Schema
from fedloom.core.labels import in_order, label_text
from fedloom.errors import ComponentError, DataError

Answer = Callable[..., Any]
shared = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
S = Schema((), texts=("s",))
ST = Schema(("x",), texts=("s", "t"))
names = st.one_of(
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8),
    st.text(st.sampled_from("ab"), max_size=8),
)


def client(*columns: Sequence[str], numbers: Sequence[float] = (), train: int | None = None) -> ClientDataset:
    texts = np.array(columns, dtype=np.str_).T if columns else np.empty((len(numbers), 0), dtype=np.str_)
    rows = len(texts)
    features = np.array(numbers, dtype=float).reshape(rows, -1) if len(numbers) else np.zeros((rows, 0))
    return ClientDataset({"features": features, "texts": texts}, {"train": slice(0, rows if train is None else train)})


@shared
@given(st.lists(st.lists(st.tuples(names, names), min_size=1, max_size=6), min_size=1, max_size=4), st.integers(1, 3))
def test_they_are_those_that_enough_pooled_rows_have(
    answer: Answer, held: list[list[tuple[str, str]]], min_count: int
) -> None:
    clients = [client(*zip(*rows, strict=True), numbers=[1.0] * len(rows)) for rows in held]
    pooled = [Counter(filter(None, (label_text(row[n]) for rows in held for row in rows))) for n in (0, 1)]
    if not all(pooled):
        with pytest.raises(DataError, match="no client has a value in column"):
            answer(categories(min_count=min_count), ST, clients)
        return
    found = answer(categories(min_count=min_count), ST, clients)
    for number, counts in enumerate(pooled):
        common = {name: rows for name, rows in counts.items() if rows >= min_count}
        assert found.names[number] == in_order(list(common))
        assert dict(zip(found.names[number], found.rows[number], strict=True)) == common
        assert found.folded[number] == counts.total() - sum(common.values())


def test_numbers_are_named_as_a_person_would_and_their_columns_come_last(answer: Answer) -> None:
    schema = Schema(("x", "y"), texts=("s",))
    held = [
        client(["b", ""], numbers=[[1.0, 2.5], [2.0, np.nan]]),
        client(["1.0", " b"], numbers=[[10.0, 2.5], [1.0, 0.5]]),
    ]
    found = answer(categories(["y", "x", "s"]), schema, held)
    assert [(column.name, column.position, column.text) for column in found.layout.columns] == [
        ("s", 0, True),
        ("x", 0, False),
        ("y", 1, False),
    ]
    assert found.names == (("1", "b"), ("1", "2", "10"), ("0.5", "2.5"))
    assert found.rows == ((1.0, 2.0), (2.0, 1.0, 1.0), (1.0, 2.0))


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
def test_the_type_of_whole_numbers_does_not_matter(answer: Answer, dtype: str) -> None:
    data = ClientDataset({"features": np.array([[3], [1], [3]], dtype=dtype)}, {"train": slice(0, 3)})
    assert answer(categories(["x"]), Schema(("x",)), [data]).names == (("1", "3"),)


def test_where_every_way_is_followed_long_names_that_part_early_take_few_rounds(answer: Answer) -> None:
    long = ["professional services", "agriculture, fishing", "a" * 64]
    seen: list[object] = []
    assert answer(categories(), S, [client(long[:2]), client(long[1:])], seen=seen).names == (tuple(sorted(long)),)
    assert len(seen) - 1 == 4  # after "", after "a" and "p", after "aa" and "ag", after 64 bytes


def test_a_stretch_that_all_share_is_taken_at_once(answer: Answer) -> None:
    seen: list[object] = []
    shared_beginning = ["household: married", "household: single"]
    found = answer(categories(), S, [client(shared_beginning[:1] * 3), client(shared_beginning[1:])], seen=seen)
    assert found.names == (tuple(shared_beginning),)
    assert len(seen) - 1 == 3


def test_a_name_may_be_the_beginning_of_another(answer: Answer) -> None:
    for min_count in (1, 2):
        held = [client(["a", "ab", "abc", "b"] * min_count)]
        assert answer(categories(min_count=min_count), S, held).names == (("a", "ab", "abc", "b"),)


def test_more_beginnings_than_a_round_asks_about_take_more_rounds_and_nothing_else(answer: Answer) -> None:
    many = [f"{letter}{number}" for letter in "abcdefgh" for number in range(8)]
    for min_count in (1, 3):
        held = [client(many * 3, many[::-1] * 3)]
        found = answer(categories(min_count=min_count, max_categories=64), Schema((), texts=("s", "t")), held)
        assert found.names == (in_order(many), in_order(many))


def test_what_travels_of_a_rare_name_is_its_beginning(answer: Answer) -> None:
    query = categories(min_count=3)
    state, told = query.init(S), []
    held = [client(["common"] * 3), client(["confidential", "cook", "cook", "cook"])]
    while not query.done(state):
        sums = sum(query.ask(state).read(each)["categories"] for each in held)
        told.append({chr(way % 257) for way in np.flatnonzero(sums) if way % 257 < 256})
        state = query.step(state, type("Total", (), {"__getitem__": lambda self, part, sums=sums: sums})())
    assert query.result(state).names == (("common", "cook"),)
    assert query.result(state).folded == (1.0,)
    assert told[:4] == [{"c"}, {"o"}, {"m", "n", "o"}, {"m", "k"}]
    assert not any({"f", "i", "d", "t"} & letters for letters in told), "nothing after con was asked"


def test_rows_of_the_test_split_and_clients_without_rows_are_not_read(answer: Answer) -> None:
    held = [client(["a", "b", "secret"], train=2), client(["hidden"], train=0), client([])]
    assert answer(categories(), S, held[:2]).names == (("a", "b"),)


def test_states_are_saved_and_a_round_has_one_size(answer: Answer, restarted: Callable[..., None]) -> None:
    held = [client(["a", "ab"], ["x", "y"], numbers=[1, 2])]
    for min_count, width in ((1, 32 * 385), (2, 32 * 257)):
        query = categories(["s", "t", "x"], min_count=min_count)
        seen: list[object] = []
        answer(query, ST, held * 2, seen=seen)
        restarted(query, ST, seen)
        assert query.parts(ST)["categories"].size == width


def test_small_errors_of_a_sum_change_no_name(answer: Answer) -> None:
    for noise in (1e-3, -1e-3):
        for min_count in (1, 2):
            held = [client(["cook", "clerk"]), client(["cook", "clerk"])]
            found = answer(categories(min_count=min_count), S, held, noise=noise)
            assert found.names == (("clerk", "cook"),)


def test_too_many_and_too_long_are_errors_that_name_column_and_limit(answer: Answer) -> None:
    assert len(answer(categories(max_categories=3), S, [client(["a", "b"]), client(["c"])]).names[0]) == 3
    with pytest.raises(DataError, match=r"categories: column `s` has more than max_categories = 2"):
        answer(categories(max_categories=2), S, [client(["a", "b"]), client(["c"])])
    for min_count in (1, 2):
        assert answer(categories(min_count=min_count), S, [client(["é" * 32] * 2)]).names == (("é" * 32,),)
        with pytest.raises(DataError, match="column `s` holds texts of more than 64 bytes"):
            answer(categories(min_count=min_count), S, [client(["x" * 65] * 2)])


def test_a_column_without_values_is_an_error_with_its_name_and_one_with_rare_ones_only_is_none(answer: Answer) -> None:
    with pytest.raises(DataError, match="no client has a value in column `t`"):
        answer(categories(), ST, [client(["a"], [""], numbers=[1.0])])
    found = answer(categories(min_count=5), S, [client(["a", "b", "b"])])
    assert (found.names, found.folded) == (((),), (3.0,))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"min_count": 0}, "min_count = 0; expected 1 or more"),
        ({"max_categories": 0}, "max_categories = 0"),
        ({"columns": []}, "columns is empty"),
        ({"columns": ["s", "s"]}, "names `s` twice"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(ComponentError, match=match):
        categories(**arguments)


def test_a_column_that_is_not_there_is_an_error_before_round_1() -> None:
    with pytest.raises(DataError, match="no column `z`; the columns are `x`, `s`, `t`"):
        categories(["z"]).init(ST)


def test_sums_that_are_no_text_are_an_error() -> None:
    query = categories(min_count=2)
    state = query.init(S)
    for way in (0xFF, 256):
        total = np.zeros(32 * 257)
        total[way] = 2.0
        state = query.step(state, type("Total", (), {"__getitem__": lambda self, part, total=total: total})())
    with pytest.raises(DataError, match="no UTF-8 text"):
        query.result(state)
