"""Templates of pages: every value that enters one is escaped, and a name that it lacks is an error."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import jinja2


@cache
def template(name: str) -> jinja2.Template:
    """Return one of the templates beside this module."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fedloom.reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.tests["number"] = lambda piece: not isinstance(piece, str)
    return environment.get_template(name)
