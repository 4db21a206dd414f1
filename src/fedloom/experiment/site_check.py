"""Whether a policy lets a run happen at a site: a pure function of the policy and of what the site found out itself.

Nothing here builds a plan or prices one; that is done where memory is given back (``elsewhere``), and what came of it
is a value.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from msgspec import Struct

from fedloom.core.messages import Program
from fedloom.experiment.packages import Installed
from fedloom.experiment.refusals import Refusal
from fedloom.experiment.site_policy import DataPolicy, SitePolicy
from fedloom.privacy.guarantee import Adjacency, Unit

SLACK = 1e-9
"""Relative excess over a limit that counts as none: decimal fractions add up to a little more than they say."""


class SumFacts(Struct, frozen=True, kw_only=True):
    """One sum that a site would take part in."""

    title: str
    program: Program
    aggregator: str
    hidden: bool
    """Whether the coordinator reads no single contribution."""
    survivors: int | None
    """Contributions of every sum that is opened, at least; of a plain sum those that a round needs, None where it
    needs none."""
    honest: int | None = None
    """Of these, contributions of sites that do not collude."""
    clipped: bool = False
    """Whether what one site changes in the sum is bounded."""
    noised: bool = False
    figures: tuple[str, ...] = ()
    """Metrics that travel in the sum."""
    scores: tuple[str, ...] = ()
    """The site's own figures, which travel beside it."""


class Promise(Struct, frozen=True, kw_only=True):
    """What a run costs at most, as the site has priced it, against one who may know who took part."""

    epsilon: float
    delta: float
    unit: Unit
    adjacency: Adjacency


class RunRequest(Struct, frozen=True, kw_only=True):
    """What a run asks of a site, read off the plan that the site has made."""

    parts: tuple[Installed, ...]
    rounds: int | None
    """Of training; None: no bound is known."""
    sums: tuple[SumFacts, ...]
    upload_bytes: int | None
    """Of this site in the whole run; None: not known before preparations have been answered."""
    promise: Promise | None = None
    """None: nothing is promised."""


class DataFacts(Struct, frozen=True, kw_only=True):
    """What the site found of its own rows. It leaves the site in no message."""

    rows: int
    changed: bool = False
    """Whether they differ from those that the run began with."""


class Visit(Struct, frozen=True, kw_only=True):
    """Who asks, and when."""

    coordinator: str
    """SPIFFE name in its certificate."""
    minute: int
    """Of the day, local time."""
    rehearsal: bool = False
    runs_today: int = 0
    """Other runs that began here within 24 hours."""


class Account(Struct, frozen=True, kw_only=True):
    """What the site's own ledger would show of the data after the whole run."""

    epsilon: float
    delta: float


def check_plan(
    policy: SitePolicy,
    request: RunRequest,
    *,
    data: str | None,
    facts: DataFacts | None,
    visit: Visit,
    accounts: Sequence[Account] = (),
) -> tuple[Refusal, ...]:
    """Return every reason why a run may not happen here; empty: the policy allows it.

    Args:
        policy: Of the site.
        request: What the run asks for.
        data: Id of the rows, of ``data_of``; None: there are none for this run.
        facts: What the rows are; None: they could not be read, which was told already.
        visit: Who asks, and when.
        accounts: Of these rows, and of all that share people with them.
    """
    rows = None if data is None else policy.data.get(data)
    return (
        *check_visit(policy, request.parts, visit=visit, data=data),
        *_check_rows(rows, facts, data),
        *_check_sums(policy, request.sums),
        *_check_numbers(policy, request),
        *(() if rows is None else _check_privacy(policy, rows, request.promise, accounts=accounts)),
    )


def check_visit(
    policy: SitePolicy, parts: Sequence[Installed], *, visit: Visit, data: str | None
) -> tuple[Refusal, ...]:
    """Return the reasons that are known before any code of the run is imported: who asks, when, and for what code.

    Args:
        policy: Of the site.
        parts: Of the experiment, and of the site's own source.
        visit: Who asks, and when.
        data: Id of the rows; None: there are none for this run.
    """
    return (*_check_coordinator(policy, visit), *_check_parts(policy, parts), *_check_time(policy, visit, data))


def _check_coordinator(policy: SitePolicy, visit: Visit) -> Iterator[Refusal]:
    if visit.coordinator not in policy.allow.coordinators:
        known = ", ".join(policy.allow.coordinators) or "nobody"
        yield Refusal(code="POLICY_COORDINATOR", words=f"{visit.coordinator} asks; allow.coordinators has {known}")


def _check_parts(policy: SitePolicy, parts: Sequence[Installed]) -> Iterator[Refusal]:
    lines, components = policy.allow.lines, policy.allow.components
    for part in parts:
        what = f'{part.field}: {part.group} "{part.name}"'
        if not part.distribution:
            yield Refusal(code="POLICY_COMPONENT", field=part.field, words=f"{what}: no installed package provides it")
        elif not any(line.covers(part) for line in lines):
            named = ", ".join(policy.allow.packages) or "nothing"
            words = f"{what} is of {part}; allow.packages has {named}"
            yield Refusal(code="POLICY_COMPONENT", field=part.field, words=words)
        elif part.altered:
            words = (
                f"{what}: {part.distribution} is not as it was installed ({', '.join(part.altered)}). Install it again"
            )
            yield Refusal(code="POLICY_COMPONENT", field=part.field, words=words)
        elif components is not None and not {part.name, f"{part.group}/{part.name}"} & set(components):
            words = f"{what} is not among allow.components ({', '.join(components) or 'none'})"
            yield Refusal(code="POLICY_COMPONENT", field=part.field, words=words)


def _check_time(policy: SitePolicy, visit: Visit, data: str | None) -> Iterator[Refusal]:
    limits = policy.limits
    if not limits.within_hours(visit.minute):
        now = f"{visit.minute // 60:02}:{visit.minute % 60:02}"
        words = f"it is {now}; limits.hours = {limits.hours}: tasks are begun then only"
        yield Refusal(code="POLICY_HOURS", words=words, limit=limits.hours)
    if limits.max_runs_per_day is not None and visit.runs_today >= limits.max_runs_per_day:
        words = f"{visit.runs_today} runs began here within a day; limits.max_runs_per_day = {limits.max_runs_per_day}"
        yield Refusal(code="POLICY_RUNS", words=words, limit=limits.max_runs_per_day)
    rows = None if data is None else policy.data.get(data)
    if visit.rehearsal and rows is not None and not rows.allow_rehearsal:
        words = f'a rehearsal protects nothing; data."{data}".allow_rehearsal = false'
        yield Refusal(code="POLICY_REHEARSAL", words=words)


def _check_rows(rows: DataPolicy | None, facts: DataFacts | None, data: str | None) -> Iterator[Refusal]:
    if rows is None:
        what = "the policy has several sets of rows, and nobody has said which" if data is None else f'no data."{data}"'
        yield Refusal(code="NO_DATA", words=f"no rows for this run: {what}. Name one when approving the run")
    elif facts is not None and facts.rows == 0:
        yield Refusal(code="NO_DATA", words=f'data."{data}" has no rows')
    elif facts is not None and facts.rows < rows.min_rows:
        words = (
            f'data."{data}" has {facts.rows} rows, min_rows = {rows.min_rows}; the coordinator learns that, no number'
        )
        yield Refusal(code="POLICY_MIN_N", words=words)
    if rows is not None and facts is not None and facts.changed and rows.on_change == "refuse":
        words = f'data."{data}" is not what this run began with. Put the rows back, or let a new run begin'
        yield Refusal(code="DATA_CHANGED", words=words)


def _check_sums(policy: SitePolicy, sums: Sequence[SumFacts]) -> Iterator[Refusal]:
    limits = policy.privacy
    for each in sums:
        if each.program not in policy.allow.tasks:
            words = (
                f"{each.title} asks for {each.program}; allow.tasks has {', '.join(policy.allow.tasks) or 'nothing'}"
            )
            yield Refusal(code="POLICY_TASK", words=words, request=each.program)
        if "secure-aggregation" in limits.require and not each.hidden:
            words = f"{each.title} goes through {each.aggregator}: the coordinator would read what this site sends"
            yield _unprotected(each, words, "secure-aggregation")
        if each.program == "train" and "clip" in limits.require and not each.clipped:
            words = f"{each.title}: nothing bounds what one site can change: put clip(...) into the pipeline"
            yield _unprotected(each, words, "clip")
        if "noise" in limits.require and not each.noised:
            yield _unprotected(each, f"{each.title}: no noise is added to what is opened", "noise")
        yield from _check_cohort(policy, each)
        yield from _check_metrics(policy, each)


def _unprotected(each: SumFacts, words: str, required: str) -> Refusal:
    return Refusal(code="POLICY_PROTECTION", words=words, limit=required, request=each.aggregator, field=each.title)


def _check_cohort(policy: SitePolicy, each: SumFacts) -> Iterator[Refusal]:
    limits = policy.privacy
    if each.survivors is None and not each.hidden:
        return  # figures that only the coordinator gets, who reads each of them anyway
    least = 0 if each.survivors is None else each.survivors
    if least < limits.min_sites_in_aggregate:
        words = f"{each.title}: a sum may hold {least} contributions; min_sites_in_aggregate"
        yield _few(each, words, limit=limits.min_sites_in_aggregate, request=least)
        return  # what else is wrong with so few follows from it
    if not each.hidden:
        return
    colluders = least - (each.honest or 0)
    if colluders < limits.assumed_colluders:
        words = f"{each.title}: {each.aggregator} is set up against {colluders} colluding sites; assumed_colluders"
        yield _few(each, words, limit=limits.assumed_colluders, request=colluders)
    elif least - limits.assumed_colluders < 2:
        words = f"{each.title}: {least} contributions less {limits.assumed_colluders} colluders leave one site alone"
        yield _few(each, f"{words}; assumed_colluders", limit=limits.assumed_colluders, request=least)


def _few(each: SumFacts, words: str, *, limit: int, request: int) -> Refusal:
    return Refusal(code="POLICY_COHORT", words=f"{words} = {limit}", limit=limit, request=request, field=each.title)


def _check_metrics(policy: SitePolicy, each: SumFacts) -> Iterator[Refusal]:
    allowed = policy.privacy.metrics
    told = (*each.figures, *each.scores)
    if allowed == "none" and told:
        words = f"{each.title} reports {', '.join(told[:5])}; privacy.metrics = none"
        yield Refusal(code="POLICY_METRICS", words=words, limit=allowed, field=each.title)
    elif allowed == "aggregate-only" and told and not each.hidden:
        words = f"{each.title}: the coordinator would read {', '.join(told[:5])} of this site's rows alone"
        yield Refusal(code="POLICY_METRICS", words=words, limit=allowed, field=each.title)


def _check_numbers(policy: SitePolicy, request: RunRequest) -> Iterator[Refusal]:
    limits = policy.limits
    if limits.max_rounds is not None and (request.rounds is None or request.rounds > limits.max_rounds):
        asked = "has no bound on its rounds" if request.rounds is None else f"asks for {request.rounds} rounds"
        words = f"the run {asked}; limits.max_rounds = {limits.max_rounds}"
        yield Refusal(code="POLICY_ROUNDS", words=words, limit=limits.max_rounds, request=request.rounds)
    if limits.max_upload_mb is not None and request.upload_bytes is not None:
        megabytes = request.upload_bytes / 1e6
        if megabytes > limits.max_upload_mb:
            words = f"{megabytes:.3g} MB would leave this site; limits.max_upload_mb = {limits.max_upload_mb:g}"
            yield Refusal(
                code="POLICY_BYTES", words=words, limit=limits.max_upload_mb, request=math.ceil(megabytes * 1e3) / 1e3
            )


def _check_privacy(
    policy: SitePolicy, rows: DataPolicy, promise: Promise | None, *, accounts: Sequence[Account]
) -> Iterator[Refusal]:
    limits = policy.privacy
    bounds = {"epsilon_per_run": limits.epsilon_per_run, "epsilon_total": limits.epsilon_total}
    bound = {name: value for name, value in bounds.items() if value is not None}
    if promise is None:
        for name, value in bound.items():
            words = f"the run promises no privacy, so that it costs without bound; privacy.{name} = {value:g}"
            yield Refusal(code="POLICY_EPSILON", words=words, limit=value)
        return
    counted, asked = f"{rows.unit} and {rows.neighbours}", f"{promise.unit} and {promise.adjacency}"
    if counted != asked:
        words = f"the run promises {asked}; these rows are counted by {counted}: the two do not add up"
        yield Refusal(code="POLICY_EPSILON", words=words, limit=counted, request=asked)
    if limits.delta is not None and promise.delta > limits.delta * (1 + SLACK):
        words = f"the run is priced at delta {promise.delta:g}; privacy.delta = {limits.delta:g}"
        yield Refusal(code="POLICY_EPSILON", words=words, limit=limits.delta, request=promise.delta)
    if limits.epsilon_per_run is not None and not promise.epsilon <= limits.epsilon_per_run * (1 + SLACK):
        words = f"the run costs epsilon {promise.epsilon:.4g}; privacy.epsilon_per_run = {limits.epsilon_per_run:g}"
        yield Refusal(
            code="POLICY_EPSILON", words=words, limit=limits.epsilon_per_run, request=_finite(promise.epsilon)
        )
    if limits.epsilon_total is None:
        return
    # What the ledger shows is the site's own: no number of it leaves.
    after = max((account.epsilon for account in accounts), default=math.inf)
    if not after <= limits.epsilon_total * (1 + SLACK):
        said = f"the ledger would show epsilon {after:.4g}" if accounts else "no ledger has counted it"
        words = f"after this run {said}; privacy.epsilon_total = {limits.epsilon_total:g}"
        yield Refusal(code="POLICY_EPSILON", words=words)


def _finite(value: float) -> float | str:
    return value if math.isfinite(value) else "infinite"
