"""Raw rows of a CSV file for a schema that was agreed: what a finished model predicts on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fedloom.core.data import FEATURES, LABEL, TEXTS, ClientDataset, Schema
from fedloom.data.csv_rows import read_csv
from fedloom.data.pooled import nearest
from fedloom.data.sheet import Wanted, unlike
from fedloom.data.sheet_dataset import class_indices, numbers_to_predict
from fedloom.errors import DataError


def rows_of_csv(path: Path, schema: Schema, *, label: bool = False) -> ClientDataset:
    r"""Return the rows of a CSV file as the columns of a schema, found by name; all of them are test rows.

    The file may have further columns, and its columns any order. Rows keep their order, and values may be missing.

    Args:
        path: The file: UTF-8, commas, names of columns in the first line.
        schema: Columns before any preparation. With classes, labels become their indices; without, they are numbers.
        label: Whether to read the label where the file has it; the result has none where it does not.

    Raises:
        DataError: When columns are missing, with the nearest names in the file, or a cell cannot be used, with its
            line and column.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "new.csv")
        ...     _ = path.write_text("name,bp,age\nAnn,120,61\nBob,,40\n")
        ...     rows = rows_of_csv(path, Schema(("age", "bp"), "outcome", ("well", "ill")))
        >>> rows.arrays["features"].tolist(), rows.count("test")
        ([[61.0, 120.0], [40.0, nan]], 2)
    """
    features = Wanted(numbers=schema.columns, texts=schema.texts)

    def choose(names: Sequence[str], where: str) -> Wanted:
        expected = (*schema.columns, *schema.texts)
        problem = unlike(expected, [name for name in names if name in expected])
        if problem:
            near = (nearest(name, names) for name in expected if name not in names)
            raise DataError(f"{where}: {problem}{next(filter(None, near), '. Columns are found by their names')}")
        if not label or schema.label is None or schema.label not in names:
            return features
        return replace(features, words=(schema.label,), label=schema.label)

    sheet = read_csv(Path(path), choose)
    arrays = {FEATURES: sheet.features}
    if schema.texts:
        arrays[TEXTS] = sheet.texts
    if sheet.wanted.label is not None:
        arrays[LABEL] = (
            numbers_to_predict(sheet, sheet.wanted.label)
            if schema.classes is None
            else class_indices(sheet, sheet.wanted.label, schema.classes)
        )
    return ClientDataset(arrays, {"test": slice(0, len(sheet))})
