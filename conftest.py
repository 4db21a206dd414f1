"""Doctests need no extra: a module that imports one is left out where it is absent. Its own tests skip by name."""

import importlib.util

_NEEDS = {"torch": "src/fedloom/learners/torch_*.py", "ray": "src/fedloom/engines/ray_cluster.py"}
collect_ignore_glob = [pattern for package, pattern in _NEEDS.items() if importlib.util.find_spec(package) is None]
