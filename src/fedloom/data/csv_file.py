"""Datasets from one CSV file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedloom.core.component import component
from fedloom.data.csv_rows import read_csv
from fedloom.data.memory import Task, owners_of
from fedloom.data.partition import Partition
from fedloom.data.pooled import Pooled
from fedloom.data.sheet import Roles
from fedloom.data.sheet_dataset import Rules, dataset_of


@component("fedloom.datasets")
def csv(
    path: Path,
    *,
    label: str,
    client: str | None = None,
    partition: Partition | None = None,
    group: str | None = None,
    columns: Sequence[str] | None = None,
    categories: Sequence[str] = (),
    classes: Sequence[str] | None = None,
    fold: str | None = None,
    test: float = 0.25,
    validation: float = 0.0,
    seed: int = 0,
    task: Task = "classification",
) -> Pooled:
    r"""Return a dataset of the rows of a CSV file: UTF-8, commas, names of columns in the first line.

    Features are numbers, or names of categories where ``categories`` says so. An empty cell, ``?``, ``NA`` and ``nan``
    stand for a value that is not known. Labels of a classification stay text unless ``classes`` are given: one file
    cannot know which classes the others hold, so the schema has none until ``label_set`` has asked.

    Args:
        path: The file.
        label: Column to predict.
        client: Column that names each row's client; exclusive with ``partition``.
        partition: A way to deal the rows to clients.
        group: Column that names each row's person, whose rows stay on one side of the split.
        columns: Features to read; by default every column but label, client, group and fold.
        categories: Columns that hold names of categories, not numbers; a preparation makes numbers of them.
        classes: Names of all classes in the order of their indices: what everyone knows, nobody has to ask.
        fold: Column that says train, validation or test for each row, in place of ``test`` and ``validation``.
        test: Share of each client's rows that is held back for test.
        validation: Share of each client's rows that is held back for validation.
        seed: Governs the partition and the split.
        task: "classification" or "regression".

    Raises:
        ComponentError: When arguments exclude each other, or a share is outside its range.
        DataError: When the file cannot be read as described; it names path, line and column.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "visits.csv")
        ...     _ = path.write_text("age,ward,outcome\n61,north,ill\n40,south,well\n?,south,ill\n")
        ...     data = csv(path, label="outcome", client="ward", test=0.0)
        >>> data.schema().columns, data.client(data.population().id(1)).arrays["label"].tolist()
        (('age',), ['well', 'ill'])
    """
    roles = Roles(label=label, client=client, group=group, fold=fold, columns=columns, categories=categories)
    rules = Rules(roles=roles, classes=classes, test=test, validation=validation, seed=seed, task=task)
    chosen = owners_of(client, partition, name="client")
    sheet = read_csv(Path(path), roles.wanted)
    return dataset_of(sheet, rules, owners=chosen if isinstance(chosen, Partition) else sheet.words[chosen])
