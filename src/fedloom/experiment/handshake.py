"""The handshake before round 1: what each site has, and what all of them agree on."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

import msgspec
from msgspec import Struct

from fedloom.core.component import ComponentSpec, canonical_json
from fedloom.core.data import SPLITS, Schema, Split
from fedloom.core.ids import ClientId
from fedloom.core.labels import in_order
from fedloom.data.sheet import listed, unlike
from fedloom.errors import CodecError
from fedloom.experiment.remote import RunFacts

NUMERICS = ("numpy", "scikit-learn", "torch")
"""Packages whose next version may give other last bits."""


class SiteFacts(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a site says of itself before a run: names and kinds of columns, and versions; never how many rows."""

    schema: Schema
    splits: tuple[Split, ...]
    versions: dict[str, str]

    @property
    def canonical(self) -> bytes:
        """The one encoding."""
        return canonical_json(msgspec.to_builtins(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What stands between a site and the others."""

    site: ClientId
    words: str
    kind: Literal["error", "warning"] = "error"
    """A warning is stored with the run, which goes on."""

    def __str__(self) -> str:
        """Return it as a line, the site first."""
        return f"site {self.site}: {self.words}"


def read_site_facts(data: bytes) -> SiteFacts:
    """Return the facts that a site has sent.

    Raises:
        CodecError: When they are not in their one encoding.
    """
    try:
        facts = msgspec.json.decode(data, type=SiteFacts)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise CodecError(f"facts of a site: {error}") from error
    if facts.canonical != data:
        raise CodecError("facts of a site: not in canonical form: expected sorted keys and nothing else")
    return facts


def installed_versions(providers: Sequence[str]) -> dict[str, str]:
    """Return what a site says of its software.

    Args:
        providers: Distributions that provide parts of the run.

    Example:
        >>> sorted(set(installed_versions(["fedloom"])) & {"python", "numpy"})
        ['numpy', 'python']
    """
    found = {"python": platform.python_version()}
    for name in sorted({"fedloom", *NUMERICS, *providers}):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def agree(held: Mapping[ClientId, SiteFacts], asked: ComponentSpec | None) -> RunFacts | tuple[Difference, ...]:
    """Return the facts of a run over these sites, or everything that they differ in.

    What most sites have is meant; of several such sets, that of the first site in name order. Columns that the
    experiment declares are expected whoever has them. Classes that sites have from their own files are united.

    Args:
        held: What each site has.
        asked: The data of the experiment; None: not named.

    Example:
        >>> a = SiteFacts(schema=Schema(("age", "bp"), "ill"), splits=("train",), versions={})
        >>> b = SiteFacts(schema=Schema(("bp",), "ill"), splits=("train",), versions={})
        >>> str(agree({ClientId("a"): a, ClientId("b"): b}, None)[0])
        'site b: expects 2 features, has 1; missing `age`'
    """
    sites = sorted(held)
    if not sites:
        return (Difference(site=ClientId("-"), words="no site has said what it has"),)
    schemas = {site: held[site].schema for site in sites}
    expected = _expected([schemas[site] for site in sites], asked)
    declared = declared_classes(asked)
    found = [
        Difference(site=site, words=words)
        for site in sites
        for words in _apart(schemas[site], expected, declared=declared)
    ]
    if found:
        return tuple(found)
    splits = tuple(split for split in SPLITS if any(split in held[site].splits for site in sites))
    return RunFacts(names=tuple(sites), schema=_united(expected, list(schemas.values())), splits=splits)


def compare_versions(
    here: Mapping[str, str], held: Mapping[ClientId, SiteFacts], *, exactly: Sequence[str] = ("fedloom",)
) -> tuple[Difference, ...]:
    """Return where versions at sites differ from those of the coordinator.

    Packages that provide parts of the run must be the same, as the digest of the experiment holds them. Another major
    version of Python or of what computes is an error too; another minor one a warning: last bits may differ.

    Args:
        here: Versions at the coordinator.
        held: What each site has.
        exactly: Distributions that provide parts of the run.

    Example:
        >>> b = SiteFacts(schema=Schema(("bp",)), splits=(), versions={"fedloom": "0.2", "numpy": "2.3.1"})
        >>> for each in compare_versions({"fedloom": "0.1", "numpy": "2.4.0"}, {ClientId("b"): b}):
        ...     print(each.kind, each)
        error site b: has fedloom 0.2; the run is of 0.1: install that version
        warning site b: has numpy 2.3.1, the coordinator 2.4.0: last bits may differ
    """
    found: list[Difference] = []
    for site in sorted(held):
        theirs = held[site].versions
        for name in sorted({*exactly, "python", *NUMERICS}):
            found.extend(_compared(site, name, here.get(name), theirs.get(name), exact=name in exactly))
    return tuple(found)


def _compared(site: ClientId, name: str, mine: str | None, theirs: str | None, *, exact: bool) -> Iterator[Difference]:
    if mine == theirs or (not exact and (mine is None or theirs is None)):
        return
    if exact:
        has = f"has {name} {theirs}" if theirs is not None else f"has no {name}"
        yield Difference(site=site, words=f"{has}; the run is of {mine}: install that version")
        return
    assert mine is not None and theirs is not None, "both are there"
    if mine.split(".")[0] != theirs.split(".")[0]:
        yield Difference(
            site=site, words=f"has {name} {theirs}, the coordinator {mine}: expected the same major version"
        )
    elif mine.split(".")[:2] != theirs.split(".")[:2]:
        words = f"has {name} {theirs}, the coordinator {mine}: last bits may differ"
        yield Difference(site=site, words=words, kind="warning")


def declared_classes(asked: ComponentSpec | None) -> Sequence[str] | None:
    """Return the names of classes that an experiment's data declare; None: none (a number of them is no name)."""
    classes = None if asked is None else asked.arguments.get("classes")
    return tuple(str(name) for name in classes) if isinstance(classes, list | tuple) else None


def _expected(schemas: Sequence[Schema], asked: ComponentSpec | None) -> Schema:
    """Return the schema that sites are held against: what is declared, else what most have, else what the first has."""
    arguments = {} if asked is None else asked.arguments
    declared = arguments.get("columns")
    if declared is not None:
        texts = tuple(arguments.get("categories") or ())
        numbers = tuple(name for name in declared if name not in texts)
        return replace(schemas[0], columns=numbers, texts=texts)

    def kinds(schema: Schema) -> tuple[frozenset[str], frozenset[str], str | None]:
        return frozenset(schema.columns), frozenset(schema.texts), schema.label

    counts = Counter(map(kinds, schemas))
    most = max(counts.values())
    return next(schema for schema in schemas if counts[kinds(schema)] == most)


def _apart(held: Schema, expected: Schema, *, declared: Sequence[str] | None) -> Iterator[str]:
    have, want = (*held.columns, *held.texts), (*expected.columns, *expected.texts)
    if problem := unlike(want, have):
        yield problem
    for name in have:
        if name in want and (name in held.texts) != (name in expected.texts):
            kind, other = ("text", "numbers") if name in held.texts else ("numbers", "text")
            yield f"`{name}` is {kind}; expected {other}. `categories` of the experiment's data name the texts"
    if held.label != expected.label:
        yield f"the label is `{held.label}`; expected `{expected.label}`"
    if (held.classes is None) != (expected.classes is None):
        has, others = ("no names", "them") if held.classes is None else ("names", "none")
        yield f"has {has} of classes, other sites have {others}: give `classes` in the experiment's data"
    elif declared is not None and held.classes is not None:
        strange = [name for name in held.classes if name not in declared]
        if strange:
            yield f"has the classes {listed(strange)}, which the experiment does not declare"


def _united(expected: Schema, schemas: Sequence[Schema]) -> Schema:
    """Return the schema with the classes of all sites; where all have the same, in their order."""
    named = [schema.classes for schema in schemas if schema.classes is not None]
    if expected.classes is None or all(classes == expected.classes for classes in named):
        return expected
    return replace(expected, classes=in_order([name for classes in named for name in classes]))
