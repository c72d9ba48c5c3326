"""Holds the glossary to the options, the report and the code: their words are in it, and no others.

A new option or report field is made of words that the glossary has, or the glossary gets its word:
as a term, as a name that stands beside one, or as a plain word.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import click

from guest.replay import Written
from protocol.report import assemble, assemble_failed
from scripts.commands import midstream
from tests.protocol.test_report import DEST, SOURCE

ROOT = Path(__file__).parents[1]
ROOMS = ("protocol", "guest", "source", "dest", "scripts")
# What others work on begins its docstrings as it will.
BEGIN_WITH_A_SUBJECT = ("dest", "protocol", "scripts")
NOT_YET = ("scripts/links", "scripts/relay")
NO_SUBJECTS = ("What", "Who", "Take", "Tell", "Have")
HEADER = "| term | here | meaning |"
PLAIN = "Plain words,"


class Glossary(NamedTuple):
    """What the page says.

    Attributes:
        terms: The field's, as they stand in the first columns.
        names: What stands for them here, without back quotes.
        plain: The words that need no explanation.
    """

    terms: tuple[str, ...]
    names: tuple[str, ...]
    plain: tuple[str, ...]

    @property
    def words(self) -> set[str]:
        """Every word that is explained, or needs no explanation."""
        return {word for each in (*self.terms, *self.names, *self.plain) for word in words_of(each)}


def words_of(name: str) -> list[str]:
    """Return the words of a term, an option, a field or an identifier, in the singular."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name).lower()
    return [_singular(word) for word in re.findall(r"[a-z0-9]+", spaced)]


def _singular(word: str) -> str:
    """Return one form for the singular and the plural of a word; it need not be a word itself."""
    for ending, instead in (("ies", "y"), ("sses", "ss"), ("ches", "ch"), ("ss", "ss")):
        if word.endswith(ending):
            return word.removesuffix(ending) + instead
    return word.removesuffix("s") if len(word) > 2 else word


def read_glossary(page: str) -> Glossary:
    """Return what the tables of a page say, and its plain words."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for table in page.split(HEADER)[1:]
        for line in table.split("\n\n", 1)[0].splitlines()[2:]
    ]
    plain = page.partition(PLAIN)[2].partition("\n\n")[0]
    return Glossary(
        tuple(term for cells in rows for term in cells[0].split(", ")),
        tuple(name for cells in rows for name in re.findall("`([^`]+)`", cells[1])),
        tuple(re.findall("`([^`]+)`", plain)),
    )


@cache
def glossary() -> Glossary:
    """Return the glossary."""
    return read_glossary((ROOT / "protocol" / "README.md").read_text(encoding="utf-8"))


@cache
def options() -> frozenset[str]:
    """Return every option of every command that its help names."""
    context = click.Context(midstream)
    commands = [
        midstream,
        *(midstream.get_command(context, name) for name in midstream.list_commands(context)),
    ]
    return frozenset(
        name
        for command in commands
        if command is not None
        for option in command.params
        if isinstance(option, click.Option)
        for name in (*option.opts, *option.secondary_opts)
        if name.startswith("--")
    )


@cache
def fields() -> frozenset[str]:
    """Return every field of every report, of a QEMU's too."""
    reports = [
        assemble("completed", SOURCE, DEST),
        assemble_failed("failed", "why", SOURCE, DEST),
        Written(1, is_whole=True).to_plain(),
    ]
    written = (
        name
        for room in ("protocol", "source", "dest")
        for path in (ROOT / room).rglob("report.py")
        for name in _keys_written(ast.parse(path.read_text(encoding="utf-8")))
    )
    return frozenset(_keys(reports)) | frozenset(written) - {""}


def _keys(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        yield from value
        yield from _keys(list(value.values()))
    elif isinstance(value, list):
        for each in value:
            yield from _keys(each)


def _keys_written(tree: ast.AST) -> Iterator[str]:
    """Yield the string keys that a module gives to dictionaries."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            keys: Iterable[ast.expr | None] = node.keys
        elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
            keys = [node.slice]
        else:
            continue
        yield from (
            key.value
            for key in keys
            if isinstance(key, ast.Constant) and isinstance(key.value, str)
        )


@cache
def identifiers() -> frozenset[str]:
    """Return every name that is defined or used in the rooms."""
    found: set[str] = set()
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Name):
                    found.add(node.id)
                elif isinstance(node, ast.Attribute):
                    found.add(node.attr)
                elif isinstance(node, ast.arg):
                    found.add(node.arg)
                elif isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                    found.add(node.name)
            found |= set(path.relative_to(ROOT).with_suffix("").parts)
    return frozenset(found)


def unexplained(names: Iterable[str], page: Glossary) -> list[str]:
    """Return the names that have a word which the glossary has not, with that word."""
    return sorted(
        f"{name}: {word}" for name in names for word in words_of(name) if word not in page.words
    )


def unknown(page: Glossary) -> list[str]:
    """Return the names of the glossary that nothing here has."""
    return [
        name
        for name in page.names
        if name not in (options() if name.startswith("--") else fields() | identifiers())
    ]


def unused(page: Glossary) -> list[str]:
    """Return the plain words that no option and no field is made of."""
    needed = {word for name in options() | fields() for word in words_of(name)}
    return [word for word in page.plain if not needed.issuperset(words_of(word))]


def without_a_subject(source: str) -> list[str]:
    """Return the docstrings that begin with neither their subject nor a verb of the field."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = (
        ast.get_docstring(node) or ""
        for node in ast.walk(ast.parse(source))
        if isinstance(node, documented)
    )
    return [text.splitlines()[0] for text in docstrings if text.partition(" ")[0] in NO_SUBJECTS]


def test_every_word_of_an_option_is_in_the_glossary() -> None:
    """What a user types is explained, or plain."""
    assert unexplained(options(), glossary()) == []


def test_every_word_of_a_report_is_in_the_glossary() -> None:
    """What a user reads is explained, or plain."""
    assert unexplained(fields(), glossary()) == []


def test_what_the_glossary_names_is_there() -> None:
    """Whoever renames an option, a field or a class renames it here, too."""
    assert unknown(glossary()) == []


def test_no_plain_word_is_left_over() -> None:
    """A word that nothing is made of any more needs no word of its own."""
    assert unused(glossary()) == []


def test_no_term_is_explained_twice() -> None:
    """A term has one meaning, and a name one term."""
    for each in (glossary().terms, glossary().names, glossary().plain):
        assert sorted(each) == sorted(set(each))


def test_docstrings_begin_with_their_subject() -> None:
    """A reader finds what a thing is, or does, in the first word of it."""
    assert [
        f"{path.relative_to(ROOT)}: {text}"
        for room in BEGIN_WITH_A_SUBJECT
        for path in sorted((ROOT / room).rglob("*.py"))
        if not path.relative_to(ROOT).as_posix().startswith(NOT_YET)
        for text in without_a_subject(path.read_text(encoding="utf-8"))
    ] == []


def test_a_docstring_without_a_subject_is_found() -> None:
    """Only the first word of a docstring counts, and the whole of it."""
    assert without_a_subject('def f():\n    """Tell whether it is."""\n') == ["Tell whether it is."]
    assert without_a_subject('class C:\n    """What it is.\n\n    More."""\n') == ["What it is."]
    assert without_a_subject('"""Whose it is."""\ndef f(): ...\n') == []
    assert without_a_subject('def f():\n    """Return what it has."""\n') == []


def test_what_is_missing_is_found() -> None:
    """A word that is not explained, a name that is gone and a plain word too much are reported."""
    page = read_glossary(
        f"{HEADER}\n| --- | --- | --- |\n| half-sent page | `--image`, `--gone`, `Gone` | x |\n\n"
        f"{PLAIN} which: `limit`, `nonsense`.\n\nmore `words`\n"
    )
    assert page == Glossary(
        ("half-sent page",), ("--image", "--gone", "Gone"), ("limit", "nonsense")
    )
    assert unexplained(["--image-limits", "pages-sent", "--frobnicate"], page) == [
        "--frobnicate: frobnicate"
    ]
    assert unknown(page) == ["--gone", "Gone"]
    assert unused(page) == ["nonsense"]
