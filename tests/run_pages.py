"""Pages about made-up runs, for tests that open them in a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scripts.views.embed import embed
from scripts.views.outputs import history_of, run_page
from tests.browser import Tab


def page_of(folder: Path, *runs: list[dict[str, Any]]) -> str:
    """Write a page about runs; return its address."""
    plain = [embed(history_of(events), f"run {number}") for number, events in enumerate(runs, 1)]
    path = folder / "runs.html"
    path.write_text(run_page(plain, "runs"), encoding="utf-8")
    return path.as_uri()


def press(tab: Tab, find: str) -> None:
    """Press what an expression finds."""
    box = tab.run(
        f"(() => {{ const found = {find}; found.scrollIntoView({{ block: 'center' }});"
        "const box = found.getBoundingClientRect();"
        "return [box.left + 5, box.top + box.height / 2]; })()"
    )
    tab.point(*box, click=True)
