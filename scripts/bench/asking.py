"""A plain question and its answer over a loopback socket: what a page request cannot go below."""

from __future__ import annotations

import socket
import subprocess
import sys
import time

from protocol.errors import MigrationError
from scripts.runtime.spawn import package_environment

_QUESTIONS = 2000
_QUESTION_BYTES = 32
_SECONDS_MAX = 30.0
_MODULE = "scripts.bench.asking"


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
