"""``fedloom new``: a starter file that runs as it is, on bundled rows or on a CSV of one's own."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fedloom.cli.columns import MOST_CATEGORIES, MOST_CLASSES, Column, read_columns
from fedloom.cli.output import write_json
from fedloom.cli.starter import Key, Section, Starter, table
from fedloom.core.component import ComponentSpec
from fedloom.core.labels import in_order, label_text
from fedloom.data.pooled import nearest
from fedloom.data.tables import plain_table
from fedloom.errors import ComponentError, DataError, StoreError
from fedloom.experiment.config import read_text
from fedloom.experiment.registry import resolve
from fedloom.store import write_text

Kind = Literal["classification", "regression", "images"]
KINDS: tuple[Kind, ...] = ("classification", "regression", "images")
_CLIENTS = 5
_LEAST_ROWS = 10
"""Rows that each simulated client should have, so that it has some to test on."""
_EVERYONE = 50
"""Up to this many clients all take part in every round."""
_COHORT = 20
_MOST_DECLARED = 20
"""Up to this many classes are written down; more are agreed on by asking."""
_CODES = 8
"""A column of at most this many different whole numbers may hold codes."""
_HINTS = (
    "More: `fedloom plan FILE` lists all that leaves a client, `fedloom config show FILE --resolved` every key with "
    "its default. In place of [[stop]] max_rounds alone, several may stand: the first that holds ends the run.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the command line said."""

    file: Path
    kind: str | None
    data: Path | None
    label: str | None
    client: str | None
    clients: int | None
    force: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A starter file, and what was decided for it, in words."""

    kind: Kind
    starter: Starter
    words: tuple[str, ...]


def write_starter(wish: Wish, *, json: bool) -> None:
    """Write a starter file and say what was decided, and what comes next.

    Raises:
        ComponentError: When flags exclude each other.
        DataError: When the CSV cannot be used as it is.
        StoreError: When the file is there already, or cannot be written.
    """
    if wish.file.exists() and not wish.force:
        raise StoreError(f"{wish.file} exists and is left as it is; name another file, or overwrite it: --force")
    kind = next((kind for kind in KINDS if kind == wish.kind), None)
    if kind != wish.kind:
        raise ComponentError(f"--kind {wish.kind}: expected one of {', '.join(KINDS)}")
    decision = _bundled(wish, kind) if wish.data is None else _of_csv(wish, wish.data, kind)
    text = decision.starter.text()
    # The file is read as a run would read it, and its rows with it: what is written is known to begin.
    settings = read_text(text, name=str(wish.file), base=wish.file.parent)
    if isinstance(settings.experiment.data, ComponentSpec):
        resolve(settings.experiment.data, base=wish.file.parent)
    if not wish.file.parent.is_dir():
        raise StoreError(f"{wish.file.parent} is no folder; make it first, or name a file in one that is there")
    write_text(wish.file, text)
    following = f"fedloom run {wish.file}"
    if json:
        decided = list(decision.words)
        write_json({"file": str(wish.file), "kind": decision.kind, "decided": decided, "next": following})
        return
    width = max(30, min(100, shutil.get_terminal_size().columns))
    for sentence in decision.words:
        sys.stdout.write(textwrap.fill(sentence, width, initial_indent="  ", subsequent_indent="    ") + "\n")
    sys.stdout.write(f"\nwrote {wish.file}\nnext: {following}\n")
    if wish.data is not None:
        sys.stdout.write("then: fedloom predict last ROWS.csv\n")


# ---- Bundled rows ----------------------------------------------------------------------------------------------------


def _bundled(wish: Wish, wanted: Kind | None) -> Decision:
    given = [flag for flag, value in (("--label", wish.label), ("--client", wish.client)) if value is not None]
    if given:
        raise ComponentError(f"{' and '.join(given)} speak of a CSV: name it by --data PATH.csv")
    if wish.clients is not None and wish.clients < 1:
        raise ComponentError(f"--clients {wish.clients}: expected 1 or more")
    kind: Kind = wanted or "classification"
    made = {"classification": _breast_cancer, "regression": _diabetes, "images": _digits}[kind]
    starter, words = made(wish.clients)
    return Decision(kind=kind, starter=starter, words=words)


def _breast_cancer(clients: int | None) -> tuple[Starter, tuple[str, ...]]:
    if clients is None:
        data = Section("data", [Key("name", "hospitals", "569 biopsies, dealt to four hospitals by case mix")])
        many, words = 4, "data: 569 breast-cancer biopsies at four simulated hospitals"
    else:
        partition = table("dirichlet", clients=clients, alpha=1.0)
        data = _sklearn("breast_cancer", partition, "a small alpha makes the clients differ more")
        many, words = clients, f"data: 569 breast-cancer biopsies, dealt to {clients} clients"
    starter = Starter(
        title="Benign or malignant: a classification of table rows over hospitals that keep their rows.",
        top=_top(),
        sections=[data, _standardise(), _logistic(), *_training(many, rate=0.1, rows=569), _stop(20)],
        hints=_HINTS,
    )
    return starter, (words, "model: logistic regression, standardised by a federated mean and variance")


def _diabetes(clients: int | None) -> tuple[Starter, tuple[str, ...]]:
    many = clients or 4
    starter = Starter(
        title="Progression of diabetes after a year: a regression over clients that keep their rows.",
        top=_top(),
        sections=[
            _sklearn("diabetes", table("iid", clients=many), "442 patients, dealt at random"),
            _standardise(),
            Section("learner", [Key("name", "ridge"), Key("l2", 1e-3)]),
            *_training(many, rate=0.05, rows=442),
            _stop(40),
        ],
        hints=_HINTS,
    )
    words = (f"data: 442 diabetes patients, dealt to {many} clients", "model: ridge regression, standardised")
    return starter, words


def _digits(clients: int | None) -> tuple[Starter, tuple[str, ...]]:
    many = clients or 10
    starter = Starter(
        title="Handwritten digits, 8 by 8 pixels: a classification of images over clients that keep theirs.",
        top=_top(),
        sections=[
            _sklearn(
                "digits",
                table("dirichlet", clients=many, alpha=0.5),
                "1797 images; a small alpha gives each client few of the ten digits",
            ),
            Section(
                "learner",
                [Key("name", "logistic"), Key("l2", 1e-4)],
                remark="Pixels are numbers from 0 to 16, the same scale at every client: no preparation is needed.",
            ),
            *_training(many, rate=0.002, rows=1797),
            _stop(30),
        ],
        hints=_HINTS,
    )
    words = (f"data: 1797 images of digits, dealt to {many} clients by class", "model: softmax regression on pixels")
    return starter, words


def _sklearn(name: str, partition: object, remark: str) -> Section:
    keys = [Key("name", "sklearn"), Key("dataset", name), Key("partition", partition, remark)]
    return Section("data", [*keys, *_shares()])


# ---- A CSV of one's own ----------------------------------------------------------------------------------------------


def _of_csv(wish: Wish, path: Path, wanted: Kind | None) -> Decision:
    if wanted == "images":
        raise ComponentError('--kind images takes no --data: pixels in a CSV are numbers, so use "classification"')
    if wish.client is not None and wish.clients is not None:
        raise ComponentError("--client names a column, --clients deals the rows at random: give one of them")
    if wish.clients is not None and wish.clients < 1:
        raise ComponentError(f"--clients {wish.clients}: expected 1 or more")
    columns, rows = read_columns(path)
    if wish.label is None:
        raise DataError(_which_label(path, columns, rows))
    label = _named(path, columns, wish.label, flag="--label")
    owner = None if wish.client is None else _named(path, columns, wish.client, flag="--client")
    if owner is label:
        raise DataError(f"{path}: column {label.name!r} cannot be both label and client")
    kind = _task(path, label, wanted)
    rest = [column for column in columns if column is not label and column is not owner]
    numbers = [column.name for column in rest if column.kind == "number"]
    texts = [column.name for column in rest if column.kind == "text"]
    if not numbers and not texts:
        raise DataError(
            f"{path}: no column is left to learn from; expected numbers or text with few values beside {label.name!r}"
        )
    many = owner.distinct if owner is not None else wish.clients or max(1, min(_CLIENTS, rows // _LEAST_ROWS))
    gaps = [column.name for column in rest if column.kind == "number" and column.missing]
    notes = tuple(_notes(label, kind, rows=rows, rest=rest))
    data = _csv_section(
        _relative(path, wish.file), kind, label, owner=owner, many=many, numbers=numbers, texts=texts,
        names=[column.name for column in rest],
    )  # fmt: skip
    prepare = list(_preparations(label, kind, gaps=gaps, numbers=numbers, texts=texts))
    width = len(numbers) + sum(column.distinct for column in rest if column.kind == "text")
    rate = 0.1 if kind == "classification" else _step(width)
    learner = _logistic() if kind == "classification" else Section("learner", [Key("name", "ridge"), Key("l2", 1e-3)])
    starter = Starter(
        title=f"{kind.capitalize()} of {label.name!r} from {path.name}. Correct what was guessed wrongly.",
        notes=notes,
        top=_top(),
        sections=[data, *prepare, learner, *_training(many, rate=rate, rows=rows), _stop(30)],
        hints=_HINTS,
    )
    return Decision(
        kind=kind,
        starter=starter,
        words=(
            f"task: {kind} of {label.name!r}" + ("" if kind == "regression" else f", {label.distinct} classes"),
            f"rows: {rows}, " + _owners(owner, many),
            f"features: {len(numbers)} of numbers" + (f", {len(texts)} of text (one_hot)" if texts else ""),
            *([f"missing numbers in {', '.join(gaps)}: filled with the mean over all clients"] if gaps else []),
            *notes[1:],
        ),
    )


def _which_label(path: Path, columns: Sequence[Column], rows: int) -> str:
    header = ("column", "looks like", "different values", "missing")
    lines = plain_table(header, [(each.name, each.kind, each.distinct, each.missing) for each in columns])
    return f"{path}: which column is to be predicted? Name it by --label COLUMN. Its {rows} rows have\n{lines}"


def _named(path: Path, columns: Sequence[Column], name: str, *, flag: str) -> Column:
    found = next((column for column in columns if column.name == name), None)
    if found is None:
        names = [column.name for column in columns]
        raise DataError(f"{path}: {flag} {name}: there is no such column{nearest(name, names)}")
    if found.missing:
        raise DataError(
            f"{path}: column {name!r} ({flag}) is missing in {found.missing} rows; fill it in or leave the rows out"
        )
    return found


def _task(path: Path, label: Column, wanted: Kind | None) -> Kind:
    """Return what is to be predicted: classes, or a number.

    Raises:
        DataError: When the label does not allow it.
    """
    numeric = label.whole or label.kind == "number"
    guess: Kind = "regression" if numeric and not (label.whole and label.distinct <= MOST_CLASSES) else "classification"
    kind = guess if wanted is None else wanted
    if label.distinct < 2:
        raise DataError(f"{path}: column {label.name!r} has one value in all rows: there is nothing to predict")
    if kind == "regression" and not numeric:
        raise DataError(f"{path}: column {label.name!r} is text; --kind regression predicts a number")
    if kind == "classification" and label.distinct > MOST_CATEGORIES:
        raise DataError(
            f"{path}: column {label.name!r} has {label.distinct} different values: more than {MOST_CATEGORIES}. "
            + ("For a number give --kind regression" if numeric else "Name another column by --label")
        )
    return kind


def _notes(label: Column, kind: Kind, *, rows: int, rest: Sequence[Column]) -> Iterator[str]:
    yield f"{rows} rows; {label.name!r} has {label.distinct} different values, so this is a {kind}."
    reasons = {
        "id": "names rows, which says nothing of new ones",
        "constant": "has one value in all rows",
        "empty": "is empty",
        "free text": f"is text with more than {MOST_CATEGORIES} different values, or a different one in each row",
    }
    for column in rest:
        if column.kind in reasons:
            yield f"Left out: {column.name!r} {reasons[column.kind]}."
    codes = [
        column.name for column in rest if column.kind == "number" and column.whole and 2 < column.distinct <= _CODES
    ]
    if codes:
        listed = ", ".join(codes[:5]) + (f" and {len(codes) - 5} more" if len(codes) > 5 else "")
        yield f"Few whole numbers: {listed}. Where they are codes of something and no amounts, name them in categories."


def _owners(owner: Column | None, many: int) -> str:
    if owner is not None:
        return f"{many} clients by column {owner.name!r}"
    return f"dealt at random to {many} simulated clients (--client COLUMN names the real ones)"


def _csv_section(
    path: str,
    kind: Kind,
    label: Column,
    *,
    owner: Column | None,
    many: int,
    numbers: Sequence[str],
    texts: Sequence[str],
    names: Sequence[str],
) -> Section:
    keys = [Key("name", "csv"), Key("path", path, "relative to this file"), Key("label", label.name)]
    if kind == "regression":
        keys.append(Key("task", "regression"))
    elif label.distinct <= _MOST_DECLARED:
        classes = list(in_order([label_text(value) for value in label.values]))
        keys.append(Key("classes", classes, "the last is the one looked for" if len(classes) == 2 else ""))
    if owner is not None:
        keys.append(Key("client", owner.name))
    else:
        skewed = "; to make clients differ: dirichlet, with alpha = 0.5" if kind == "classification" else ""
        keys.append(Key("partition", table("iid", clients=many), f"simulated clients{skewed}"))
    if len(numbers) + len(texts) < len(names):
        keys.append(Key("columns", [name for name in names if name in numbers], "features that are numbers"))
    if texts:
        keys.append(Key("categories", list(texts), "features that are text"))
    return Section("data", [*keys, *_shares()])


def _preparations(
    label: Column, kind: Kind, *, gaps: Sequence[str], numbers: Sequence[str], texts: Sequence[str]
) -> Iterator[Section]:
    if kind == "classification" and label.distinct > _MOST_DECLARED:
        yield _prepare("label_set", remark="All clients agree on the classes, which no one of them may hold all of.")
    if gaps:
        yield _prepare(
            "impute",
            Key("strategy", "mean"),
            remark=f"Missing: {', '.join(gaps)}. The mean over all clients is put in their place.",
        )
    if numbers:
        yield _standardise()
    if texts:
        yield _prepare("one_hot", remark="Text becomes one column for each category that some client has.")


def _relative(path: Path, file: Path) -> str:
    """Return the path of the CSV as it is written in the file: relative to the file's folder where that is possible.

    Raises:
        DataError: When its name is no text in this process's locale.
    """
    try:
        written = Path(os.path.relpath(path, file.parent)).as_posix()
    except ValueError:  # another drive
        written = path.absolute().as_posix()
    if not written.isascii() and any("\ud800" <= letter <= "\udfff" for letter in written):
        raise DataError(f"{path}: this locale cannot read the name; set LC_ALL=C.UTF-8, or rename the file")
    return written


def _step(width: int) -> float:
    """Return a learning rate for squared loss: below the inverse of a standardised row's squared length.

    Example:
        >>> _step(5), _step(10), _step(100)
        (0.05, 0.05, 0.005)
    """
    return min(0.05, round(0.5 / max(width, 1), 4))


# ---- What all files have ---------------------------------------------------------------------------------------------


def _top() -> list[Key]:
    return [Key("seed", 0, "of every random choice: the same file gives the same bytes")]


def _shares() -> list[Key]:
    return [
        Key("test", 0.25, "share of each client's rows held back: only they make the figures"),
        Key("validation", 0.0, "above 0 for early stopping: [[stop]] patience"),
    ]


def _prepare(name: str, *keys: Key, remark: str = "") -> Section:
    return Section("prepare", [Key("name", name), *keys], remark=remark, several=True)


def _standardise() -> Section:
    return _prepare("standardise", remark="Mean 0 and variance 1 over the training rows of all clients.")


def _logistic() -> Section:
    return Section("learner", [Key("name", "logistic"), Key("l2", 1e-3)])


def _training(clients: int, *, rate: float, rows: int) -> Iterator[Section]:
    batch = 16 if rows < 500 * clients else 64
    local = {"epochs": 1, "batch_size": batch, "learning_rate": rate}
    others = "others: fedprox, scaffold, fedadam, ..."
    yield Section("algorithm", [Key("name", "fedavg", others), Key("local", local, "work of a client in a round")])
    if clients > _EVERYONE:
        remark = f"Of {clients} clients, {_COHORT} are invited to a round."
        yield Section("cohort", [Key("name", "uniform"), Key("size", _COHORT)], remark=remark)


def _stop(rounds: int) -> Section:
    return Section("stop", [Key("name", "max_rounds"), Key("rounds", rounds)], several=True)
