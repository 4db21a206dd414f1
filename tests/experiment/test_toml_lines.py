from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom.experiment.toml_lines import key_lines, split_assignment
from fedloom.experiment.tree import dotted, toml_value

EVERYTHING = '''\
title = "a # no comment" # "comment"
a.b.c = 1
a.b."d.e" = 2
many = [ # here
  1,
  [2,
   3], # trailing comma
]
text = """
[not.a.table]
x = 1\\
"""
raw = \'\'\'
y = \'\'2\'\'\'\'
inline = { p = { q = 1 }, r = [ { s = 2 } ], "t u" = 3 }

[table] # comment
when = 1979-05-27 07:32:00
[table.sub]
flag = true
[[list]]
k = 1
[list.inner]
m = 2
[[list.deep]]
n = 3
[[list]]
k = 4
[[list.deep]]
n = 5
[[list.deep]]
n = 6
["quoted [key]"]
'z' = "\\"]"
'''


def test_every_kind_of_key_has_its_line() -> None:
    tomllib.loads(EVERYTHING)
    lines = {dotted(trail): line for trail, line in key_lines(EVERYTHING).items()}
    assert lines["title"] == 1
    assert (lines["a"], lines["a.b.c"], lines['a.b."d.e"']) == (2, 2, 3)
    assert (lines["many"], lines["many.0"], lines["many.1"], lines["many.1.1"]) == (4, 5, 6, 7)
    assert (lines["text"], lines["raw"]) == (9, 13)
    assert {lines[k] for k in ("inline", "inline.p.q", "inline.r.0.s", 'inline."t u"')} == {15}
    assert (lines["table"], lines["table.when"], lines["table.sub.flag"]) == (17, 18, 20)
    assert (lines["list"], lines["list.0"], lines["list.0.inner.m"], lines["list.0.deep.0.n"]) == (21, 21, 24, 26)
    assert (lines["list.1.k"], lines["list.1.deep.0.n"], lines["list.1.deep.1"]) == (28, 30, 31)
    assert lines['"quoted [key]".z'] == 34


def test_windows_line_ends_count_once() -> None:
    assert key_lines("a = 1\r\n\r\n[t]\r\nb = 2\r\n") == {("a",): 1, ("t",): 3, ("t", "b"): 4}


def test_a_table_that_is_written_after_its_children_has_its_own_line() -> None:
    assert key_lines("[a.b]\nx = 1\n[a]\ny = 1\n")["a",] == 3


@pytest.mark.parametrize("text", ["", "a", "=1", "a.=1", "a b=1", '"a=1', "a . = 1"])
def test_what_is_no_assignment_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        split_assignment(text)


keys = st.text("abcXYZ019_-. \"'\\#=[]{}é\n", min_size=1, max_size=6)
scalars = st.one_of(
    st.integers(-9, 9), st.booleans(), st.text("ab\"'#\\\n=[]{},\t", max_size=6), st.sampled_from([0.5, -1e300])
)
trees = st.dictionaries(
    keys,
    st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
        max_leaves=8,
    ),
    max_size=4,
)


@st.composite
def documents(draw: st.DrawFn) -> str:
    """A tree written with tables, arrays of tables, dotted keys, inline tables, comments and blank lines at will."""
    out: list[str] = []

    def noise() -> str:
        return draw(st.sampled_from(["", "\n", "# c = [1\n", "\n\n"]))

    def value(item: Any) -> str:
        if isinstance(item, list) and item and draw(st.booleans()):
            return "[\n" + "".join(f"  {value(each)}, # ]\n" for each in item) + "]"
        if isinstance(item, str) and "'" not in item and "\t" not in item and draw(st.booleans()):
            return f"'''\n{item}'''"
        return toml_value(item)

    def tables(tree: dict[str, Any], prefix: tuple[str, ...]) -> None:
        later: list[tuple[str, Any, bool]] = []
        for key, item in tree.items():
            if isinstance(item, dict) and draw(st.booleans()):
                later.append((key, item, False))
            elif isinstance(item, list) and item and all(isinstance(i, dict) for i in item) and draw(st.booleans()):
                later.append((key, item, True))
            elif isinstance(item, dict) and item and draw(st.booleans()):
                out.extend(f"{dotted((key, inner))} = {value(leaf)}\n" for inner, leaf in item.items())
            else:
                out.append(f"{noise()}{dotted((key,))} = {value(item)} # x\n")
        for key, item, several in later:
            for each in item if several else [item]:
                mark = ("[[", "]]") if several else ("[", "]")
                out.append(f"{noise()}{mark[0]}{dotted((*prefix, key))}{mark[1]}\n")
                tables(each, (*prefix, key))

    tables(draw(trees), ())
    return "".join(out)


def places(tree: Any, trail: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    below = {place for key, item in inner for place in places(item, (*trail, str(key)))}
    return below | ({trail} if trail else set())


@settings(deadline=None)
@given(documents())
def test_every_place_that_tomllib_finds_has_a_line_with_its_key(text: str) -> None:
    tree = tomllib.loads(text)
    lines = key_lines(text)
    assert set(lines) == places(tree)
    rows = text.split("\n")
    for trail, line in lines.items():
        if not trail[-1].isdecimal():
            assert dotted(trail[-1:]) in rows[line - 1]
