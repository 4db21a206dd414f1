"""An environment of its own for each peer: ``build/peers/NAME``, with exactly the packages of ``NAME.txt``."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import venv
from pathlib import Path

_HERE = Path(__file__).parent
_ENVIRONMENTS = _HERE.parents[1] / "build" / "peers"
_LIMIT_S = 1200.0
PEERS = ("flower", "pfl", "fedjax", "fluke", "nvflare")


class NotInstalled(Exception):
    """A peer's packages could not be installed; the message has what pip said."""


def python_of(peer: str) -> Path:
    """Return the interpreter of a peer's environment, which is made when it is not there or its packages changed.

    Raises:
        NotInstalled: When pip fails.
    """
    packages = _HERE / f"{peer}.txt"
    folder = _ENVIRONMENTS / peer
    python, stamp = folder / "bin" / "python", folder / "installed"
    wanted = hashlib.sha256(packages.read_bytes() + repr(sys.version_info[:2]).encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    print(f"installing {packages.name} into {folder} (once; needs the network)", file=sys.stderr, flush=True)
    venv.create(folder, with_pip=True, clear=True)
    pip = [str(python), "-m", "pip", "--quiet", "--no-input", "--disable-pip-version-check", "--no-cache-dir"]
    listed = [line for line in packages.read_text().splitlines() if line and not line.startswith("#")]
    torch = [line for line in listed if line.startswith("torch==")]
    # PyTorch first and with what its build for this machine needs. Then the list as it is: it is complete, and packages
    # that ask for another build of PyTorch are not asked.
    for wanted_packages in (torch, ["--no-deps", *listed]):
        done = subprocess.run(
            [*pip, "install", *wanted_packages], capture_output=True, text=True, timeout=_LIMIT_S, check=False
        )
        if done.returncode:
            raise NotInstalled("\n".join(done.stderr.splitlines()[-5:]))
    stamp.write_text(wanted)
    return python
