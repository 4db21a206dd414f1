"""Sources of rows: partitions of one table, data in memory and files, generated populations."""

from fedloom.data.absences import read_absences
from fedloom.data.bundled import sklearn_set
from fedloom.data.csv_file import csv
from fedloom.data.describe import Holding, holdings, holdings_table
from fedloom.data.duplicates import duplicates
from fedloom.data.folder import folder
from fedloom.data.generated import Generated, generated
from fedloom.data.hospitals import hospitals
from fedloom.data.lopsided import lopsided
from fedloom.data.memory import arrays, silos
from fedloom.data.npz_file import npz
from fedloom.data.parquet_file import parquet
from fedloom.data.partition import Partition, dirichlet, iid, shards
from fedloom.data.partition_column import by_column
from fedloom.data.partition_skew import feature_noise, labels_per_client, quantity
from fedloom.data.pooled import Pooled
from fedloom.data.raw_rows import rows_of_csv
from fedloom.data.row_checks import check_rows, grouped_notes
from fedloom.data.sqlite_table import sqlite

__all__ = [
    "Generated",
    "Holding",
    "Partition",
    "Pooled",
    "arrays",
    "by_column",
    "check_rows",
    "csv",
    "dirichlet",
    "duplicates",
    "feature_noise",
    "folder",
    "generated",
    "grouped_notes",
    "holdings",
    "holdings_table",
    "hospitals",
    "iid",
    "labels_per_client",
    "lopsided",
    "npz",
    "parquet",
    "quantity",
    "read_absences",
    "rows_of_csv",
    "shards",
    "silos",
    "sklearn_set",
    "sqlite",
]
