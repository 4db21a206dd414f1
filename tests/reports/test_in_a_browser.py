"""Report and comparison in headless Chromium: no complaint, no request, no page wider than the window."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedloom.reports import read, write, write_comparison

Make = Callable[..., Path]

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ODD = ["<script>alert(1)</script>", "x" * 300, "医院", "east"]
# A page may not run scripts, so another that holds it in a frame measures it.
MEASURE = """<!DOCTYPE html><meta charset="utf-8"><title>measure</title>
<iframe id="page" style="width: {width}px; height: 900px; border: 0" src="{page}"></iframe><pre id="told"></pre>
<script>
const frame = document.getElementById("page");
frame.onload = () => {{
  const page = frame.contentDocument, root = page.documentElement;
  page.querySelectorAll("details").forEach((each) => {{ each.open = true; }});
  const beyond = (own, box) =>
    own.left < box.left - 2 || own.right > box.right + 2 || own.top < box.top - 2 || own.bottom > box.bottom + 2;
  const wide = [...page.querySelectorAll("body *")]
    .filter((each) => !each.closest(".scroll, svg") && each.getBoundingClientRect().right > root.clientWidth + 1)
    .map((each) => `${{each.tagName}}.${{each.className}}`);
  const texts = [...page.querySelectorAll("svg text")];
  const small = texts.map((each) => each.getBoundingClientRect().height);
  const out = texts
    .filter((each) => beyond(each.getBoundingClientRect(), each.closest("svg").getBoundingClientRect()))
    .map((each) => each.textContent);
  document.getElementById("told").textContent = JSON.stringify({{
    scroll: root.scrollWidth, client: root.clientWidth, wide, least: Math.min(...small), out,
    requests: frame.contentWindow.performance.getEntriesByType("resource").length,
  }});
}};
</script>
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (Debian: apt-get install chromium)"),
]


def report(make: Make) -> Path:
    return write(make(ODD))


def comparison(make: Make) -> Path:
    """Compare ten runs that differ in a setting of long, odd values."""
    runs = []
    for place in range(10):

        def change(
            summary: dict[str, Any], records: list[dict[str, Any]], head: dict[str, Any], at: int = place
        ) -> None:
            head["experiment"]["data"]["arguments"].update(path=ODD[at % 4] + str(at), seed=at % 3)
            summary["metrics"]["eval/auroc"] += at / 100

        folder = make(ODD, change=change)
        runs.append(read(folder.rename(folder.with_name(f"{place}{'x' * 80}"))))
    return write_comparison(runs[0].folder.with_name("comparison.html"), runs)


@pytest.fixture
def browse(tmp_path: Path) -> Callable[..., tuple[str, str]]:
    """Open a file in a fresh headless browser without any network: its document, and what it logged."""

    def run(path: Path, *options: str, width: int = 1280) -> tuple[str, str]:
        done = subprocess.run(
            [
                str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--dump-dom",
                "--enable-logging=stderr", "--v=0", "--host-resolver-rules=MAP * ~NOTFOUND", "--no-first-run",
                "--disable-background-networking", f"--user-data-dir={tmp_path / 'profile'}",
                f"--window-size={width},900", *options, path.as_uri(),
            ],
            check=True, capture_output=True, text=True, encoding="utf-8", timeout=50,
        )  # fmt: skip
        return done.stdout, done.stderr

    return run


@pytest.mark.parametrize(
    ("page", "told"),
    [(report, "Joining was worth it for east."), (comparison, "2 settings differ: data.path, data.seed.")],
)
def test_the_console_stays_silent_and_nothing_is_fetched(
    make: Make, browse: Callable[..., tuple[str, str]], page: Callable[[Make], Path], told: str
) -> None:
    document, log = browse(page(make))
    assert told in document
    assert "CONSOLE" not in log
    assert not re.findall(r"""(?:src|href)=["'](?!#|data:)""", document) and "http" not in document.replace(
        "http-equiv", ""
    )
    assert "<script" not in document


@pytest.mark.parametrize("page", [report, comparison])
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_is_no_wider_than_the_window_and_drawings_hold_their_text(
    make: Make, browse: Callable[..., tuple[str, str]], page: Callable[[Make], Path], width: int
) -> None:
    path = page(make)
    measure = path.with_name("measure.html")
    measure.write_text(MEASURE.format(width=width, page=path.name))
    document, log = browse(measure, "--allow-file-access-from-files", "--virtual-time-budget=5000")
    found = re.search(r'<pre id="told">(\{.*\})</pre>', document)
    assert found, log
    told = json.loads(found[1])
    assert told["client"] <= width and told["scroll"] <= told["client"] and told["wide"] == []
    assert told["requests"] == 0 and told["out"] == []
    assert told["least"] >= 10  # CSS pixels: legible on a telephone
