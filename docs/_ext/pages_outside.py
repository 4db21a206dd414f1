"""Pages that link to a document beside `docs/` reach its copy in the site.

A repository is read on its host too, so a page links to `../CHANGELOG.md` where the file is. The site shows that file
as a page of `project/`. Links to files that are no documents need nothing: MyST offers them as downloads.
"""

from __future__ import annotations

from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx

PAGES = {
    "CHANGELOG": "project/changelog",
    "CONTRIBUTING": "project/contributing",
    "README": "index",
    "SECURITY": "project/security",
}


def redirect(app: Sphinx, doctree: nodes.document) -> None:
    """Point each link to a document beside `docs/` at its page; MyST names it by its path without the suffix."""
    beside = app.srcdir.parent
    pages = {str(beside / name): page for name, page in PAGES.items()}
    for node in doctree.findall(pending_xref):
        node["reftarget"] = pages.get(node["reftarget"], node["reftarget"])


def setup(app: Sphinx) -> dict[str, Any]:
    """Tell Sphinx when to call."""
    app.connect("doctree-read", redirect)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
