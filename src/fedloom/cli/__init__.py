"""The command line: argument parsing and rendering only."""

from __future__ import annotations


def main() -> None:
    """Run the command line."""
    import os
    import sys

    try:
        if "FEDLOOM_ENDS_WITH_STDIN" in os.environ:  # set by children.Children
            from fedloom.cli.children import end_with_stdin

            end_with_stdin()
        from fedloom.cli.app import app
        from fedloom.cli.output import replace_unknown_characters

        replace_unknown_characters()
        app(prog_name="fedloom")
    except KeyboardInterrupt:  # while modules were loading; commands see to their own
        sys.stderr.write("error: interrupted\n")
        raise SystemExit(130) from None


__all__ = ["main"]
