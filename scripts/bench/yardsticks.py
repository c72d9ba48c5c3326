"""Others on the same sockets: `iperf3 -P 1` where it is installed, and a plain question.

What a plain question and its answer take over a loopback socket is what a page request cannot go
below.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time

from protocol.errors import MigrationError
from protocol.text import one_line
from scripts.links.link import PROXY, Link
from scripts.runtime.spawn import package_environment

_PROGRAM = "iperf3"
_RUN_SECONDS_MAX = 600
# What its server says when it can be connected to.
_LISTENING = b"Server listening"
_LINES_MAX = 20
_REASON_CHARS_MAX = 200


def has_iperf(link: Link) -> bool:
    """Return whether there is one; through a proxy it does not find its server."""
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


_QUESTIONS = 2000
_QUESTION_BYTES = 32
_SECONDS_MAX = 30.0
_MODULE = "scripts.bench.yardsticks"


def ask(answer_bytes: int, questions: int = _QUESTIONS) -> list[float]:
    """Ask another process so often; return the seconds that each answer took.

    Raises:
        MigrationError: It did not answer.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(_SECONDS_MAX)
        answerer = subprocess.Popen(
            [sys.executable, "-P", "-m", _MODULE, str(server.getsockname()[1]), str(answer_bytes)],
            env=package_environment(),
            stdin=subprocess.DEVNULL,
        )
        with answerer:
            try:
                connection, _ = server.accept()
                with connection:
                    return _ask(connection, answer_bytes, questions)
            except OSError as error:
                raise MigrationError(f"no answer over a plain socket: {error}") from error
            finally:
                answerer.kill()


def _ask(connection: socket.socket, answer_bytes: int, questions: int) -> list[float]:
    connection.settimeout(_SECONDS_MAX)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    question, answer = bytes(_QUESTION_BYTES), bytearray(answer_bytes)
    took = []
    for _ in range(questions):
        started = time.monotonic()
        connection.sendall(question)
        if connection.recv_into(answer, answer_bytes, socket.MSG_WAITALL) != answer_bytes:
            raise ConnectionError("the other end closed the connection")
        took.append(time.monotonic() - started)
    return took


def main(port: str, answer_bytes: str) -> None:
    """Answer until nobody asks any more."""
    answer, question = bytes(int(answer_bytes)), bytearray(_QUESTION_BYTES)
    with socket.create_connection(("127.0.0.1", int(port)), _SECONDS_MAX) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while connection.recv_into(question, _QUESTION_BYTES, socket.MSG_WAITALL):
            connection.sendall(answer)


if __name__ == "__main__":
    main(*sys.argv[1:])
