"""What the documents of the tree show as examples: scenarios, and command lines."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.processes import ROOT

# In whose folders nobody wrote anything.
_FOREIGN = frozenset({".venv", "node_modules", ".git", ".pytest_cache"})

_FENCE = re.compile(r"^```(?P<language>[a-z]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?:^(?: {4}.*)?\n)+", re.MULTILINE)


class Example(NamedTuple):
    """A block of a document that stands apart from its prose.

    Attributes:
        path: The document, from the project's folder.
        line: Where the block begins.
        text: The block, not indented.
    """

    path: Path
    line: int
    text: str

    @property
    def name(self) -> str:
        """What a test calls it."""
        return f"{self.path}:{self.line}"


def documents() -> list[Path]:
    """Return all documents of the tree."""
    found = [path for path in ROOT.rglob("*.md") if not _FOREIGN & set(path.parts)]
    return sorted(path.relative_to(ROOT) for path in found)


def examples() -> Iterator[Example]:
    """Yield the fenced and the indented blocks of all documents."""
    for path in documents():
        text = (ROOT / path).read_text(encoding="utf-8")
        for match in _FENCE.finditer(text):
            if match["language"] not in ("mermaid", "json"):
                yield _example(path, text, match.start("text"), match["text"])
        # What is fenced is not looked at again, and lines stay where they are.
        rest = _FENCE.sub(lambda match: re.sub(r"[^\n]", "", match[0]), text)
        for match in _INDENTED.finditer(rest):
            if match[0].strip():
                yield _example(path, rest, match.start(), match[0])


def scenarios() -> list[Example]:
    """Return the blocks that are whole scenarios."""
    return [each for each in examples() if re.search(r"^\[expect\]$", each.text, re.MULTILINE)]


def _example(path: Path, text: str, start: int, block: str) -> Example:
    blank = len(block) - len(block.lstrip("\n"))
    line = text.count("\n", 0, start + blank) + 1
    return Example(path, line, textwrap.dedent(block.strip("\n")) + "\n")
