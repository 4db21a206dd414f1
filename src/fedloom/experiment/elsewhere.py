"""An examination in a process of its own: what it loads and reads is gone when it ends.

Pricing alone brings some 130 MB of accountants that an agent does not need again; rows and a learner bring theirs.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress

import msgspec

from fedloom.core.component import Json
from fedloom.errors import PlanError, WorkerError
from fedloom.experiment.examination import Examined, Question, examine
from fedloom.experiment.lifeline import end_with_starter, lifeline

_SERVE = "from fedloom.experiment.elsewhere import serve; serve()"
_SHOWN = 2_000
"""Characters of what a process has said before it failed that an error shows."""


def examine_elsewhere(question: Question, *, limit_s: float, memory_bytes: int | None = None) -> Examined:
    """Return what ``examine`` returns, from a fresh process that is ended after it.

    Args:
        question: What is to be examined.
        limit_s: Seconds until the process, and all that it started, is killed.
        memory_bytes: Address space that it may have; None: as much as there is.

    Raises:
        WorkerError: When the process took too long, was killed, or failed: nothing is known then, and nothing allowed.
    """
    asked = msgspec.msgpack.encode(question)
    # The same search path, and no folder of whoever started us: what an operator has installed, nothing beside it.
    paths = os.pathsep.join(path for path in sys.path if path)
    environment = {**os.environ, "PYTHONPATH": paths, "PYTHONSAFEPATH": "1"}
    most = "" if memory_bytes is None else str(memory_bytes)
    with lifeline() as passed:
        process = subprocess.Popen(
            [sys.executable, "-c", _SERVE, most, *map(str, passed)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            pass_fds=passed,
            start_new_session=True,
        )
        try:
            answer, said = process.communicate(asked, timeout=limit_s)
        except subprocess.TimeoutExpired as error:
            raise WorkerError(
                f"the examination of a run took more than {limit_s:g} s and was ended; allow it more time, or look at "
                "the data and the components that it names"
            ) from error
        finally:
            _end(process)
    if process.returncode != 0:
        last = said.decode(errors="replace").strip()[-_SHOWN:]
        raise WorkerError(f"the examination of a run ended with {_how(process.returncode)}. {last}".strip())
    try:
        return msgspec.msgpack.decode(answer, type=Examined)
    except msgspec.MsgspecError as error:
        raise WorkerError(f"the examination of a run gave an answer that is none: {error}") from error


def price_elsewhere(question: Question, *, limit_s: float) -> dict[str, Json] | None:
    """Return what a run costs at most, ``PrivacyPrice.as_json``, priced in a process of its own; None: no promise.

    Args:
        question: With the facts that the sites have agreed on.
        limit_s: Seconds until the process is killed.

    Raises:
        PlanError: When the site cannot make the plan: with every reason.
        WorkerError: When the process took too long, was killed, or failed.
    """
    found = examine_elsewhere(question, limit_s=limit_s)
    if found.request is None:
        said = "; ".join(map(str, found.refusals)) or "the sites have not agreed yet"
        raise PlanError(f"the run cannot be priced: {said}")
    return found.price


def serve() -> None:
    """Answer the one question on standard input.

    The arguments are the address space that this process may have, empty for any, and the number of its lifeline.
    """
    most, *passed = sys.argv[1:]
    for number in passed:
        end_with_starter(int(number))
    if most:
        _limit_memory(int(most))
    answers = os.dup(1)
    os.dup2(2, 1)  # what a component prints is no answer
    question = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Question)
    with os.fdopen(answers, "wb") as out:
        out.write(msgspec.msgpack.encode(examine(question)))


def _limit_memory(size: int) -> None:
    with suppress(ImportError):  # no such limits on this system
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (size, size))


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it has started."""
    if os.name == "posix":
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    elif process.poll() is None:
        process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()


def _how(code: int) -> str:
    return f"signal {-code}" + (", likely out of memory" if code == -9 else "") if code < 0 else f"exit status {code}"
