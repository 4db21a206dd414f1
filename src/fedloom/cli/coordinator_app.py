"""Commands of ``fedloom coordinator``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedloom.cli.failures import exit_on_error
from fedloom.cli.options import CoordinatorFolder, Json, Yes

coordinator = typer.Typer(
    name="coordinator", help="The process that all sites of a federation dial.", no_args_is_help=True
)
Root = Annotated[
    Path | None,
    typer.Option("--root", metavar="ROOT", help="Sign with the root's folder on this machine: for trying out only."),
]


@coordinator.command()
def init(
    folder: CoordinatorFolder,
    given: Annotated[
        Path | None,
        typer.Option("--from", metavar="FOLDER", help="What the root's owner handed over: for-coordinator."),
    ] = None,
    root: Root = None,
    *,
    hosts: Annotated[
        list[str] | None, typer.Option("--host", metavar="NAME", help="A name or address that sites dial; repeatable.")
    ] = None,
    port: Annotated[
        int, typer.Option("--port", min=0, max=65532, help="Of the sites; entry, probe and health follow. 0: any.")
    ] = 7443,
    listen: Annotated[
        list[str] | None, typer.Option("--listen", metavar="ADDRESS", help="Addresses to listen at; else all.")
    ] = None,
    invited: Annotated[
        list[str] | None, typer.Option("--invite", metavar="SITE", help="Write a token for it at once; repeatable.")
    ] = None,
    least: Annotated[int, typer.Option("--least", min=1, help="Sites without which there is no run.")] = 2,
    deadline: Annotated[
        float | None, typer.Option("--deadline", metavar="SECONDS", help="Of a round; else it waits for all.")
    ] = None,
    lost_after: Annotated[
        float | None, typer.Option("--lost-after", metavar="SECONDS", help="Of silence: a site is lost in this round.")
    ] = None,
    approval: Annotated[
        float | None, typer.Option("--approval", metavar="SECONDS", help="For the sites' word on a run; else no limit.")
    ] = None,
    suspend_after: Annotated[
        int,
        typer.Option("--suspend-after", metavar="N", min=0, help="Failed rounds in a row: a site is out; 0: none."),
    ] = 3,
    json: Json = False,
) -> None:
    """Make the coordinator's folder: its certificate, its own key, its settings."""
    with exit_on_error(json=json):
        from fedloom.cli.coordinator import Wish
        from fedloom.cli.coordinator import init as make

        wish = Wish(
            folder=folder,
            given=given,
            root=root,
            hosts=tuple(hosts or ["localhost", "127.0.0.1"]),
            port=port,
            listen=tuple(listen or ["[::]"]),
            least=least,
            deadline_s=deadline,
            lost_after_s=lost_after,
            approval_s=approval,
            suspend_after=suspend_after or None,
            invited=tuple(invited or ()),
        )
        make(wish, json=json)


@coordinator.command()
def install(
    folder: CoordinatorFolder,
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="roster.json, deny.json or intermediate.pem (with .key).")
    ],
    json: Json = False,
) -> None:
    """Take what the root's owner has signed; a coordinator that runs follows at once."""
    with exit_on_error(json=json):
        from fedloom.cli.coordinator import install as take

        take(folder, files, json=json)


@coordinator.command()
def start(
    folder: CoordinatorFolder,
    *,
    rehearsal: Annotated[
        bool, typer.Option("--rehearsal", help="Secrets from each run's seed: for rows that need no protection.")
    ] = False,
    json_log: Annotated[bool, typer.Option("--json-log", help="Log in JSON, a line an event.")] = False,
) -> None:
    """Serve the sites until a signal: the first lets what is under way come to its end, the second ends at once."""
    with exit_on_error(json=False):
        from fedloom.cli.hosts import start_coordinator

        start_coordinator(folder, rehearsal=rehearsal, json_log=json_log)


@coordinator.command()
def invite(
    folder: CoordinatorFolder,
    client: Annotated[str, typer.Argument(metavar="NAME", help="The site's name in the federation.")],
    organisation: Annotated[
        str | None, typer.Option("--organisation", metavar="NAME", help="Whom it belongs to; else as it is called.")
    ] = None,
    *,
    hours: Annotated[float, typer.Option("--hours", min=0.01, help="How long the token can be used.")] = 24.0,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write the token into a new file, for its eyes only.")
    ] = None,
    json: Json = False,
) -> None:
    """Print a token with which one site may ask to join, once."""
    with exit_on_error(json=json):
        from fedloom.cli.operating import invite as issue

        issue(folder, client, organisation=organisation or client, hours=hours, out=out, json=json)


@coordinator.command()
def approve(
    folder: CoordinatorFolder,
    fingerprints: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FINGERPRINT]...", help="As the site's operator reads it out; none: you are asked."),
    ] = None,
    root: Root = None,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Say yes to sites that asked to join, after their fingerprints were compared."""
    with exit_on_error(json=json):
        from fedloom.cli.coordinator import approve as say_yes

        say_yes(folder, fingerprints or [], root=root, yes=yes, json=json)


@coordinator.command()
def readmit(
    folder: CoordinatorFolder,
    client: Annotated[str, typer.Argument(metavar="SITE", help="The site's name in the federation.")],
    json: Json = False,
) -> None:
    """Let a site in again that was suspended."""
    with exit_on_error(json=json):
        from fedloom.cli.operating import readmit as let_in

        let_in(folder, client, json=json)


@coordinator.command()
def status(folder: CoordinatorFolder, json: Json = False) -> None:
    """Show sites, runs and who waits to join."""
    with exit_on_error(json=json):
        from fedloom.cli.operating import status as look

        look(folder, json=json)
