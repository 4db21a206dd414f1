"""The policy of a site: what its operator lets a federation do there. Read by the site, shown to nobody else.

A policy that breaks a rule is no policy: ``read_policy`` tells of all violations at once, and the site does not start.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from fedloom.core.component import ComponentSpec, Json
from fedloom.core.messages import Program
from fedloom.errors import ComponentError, ConfigError, Error
from fedloom.experiment import catalogue
from fedloom.experiment.config import check, file_text
from fedloom.experiment.construct import Construction
from fedloom.experiment.packages import Allowed, allowed
from fedloom.experiment.schema import Parameter, is_path, parameters
from fedloom.experiment.source import Source, read_source
from fedloom.experiment.tree import Trail, shown
from fedloom.privacy.guarantee import Adjacency, Unit

Protection: TypeAlias = Literal["secure-aggregation", "clip", "noise"]
_HOURS = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")
_DAY = 24 * 60
_TABLES = ("site", "allow", "data", "limits", "privacy", "approval")


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """``[site]``: who this is.

    Args:
        name: As the roster has it.
        errors: What leaves when code fails here: its class, file and line; or "full", its message too.
    """

    name: str
    errors: Literal["class", "full"] = "class"

    def __post_init__(self) -> None:
        """Refuse a site without a name."""
        if not self.name.strip():
            raise ComponentError("name = '': expected the name that the roster has")


@dataclass(frozen=True, slots=True, kw_only=True)
class Allow:
    """``[allow]``: who may ask for what. Nothing is allowed that is not named.

    Args:
        packages: Distributions whose components may run: "fedloom==1.*", "models==2.1 sha256:...". None: nothing runs.
        components: Names of components, as "fedavg" or "fedloom.learners/logistic"; None: all of those packages.
        tasks: What clients may be asked to do.
        coordinators: SPIFFE names of coordinators that may ask.
    """

    packages: Sequence[str] = ()
    components: Sequence[str] | None = None
    tasks: Sequence[Program] = ("query", "train", "evaluate")
    coordinators: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Refuse what could not be understood later."""
        for line in self.packages:
            try:
                allowed(line)
            except ComponentError as error:
                raise ComponentError(f"packages = {error}") from error
        for name in self.coordinators:
            if not re.fullmatch(r"spiffe://[^/\s]+(/[^/\s]+)+", name):
                raise ComponentError(
                    f'coordinators = "{name}": expected a name such as "spiffe://fed.example/coordinator"'
                )

    @property
    def lines(self) -> tuple[Allowed, ...]:
        """The packages, read."""
        return tuple(map(allowed, self.packages))


@dataclass(frozen=True, slots=True, kw_only=True)
class DataPolicy:
    """``[data."ID"]``: one set of rows. The id is what the privacy ledger of the site counts by.

    Args:
        source: A component of ``fedloom.datasets`` and where its rows lie.
        min_rows: With fewer rows the site declines, and does not say how many there are.
        columns: Columns that may be used, the label among them; None: all that the source has.
        unit: Whose data a privacy promise hides; it stays what it is for an id.
        adjacency: What differs between two neighbours; None: the default of the unit.
        composition: How the ledger adds releases up.
        shares_units_with: Ids that may hold the same people: what is released of one is charged to both.
        patients_elsewhere: Whether another site may hold the same people, so that what both release adds up.
        kind: "private" rows are never rehearsed with.
        allow_rehearsal: Whether runs without protection may use these rows.
        on_change: What happens when rows change between rounds of a run.
    """

    source: ComponentSpec
    min_rows: int = 50
    columns: Sequence[str] | None = None
    unit: Unit = "record"
    adjacency: Adjacency | None = None
    composition: Literal["basic", "rdp"] = "basic"
    shares_units_with: Sequence[str] = ()
    patients_elsewhere: Literal["may-overlap", "disjoint"] = "may-overlap"
    kind: Literal["private", "public", "synthetic"] = "private"
    allow_rehearsal: bool = False
    on_change: Literal["refuse", "warn"] = "refuse"

    def __post_init__(self) -> None:
        """Check every number once, where it is written."""
        if self.min_rows < 1:
            raise ComponentError(f"min_rows = {self.min_rows}: expected 1 or more")
        if self.columns is not None and len(set(self.columns)) != len(self.columns):
            raise ComponentError(f"columns = {list(self.columns)}: expected different names")
        if self.allow_rehearsal and self.kind == "private":
            raise ComponentError(
                "allow_rehearsal = true: a rehearsal protects nothing, so its rows are public or synthetic; say so by "
                'kind = "public" or "synthetic", or leave it out'
            )

    @property
    def neighbours(self) -> Adjacency:
        """The adjacency, the default of the unit where none is stated."""
        return self.adjacency or ("zero_out" if self.unit == "client" else "add_remove")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """``[limits]``: how much a run may take. None: no limit.

    Args:
        max_rounds: Of training.
        max_runs_per_day: Runs that may begin within 24 hours.
        max_upload_mb: That leave this site in one run, in 10^6 bytes.
        cpu: CPUs that the worker of a run may use.
        memory_gb: Of the worker, in 10^9 bytes.
        task_minutes: For one task.
        hours: Local time in which tasks are begun: "20:00-06:00".
    """

    max_rounds: int | None = None
    max_runs_per_day: int | None = None
    max_upload_mb: float | None = None
    cpu: int | None = None
    memory_gb: float | None = None
    task_minutes: float | None = None
    hours: str | None = None

    def __post_init__(self) -> None:
        """Check every number once, where it is written."""
        for each in dataclasses.fields(self):
            value = getattr(self, each.name)
            if isinstance(value, int | float) and value <= 0:
                raise ComponentError(f"{each.name} = {value}: expected a number above 0; leave it out for no limit")
        if self.hours is not None and _HOURS.fullmatch(self.hours) is None:
            raise ComponentError(f'hours = "{self.hours}": expected two times of day, such as "20:00-06:00"')

    def within_hours(self, minute: int) -> bool:
        """Return whether a task may begin at a minute of the day, local time.

        Example:
            >>> night = Limits(hours="20:00-06:00")
            >>> night.within_hours(23 * 60), night.within_hours(6 * 60)
            (True, False)
        """
        if self.hours is None:
            return True
        found = _HOURS.fullmatch(self.hours)
        assert found is not None, "checked when the policy was read"
        first, last = 60 * int(found[1]) + int(found[2]), 60 * int(found[3]) + int(found[4])
        return (minute - first) % _DAY < ((last - first) % _DAY or _DAY)


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyLimits:
    """``[privacy]``: what protects the rows here.

    Args:
        min_sites_in_aggregate: Contributions that are in every sum which is opened.
        assumed_colluders: Sites that may tell the coordinator all they know.
        epsilon_total: What all runs over one data set may cost. A run that promises nothing costs without bound.
        epsilon_per_run: What one run may cost.
        delta: The largest at which a run may be priced.
        require: Protections that every run must have.
        metrics: "aggregate-only": the coordinator reads no single site's figures; "none": of no rows at all.
    """

    min_sites_in_aggregate: int = 3
    assumed_colluders: int = 0
    epsilon_total: float | None = None
    epsilon_per_run: float | None = None
    delta: float | None = None
    require: Sequence[Protection] = ("secure-aggregation",)
    metrics: Literal["none", "aggregate-only", "any"] = "aggregate-only"

    def __post_init__(self) -> None:
        """Check every number once, where it is written."""
        if self.min_sites_in_aggregate < 1:
            raise ComponentError(f"min_sites_in_aggregate = {self.min_sites_in_aggregate}: expected 1 or more")
        if self.assumed_colluders < 0:
            raise ComponentError(f"assumed_colluders = {self.assumed_colluders}: expected 0 or more")
        for name in ("epsilon_total", "epsilon_per_run"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ComponentError(f"{name} = {value}: expected a number above 0; leave it out for no limit")
        if self.delta is not None and not 0 <= self.delta < 1:
            raise ComponentError(f"delta = {self.delta}: expected a chance from 0, far below 1 / (number of units)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """``[approval]``: whether the operator looks at every run.

    Args:
        mode: "manual": a run waits for its approval; "auto-if-allowed": what this policy allows runs.
    """

    mode: Literal["manual", "auto-if-allowed"] = "manual"


@dataclass(frozen=True, slots=True, kw_only=True)
class SitePolicy:
    """A whole policy that was read.

    ``base`` is the folder that relative paths of sources start from.
    """

    site: Site
    allow: Allow
    data: Mapping[str, DataPolicy]
    base: Path
    limits: Limits = field(default_factory=Limits)
    privacy: PrivacyLimits = field(default_factory=PrivacyLimits)
    approval: Approval = field(default_factory=Approval)


def read_policy(path: str | Path) -> SitePolicy:
    """Read a policy.

    Args:
        path: A TOML file; its folder is where relative paths in it start.

    Raises:
        ConfigError: With all violations, in the order of the file. What cannot be read allows nothing.
    """
    return read_policy_text(file_text(path), name=str(path), base=Path(path).parent)


def read_policy_text(text: str, *, name: str, base: Path) -> SitePolicy:
    """Read the text of a policy.

    Raises:
        ConfigError: With all violations, in the order of the text.
    """
    source = read_source(text, name=name)
    if source.unreadable:  # nothing else can be said of it
        raise ConfigError(source.ordered())
    walk = Construction(base=base, check=check)
    _report_tables(walk, source.tree)
    made = {
        key: walk.table(kind, source.tree.get(key, {}), (key,)).value
        for key, kind in _PLAIN.items()
        if key in source.tree or key in _NEEDED
    }
    data = _all_data(walk, source.tree.get("data", {}))
    for problem in walk.problems:
        source.report(problem.trail, problem.message)
    _finish(source)
    return SitePolicy(**made, data=data, base=base)


def data_of(policy: SitePolicy, *, asked: str | None, chosen: str | None = None) -> str | None:
    """Return the id of the data that a run is for: what the operator chose, what the run names, or the only one.

    None: there is no such data, or there are several and nobody has said which.

    Args:
        policy: Of the site.
        asked: ``privacy.data_set`` of the experiment.
        chosen: By the operator when the run was approved.
    """
    if chosen is not None:
        return chosen if chosen in policy.data else None
    if asked in policy.data:
        return asked
    return next(iter(policy.data)) if len(policy.data) == 1 else None


def charged_with(policy: SitePolicy, data: str) -> tuple[str, ...]:
    """Return the ids of all rows that may hold people of these, themselves first: what is released is charged to each.

    Sharing goes both ways, and on: who shares with one that shares is in too.
    """
    found, waiting = [data], [data]
    while waiting:
        one = waiting.pop()
        near = set(policy.data[one].shares_units_with)
        near |= {other for other, rows in policy.data.items() if one in rows.shares_units_with}
        for other in sorted(near - set(found)):
            found.append(other)
            waiting.append(other)
    return tuple(found)


_PLAIN = {"site": Site, "allow": Allow, "limits": Limits, "privacy": PrivacyLimits, "approval": Approval}
_NEEDED = ("site", "allow")


def _needed(parameter: Parameter) -> bool:
    """Return whether a source cannot be found without an argument, whatever the experiment says."""
    return is_path(parameter.shape) or parameter.name == "query"


def _finish(source: Source) -> None:
    if source.violations:
        raise ConfigError(source.ordered())


def _report_tables(walk: Construction, tree: Mapping[str, Json]) -> None:
    for key in tree:
        if key not in _TABLES:
            near = catalogue.nearest(key, _TABLES)
            offer = f"; did you mean `{near}`?" if near else ""
            walk.fail((key,), f"unknown key{offer}; a policy takes {', '.join(_TABLES)}")
    for key in (*_NEEDED, "data"):
        if key not in tree:
            walk.fail((key,), f"missing; expected a table [{key}]" + ('."ID"' if key == "data" else ""))


def _all_data(walk: Construction, tree: Json) -> dict[str, DataPolicy]:
    if not isinstance(tree, Mapping):
        walk.fail(("data",), f'expected a table [data."ID"] for each set of rows, got {shown(tree)}')
        return {}
    found: dict[str, DataPolicy] = {}
    for name, table in tree.items():
        made = _one(walk, table, ("data", name))
        if made is not None:
            found[name] = made
    for name, each in tree.items():
        for other in each.get("shares_units_with", ()) if isinstance(each, Mapping) else ():
            if isinstance(other, str) and (other not in tree or other == name):
                offer = catalogue.suggestion(other, (known for known in tree if known != name))
                walk.fail(("data", name, "shares_units_with"), f'"{other}" is no other id of this policy{offer}')
    return found


def _one(walk: Construction, tree: Json, trail: Trail) -> DataPolicy | None:
    if not isinstance(tree, Mapping):
        walk.fail(trail, f"expected a table, got {shown(tree)}")
        return None
    source = _source(walk, tree.get("source"), (*trail, "source"))
    takes = {key: each for key, each in parameters(DataPolicy).items() if key != "source"}
    before = len(walk.problems)
    given = {key: value for key, value in tree.items() if key != "source"}
    made = walk.arguments(trail[-1], given, trail=trail, takes=takes, also=("source",))
    if len(walk.problems) > before or source is None:
        return None
    try:
        return DataPolicy(source=source, **{key: each.value for key, each in made.items()})
    except Error as error:
        key = str(error).partition(" ")[0]
        walk.fail((*trail, *([key] if key in tree else [])), str(error))
        return None


def _source(walk: Construction, tree: Json, trail: Trail) -> ComponentSpec | None:
    """Return the component that holds rows; what rows mean comes with the experiment, and need not stand here."""
    example = '{ name = "csv", path = "patients.csv" }'
    if not isinstance(tree, Mapping):
        said = "missing" if tree is None else f"got {shown(tree)}"
        walk.fail(trail, f"{said}; expected where the rows lie, such as {example}")
        return None
    name = tree.get("name")
    if not isinstance(name, str):
        walk.fail((*trail, "name"), f"expected one of {', '.join(catalogue.names('fedloom.datasets'))}")
        return None
    try:
        takes = parameters(catalogue.builder("fedloom.datasets", name))
    except Error as error:
        walk.fail((*trail, "name"), str(error))
        return None
    takes = {key: dataclasses.replace(each, required=each.required and _needed(each)) for key, each in takes.items()}
    before = len(walk.problems)
    given = {key: value for key, value in tree.items() if key != "name"}
    made = walk.arguments(name, given, trail=trail, takes=takes, group="fedloom.datasets")
    written = {key: each.written for key, each in made.items()}
    return ComponentSpec("fedloom.datasets", name, written) if len(walk.problems) == before else None
