"""Reads the files of TLS."""

from __future__ import annotations

import ssl

from scripts.files import unusable


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
