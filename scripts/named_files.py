"""The files that a command line names, and their use; no two may be one that is written.

Every option or argument that names a file says here, where it is declared, whether it is read or
written.  `Command` looks at all of a command line before the command runs: a file that one option
reads and another writes would be destroyed, and of two that are written one would be lost.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from protocol.text import did_you_mean
from scripts.help_text import write_examples, write_options
from scripts.provenance import begin_run, end_run, run_of
from scripts.reports import STANDARD_OUTPUT, settled_report

# The options for which that is standard output.
_STREAMED = ("--report", "--events")

# By what an option was called before, what it is called now: those that a command has.
_RENAMED = {
    "--hold": ("--start-paused",),
    "--only-from": ("--allow-from",),
    "--reconnect-for": ("--reconnect-timeout",),
    "--silence-limit": ("--keepalive-timeout",),
    "--trace": ("--perfetto", "--accesses"),
    "--wait-for-resume": ("--recover-timeout",),
    "--window": ("--socket-buffer",),
}

C = TypeVar("C", bound=Callable[..., Any])


class Use(Enum):
    """The use that a command makes of a file."""

    READ = "read"
    WRITE = "write"
    # Saved memory has a map beside it, and may go to another name.
    SAVE = "save"
    # A folder that files are put into, for who has names of its own for them.
    FILL = "fill"


def renamed_hint(name: str) -> str:
    """Return ` (it is X now)` for a name without dashes that an option had, else nothing."""
    new = _RENAMED.get(f"--{name}", ())
    return f" (it is {new[0].removeprefix('--')} now)" if new else ""


@dataclass(frozen=True)
class Named:
    """A file that a command line names.

    Attributes:
        option: As typed, for a complaint.
        path: Its name.
        use: What becomes of it.
    """

    option: str
    path: str
    use: Use


class FileOption(click.Option):
    """An option that names a file.

    Attributes:
        use: What the command does with it.
        prefix: The file is named behind these letters, and there may be none.
        find: Returns the file's name in a value where that is not as simple; empty for none.
    """

    def __init__(
        self,
        *arguments: Any,  # noqa: ANN401 - click's
        use: Use,
        prefix: str = "",
        find: Callable[[str], str] | None = None,
        **options: Any,  # noqa: ANN401 - click's
    ) -> None:
        """Declare it, as for `click.option`."""
        super().__init__(*arguments, **options)
        self.use = use
        self.prefix = prefix
        self.find = find

    def shell_complete(  # type: ignore[explicit-override] # typing.override: from 3.12
        self, ctx: click.Context, incomplete: str
    ) -> list[CompletionItem]:
        """Return what a shell completes the value to: names of files, where no other is known."""
        folders = self.use is Use.FILL
        kind = "dir" if folders else "file"
        return super().shell_complete(ctx, incomplete) or [CompletionItem(incomplete, type=kind)]


class FileArgument(click.Argument):
    """An argument that names one file or several.

    Attributes:
        use: What the command does with them.
        prefix, find: As of `FileOption`.
    """

    def __init__(self, *arguments: Any, use: Use, **options: Any) -> None:  # noqa: ANN401 - click's
        """Declare it, as for `click.argument`."""
        super().__init__(*arguments, **options)
        self.use = use
        self.prefix = ""
        self.find: Callable[[str], str] | None = None

    def shell_complete(  # type: ignore[explicit-override] # typing.override: from 3.12
        self, ctx: click.Context, incomplete: str
    ) -> list[CompletionItem]:
        """Return what a shell completes the value to: names of files."""
        return super().shell_complete(ctx, incomplete) or [CompletionItem(incomplete, type="file")]


class Command(click.Command):
    """A command of `midstream`: its files are looked at before it runs.

    However it ends, a report that it was to write says so (`scripts/reports.py`).
    """

    def __init__(
        self,
        *arguments: Any,  # noqa: ANN401 - click's
        report_schema: str | None = None,
        **options: Any,  # noqa: ANN401 - click's
    ) -> None:
        """Declare it, as for `click.command`.

        Args:
            arguments: For click.
            report_schema: Of its report, if that is not one of a migration.
            options: For click.
        """
        super().__init__(*arguments, **options)
        self._schema = report_schema

    def parse_args(  # type: ignore[explicit-override] # typing.override: from 3.12
        self, ctx: click.Context, args: list[str]
    ) -> list[str]:
        """Read the options; one that has another name now is refused with that."""
        # The list is used up meanwhile.
        words = [*args]
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            ours = {name for parameter in self.params for name in parameter.opts}
            names = [new for new in _RENAMED.get(error.option_name, ()) if new in ours]
            if names:
                known = " or ".join(names)
                raise click.UsageError(f"{error.option_name} is {known} now", ctx) from error
            raise
        except click.MissingParameter:
            raise
        except click.BadParameter as error:
            if error.param is None or not isinstance(error.param.type, click.Choice):
                raise
            meant = _meant(error.param, error.param.type, words)
            raise click.BadParameter(f"{error.message}{meant}", ctx, error.param) from error

    def format_options(  # type: ignore[explicit-override] # typing.override: from 3.12
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        """Write the options in sections."""
        write_options(ctx, formatter)

    def format_epilog(  # type: ignore[explicit-override] # typing.override: from 3.12
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        """Write examples, and what else there is to say."""
        write_examples(ctx, formatter)
        super().format_epilog(ctx, formatter)

    def invoke(  # type: ignore[explicit-override] # typing.override: from 3.12
        self, ctx: click.Context
    ) -> Any:  # noqa: ANN401 - click's
        """Check its files, and run it; reports that it writes say what it was asked."""
        check_distinct(named_files(self, ctx.params))
        typed = {name for name in ctx.params if _is_typed(ctx, name)}
        begin_run(run_of(self.name or "", self.params, ctx.params, typed))
        try:
            with settled_report(ctx.params.get("report"), self._schema):
                return super().invoke(ctx)
        finally:
            end_run()


def _is_typed(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE


def _meant(parameter: click.Parameter, choice: click.Choice[Any], words: list[str]) -> str:
    """Return what was probably meant by the value that is none of a choice's."""
    joined = " ".join(words).replace("=", " ").split()
    given = [word for name, word in pairwise(joined) if name in parameter.opts]
    hints = [did_you_mean(word, map(str, choice.choices)) for word in given]
    return next(filter(None, hints), "")


def named_files(command: click.Command, values: dict[str, Any]) -> Iterator[Named]:
    """Yield the files that a command's values name, of each option all."""
    for parameter in command.params:
        value = values.get(parameter.name or "")
        if not isinstance(parameter, (FileOption, FileArgument)) or value is None:
            continue
        is_option = isinstance(parameter, FileOption)
        option = parameter.opts[0] if is_option else (parameter.metavar or "").rstrip(".")
        for text in value if isinstance(value, tuple) else (value,):
            path = os.fspath(text)
            if parameter.find is not None:
                path = parameter.find(path)
            if path.startswith(parameter.prefix) and path != parameter.prefix:
                yield Named(option, path.removeprefix(parameter.prefix), parameter.use)


def check_distinct(files: Iterable[Named]) -> None:
    """Refuse two names of one file, unless it is only read.

    An image that is read before it is saved to is what a user may want.

    Raises:
        click.UsageError: There are two, and which; or one that looks like a stream and is none.
    """
    files = list(files)
    for file in files:
        if file.path == STANDARD_OUTPUT and file.use is not Use.READ and not _is_streamed(file):
            raise click.UsageError(
                f"{file.option}: {STANDARD_OUTPUT} is standard output for "
                f"{' and '.join(_STREAMED)} only; a file of that name is ./{STANDARD_OUTPUT}"
            )
    known = [(file, set(_places(file))) for file in files if file.use is not Use.FILL]
    for (one, places), (other, others) in combinations(known, 2):
        uses = {one.use, other.use}
        if uses == {Use.READ} or not places & others:
            continue
        is_image = uses == {Use.READ, Use.SAVE} and "--image" in {one.option, other.option}
        # The map of what is saved is another matter.
        if is_image and _place(one.path) == _place(other.path):
            continue
        raise click.UsageError(_complaint(one, other))


def _is_streamed(file: Named) -> bool:
    return file.option in _STREAMED


Place = tuple[object, ...]


def _places(file: Named) -> Iterator[Place]:
    """Yield where everything lies that comes of a file's name."""
    paths = [Path(file.path)]
    if file.use is Use.SAVE:
        # Imported late: few commands save.
        from guest.save_names import names  # noqa: PLC0415

        paths = names(file.path)
    for path in paths:
        place = _place(path)
        if place is not None:
            yield place


def _place(path: str | os.PathLike[str]) -> Place | None:
    """Return what is the same for all names of a file, None where many may use it at a time.

    A file that is not there yet is its folder and its name in that.
    """
    if os.fspath(path) in _OUTPUT_NAMES:
        return (STANDARD_OUTPUT,)
    try:
        status = Path(path).stat()
        if stat.S_ISCHR(status.st_mode):
            return None
    except OSError:
        real = Path(os.path.realpath(path))
        try:
            folder = real.parent.stat()
        except OSError:
            return (str(real),)
        return (folder.st_dev, folder.st_ino, real.name)
    else:
        return (status.st_dev, status.st_ino)


# What is another name of standard output, whatever that is.
_OUTPUT_NAMES = frozenset({STANDARD_OUTPUT, "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"})


def _complaint(one: Named, other: Named) -> str:
    name = repr(one.path)
    if one.path != other.path:
        name = f"{one.path!r} and {other.path!r}"
    return f"{one.option} and {other.option} name one file: {name}"


def file_option(
    *names: str,
    use: Use,
    **options: Any,  # noqa: ANN401 - click's
) -> Callable[[C], C]:
    """Return what `click.option` would, for an option that names a file."""
    return click.option(*names, cls=FileOption, use=use, **options)
