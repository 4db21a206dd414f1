"""Commands of ``fedloom pki``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedloom.cli.failures import exit_on_error
from fedloom.cli.options import Json, RootFolder, Yes

pki = typer.Typer(name="pki", help="The offline root of a federation: who may take part.", no_args_is_help=True)
roster = typer.Typer(name="roster", help="Who may take part, and by which key.", no_args_is_help=True)
pki.add_typer(roster)


@pki.command()
def init(
    folder: RootFolder,
    federation: Annotated[str, typer.Option("--federation", metavar="NAME", help="Name of the federation.")],
    years: Annotated[int, typer.Option("--years", min=1, help="How long the root holds.")] = 10,
    json: Json = False,
) -> None:
    """Make the root of a new federation, sealed under a passphrase, and an intermediate for its coordinator."""
    with exit_on_error(json=json):
        from fedloom.cli.pki import init as init_root

        init_root(folder, federation, years=years, json=json)


@pki.command()
def deny(
    folder: RootFolder,
    clients: Annotated[
        list[str] | None, typer.Option("--client", metavar="NAME", help="Shut out an identity, whatever it holds.")
    ] = None,
    serials: Annotated[
        list[str] | None, typer.Option("--serial", metavar="HEX", help="Shut out one certificate.")
    ] = None,
    json: Json = False,
) -> None:
    """Sign a deny list with more on it: they are out at once and for good."""
    with exit_on_error(json=json):
        from fedloom.cli.pki import deny as deny_some

        deny_some(folder, clients=clients or [], serials=serials or [], json=json)


@pki.command()
def intermediate(
    folder: RootFolder,
    days: Annotated[int, typer.Option("--days", min=1, help="How long it holds.")] = 365,
    json: Json = False,
) -> None:
    """Make another intermediate for the coordinator, before the one in use ends."""
    with exit_on_error(json=json):
        from fedloom.cli.pki import intermediate as new_intermediate

        new_intermediate(folder, days=days, json=json)


@roster.command()
def show(folder: RootFolder, json: Json = False) -> None:
    """Show the roster that was signed last, and what the next one would change."""
    with exit_on_error(json=json):
        from fedloom.cli.pki import show_roster

        show_roster(folder, json=json)


@roster.command()
def add(
    folder: RootFolder,
    files: Annotated[
        list[Path], typer.Argument(metavar="MEMBER...", help="Files that `fedloom coordinator` wrote of members.")
    ],
    read_out: Annotated[
        str | None, typer.Option("--fingerprint", metavar="LETTERS", help="Of the member's key, as it was read out.")
    ] = None,
    json: Json = False,
) -> None:
    """Put members into the next roster."""
    with exit_on_error(json=json):
        from fedloom.cli.pki import add_to_roster

        add_to_roster(folder, files, read_out=read_out, json=json)


@roster.command()
def remove(
    folder: RootFolder,
    clients: Annotated[list[str], typer.Argument(metavar="CLIENT...", help="Names in the roster.")],
    json: Json = False,
) -> None:
    """Leave members out of the next roster."""
    with exit_on_error(json=json):
        from fedloom.cli.pki import remove_from_roster

        remove_from_roster(folder, clients, json=json)


@roster.command()
def sign(folder: RootFolder, yes: Yes = False, json: Json = False) -> None:
    """Sign the next roster with the root's key, after you have compared fingerprints."""
    with exit_on_error(json=json):
        from fedloom.cli.pki import sign_roster

        sign_roster(folder, yes=yes, json=json)
