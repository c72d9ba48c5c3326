"""Reads the files that say who may take part: the secret, the certificates."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from protocol.addresses import is_host
from protocol.credentials import Credentials
from protocol.limits import SECRET_BYTES_MAX, SECRET_BYTES_MIN
from scripts.files import check_readable, unusable
from scripts.options import Values
from scripts.run_config import Access

if TYPE_CHECKING:
    import ssl

SECRET_OPTION = "--secret-file"
KEY_OPTION = "--tls-key"
TLS_OPTIONS = ("--tls-cert", KEY_OPTION, "--tls-ca")
HOSTNAME_OPTION = "--tls-hostname"

# All authorities that a system trusts are a quarter of that.
_CERTIFICATE_BYTES_MAX = 1 << 20

# A line break at the end of what was read; an editor's or `openssl rand`'s, and no part of it.
_LINE_BREAK_BYTES = 2


def credentials(values: Values, *, server: bool) -> Credentials:
    """Return what a side's options name.

    Args:
        values: The command line's.
        server: For the destination, which certificates are shown to first.

    Raises:
        click.BadParameter: A file is missing, wrong, or readable by others, or an option is
            missing beside another.
    """
    return access_of(values).credentials(server=server)


def access_of(values: Values) -> Access:
    """Return what a side's options name, its secret read and its certificates looked at.

    Raises:
        click.BadParameter: As above, but for what only reading the certificates can tell.
    """
    path = values["secret_file"]
    return Access(
        secret=None if path is None else read_secret(path),
        tls=_tls_files(values),
        server_name=_server_name(values),
    )


def with_secret(access: Access) -> Access:
    """Return it with its secret, or a fresh one."""
    fresh = os.urandom(SECRET_BYTES_MIN).hex().encode()
    return replace(access, secret=access.secret or fresh)


def read_secret(path: str) -> bytes:
    """Return the secret that a file, or a pipe, holds.

    Raises:
        click.BadParameter: It cannot be read, others may read it, or it is too short or too long.
    """
    try:
        # A pipe that nobody writes to is no reason to wait for ever.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise unusable(SECRET_OPTION, path, error.strerror) from error
    try:
        data = _read_if_private(fd, path)
    except OSError as error:
        raise unusable(SECRET_OPTION, path, error.strerror) from error
    finally:
        os.close(fd)
    secret = data.removesuffix(b"\n").removesuffix(b"\r")
    if not SECRET_BYTES_MIN <= len(secret) <= SECRET_BYTES_MAX:
        raise unusable(
            SECRET_OPTION, path,
            f"a secret has {SECRET_BYTES_MIN} to {SECRET_BYTES_MAX} bytes, not "
            f"{'more' if len(secret) > SECRET_BYTES_MAX else len(secret)}",
        )  # fmt: skip
    return secret


def _read_if_private(fd: int, path: str) -> bytes:
    """Return what an open file holds, or more than a secret can have."""
    mode = os.fstat(fd).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode)):
        raise unusable(SECRET_OPTION, path, "is neither a regular file nor a pipe")
    _check_private(SECRET_OPTION, path, mode)
    os.set_blocking(fd, True)
    most_bytes = SECRET_BYTES_MAX + _LINE_BREAK_BYTES + 1
    data = b""
    while len(data) < most_bytes and (more := os.read(fd, most_bytes - len(data))):
        data += more
    return data


def _check_private(option: str, path: str, mode: int) -> None:
    """Refuse what its owner is to know alone, and others may read or change."""
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise unusable(
            option, path, f"others may use it (mode {stat.S_IMODE(mode):o}), chmod 600 it"
        )


def _server_name(values: Values) -> str | None:
    """Return the name that the destination's certificate must be for, None for where it is.

    Raises:
        click.BadParameter: It is no name or address, or no certificate is asked for.
    """
    name: str | None = values.get("tls_hostname")
    if name is None:
        return None
    if values["tls_ca"] is None:
        raise click.BadParameter(
            f"it is of use only with {', '.join(TLS_OPTIONS)}", param_hint=HOSTNAME_OPTION
        )
    if not is_host(name) or not name.strip("."):
        raise click.BadParameter(f"{name!r} is no host's name", param_hint=HOSTNAME_OPTION)
    # Brackets are typed with a port; a certificate has the address alone.
    return name.removeprefix("[").removesuffix("]")


def _check_size(option: str, path: str, status: os.stat_result) -> None:
    """Refuse what OpenSSL would read without end, or for long.

    Raises:
        click.BadParameter: It is a device, or a file too long to hold certificates.
    """
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISFIFO(status.st_mode)):
        raise unusable(option, path, "is neither a regular file nor a pipe")
    if status.st_size > _CERTIFICATE_BYTES_MAX:
        raise unusable(option, path, f"is longer than {_CERTIFICATE_BYTES_MAX >> 20} MiB")


def _tls_files(values: Values) -> tuple[str, str, str] | None:
    paths = [values[option.removeprefix("--").replace("-", "_")] for option in TLS_OPTIONS]
    if not any(paths):
        return None
    for option, path in zip(TLS_OPTIONS, paths, strict=True):
        if path is None:
            raise click.BadParameter(f"{', '.join(TLS_OPTIONS)} go together", param_hint=option)
        status = check_readable(option, path)
        _check_size(option, path, status)
        if option == KEY_OPTION:
            _check_private(option, path, status.st_mode)
    certificate, key, authority = paths
    return certificate, key, authority


def tls_context(certificate: str, key: str, authority: str, *, server: bool) -> ssl.SSLContext:
    """Return a context that shows a certificate and demands one, with TLS 1.3 or later.

    Args:
        certificate: This side's, and what leads from it to its authority, as PEM.
        key: Its private key.
        authority: Who must have signed the other side's.
        server: Whether this is the destination.

    Raises:
        click.BadParameter: A file does not hold what it should.
    """
    # Imported late: few runs are encrypted, and what it takes takes its time.
    import ssl  # noqa: PLC0415

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    if server:
        # Nobody resumes a session of TLS here, so none needs a ticket.
        context.num_tickets = 0
    _load_certificates("--tls-ca", authority, context)
    _load_certificates("--tls-cert", certificate, ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    try:
        # Asked for a password, it would ask the terminal.
        context.load_cert_chain(certificate, key, lambda: b"")
    except (ssl.SSLError, ValueError) as error:
        raise unusable(
            "--tls-key", key, f"is not the plain private key that {certificate!r} is for"
        ) from error
    return context


def _load_certificates(option: str, path: str, context: ssl.SSLContext) -> None:
    try:
        context.load_verify_locations(path)
    except OSError as error:
        raise unusable(option, path, "has no certificate in it") from error
