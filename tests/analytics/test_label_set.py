"""The label set of all clients, without any of them sending a label."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedloom.analytics import LabelSet, label_set
from fedloom.core.data import ClientDataset, Schema
from fedloom.core.labels import in_order, label_text
from fedloom.errors import ComponentError, DataError

Answer = Callable[..., Any]
shared = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
RAW = Schema(("a",), "label")
names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=6).filter(
    lambda text: text.strip() == text and text not in {"nan", "None"}
)


def client(labels: Sequence[object] | np.ndarray, train: int | None = None) -> ClientDataset:
    label = np.asarray(labels)
    return ClientDataset({"label": label}, {"train": slice(0, len(label) if train is None else train)})


@shared
@given(st.lists(st.lists(names, min_size=1, max_size=5), min_size=1, max_size=4))
def test_it_is_the_union_of_the_clients_labels_in_class_order(answer: Answer, held: list[list[str]]) -> None:
    result = answer(label_set(20).query, RAW, [client(each) for each in held])
    assert result == LabelSet(in_order([label_text(text) for each in held for text in each]))


@shared
@given(st.lists(st.one_of(st.integers(-30, 30), st.floats(-3, 3).map(lambda x: round(x, 1))), min_size=1, max_size=20))
def test_numbers_and_text_name_classes_as_data_in_memory_does(answer: Answer, values: list[float]) -> None:
    by_number = answer(label_set(20).query, RAW, [client(values)])
    by_text = answer(label_set(20).query, RAW, [client([str(value) for value in values])])
    assert by_number == LabelSet(in_order([label_text(value) for value in values]))
    assert len(by_text.classes) >= len(by_number.classes)  # "-0.0" and "0" are two texts


def test_whole_numbers_agree_however_they_are_written(answer: Answer) -> None:
    held = [client([1, 10]), client([1.0, 2.0]), client(["10", "9.0"]), client(np.array([2, "1"], dtype=object))]
    assert answer(label_set().query, RAW, held) == LabelSet(("1", "2", "9", "10"))


def test_a_label_may_be_the_beginning_of_another(answer: Answer) -> None:
    held = [client(["a", "ab"]), client(["abc", "b"])]
    assert answer(label_set().query, RAW, held) == LabelSet(("a", "ab", "abc", "b"))


def test_states_keep_their_layout_and_the_rounds_are_the_longest_label_and_one(
    answer: Answer, same_layout: Callable[..., None]
) -> None:
    seen: list[object] = []
    answer(label_set(8).query, RAW, [client(["ja", "nein"]), client(["n"])], seen=seen)
    assert len(seen) == 1 + len("nein") + 1
    same_layout(seen)


def test_a_client_answers_with_zeros_and_ones_only() -> None:
    query = label_set(4).query
    sent = query.ask(query.init(RAW)).read(client(["yes", "no", "no", "never"]))["label_set"]
    assert sent.shape == (4 * 257,)
    assert sorted(np.flatnonzero(sent).tolist()) == [ord("n"), ord("y")]
    assert set(sent.tolist()) == {0.0, 1.0}


def test_small_errors_of_a_sum_do_not_add_labels(answer: Answer) -> None:
    for noise in (1e-3, -1e-3):
        assert answer(label_set().query, RAW, [client(["x", "y"])], noise=noise) == LabelSet(("x", "y"))


def test_only_training_rows_are_read_and_a_client_may_have_none(answer: Answer) -> None:
    held = [client(["a", "b", "secret"], train=2), client(["hidden"], train=0)]
    assert answer(label_set().query, RAW, held) == LabelSet(("a", "b"))


def test_as_many_classes_as_the_limit_pass_and_one_more_is_an_error_that_names_it(answer: Answer) -> None:
    assert len(answer(label_set(3).query, RAW, [client(["a", "b"]), client(["c"])]).classes) == 3
    with pytest.raises(DataError, match="more than max_classes = 2 classes"):
        answer(label_set(2).query, RAW, [client(["a", "b"]), client(["c"])])


def test_a_label_of_64_bytes_passes_and_one_more_is_an_error_that_names_the_limit(answer: Answer) -> None:
    for longest in ("x" * 64, "é" * 32):
        assert answer(label_set().query, RAW, [client([longest, "y"])]).classes == tuple(sorted([longest, "y"]))
    for longer in ("x" * 65, "é" * 33):
        with pytest.raises(DataError, match="longer than 64 bytes"):
            answer(label_set().query, RAW, [client([longer])])


def test_no_labels_at_all_are_an_error(answer: Answer) -> None:
    with pytest.raises(DataError, match="no client has a labelled training row"):
        answer(label_set().query, RAW, [client(["a"], train=0)])


@pytest.mark.parametrize("label", [[1.0, np.nan], ["a", ""], np.array(["a", None], dtype=object)])
def test_a_missing_label_is_an_error_with_its_count(answer: Answer, label: Sequence[object]) -> None:
    with pytest.raises(DataError, match="1 of 2 training labels are missing"):
        answer(label_set().query, RAW, [client(label)])


def test_data_that_name_their_classes_need_no_agreement() -> None:
    with pytest.raises(DataError, match="already name their 2 classes; leave this preparation out"):
        label_set().query.init(Schema(("a",), "label", ("no", "yes")))


def test_sums_that_are_no_text_are_an_error() -> None:
    query = label_set(2).query
    state = query.init(RAW)
    for way in (0xFF, 256):
        total = np.zeros((2, 257))
        total[0, way] = 1.0
        parts = {"label_set": total.reshape(-1)}
        state = query.step(state, type("Total", (), {"__getitem__": lambda self, part, parts=parts: parts[part]})())
    with pytest.raises(DataError, match="no UTF-8 text"):
        query.result(state)


def test_labels_become_indices_and_the_schema_names_the_classes() -> None:
    change = label_set().transform(LabelSet(("1", "2", "10")))
    after = change.apply(client([10.0, 1.0, 2.0], train=2))
    assert (after.arrays["label"].tolist(), after.arrays["label"].dtype) == ([2, 0, 1], np.int64)
    assert after.count("train") == 2
    assert change.schema(RAW).classes == ("1", "2", "10")


def test_labels_outside_the_set_are_counted_and_not_shown() -> None:
    change = label_set().transform(LabelSet(("no", "yes")))
    with pytest.raises(DataError) as caught:
        change.apply(client(["yes", "private", "private", "no"]))
    assert "2 of 4 rows" in str(caught.value)
    assert "private" not in str(caught.value)


def test_rows_without_labels_pass_through() -> None:
    data = ClientDataset({"features": np.ones((2, 1))})
    assert label_set().transform(LabelSet(("no", "yes"))).apply(data) is data


def test_one_class_alone_is_reported() -> None:
    report = label_set().report
    assert report(LabelSet(("a", "b")), RAW) == ()
    assert "one class" in report(LabelSet(("a",)), RAW)[0]


def test_the_part_is_as_large_as_max_classes_allow() -> None:
    assert label_set(5).query.parts(RAW)["label_set"].size == 5 * 257
    with pytest.raises(ComponentError, match="max_classes = 0"):
        label_set(0)
