"""A file as a tree: places in it, its two forms, and how its values are printed."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from fedloom.core.component import Json

Trail = tuple[str, ...]
"""A place in a tree: keys, and positions in lists, as strings."""


def file_form(tree: Json) -> Json:
    """Return a spec's JSON as it would stand in a file: the arguments of a component beside its name.

    Example:
        >>> file_form({"group": "fedloom.stops", "name": "max_rounds", "arguments": {"rounds": 3}})
        {'name': 'max_rounds', 'rounds': 3}
    """
    match tree:
        case {"group": str(), "name": name, "arguments": dict(arguments)} if len(tree) == 3:
            return {"name": name, **{key: file_form(value) for key, value in arguments.items()}}
        case dict():
            return {key: file_form(value) for key, value in tree.items()}
        case list():
            return [file_form(item) for item in tree]
    return tree


def leaves(tree: Json, trail: Trail = ()) -> dict[Trail, Json]:
    """Return the plain values of a tree by place; a list of plain values is one, and so is an empty table.

    Example:
        >>> leaves({"a": {"b": [1, 2]}, "c": [{"d": 3}]})
        {('a', 'b'): [1, 2], ('c', '0', 'd'): 3}
    """
    if isinstance(tree, dict) and tree:
        inner = list(tree.items())
    elif isinstance(tree, list) and any(isinstance(item, dict) for item in tree):
        inner = [(str(place), item) for place, item in enumerate(tree)]
    else:
        return {trail: tree}
    return {place: leaf for key, item in inner for place, leaf in leaves(item, (*trail, key)).items()}


def dotted(trail: Trail) -> str:
    """Return a place as a dotted key; keys that are not bare are quoted, as TOML has it.

    Example:
        >>> dotted(("algorithm", "local", "steps", "hospital.7"))
        'algorithm.local.steps."hospital.7"'
    """
    return ".".join(key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else toml_value(key) for key in trail)


def shown(value: Json) -> str:
    """Return a value as an error prints it: as TOML, cut to a part of a line."""
    text = toml_value(value)
    return text if len(text) <= 60 else text[:57] + "..."


def toml_value(value: Json) -> str:
    """Return a plain value as TOML writes it; None, which TOML has not, as ``none``.

    Example:
        >>> toml_value({"name": "sgd", "on": True, "sizes": [1, 2.5]})
        '{ name = "sgd", on = true, sizes = [1, 2.5] }'
    """
    match value:
        case None:
            return "none"
        case bool():
            return "true" if value else "false"
        case str():
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case Mapping():
            return "{ " + ", ".join(f"{dotted((key,))} = {toml_value(item)}" for key, item in value.items()) + " }"
        case list():
            return "[" + ", ".join(toml_value(item) for item in value) + "]"
    return str(value)
