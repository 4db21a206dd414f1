"""How a command fails: one block on standard error, and a stable exit code.

2: refused before anything ran (a file, a flag, data, a folder). 1: a run that had begun could not go on; what it had
reached is kept, and a note at the error says so. 130: Ctrl-C.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from fedloom.cli.output import discard_output, write_json
from fedloom.errors import AlgorithmError, ConfigError, Error, RunStopped

BEGUN = (RunStopped, AlgorithmError)
"""Errors that only a run that has begun can raise."""


@contextmanager
def exit_on_error(*, json: bool) -> Iterator[None]:
    """Turn an error into one block on standard error and an exit code.

    Raises:
        typer.Exit: In place of the error.
    """
    try:
        yield
        sys.stdout.flush()
    except typer.Exit:  # a command that has said all there is to say
        sys.stdout.flush()
        raise
    except KeyboardInterrupt:
        fail("interrupted", kind="Interrupted", code=130, json=json)
    except Error as error:
        kind = type(error).__name__
        code = 130 if kind == "RunInterrupted" else 1 if isinstance(error, BEGUN) or _notes(error) else 2
        fail(describe(error), kind=kind, code=code, json=json)
    except BrokenPipeError:
        discard_output()
        raise typer.Exit(1) from None
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{frame.filename}:{frame.lineno}"
        kept = "; the traceback is in its run.log" if _notes(error) else ""
        text = "\n".join([f"unexpected {type(error).__name__}: {error}", f"at {where}{kept}", *_notes(error)])
        fail(text, kind=type(error).__name__, code=1, json=json)


def describe(error: Error) -> str:
    """Return an error and its notes as text; several violations one a line, with their number first."""
    if isinstance(error, ConfigError) and len(error.violations) > 1:
        return f"{len(error.violations)} settings cannot be used:\n" + str(error)
    return "\n".join([str(error), *_notes(error)])


def fail(text: str, *, kind: str, code: int, json: bool) -> None:
    """Print an error and leave.

    Raises:
        typer.Exit: Always.
    """
    text = text.encode(errors="replace").decode()  # an argument in another encoding than the locale's
    if json:
        write_json({"error": {"kind": kind, "message": text, "exit_code": code}})
    sys.stderr.write("error: " + text.replace("\n", "\n       ") + "\n")
    raise typer.Exit(code)


def _notes(error: BaseException) -> list[str]:
    return list(getattr(error, "__notes__", ()))
