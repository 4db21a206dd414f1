"""What a deal of rows leaves clients without: a second class, or rows to be tested on."""

from __future__ import annotations

from collections.abc import Sequence

from fedloom.data.describe import Holding, holdings_table


def lopsided(rows: Sequence[Holding]) -> str | None:
    """Return one note, with the table of who holds what, where clients lack what others have; None where none does.

    A client of one class cannot learn to tell classes apart by itself, and has no AUROC; one without test rows cannot
    be told what the federation was worth to it. The table has those clients alone.

    Example:
        >>> from fedloom.core.ids import ClientId
        >>> north = Holding(client=ClientId("north"), train=5, validation=0, test=2, classes={"ill": 3, "well": 4})
        >>> south = Holding(client=ClientId("south"), train=3, validation=0, test=0, classes={"well": 3})
        >>> print(lopsided([north, south]))
        of 2 clients, 1 holds rows of one class alone, and 1 has no test rows; another seed, fewer clients or a less \
skewed partition deals otherwise
        client  train  validation  test  well
        south       3           0     0     3
        all         3           0     0     3
    """
    classes = {name for row in rows for name in row.classes}
    single = [row for row in rows if len(classes) > 1 and len(row.classes) == 1]
    untested = [row for row in rows if not row.test and any(other.test for other in rows)]
    if not single and not untested:
        return None
    said = [
        f"{len(found)} {one if len(found) == 1 else several}"
        for found, one, several in (
            (single, "holds rows of one class alone", "hold rows of one class alone"),
            (untested, "has no test rows", "have no test rows"),
        )
        if found
    ]
    named = {row.client for row in (*single, *untested)}
    table = holdings_table([row for row in rows if row.client in named])
    return (
        f"of {len(rows)} clients, {', and '.join(said)}; another seed, fewer clients or a less skewed partition deals "
        f"otherwise\n{table}"
    )
