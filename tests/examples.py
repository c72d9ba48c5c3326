"""What the documents of the tree show as examples: scenarios, and command lines."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.processes import ROOT

# Folders whose documents are not this project's.
_FOREIGN = frozenset({".venv", "node_modules", ".git", ".pytest_cache"})

# What it shows was so when it was written.
_PAST = (Path("CHANGELOG.md"),)

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
    found = (path.relative_to(ROOT) for path in ROOT.rglob("*.md"))
    return sorted(path for path in found if not _FOREIGN & set(path.parts) and path not in _PAST)


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


class CommandLine(NamedTuple):
    """A command line of this project that a document shows.

    Attributes:
        words: Its words; what is optional is there, what stands for more is not.
        in_prose: A sentence may leave out what does not matter to it.
    """

    words: tuple[str, ...]
    in_prose: bool

    @property
    def name(self) -> str:
        """What a test calls it."""
        return " ".join(self.words)


# In prose code stands in backquotes, also over the end of a line.
_CODE = re.compile(r"(?<!`)`([^`]+)`(?!`)")
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*[a-z]")
_COMMANDS = (("midstream",), ("python", "-m"))


def command_lines() -> list[CommandLine]:
    """Return the lines that begin with this project's commands, each once."""
    found = [
        CommandLine(words, in_prose)
        for _, text, in_prose in _shown()
        for line in text.splitlines()
        if (words := _words(line))[:1] in _COMMANDS or words[:2] in _COMMANDS
    ]
    return list(dict.fromkeys(found))


def named_options() -> set[tuple[str, str]]:
    """Return all options that documents name, with the document."""
    return {(str(path), name) for path, text, _ in _shown() for name in _OPTION.findall(text)}


def _shown() -> Iterator[tuple[Path, str, bool]]:
    """Yield all code that documents show, and whether it stands in prose."""
    for example in examples():
        yield example.path, example.text, False
    for path in documents():
        text = _FENCE.sub("", (ROOT / path).read_text(encoding="utf-8"))
        for match in _CODE.finditer(text):
            yield path, " ".join(match[1].split()), True


def _words(line: str) -> tuple[str, ...]:
    """Return the words of a command line without what a person does not type."""
    typed = re.sub(r"[\[\]]", " ", line.partition(" # ")[0].partition(" && ")[0])
    return tuple(word for word in typed.split() if word != "...")
