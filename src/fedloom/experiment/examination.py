"""The examination of a run at a site: rows read, plan made and priced, all in a process that is thrown away after it.

What the run's own code does here is build values. No key of the site is in this process, and what it finds of rows is
told to the site's agent alone.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from fedloom.core.component import ComponentSpec, Json
from fedloom.core.events import DpEvent, SelfComposedDpEvent
from fedloom.core.ids import ClientId
from fedloom.data.row_checks import check_rows
from fedloom.data.sheet import listed
from fedloom.errors import ComponentError, DataError, Error, NoRows, PlanError
from fedloom.experiment import catalogue
from fedloom.experiment.handshake import SiteFacts, installed_versions
from fedloom.experiment.listing import Answer, PlanListing, list_plan
from fedloom.experiment.manifest import Manifest, manifest
from fedloom.experiment.packages import Installed, Part, installed, parts_of
from fedloom.experiment.plan import AnyPlan
from fedloom.experiment.privacy import PrivacyPrice
from fedloom.experiment.refusals import Refusal
from fedloom.experiment.remote import RunFacts, over_rows, site_plan, with_public_answers
from fedloom.experiment.request import run_request
from fedloom.experiment.schema import is_path, parameters
from fedloom.experiment.site_check import RunRequest
from fedloom.experiment.site_data import SiteData, missing_columns, site_dataset
from fedloom.experiment.spec import Experiment, differences
from fedloom.experiment.tree import dotted
from fedloom.privacy.accountants import rdp_curve


class Question(Struct, frozen=True, kw_only=True):
    """What is to be examined."""

    experiment: dict[str, Json]
    """As it was received: ``Experiment.as_json``."""
    client: ClientId
    source: str
    """Name of the component of ``fedloom.datasets`` that the policy gives."""
    arguments: dict[str, Json]
    """Of it."""
    base: str
    """Folder that relative paths of the source start from."""
    columns: tuple[str, ...] | None = None
    """Columns that the policy opens."""
    facts: RunFacts | None = None
    """None: the sites have not agreed yet, and what is asked is what this site has."""
    run: str = ""
    data: str = ""
    """Id of the rows in the policy."""
    rehearsal: bool = False
    orders: tuple[float, ...] = ()
    """Of the site's privacy ledger: Renyi divergences are told at these."""


class Releases(Struct, frozen=True, kw_only=True):
    """What a run releases, as a privacy ledger counts it."""

    event: dict[str, Json]
    """One release: see ``event_tree``."""
    most: int
    one: tuple[float, ...]
    """Renyi divergences of one release; () where none are known."""
    whole: tuple[float, ...]
    """Of all of them."""


class Examined(Struct, frozen=True, kw_only=True):
    """What came of it. Only ``site``, codes of refusals and the manifest's digest are ever told to anybody."""

    refusals: tuple[Refusal, ...] = ()
    site: SiteFacts | None = None
    rows: int | None = None
    """All rows of this client; None: they could not be read."""
    fingerprint: str | None = None
    """SHA-256 of the rows, in the order of columns that was agreed where one was: see ``run_fingerprint``."""
    warnings: tuple[str, ...] = ()
    request: RunRequest | None = None
    manifest: Manifest | None = None
    price: dict[str, Json] | None = None
    """``PrivacyPrice.as_json``; None: nothing is promised."""
    releases: Releases | None = None


def named_parts(experiment: Mapping[str, Json], source: str) -> tuple[Installed, ...]:
    """Return the packages that provide what a run names, and what the site's own source is; nothing is imported.

    Raises:
        ComponentError: When a name stands where it would not be seen, or two packages provide it.
    """
    own = Part(("policy", "source"), "fedloom.datasets", source)
    try:
        return installed((*parts_of(dict(experiment)), own))
    except RecursionError as error:
        raise ComponentError("the settings of the run are nested too deeply") from error


def run_fingerprint(key: bytes, run: str, fingerprint: str) -> str:
    """Return what is told of rows in one run: whether they changed, and nothing that another run could be held against.

    HMAC-SHA256 under a key of the site, over the run's name and the rows' SHA-256.

    Args:
        key: Of the site, 32 bytes; it never leaves.
        run: Name of the run.
        fingerprint: SHA-256 of the rows, in hexadecimal.

    Security: Who does not hold the key cannot tell two data sets apart, nor the same one in two runs.

    Example:
        >>> run_fingerprint(bytes(32), "r1", "00" * 32) == run_fingerprint(bytes(32), "r2", "00" * 32)
        False
    """
    if len(key) < 32:
        raise ComponentError(f"a key of {len(key)} bytes: expected 32 or more")
    # The length before the name: no two pairs of name and fingerprint are one message.
    message = len(run.encode()).to_bytes(8, "big") + run.encode() + bytes.fromhex(fingerprint)
    return hmac.new(key, b"fedloom/site/rows/v1" + message, hashlib.sha256).hexdigest()


def examine(question: Question) -> Examined:
    """Return what a run asks of this site, and why it cannot be, as far as the rows and the plan tell.

    Whether the policy lets the code run is decided before (``check_visit``); whether it lets the plan happen, after
    (``check_plan``).
    """
    tree = question.experiment
    try:
        experiment = Experiment.from_json(tree)
        refused = [*_paths(tree), *_versions(experiment, tree)]
    except (Error, msgspec.MsgspecError, TypeError, ValueError, LookupError) as error:  # whatever was received
        return Examined(refusals=(Refusal(code="PLAN", words=str(error)),))
    if refused:
        return Examined(refusals=tuple(refused))
    source = ComponentSpec("fedloom.datasets", question.source, question.arguments)
    base = Path(question.base)
    absent = _absent(source, base)
    if absent:
        return Examined(refusals=(Refusal(code="NO_DATA", words=absent),))
    facts = question.facts
    try:
        data = site_dataset(
            experiment,
            source,
            client=question.client,
            base=base,
            columns=question.columns,
            schema=None if facts is None else facts.schema,
            population=None if facts is None else facts.population,
        )
    except NoRows as error:
        return Examined(refusals=(Refusal(code="NO_DATA", words=str(error)),), rows=0)
    except Error as error:
        missing = listed(missing_columns(experiment, source, base=base))
        return Examined(refusals=(Refusal(code="SCHEMA", words=str(error), field=missing),))
    found = Examined(site=_site_facts(data, tree), rows=len(data.rows), fingerprint=data.rows.fingerprint)
    return _planned(found, question, experiment, data)


def _planned(found: Examined, question: Question, experiment: Experiment, data: SiteData) -> Examined:
    """Return what was found with the plan, where the sites have agreed; and with what is wrong with rows or plan."""
    replace = msgspec.structs.replace
    try:
        whole = over_rows(experiment, data, base=Path(question.base))
        fills = any(getattr(each, "fills", False) for each in whole.prepare)
        told = check_rows(question.client, data.rows, data.columns, missing="allow" if fills else "refuse")
        found = replace(found, warnings=told)
        return found if question.facts is None else _shown(found, question, whole, facts=question.facts)
    except DataError as error:
        return replace(found, refusals=(Refusal(code="SCHEMA", words=str(error)),))
    except Error as error:
        return replace(found, refusals=(Refusal(code="PLAN", words=str(error)),))
    except MemoryError:  # it says nothing of the plan
        raise
    except Exception as error:  # whatever a component may raise, or settings that are none may lead to
        return replace(found, refusals=(Refusal(code="PLAN", words=f"{type(error).__name__}: {error}"),))


def _shown(found: Examined, question: Question, experiment: Experiment, *, facts: RunFacts) -> Examined:
    """Return what was found with what the plan asks, costs and shows."""
    known = with_public_answers(experiment, facts)
    plan, listing = _plan(experiment, known, client=question.client, base=Path(question.base))
    parts = named_parts(question.experiment, question.source)
    return msgspec.structs.replace(
        found,
        request=run_request(experiment, plan, listing, parts=parts, population=facts.population),
        manifest=manifest(
            experiment,
            plan,
            run=question.run,
            data=question.data,
            facts=known,
            listing=listing,
            parts=parts,
            rehearsal=question.rehearsal,
        ),
        price=None if listing.privacy is None else listing.privacy.price,
        releases=None if listing.privacy is None else _releases(listing.privacy.whole, question.orders),
    )


def _releases(price: PrivacyPrice, orders: Sequence[float]) -> Releases:
    held = price.protection
    event, adjacency = held.counted, held.target.neighbours
    try:
        one, whole = (
            rdp_curve(each, adjacency=adjacency, orders=orders) if orders else ()
            for each in (event, SelfComposedDpEvent(event, price.rounds))
        )
    except PlanError:  # a mechanism that has none is counted by its epsilon and delta
        one, whole = (), ()
    return Releases(event=event_tree(event), most=price.rounds, one=one, whole=whole)


def event_tree(event: DpEvent) -> dict[str, Json]:
    """Return an event as plain JSON: its class under ``name``, and its fields.

    Example:
        >>> from fedloom.core.events import GaussianDpEvent, PoissonSampledDpEvent
        >>> event_tree(PoissonSampledDpEvent(0.5, GaussianDpEvent(2.0)))["event"]
        {'name': 'GaussianDpEvent', 'noise_multiplier': 2.0}
    """
    given = {each.name: getattr(event, each.name) for each in fields(event)}
    return {"name": type(event).__name__, **{key: _plain(value) for key, value in given.items()}}


def _plain(value: Any) -> Json:
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return event_tree(value) if isinstance(value, DpEvent) else value


def _plan(
    experiment: Experiment, facts: RunFacts, *, client: ClientId, base: Path
) -> tuple[AnyPlan | None, PlanListing]:
    """Return the plan of training, None where a preparation has no answer yet, and what will leave this site."""
    if client not in facts.names:
        raise ComponentError(f"{client!r} is not among the sites of this run: {', '.join(facts.names[:5])}")
    answers = [Answer(result=result, records=()) for result in facts.prepared]
    listing = list_plan(experiment, answers, base=base, only=client, splits=facts.splits)
    if len(facts.prepared) < len(experiment.prepare):
        return None, listing
    return site_plan(experiment, facts, len(experiment.prepare))[0], listing


def _site_facts(data: SiteData, tree: Mapping[str, Json]) -> SiteFacts:
    return SiteFacts(
        schema=data.columns, splits=data.splits, versions=installed_versions(sorted(tree.get("versions", {})))
    )


def _paths(tree: Mapping[str, Json]) -> Iterator[Refusal]:
    """Yield a refusal for every path that the experiment names: none that is received is ever opened."""
    for part in parts_of({key: value for key, value in tree.items() if key != "data"}):
        takes = parameters(catalogue.builder(part.group, part.name))
        given = _arguments(tree, part.trail)
        for key, parameter in takes.items():
            if is_path(parameter.shape) and given.get(key) is not None:
                place = dotted((*part.trail, key))
                words = f"{place} names a file: a path in a run's settings is not opened at a site"
                yield Refusal(code="POLICY_COMPONENT", words=words, field=place)


def _arguments(tree: Json, trail: Sequence[str]) -> Mapping[str, Json]:
    """Return the arguments of a part by its place, which goes through the arguments of those around it."""
    for key in trail:
        if isinstance(tree, list):
            tree = tree[int(key)]
        else:
            tree = tree["arguments"][key] if "arguments" in tree and key not in tree else tree[key]
    found: Mapping[str, Json] = tree["arguments"]
    return found


def _versions(experiment: Experiment, tree: Mapping[str, Json]) -> Iterator[Refusal]:
    """Yield what would give this site another digest: other versions, or settings that are not written out."""
    mine = experiment.as_json()
    theirs = tree.get("versions")
    theirs = theirs if isinstance(theirs, dict) else {}
    for name, version in mine["versions"].items():
        if theirs.get(name) != version:
            words = f"{name} {version} is installed here; the run is of {theirs.get(name)}: install that version"
            yield Refusal(code="VERSIONS", words=words, limit=version, request=str(theirs.get(name)), field=name)
    apart = differences(
        {key: value for key, value in mine.items() if key != "versions"},
        {key: value for key, value in tree.items() if key != "versions"},
    )
    if apart:
        words = f"{', '.join(apart[:5])}: not written as Experiment.as_json writes it; send what that returns"
        yield Refusal(code="PLAN", words=words, field=apart[0])


def _absent(source: ComponentSpec, base: Path) -> str:
    """Return which file of the source is not there, in words; empty where all are."""
    takes = parameters(catalogue.builder("fedloom.datasets", source.name))
    for key, value in source.arguments.items():
        if key in takes and is_path(takes[key].shape) and isinstance(value, str) and not (base / value).exists():
            return f"{base / value}: there is no such file"
    return ""
