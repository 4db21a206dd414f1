"""The command line: argument parsing and rendering only."""

from __future__ import annotations


def main() -> None:
    """Run the command line."""
    import sys

    try:
        from fedloom.cli.app import app
        from fedloom.cli.output import replace_unknown_characters

        replace_unknown_characters()
        app(prog_name="fedloom")
    except KeyboardInterrupt:  # while modules were loading; commands see to their own
        sys.stderr.write("error: interrupted\n")
        raise SystemExit(130) from None


__all__ = ["main"]
