"""The manifest of a run at a site: all that its operator approves, in one encoding whose digest is signed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence

import msgspec
from msgspec import Struct

from fedloom.core.component import Json, canonical_json
from fedloom.errors import CodecError
from fedloom.experiment.listing import Phase, PlanListing
from fedloom.experiment.packages import Installed
from fedloom.experiment.plan import AnyPlan
from fedloom.experiment.remote import RunFacts, plan_digest
from fedloom.experiment.spec import Experiment
from fedloom.experiment.tree import Trail, dotted, file_form, leaves, shown, toml_value

REHEARSAL = "rehearsal: no protection, its secrets follow from the seed"


class Code(Struct, frozen=True, kw_only=True):
    """One part of the run, and the very package that it comes from."""

    field: str
    name: str
    distribution: str
    version: str
    record: str | None

    def __str__(self) -> str:
        """Return it as a line."""
        known = "no RECORD" if self.record is None else f"RECORD {self.record[:12]}"
        return f"{self.field} = {self.name} ({self.distribution} {self.version}, {known})"


class Leaves(Struct, frozen=True, kw_only=True):
    """What leaves the site in one phase."""

    title: str
    rounds: int | None
    items: tuple[str, ...]
    client_up: int | None
    """Bytes of one message at most; None: not known before a preparation has been answered."""
    aggregator: str | None
    protection: str
    learns: tuple[str, ...]
    notes: tuple[str, ...]
    unknown: str | None


class Manifest(Struct, frozen=True, kw_only=True):
    """What ``site show RUN`` prints, and what an approval signs."""

    run: str
    digest: str
    """Of the experiment."""
    experiment: dict[str, Json]
    """The settings, as a file would hold them."""
    code: tuple[Code, ...]
    model: tuple[tuple[str, tuple[int, ...]], ...]
    """Names and shapes of what is trained; empty where it is not known before a preparation has been answered."""
    plan: str | None
    """``plan_digest`` of training, which the coordinator has too; None where it is not known yet."""
    rounds: int | None
    sites: tuple[str, ...]
    data: str
    """Id of the rows in the policy of the site."""
    columns: tuple[str, ...]
    label: str | None
    classes: tuple[str, ...] | None
    leaves: tuple[Leaves, ...]
    privacy: Json
    """What is promised and what it costs; None: nothing is promised."""
    rehearsal: bool = False

    @property
    def canonical(self) -> bytes:
        """The one encoding."""
        return canonical_json(msgspec.to_builtins(self))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the encoding, in hexadecimal: what an approval signs."""
        return hashlib.sha256(self.canonical).hexdigest()

    def lines(self) -> Iterator[str]:
        """Yield it in plain words, for the operator."""
        if self.rehearsal:
            yield REHEARSAL.upper()
        yield f"run {self.run}, experiment {self.digest[:12]}, to approve: {self.fingerprint}"
        rounds = "without a bound on its rounds" if self.rounds is None else f"{self.rounds} rounds of training at most"
        yield f"{rounds}; {len(self.sites)} sites: {', '.join(self.sites)}"
        yield f'rows: data."{self.data}", columns {", ".join(self.columns)}, label {self.label or "none"}'
        yield "code that runs here:"
        yield from (f"  {each}" for each in self.code)
        yield "what is trained: " + (
            ", ".join(f"{name} {tuple(shape)}" for name, shape in self.model)
            or "known when the preparations have been answered"
        )
        for each in self.leaves:
            yield from each_line(each)
        yield "privacy: " + ("nothing is promised" if self.privacy is None else _promised(self.privacy))
        yield "settings, but for the data, whose place this site gives itself:"
        settings = leaves({key: value for key, value in self.experiment.items() if key != "data"})
        yield from (
            f"  {dotted(place)} = {toml_value(value)}" for place, value in settings.items() if value is not None
        )


def manifest(
    experiment: Experiment,
    plan: AnyPlan | None,
    *,
    run: str,
    data: str,
    facts: RunFacts,
    listing: PlanListing,
    parts: Sequence[Installed],
    rehearsal: bool = False,
) -> Manifest:
    """Return the manifest of a run at this site.

    Args:
        experiment: All components resolved.
        plan: Of training; None where it is not known yet.
        run: Name of the run.
        data: Id of the data.
        facts: Of the run.
        listing: What will leave this site.
        parts: What the experiment names, as it is installed here.
        rehearsal: Whether it is one.
    """
    tree = experiment.as_json()
    learner = None if plan is None else plan.learner
    layout = () if learner is None else learner.layout.leaves
    return Manifest(
        run=run,
        digest=experiment.digest,
        experiment=file_form({key: value for key, value in tree.items() if key != "versions"}),
        code=tuple(
            Code(
                field=each.field,
                name=each.name,
                distribution=each.distribution,
                version=each.version,
                record=each.record,
            )
            for each in parts
        ),
        model=tuple((leaf.name, tuple(leaf.shape)) for leaf in layout),
        plan=None if plan is None else plan_digest(plan, facts),
        rounds=getattr(experiment.stop, "rounds", None),
        sites=tuple(facts.names),
        data=data,
        columns=(*facts.schema.columns, *facts.schema.texts),
        label=facts.schema.label,
        classes=facts.schema.classes,
        leaves=tuple(_leaves(phase) for phase in listing.phases),
        privacy=None if listing.privacy is None else listing.privacy.whole.as_json(),
        rehearsal=rehearsal,
    )


def read_manifest(data: bytes) -> Manifest:
    """Return a manifest that was stored.

    Raises:
        CodecError: When it is none, or not in its one encoding.
    """
    try:
        found = msgspec.json.decode(data, type=Manifest)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise CodecError(f"manifest of a run: {error}") from error
    if found.canonical != data:
        raise CodecError("manifest of a run: not in its one encoding")
    return found


def difference(one: Manifest, approved: Manifest | None) -> tuple[str, ...]:
    """Return in words what differs from the manifest that was approved last; empty where nothing does but the name.

    Args:
        one: The new manifest.
        approved: The last that was approved; None: there is none.
    """
    if approved is None:
        return ("no run was approved here before",)
    new, old = _flat(one), _flat(approved)
    found: list[str] = []
    for place in sorted({*new, *old}):
        if new.get(place, _ABSENT) == old.get(place, _ABSENT):
            continue
        match old.get(place, _ABSENT), new.get(place, _ABSENT):
            case _Absent(), value:
                found.append(f"{dotted(place)} = {shown(value)}, which was not there")
            case value, _Absent():
                found.append(f"{dotted(place)} is not there any more; it was {shown(value)}")
            case was, value:
                found.append(f"{dotted(place)} = {shown(value)}; it was {shown(was)}")
    return tuple(found)


def each_line(each: Leaves) -> Iterator[str]:
    """Yield what leaves in one phase, in words."""
    if each.unknown is not None:
        yield f"{each.title}: {each.unknown}"
        return
    size = "bytes not known" if each.client_up is None else f"{each.client_up:,} bytes a message"
    rounds = "" if each.rounds is None else f", {each.rounds} rounds"
    yield f"{each.title}{rounds}: {size} through {each.aggregator or 'nothing'}; protection: {each.protection}"
    yield f"  leaves: {', '.join(each.items) or 'nothing'}"
    yield from (f"  the coordinator learns {words}" for words in each.learns)
    yield from (f"  {words}" for words in each.notes)


class _Absent:
    """Stands for what is not there."""


_ABSENT = _Absent()


def _flat(one: Manifest) -> Mapping[Trail, Json]:
    """Return the plain values of a manifest by place; parts and phases by their names, so that one more moves none."""
    tree = msgspec.to_builtins(one)
    named = {
        "code": {each["field"]: each for each in tree["code"]},
        "leaves": {each["title"]: each for each in tree["leaves"]},
    }
    left_out = ("run", "digest", "plan")  # names of what the rest tells
    return leaves({**{key: value for key, value in tree.items() if key not in left_out}, **named})


def _leaves(phase: Phase) -> Leaves:
    clear = [f"{name} (this site's own figure)" for name in phase.clear]
    return Leaves(
        title=phase.title,
        rounds=phase.rounds,
        items=(*(f"{item.name} {tuple(item.shape)}" for item in phase.items), *clear),
        client_up=phase.client_up,
        aggregator=phase.aggregator,
        protection=phase.protection,
        learns=phase.learns,
        notes=phase.notes,
        unknown=phase.unknown,
    )


def _promised(privacy: Json) -> str:
    readers = "; ".join(each["words"] for each in privacy["readers"].values())
    return f"{privacy['mechanism']}, hides one {privacy['unit']} ({privacy['adjacency']}): {readers}"
