"""Plots as inline SVG: drawn by matplotlib, coloured by the page.

A figure is drawn in a few fixed colours. In the SVG each of them becomes a variable of the page's style sheet, or its
ink, so that one drawing suits a light page, a dark one, and paper. Text stays text in the page's typeface. The same
figure gives the same bytes: no date, no random name.
"""

from __future__ import annotations

import io
import logging
import os
import re
import stat
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH_IN = 4.6
"""So wide that two or three stand side by side on a screen, and text is legible on a telephone."""

INK, FAINT, RULE, PAPER = "#010101", "#5f5f5e", "#d0d0d1", "#fefefe"
FEDERATED, LOCAL, POOLED = "#0072b2", "#d55e00", "#009e73"
TONES = ("#4a4a4b", "#8e8e8f", "#cbcbcc")
"""Where colours would say too much: from dark to light on paper."""
CLASSES = ("#56b4ea", "#cc79a8", "#f0e443", "#019e74", "#e69f01", "#0173b3", "#d55e01", "#999998")
"""After Okabe and Ito, "Color Universal Design" (2008): told apart by colour-blind readers. One unit is added to some
channels so that each hue here is one name in the style sheet."""
RUNS = ("#0072b5", "#c9386c", "#b07d02", "#0b3c6e", "#8b919a", "#6b2a02")
"""Lines of several runs. Of some twenty colours that stand out from the paper (3 to 1), these six lie furthest apart to
each of three kinds of colour-blind readers, after Machado et al. 2009; so do the six of the dark page."""
DASHES = ("-", (0, (5, 1.6)), (0, (1.6, 1.2)), (0, (6, 1.4, 1.4, 1.4)), (0, (3, 1, 1, 1, 1, 1)))
MARKS = ("o", "s", "D", "^", "v", "P", "X", "*")

_VARIABLES = {
    INK: "currentColor", FAINT: "var(--faint)", RULE: "var(--rule)", PAPER: "var(--paper)",
    FEDERATED: "var(--federated)", LOCAL: "var(--local)", POOLED: "var(--pooled)",
    **{colour: f"var(--tone-{place})" for place, colour in enumerate(TONES)},
    **{colour: f"var(--run-{place})" for place, colour in enumerate(RUNS)},
    **{colour: f"var(--class-{place})" for place, colour in enumerate(CLASSES)},
}  # fmt: skip
_SVG, _XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"
_REFERENCE = re.compile(r"#([^)]+)")
_LONG_NUMBER = re.compile(r"(\d\.\d\d)\d+")
_FACE = re.compile(r"font-family:[^;]*(;|$)")


def draw(name: str, paint: Callable[[Axes], None], *, height_in: float = 3.0) -> str:
    """Return what ``paint`` draws on one pair of axes, as an SVG element for the page.

    Args:
        name: Of the plot, unlike every other on the page: the names inside the drawing follow from it.
        paint: Draws on the axes.
        height_in: Of the drawing.
    """
    return draw_many(name, lambda axes: paint(axes[0]), heights_in=(height_in,))


def draw_many(name: str, paint: Callable[[list[Axes]], None], *, heights_in: tuple[float, ...]) -> str:
    """Return a drawing of several pairs of axes below each other that share the horizontal one, as ``draw`` does."""
    with _matplotlib(name):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(WIDTH_IN, sum(heights_in)), layout="constrained")
        axes = figure.subplots(len(heights_in), 1, sharex=True, squeeze=False, height_ratios=heights_in)[:, 0].tolist()
        for one in axes:
            one.spines[["top", "right"]].set_visible(False)
        paint(axes)
        return _inline(_svg(figure))


@contextmanager
def _matplotlib(name: str) -> Iterator[None]:
    """Let matplotlib draw in our manner for a while, without a word to the user and without a file in their home."""
    log = logging.getLogger("matplotlib")
    level = log.level
    with warnings.catch_warnings(), _cache_folder():
        warnings.simplefilter("ignore")
        log.setLevel(logging.CRITICAL)
        try:
            import matplotlib as mpl
            import matplotlib.backends.backend_svg
            import matplotlib.figure

            with mpl.rc_context(_settings(mpl.rcParamsDefault, name)):
                yield
        finally:
            log.setLevel(level)


def _settings(defaults: Any, name: str) -> dict[Any, Any]:
    """Return all settings, so that what a user has set for their own plots changes no report."""
    keep = {key: defaults[key] for key in defaults if not key.startswith(("backend", "interactive", "toolbar"))}
    return keep | {
        "svg.fonttype": "none", "svg.hashsalt": f"fedloom {name}", "text.parse_math": False, "font.size": 10,
        "axes.labelsize": 10, "xtick.labelsize": 9.5, "ytick.labelsize": 9.5, "legend.fontsize": 9.5,
        "legend.frameon": False,
        "legend.handlelength": 1.6, "legend.columnspacing": 1.2, "legend.borderaxespad": 0.2,
        "figure.facecolor": "none", "axes.facecolor": "none", "savefig.facecolor": "none",
        "text.color": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK, "axes.edgecolor": FAINT,
        "xtick.labelcolor": INK, "ytick.labelcolor": INK, "axes.linewidth": 0.7, "xtick.major.width": 0.7,
        "ytick.major.width": 0.7, "grid.color": RULE, "grid.linewidth": 0.6, "axes.axisbelow": True,
        "lines.linewidth": 1.6, "lines.markersize": 4.5, "axes.unicode_minus": True, "axes.formatter.useoffset": False,
    }  # fmt: skip


@contextmanager
def _cache_folder() -> Iterator[None]:
    """While matplotlib is imported, point its caches away from the home folder unless the user has chosen a place."""
    import sys

    if "matplotlib" in sys.modules or "MPLCONFIGDIR" in os.environ:
        yield
        return
    os.environ["MPLCONFIGDIR"] = str(_private_folder())
    try:
        yield
    finally:
        del os.environ["MPLCONFIGDIR"]


def _private_folder() -> Path:
    """Return a folder for caches that this user alone can write: one that lasts, or a fresh one if that is not ours."""
    owner = os.getuid() if hasattr(os, "getuid") else 0
    path = Path(tempfile.gettempdir()) / f"fedloom-matplotlib-{owner}"
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        status = path.lstat()
        private = stat.S_ISDIR(status.st_mode) and (os.name != "posix" or stat.S_IMODE(status.st_mode) == 0o700)
        if private and (os.name != "posix" or status.st_uid == owner):
            return path
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="fedloom-matplotlib-"))


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    nothing: dict[str, Any] = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(text, format="svg", metadata=nothing)
    return text.getvalue()


def _inline(document: str) -> str:
    """Return the drawing as an element of an HTML page: the page's colours and typeface, no names but those in use."""
    root = ElementTree.fromstring(document)
    for parent in root.iter():
        for child in list(parent):
            if child.tag in {f"{_SVG}style", f"{_SVG}metadata"}:  # a style inside a page would style the whole page
                parent.remove(child)
    elements = list(root.iter())
    values = [v for each in elements for k, v in each.attrib.items() if k.endswith("href") or v.startswith("url(")]
    used = {name for value in values for name in _REFERENCE.findall(value)}
    for element in elements:
        element.tag = element.tag.removeprefix(_SVG)
        kept = {key.removeprefix(_XLINK): _attribute(key, value) for key, value in element.attrib.items()}
        element.attrib.clear()
        element.attrib.update({key: value for key, value in kept.items() if value and (key != "id" or value in used)})
        if element.tag != "text":
            element.text = None
        element.tail = None
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.set("aria-hidden", "true")
    return ElementTree.tostring(root, encoding="unicode")


def _attribute(key: str, value: str) -> str:
    match key:
        case "style":
            value = _FACE.sub("", value)
            for colour, variable in _VARIABLES.items():
                value = value.replace(f": {colour}", f": {variable}")
            return value.strip().rstrip(";")
        case "transform" if value.startswith("rotate(-0 "):
            return ""
        case "d" | "x" | "y" | "points" | "transform":
            return _LONG_NUMBER.sub(r"\1", " ".join(value.split()))
    return value
