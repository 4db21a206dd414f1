"""Sources of rows: partitions of one table, data in memory and files, generated populations."""

from fedloom.data.bundled import sklearn_set
from fedloom.data.csv_file import csv
from fedloom.data.describe import Holding, check_rows, holdings, holdings_table
from fedloom.data.generated import Generated, generated
from fedloom.data.hospitals import hospitals
from fedloom.data.memory import arrays, silos
from fedloom.data.partition import Partition, dirichlet, iid, shards
from fedloom.data.pooled import Pooled

__all__ = [
    "Generated",
    "Holding",
    "Partition",
    "Pooled",
    "arrays",
    "check_rows",
    "csv",
    "dirichlet",
    "generated",
    "holdings",
    "holdings_table",
    "hospitals",
    "iid",
    "shards",
    "silos",
    "sklearn_set",
]
