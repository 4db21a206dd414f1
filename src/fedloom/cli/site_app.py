"""Commands of ``fedloom site``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedloom.cli.failures import exit_on_error
from fedloom.cli.options import Json, SiteFolder, Yes

site = typer.Typer(name="site", help="One site of a federation: its keys, its policy, its word.", no_args_is_help=True)
RunName = Annotated[
    str, typer.Argument(metavar="RUN", help='A run that has asked: its id, the start of it, or "last".')
]
Data = Annotated[
    Path | None, typer.Option("--data", metavar="ROWS", help="This site's rows: a policy to begin with is written.")
]
Protection = Annotated[
    str, typer.Option("--protection", metavar="WORD", help="That every run must have: secure-aggregation, or none.")
]
Approval = Annotated[
    str, typer.Option("--approval", metavar="MODE", help="manual: you look at each run; or auto-if-allowed.")
]


@site.command()
def join(
    folder: SiteFolder,
    token: Annotated[str, typer.Argument(metavar="TOKEN", help="From the coordinator's operator, or a file with it.")],
    data: Data = None,
    *,
    protection: Protection = "secure-aggregation",
    approval: Approval = "manual",
    json: Json = False,
) -> None:
    """Make this site's keys, and ask to become a member. Again: whether the answer has come."""
    with exit_on_error(json=json):
        from fedloom.cli.site import PolicyWish
        from fedloom.cli.site import join as ask

        ask(folder, token, PolicyWish(data=data, protection=protection, approval=approval), json=json)


@site.command()
def start(
    folder: SiteFolder,
    token: Annotated[
        str | None, typer.Option("--join", metavar="TOKEN", help="Join first, and wait for the certificate.")
    ] = None,
    data: Data = None,
    *,
    protection: Protection = "secure-aggregation",
    approval: Approval = "manual",
    rehearsal: Annotated[
        bool, typer.Option("--rehearsal", help="Secrets from each run's seed, where the policy allows it for the rows.")
    ] = False,
    require_pq: Annotated[
        bool, typer.Option("--require-pq", help="Refuse a line whose key exchange a quantum computer breaks.")
    ] = False,
    json_log: Annotated[bool, typer.Option("--json-log", help="Log in JSON, a line an event.")] = False,
) -> None:
    """Serve the federation until a signal, by this site's policy."""
    with exit_on_error(json=False):
        from fedloom.cli.hosts import SiteWish, start_site
        from fedloom.cli.site import PolicyWish

        wish = SiteWish(
            token=token,
            policy=PolicyWish(data=data, protection=protection, approval=approval),
            rehearsal=rehearsal,
            require_pq=require_pq,
            json_log=json_log,
        )
        start_site(folder, wish)


@site.command()
def inbox(folder: SiteFolder, json: Json = False) -> None:
    """List the runs that have asked, and a roster that waits."""
    with exit_on_error(json=json):
        from fedloom.cli.site import show_inbox

        show_inbox(folder, json=json)


@site.command()
def show(folder: SiteFolder, run: RunName, json: Json = False) -> None:
    """Show what a run would do here, in plain words, and what is new in it."""
    with exit_on_error(json=json):
        from fedloom.cli.site import show as show_one

        show_one(folder, run, json=json)


@site.command()
def approve(
    folder: SiteFolder,
    run: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="A run that has asked; or --roster in its place.")
    ] = None,
    *,
    roster: Annotated[
        bool, typer.Option("--roster", help="The newest roster: its members may take part here.")
    ] = False,
    until: Annotated[str | None, typer.Option("--until", metavar="DAY", help="Nothing of the run after it.")] = None,
    max_rounds: Annotated[int | None, typer.Option("--max-rounds", metavar="N", help="Of training.")] = None,
    digest: Annotated[
        str, typer.Option("--digest", metavar="HEX", help="Of the manifest that was shown: no other is approved.")
    ] = "",
    read_out: Annotated[
        str | None, typer.Option("--fingerprint", metavar="LETTERS", help="Of the roster, as it was read out.")
    ] = None,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Say yes to a run as it was shown, or to a roster: signed by this site's key."""
    with exit_on_error(json=json):
        from fedloom.cli.site import approve as say_yes
        from fedloom.cli.site import approve_members, one_of

        if one_of(run, roster=roster):
            approve_members(folder, read_out=read_out, yes=yes, json=json)
            return
        say_yes(folder, run or "", until=until, max_rounds=max_rounds, digest=digest, json=json)


@site.command()
def refuse(folder: SiteFolder, run: RunName, json: Json = False) -> None:
    """Say no to a run, or take back a yes. It works without a coordinator."""
    with exit_on_error(json=json):
        from fedloom.cli.site import refuse as say_no

        say_no(folder, run, json=json)


@site.command()
def policy(folder: SiteFolder, json: Json = False) -> None:
    """Check the policy, and say what it allows."""
    with exit_on_error(json=json):
        from fedloom.cli.site import policy as check

        check(folder, json=json)


@site.command()
def status(folder: SiteFolder, json: Json = False) -> None:
    """Show who this site is, until when, and what waits for you."""
    with exit_on_error(json=json):
        from fedloom.cli.site import status as look

        look(folder, json=json)


@site.command()
def renew(folder: SiteFolder, json: Json = False) -> None:
    """Ask for another certificate, also after the old one has ended."""
    with exit_on_error(json=json):
        from fedloom.cli.site import renew as ask

        ask(folder, json=json)


@site.command()
def pause(
    folder: SiteFolder,
    *,
    off: Annotated[bool, typer.Option("--off", help="Go on.")] = False,
    json: Json = False,
) -> None:
    """Begin nothing more here until `--off`. It works without a coordinator."""
    with exit_on_error(json=json):
        from fedloom.cli.site import pause as rest

        rest(folder, off=off, json=json)


@site.command()
def adopt(
    folder: SiteFolder,
    *,
    coordinator: Annotated[
        bool, typer.Option("--coordinator", help="The coordinator's store went back, not this site's.")
    ] = False,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Go on after a store was put back from a backup: what it has forgotten is charged first."""
    with exit_on_error(json=json):
        from fedloom.cli.site_adopt import adopt as adopt_own
        from fedloom.cli.site_adopt import adopt_coordinator

        (adopt_coordinator if coordinator else adopt_own)(folder, yes=yes, json=json)
