"""The stream of `iperf3 -P 1`, where that is installed."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess

from protocol.errors import MigrationError
from protocol.text import one_line
from scripts.links.link import PROXY, Link

_PROGRAM = "iperf3"
_RUN_SECONDS_MAX = 600
# What its server says when it can be connected to.
_LISTENING = b"Server listening"
_LINES_MAX = 20
_REASON_CHARS_MAX = 200


def has_iperf(link: Link) -> bool:
    """Tell whether there is one; through a proxy it does not find its server."""
    return link.kind != PROXY and shutil.which(_PROGRAM) is not None


def measure_iperf(length_bytes: int, link: Link) -> float:
    """Send so many bytes over one connection; return bytes a second, as the receiver counts them.

    Raises:
        MigrationError: It failed.
    """
    port = f"--port={_free_port()}"
    server = subprocess.Popen(
        [
            *link.prefixes["dest"],
            _PROGRAM,
            "-s",
            "-1",
            f"-B{link.listen_host}",
            port,
            "--forceflush",
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    with server:
        try:
            _await_listening(server)
            command = [*link.prefixes["source"], _PROGRAM, f"-c{link.listen_host}", port]
            done = subprocess.run(
                [*command, "-P1", f"-n{length_bytes}", "-J"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_RUN_SECONDS_MAX,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise MigrationError(f"{_PROGRAM} took over {_RUN_SECONDS_MAX} s") from error
        finally:
            server.kill()
    return rate_of(done.stdout)


def rate_of(output: bytes) -> float:
    """Return bytes a second of what `iperf3 -J` prints.

    Raises:
        MigrationError: It tells of an error, or of no rate.
    """
    try:
        told = json.loads(output)
        bits_per_second: float = told["end"]["sum_received"]["bits_per_second"]
    except (ValueError, LookupError, TypeError):
        reason = one_line(output.decode(errors="replace"))[-_REASON_CHARS_MAX:]
        raise MigrationError(f"{_PROGRAM} told no rate: {reason}") from None
    return bits_per_second / 8


def _free_port() -> int:
    """Return a port that nobody had a moment ago; it takes none by itself."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


def _await_listening(server: subprocess.Popen[bytes]) -> None:
    assert server.stdout is not None
    for _ in range(_LINES_MAX):
        line = server.stdout.readline()
        if _LISTENING in line:
            return
        if not line:
            break
    raise MigrationError(f"{_PROGRAM} does not listen")
