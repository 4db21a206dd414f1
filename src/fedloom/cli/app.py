"""Commands of ``fedloom``. What a command needs is imported inside it, so that ``--help`` stays quick."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedloom.cli.coordinator_app import coordinator
from fedloom.cli.failures import exit_on_error
from fedloom.cli.options import COORDINATOR, CoordinatorFolder, File, Json, Set, runs_folder
from fedloom.cli.pki_app import pki
from fedloom.cli.site_app import site

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
ledger = typer.Typer(name="ledger", help="What has been released of each data set.", no_args_is_help=True)
app.add_typer(ledger)
app.add_typer(pki)
app.add_typer(coordinator)
app.add_typer(site)

Folder = Annotated[Path, typer.Option("--output", help="Folder of all runs, or of a coordinator.")]
Model = Annotated[str, typer.Argument(metavar="MODEL", help="A model.safetensors, a run's folder or its id.")]
Rows = Annotated[Path, typer.Argument(metavar="ROWS.csv", help="Rows as the model was trained on, found by column.")]
LedgerFile = Annotated[Path, typer.Option("--ledger", metavar="PATH", help="The ledger's file.")]
RunName = Annotated[str, typer.Argument(metavar="RUN", help='A folder, a run id, the start of one, or "last".')]


def _print_version(asked: bool) -> None:
    if asked:
        from fedloom.core.own_version import own_version

        typer.echo(f"fedloom {own_version()}")
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
    *,
    save_rounds: Annotated[bool, typer.Option("--save-rounds", help="Keep the parameters of every round.")] = False,
    seeds: Annotated[
        int | None, typer.Option("--seeds", metavar="N", help="N runs, each by the next seed: mean and deviation.")
    ] = None,
    json: Json = False,
) -> None:
    """Run an experiment to its stop."""
    with exit_on_error(json=json):
        if seeds is not None:
            from fedloom.cli.seeds import run_seeds

            run_seeds(file, overrides or [], count=seeds, output=output, save_rounds=save_rounds, json=json)
            return
        from fedloom.cli.run import run_file

        run_file(file, overrides or [], output=output, save_rounds=save_rounds, json=json)


@app.command()
def resume(
    run: RunName,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change the stop: stop.rounds=200. All else stays."),
    ] = None,
    output: Folder = Path("runs"),
    from_round: Annotated[
        int | None,
        typer.Option("--from-round", metavar="N", min=1, help="Of a coordinator's run: N failed, and was mended."),
    ] = None,
    json: Json = False,
) -> None:
    """Continue a run that was interrupted, paused or killed, to the same bytes."""
    with exit_on_error(json=json):
        if (output / COORDINATOR).exists():
            from fedloom.cli.federated import resume as let_go_on

            let_go_on(output, run, from_round=from_round, json=json)
            return
        from fedloom.cli.run import resume_run

        resume_run(run, overrides or [], output=output, from_round=from_round, json=json)


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


@app.command()
def report(
    run: RunName,
    *,
    public: Annotated[
        bool, typer.Option("--public", help="Of a private run: report-public.html, without a word of who took part.")
    ] = False,
    output: Folder = Path("runs"),
    json: Json = False,
) -> None:
    """Write a run's report.html again, from its record."""
    with exit_on_error(json=json):
        from fedloom.cli.report import write_public_report, write_report

        (write_public_report if public else write_report)(run, runs_folder(output), json=json)


@app.command()
def new(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write.")] = Path("experiment.toml"),
    *,
    kind: Annotated[
        str | None, typer.Option("--kind", help="classification, regression or images; with --data it is guessed.")
    ] = None,
    data: Annotated[Path | None, typer.Option("--data", metavar="PATH.csv", help="Rows of your own.")] = None,
    label: Annotated[str | None, typer.Option("--label", metavar="COLUMN", help="The column to predict.")] = None,
    client: Annotated[
        str | None, typer.Option("--client", metavar="COLUMN", help="The column that says whose a row is.")
    ] = None,
    clients: Annotated[
        int | None, typer.Option("--clients", metavar="N", help="Deal the rows to N simulated clients.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a file that is there.")] = False,
    json: Json = False,
) -> None:
    """Write a starter file that runs as it is: on bundled rows, or on a CSV of your own."""
    with exit_on_error(json=json):
        from fedloom.cli.new import Wish, write_starter

        wish = Wish(file=file, kind=kind, data=data, label=label, client=client, clients=clients, force=force)
        write_starter(wish, json=json)


@app.command()
def plan(
    file: File,
    overrides: Set = None,
    no_preparations: Annotated[
        bool, typer.Option("--no-preparations", help="Ask no client anything: sizes they decide stay unknown.")
    ] = False,
    json: Json = False,
) -> None:
    """List everything that will leave a client, before anything is trained."""
    with exit_on_error(json=json):
        from fedloom.cli.plan import plan_file

        plan_file(file, overrides or [], ask=not no_preparations, json=json)


@app.command()
def audit(
    file: File,
    overrides: Set = None,
    *,
    layer: Annotated[
        bool, typer.Option("--layer", help="Play the pipeline's own clip, sum and noise with a canary and without it.")
    ] = False,
    releases: Annotated[int, typer.Option("--releases", metavar="N", help="Of each canary, and without any.")] = 5_000,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Noise from this machine's entropy, in place of the seed's.")
    ] = False,
    json: Json = False,
) -> None:
    """Measure a claim of privacy against what is released, before anything is trained."""
    with exit_on_error(json=json):
        from fedloom.cli.audit import audit_file

        audit_file(file, overrides or [], layer=layer, releases=releases, fresh=fresh, json=json)


@app.command()
def predict(
    model: Model,
    data: Rows,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="A new CSV; else standard output.")] = None,
    output: Folder = Path("runs"),
    json: Json = False,
) -> None:
    """Predict the rows of a CSV with a trained model, preparations included."""
    with exit_on_error(json=json):
        from fedloom.cli.use_model import predict_rows

        predict_rows(model, data, out=out, output=runs_folder(output), json=json)


@app.command()
def evaluate(model: Model, data: Rows, output: Folder = Path("runs"), json: Json = False) -> None:
    """Compare a trained model with the labels of a CSV: the figures that a run prints."""
    with exit_on_error(json=json):
        from fedloom.cli.use_model import evaluate_rows

        evaluate_rows(model, data, output=runs_folder(output), json=json)


Sites = Annotated[
    int | None, typer.Option("--sites", metavar="N", min=2, help="Of the experiment's clients; else all.")
]
Parties = Annotated[
    Path | None, typer.Option("--folder", metavar="FOLDER", help="Keep all parties' folders, in this new one.")
]


@app.command()
def up(
    file: File,
    overrides: Set = None,
    sites: Sites = None,
    folder: Parties = None,
    output: Annotated[Path | None, typer.Option("--output", help="Folder of all runs (over the file's).")] = None,
    *,
    json: Json = False,
) -> None:
    """Try a federation out on this host: a coordinator and a process for each site, ended with the run."""
    with exit_on_error(json=json):
        from fedloom.cli.up import Wish
        from fedloom.cli.up import up as begin

        wish = Wish(file=file, overrides=overrides or [], sites=sites, folder=folder, output=output)
        begin(wish, json=json)


@app.command()
def rehearse(
    file: File,
    overrides: Set = None,
    sites: Sites = None,
    folder: Parties = None,
    output: Annotated[Path | None, typer.Option("--output", help="Folder of all runs (over the file's).")] = None,
    *,
    rows: Annotated[str, typer.Option("--rows", metavar="KIND", help="What the rows are: public or synthetic.")],
    json: Json = False,
) -> None:
    """Play a run over real sockets with secrets from its seed: the same bytes each time, and no protection."""
    with exit_on_error(json=json):
        from fedloom.cli.up import Wish, up

        wish = Wish(
            file=file, overrides=overrides or [], sites=sites, folder=folder, output=output, rehearsed_rows=rows
        )
        up(wish, json=json)


@app.command()
def submit(
    folder: CoordinatorFolder,
    file: File,
    overrides: Set = None,
    *,
    name: Annotated[str | None, typer.Option("--name", help="For people; else the file's.")] = None,
    follow: Annotated[bool, typer.Option("--follow", help="See the run through to its end.")] = False,
    json: Json = False,
) -> None:
    """Hand an experiment to a coordinator on this host, which asks its sites."""
    with exit_on_error(json=json):
        from fedloom.cli.federated import submit as hand_in

        hand_in(folder, file, overrides or [], name=name, follow=follow, json=json)


Handed = Annotated[str | None, typer.Argument(metavar="[RUN]", help="An id, its start or a name; else the newest.")]


@app.command()
def logs(
    folder: CoordinatorFolder,
    run: Handed = None,
    *,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what happens, until the run's end.")
    ] = False,
    json: Json = False,
) -> None:
    """Print what has happened in a run of a coordinator."""
    with exit_on_error(json=json):
        from fedloom.cli.federated import logs as look

        look(folder, run, until="end" if follow else "now", json=json)


@app.command()
def stop(
    folder: CoordinatorFolder,
    run: Handed = None,
    *,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="For the record, and for the sites.")] = (
        "ended by the operator"
    ),
    pause: Annotated[bool, typer.Option("--pause", help="Let it rest after the open round: `resume` goes on.")] = False,
    json: Json = False,
) -> None:
    """End a run of a coordinator; what it has released stays counted."""
    with exit_on_error(json=json):
        from fedloom.cli.federated import stop as end

        end(folder, run, reason=reason, pause=pause, json=json)


@app.command()
def doctor(
    party: Annotated[
        Path | None,
        typer.Argument(metavar="[FOLDER]", help="Of a coordinator or a site: its files, and the line to the others."),
    ] = None,
    output: Folder = Path("runs"),
    json: Json = False,
) -> None:
    """Look at this machine, and at a coordinator or site on it. Uses the network only for the latter."""
    with exit_on_error(json=json):
        from fedloom.cli.doctor import run_doctor

        run_doctor(output, party=party, json=json)


@runs.command("list")
def list_(output: Folder = Path("runs"), json: Json = False) -> None:
    """List all runs, oldest first."""
    with exit_on_error(json=json):
        from fedloom.cli.runs import list_federated_runs, list_runs

        if (output / COORDINATOR).exists():
            list_federated_runs(output, json=json)
            return
        list_runs(output, json=json)


@runs.command()
def show(run: RunName, output: Folder = Path("runs"), json: Json = False) -> None:
    """Show one run: what was asked, what came of it."""
    with exit_on_error(json=json):
        from fedloom.cli.runs import show_run

        show_run(run, runs_folder(output), json=json)


Runs = Annotated[list[str], typer.Argument(metavar="RUN...", help='Folders, run ids, starts of them, or "last".')]


@runs.command()
def compare(
    names: Runs,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write a page for a browser, into a new file.")
    ] = None,
    output: Folder = Path("runs"),
    json: Json = False,
) -> None:
    """Compare runs: figures, curves, and the settings that differ."""
    with exit_on_error(json=json):
        from fedloom.cli.compare import compare_runs

        compare_runs(names, runs_folder(output), json=json, html=html)


@runs.command()
def export(
    run: RunName,
    destination: Annotated[Path, typer.Argument(metavar="DEST", help="A new folder, or a new file NAME.zip.")],
    output: Folder = Path("runs"),
    json: Json = False,
) -> None:
    """Copy a run's documents, model and figures, without its state."""
    with exit_on_error(json=json):
        from fedloom.cli.keeping import export as export_run

        export_run(run, destination, runs_folder(output), json=json)


@runs.command()
def rm(
    names: Runs,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    output: Folder = Path("runs"),
    json: Json = False,
) -> None:
    """Remove runs for ever; never one that is going on."""
    with exit_on_error(json=json):
        from fedloom.cli.keeping import remove

        remove(names, output, yes=yes, json=json)


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


@ledger.command("show")
def show_ledger(path: LedgerFile = Path("runs/ledger.sqlite"), json: Json = False) -> None:
    """Show every data set with its budget, and every run with what it holds."""
    with exit_on_error(json=json):
        from fedloom.cli.ledger import show

        show(path, json=json)


@ledger.command("verify")
def verify_ledger(
    path: LedgerFile = Path("runs/ledger.sqlite"),
    heads: Annotated[
        list[str] | None,
        typer.Option(
            "--head", metavar="ROWS:SHA256", help="Compare with a head noted before; several times if need be."
        ),
    ] = None,
    accept: Annotated[
        bool, typer.Option("--accept", help="Take it as it is where its head file is gone, or counts rows that are.")
    ] = False,
    json: Json = False,
) -> None:
    """Check that no row was changed, removed or moved, and print the head."""
    with exit_on_error(json=json):
        from fedloom.cli.ledger import verify

        verify(path, heads=heads or [], accept=accept, json=json)


@ledger.command("budget")
def budget_ledger(
    data_set: Annotated[str | None, typer.Argument(metavar="DATA_SET", help="Its declared id; else all.")] = None,
    *,
    epsilon: Annotated[
        float | None, typer.Option("--epsilon", help="Give it a budget: its epsilon; inf for no limit.")
    ] = None,
    delta: Annotated[float | None, typer.Option("--delta", help="Its delta.")] = None,
    unit: Annotated[str | None, typer.Option("--unit", help="client or record.")] = None,
    adjacency: Annotated[str | None, typer.Option("--adjacency", help="zero_out, add_remove or replace_one.")] = None,
    composition: Annotated[str | None, typer.Option("--composition", help="Across runs: basic or rdp.")] = None,
    shares: Annotated[
        list[str] | None,
        typer.Option("--shares-units-with", metavar="DATA_SET", help="Another id that may hold the same people."),
    ] = None,
    path: LedgerFile = Path("runs/ledger.sqlite"),
    json: Json = False,
) -> None:
    """Show what data sets may still spend, or give one its budget, once and for ever."""
    with exit_on_error(json=json):
        from fedloom.cli.ledger import Asked, budget

        asked = Asked(
            epsilon=epsilon,
            delta=delta,
            unit=unit,
            adjacency=adjacency,
            composition=composition,
            shares_units_with=tuple(shares or ()),
        )
        budget(path, data_set, asked, json=json)


@ledger.command("finish")
def finish_ledger(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Its id, in full.")],
    path: LedgerFile = Path("runs/ledger.sqlite"),
    json: Json = False,
) -> None:
    """End the releases of a run that will not be resumed, so that it holds nothing that it did not use."""
    with exit_on_error(json=json):
        from fedloom.cli.ledger import finish

        finish(path, run, json=json)


@ledger.command("export")
def export_ledger(
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="A new file; else standard output.")] = None,
    path: LedgerFile = Path("runs/ledger.sqlite"),
    json: Json = False,
) -> None:
    """Write every row as a line of JSON with its digest."""
    with exit_on_error(json=json):
        from fedloom.cli.ledger import export

        export(path, out, json=json)
