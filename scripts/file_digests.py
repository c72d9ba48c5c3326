"""Digests of the files that a command reads: one that has changed since is seen in the report."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scripts.provenance import Parameter

# The use of a file (`scripts.named_files.Use`) that is looked at.
_READ = "read"

# Files whose digests no report has: a short secret can be guessed from its own, and an image is as
# large as a guest.
_LEFT_OUT = frozenset({"secret_file", "tls_cert", "tls_key", "tls_ca", "image"})
# All others are texts, or a program.
_BYTES_MAX = 64 << 20

# The digest of an option's file; of one that is typed again and again, those of all.
Digest = str | list[str | None]


def digests_of(parameters: Iterable[Parameter], values: Mapping[str, Any]) -> dict[str, Digest]:
    """Return the digests of the files that options name, by the options' names in Python.

    Args:
        parameters: The command's; each says what becomes of the file that it names, if it does.
        values: What each was given, by the same names.
    """
    found = {
        name: _digest(each, value)
        for each in parameters
        if _is_read(each)
        and (name := each.name or "") not in _LEFT_OUT
        and (value := values.get(name))
    }
    return {name: digest for name, digest in found.items() if digest is not None}


def _is_read(parameter: Parameter) -> bool:
    use = getattr(parameter, "use", None)
    return use is not None and use.value == _READ


def _digest(parameter: Parameter, value: object) -> Digest | None:
    if isinstance(value, (tuple, list)):
        digests = [_digest_of_one(parameter, each) for each in value]
        return digests if any(digests) else None
    return _digest_of_one(parameter, value)


def _digest_of_one(parameter: Parameter, value: object) -> str | None:
    path = os.fspath(value) if isinstance(value, os.PathLike) else str(value)
    find, prefix = getattr(parameter, "find", None), getattr(parameter, "prefix", "")
    if find is not None:
        path = find(path)
    if not path.startswith(prefix) or path == prefix:
        return None
    return file_digest(path.removeprefix(prefix))


def file_digest(path: str | os.PathLike[str]) -> str | None:
    """Return a file's SHA-256, as `sha256sum` prints it; None for what is large or no regular file.

    Only of such a file can all be read and nothing is missing after that.
    """
    import hashlib  # noqa: PLC0415 - few commands are given a file

    try:
        status = Path(path).stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > _BYTES_MAX:
            return None
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except (OSError, ValueError):
        # Whoever needs it says what is wrong with it.
        return None
