"""Commands of ``fedloom``. What a command needs is imported inside it, so that ``--help`` stays quick."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedloom.cli.failures import exit_on_error

app = typer.Typer(
    name="fedloom",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
runs = typer.Typer(name="runs", help="What has been run.", no_args_is_help=True)
config = typer.Typer(name="config", help="What an experiment file means.", no_args_is_help=True)
app.add_typer(runs)
app.add_typer(config)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output, nothing else.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one key: algorithm.mu=0.1")]
File = Annotated[Path, typer.Argument(metavar="FILE", help="An experiment file (TOML).")]
Folder = Annotated[Path, typer.Option("--output", help="Folder of all runs.")]
RunName = Annotated[str, typer.Argument(metavar="RUN", help='A folder, a run id, the start of one, or "last".')]


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"fedloom {version('fedloom')}")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
]


@app.callback()
def main(version: Version = False) -> None:
    """Train one model across parties who keep their data."""
    del version


@app.command()
def run(
    file: File,
    overrides: Set = None,
    output: Annotated[Path | None, typer.Option("--output", help="Folder of all runs (over the file's).")] = None,
    save_rounds: Annotated[bool, typer.Option("--save-rounds", help="Keep the parameters of every round.")] = False,
    json: Json = False,
) -> None:
    """Run an experiment to its stop."""
    with exit_on_error(json=json):
        from fedloom.cli.run import run_file

        run_file(file, overrides or [], output=output, save_rounds=save_rounds, json=json)


@app.command()
def resume(
    run: RunName,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change the stop: stop.0.rounds=200. All else stays."),
    ] = None,
    output: Folder = Path("runs"),
    json: Json = False,
) -> None:
    """Continue a run that was interrupted, paused or killed, to the same bytes."""
    with exit_on_error(json=json):
        from fedloom.cli.run import resume_run

        resume_run(run, overrides or [], output=output, json=json)


@app.command()
def demo(
    seed: Annotated[int, typer.Option(help="Which rows go where, and every random choice.")] = 0,
    output: Folder = Path("runs"),
    json: Json = False,
) -> None:
    """Four hospitals with different patients train one classifier."""
    with exit_on_error(json=json):
        from fedloom.cli.demo import run_demo

        run_demo(seed=seed, output=output, json=json)


@runs.command("list")
def list_(output: Folder = Path("runs"), json: Json = False) -> None:
    """List all runs, oldest first."""
    with exit_on_error(json=json):
        from fedloom.cli.runs import list_runs

        list_runs(output, json=json)


@runs.command()
def show(run: RunName, output: Folder = Path("runs"), json: Json = False) -> None:
    """Show one run: what was asked, what came of it."""
    with exit_on_error(json=json):
        from fedloom.cli.runs import show_run

        show_run(run, output, json=json)


@config.command("show")
def show_config(
    file: File,
    overrides: Set = None,
    resolved: Annotated[
        bool, typer.Option("--resolved", help="With defaults, and where each value comes from.")
    ] = False,
    json: Json = False,
) -> None:
    """Check an experiment file and print what it sets."""
    with exit_on_error(json=json):
        from fedloom.cli.config import show_file

        show_file(file, overrides or [], resolved=resolved, json=json)
