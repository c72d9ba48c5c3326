"""Certificates for tests, made once a run; nothing here is good for anything else."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path

import trio
import trustme

from guest.streams.tcp import TcpStream
from guest.streams.tls import TlsStream
from protocol.credentials import Credentials
from scripts.credentials import tls_context
from tests.guests import KIB
from tests.sockets import unix_pair

# Whom both sides of a test trust.
OURS = "ours"


@cache
def authority(name: str) -> trustme.CA:
    """Return who signs certificates; another name, another authority."""
    return trustme.CA(organization_name=name)


def write_certificates(folder: Path, side: str, *names: str, signer: str = OURS) -> list[str]:
    """Write a side's certificate, key and authority; return the options that name them.

    Args:
        folder: Where to.
        side: Begins the files' names.
        names: What the certificate is for; 127.0.0.1 if nothing is given.
        signer: Who signs it.
    """
    issued = authority(signer).issue_cert(*(names or ("127.0.0.1",)))
    paths = {kind: folder / f"{side}-{kind}.pem" for kind in ("cert", "key", "ca")}
    paths["cert"].write_bytes(b"".join(each.bytes() for each in issued.cert_chain_pems))
    paths["key"].touch(0o600)
    paths["key"].write_bytes(issued.private_key_pem.bytes())
    paths["ca"].write_bytes(authority(OURS).cert_pem.bytes())
    return [f"--tls-{kind}={path}" for kind, path in paths.items()]


def contexts(folder: Path, *names: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return a source's and a destination's context that trust each other."""
    made = []
    for side in ("source", "dest"):
        options = write_certificates(folder, side, *names)
        paths = [option.partition("=")[2] for option in options]
        made.append(tls_context(*paths, server=side == "dest"))
    return made[0], made[1]


def tls_credentials(folder: Path, secret: bytes | None = None) -> tuple[Credentials, Credentials]:
    """Return a source's and a destination's credentials that fit."""
    source, dest = contexts(folder)
    return Credentials(tls=source, secret=secret), Credentials(tls=dest, secret=secret)


@asynccontextmanager
async def tls_pair(
    folder: Path, *names: str, buffer_bytes: int = 8 * KIB
) -> AsyncIterator[tuple[TlsStream, TlsStream]]:
    """Make a client and a server that have shaken hands, with a small socket between them.

    Args:
        folder: For the certificates.
        names: What the certificates are for; the client calls 127.0.0.1.
        buffer_bytes: For the socket's send buffers.
    """
    source, dest = contexts(folder, *names)
    with unix_pair(buffer_bytes) as (near, far):
        client = TlsStream(TcpStream(near), source, server_name="127.0.0.1")
        server = TlsStream(TcpStream(far), dest)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.handshake)
            nursery.start_soon(server.handshake)
        yield client, server
