"""The documentation site: Sphinx reads this file, and `make docs` builds with warnings as errors.

Nothing here asks the network, neither at the build nor in the pages.
"""

from __future__ import annotations

import sys
from importlib.metadata import version as version_of
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "fedloom"
author = "the fedloom contributors"
version = release = version_of("fedloom")
language = "en_GB"

extensions = ["myst_parser", "sphinx.ext.autodoc", "public_names", "pages_outside"]
exclude_patterns = ["adr/0000-template.md", "_ext", "_static"]
nitpicky = True
nitpick_ignore_regex = [
    # Generic arguments, and types of the language that has no pages of its own in an offline site.
    (r"py:.*", r"(numpy|np|npt|collections|pathlib|typing|types|msgspec|enum|datetime)(\..*)?"),
    (r"py:.*", r"(Any|None|bool|bytes|float|int|str|object|tuple|list|dict|type|Path|Ellipsis|optional|[A-Z])"),
    (r"py:.*", r"(Callable|Iterable|Iterator|Generator|Mapping|Sequence|Literal|ClassVar|Final|Exception)"),
]

html_theme = "furo"
html_title = f"fedloom {release}"
html_static_path = ["_static"]
html_css_files = ["fedloom.css"]
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
pygments_style = "friendly"

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_class_signature = "mixed"
python_maximum_signature_line_length = 90
