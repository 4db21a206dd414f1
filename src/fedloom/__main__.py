"""``python -m fedloom``: the command line."""

from fedloom.cli import main

main()
