"""The directive `public-names`: documentation of every public name of fedloom whose home is among those given.

`.. public-names:: optim` documents each public name that the table in `src/fedloom/__init__.py` finds in
`fedloom.optim`, by the name that users import. So a new public name appears without a second list of names.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from docutils import nodes
from numpy.typing import ArrayLike
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.ext.napoleon import Config
from sphinx.ext.napoleon.docstring import GoogleDocstring
from sphinx.util.docutils import SphinxDirective
from sphinx.util.typing import stringify_annotation

import fedloom
from fedloom.core.params import Vector

PACKAGES = ("data", "testing")
"""Packages whose own names are public: `fedloom.data.csv`."""
MODULES = {"models": "learners.models"}
"""Modules that a public name stands for: `fedloom.models.mlp`."""

SECTIONS = ("Source", "Guarantee", "Security", "Constant time")
_DOCSTRINGS: Any = Config(napoleon_use_rtype=False, napoleon_custom_sections=list(SECTIONS))
# Such a section may start in its own line; napoleon wants the text below it.
_INLINE = re.compile(rf"^({'|'.join(SECTIONS)}): (\S.*)$")

_ALIASES = {
    stringify_annotation(Vector, "smart"): "~fedloom.core.params.Vector",
    stringify_annotation(ArrayLike, "smart"): "~numpy.typing.ArrayLike",
}
# What `inspect` shows for a default that is built afresh, or is a function.
_NO_PYTHON = re.compile(r"= ?<[^,()]*>")


def homes() -> dict[str, list[str]]:
    """Return the public names of each module that holds some."""
    found = {package: list(import_module(f"fedloom.{package}").__all__) for package in PACKAGES}
    for name, home in fedloom._HOME.items():
        if name in MODULES:
            module = import_module(f"fedloom.{MODULES[name]}")
            found[name] = [each for each in vars(module) if hasattr(getattr(module, each), "__component__")]
        elif home:
            found.setdefault(home, []).append(name)
    return {home: sorted(names, key=str.lower) for home, names in found.items()}


def directive_for(value: object) -> tuple[str, tuple[str, ...]]:
    """Return the directive of autodoc that documents a value, and its options."""
    if inspect.isclass(value):
        return ("autoexception", ()) if issubclass(value, Exception) else ("autoclass", (":members:",))
    return ("autofunction", ()) if inspect.isroutine(value) else ("autodata", (":no-value:",))


class PublicNames(SphinxDirective):
    """Document the public names of some modules."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        """Return what autodoc makes of each name."""
        lines: list[str] = []
        for home in self.arguments[0].split():
            names = homes().get(home)
            if names is None:
                raise self.error(f"public-names: no public name lives in {home!r}; expected one of {sorted(homes())}")
            package = f"fedloom.{MODULES.get(home, home)}" if home in (*PACKAGES, *MODULES) else "fedloom"
            for name in names:
                directive, options = directive_for(getattr(import_module(package), name))
                lines += [f".. {directive}:: {package}.{name}", *(f"   {option}" for option in options), ""]
        return self.parse_text_to_nodes("\n".join(lines))


def read_sections(app: Sphinx, what: Any, *documented: Any) -> None:
    """Turn the sections of a docstring into fields.

    An attribute has a sentence and no sections; napoleon, as an extension, would take what stands before a colon
    in it for a type.
    """
    *which, lines = documented
    if what not in {"attribute", "property", "data"}:
        lines[:] = GoogleDocstring(list(_own_lines(lines)), _DOCSTRINGS, app, what, *which).lines()


def _own_lines(lines: list[str]) -> Iterator[str]:
    for line in lines:
        if found := _INLINE.match(line):
            yield from (f"{found[1]}:", f"    {found[2]}")
        else:
            yield line


def shorten(*documented: Any) -> tuple[str | None, ...]:
    """Write aliases by their names in a signature and its result, and `...` for a default that is no Python.

    Sphinx would cut arguments at every comma where one of their defaults is no Python.
    """
    return tuple(text and _shortened(text) for text in documented[-2:])


def _shortened(text: str) -> str:
    for long, alias in _ALIASES.items():
        text = text.replace(long, alias)
    return _NO_PYTHON.sub("= ...", text)


def skip_inherited(*documented: Any) -> bool | None:
    """Leave out what scikit-learn puts into its estimators, such as `set_fit_request`: its own pages describe it."""
    home = getattr(documented[3], "__module__", None) or ""
    return True if home.startswith("sklearn.") else None


def by_public_name(app: Sphinx, env: Any, node: pending_xref, content: nodes.Element) -> nodes.Node | None:
    """Resolve a type that an annotation names by its home to the page of its public name.

    A type of the inside is named as it is, and leads nowhere.
    """
    if node.get("refdomain") != "py":
        return None
    last = node["reftarget"].rpartition(".")[2]
    domain = env.domains["py"]
    for package in ("fedloom", "fedloom.errors", "fedloom.estimators", *(f"fedloom.{package}" for package in PACKAGES)):
        if f"{package}.{last}" in domain.objects:
            found: nodes.Node | None = domain.resolve_xref(
                env, node["refdoc"], app.builder, "obj", f"{package}.{last}", node, content
            )
            return found
    return content if node["reftarget"].startswith("fedloom.") else None


def setup(app: Sphinx) -> dict[str, Any]:
    """Tell Sphinx of the directive, and when to call."""
    app.add_directive("public-names", PublicNames)
    app.connect("autodoc-process-docstring", read_sections)
    app.connect("autodoc-process-signature", shorten)
    app.connect("autodoc-skip-member", skip_inherited)
    app.connect("missing-reference", by_public_name)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
