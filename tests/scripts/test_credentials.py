"""The files that say who may take part: read whole, or refused with the option and the reason."""

import os
import ssl
from pathlib import Path
from typing import Any

import click
import pytest
from cryptography.hazmat.primitives import serialization

from protocol.limits import SECRET_BYTES_MAX, SECRET_BYTES_MIN
from scripts.credentials import access_of, credentials, read_secret, with_secret
from scripts.options import OPTIONS
from tests.certificates import write_certificates

LONG_ENOUGH = b"s" * SECRET_BYTES_MIN


def values(*options: str) -> dict[str, Any]:
    """Return the values of a command line with these options."""
    given = {}
    for option in options:
        flag, _, value = option.partition("=")
        given[flag.removeprefix("--").replace("-", "_")] = value
    return {option.name: option.default for option in OPTIONS} | given


def secret_file(folder: Path, data: bytes, mode: int = 0o600) -> str:
    """Write a file of that mode; return its path."""
    path = folder / "secret"
    path.write_bytes(data)
    path.chmod(mode)
    return str(path)


def complaint(option: str, *options: str) -> str:
    """Return what is said of options of which this one is wrong."""
    with pytest.raises(click.BadParameter) as caught:
        credentials(values(*options), server=False)
    assert caught.value.param_hint == option
    return caught.value.message


@pytest.mark.parametrize(
    ("data", "secret"),
    [
        (LONG_ENOUGH, LONG_ENOUGH),
        (LONG_ENOUGH + b"\n", LONG_ENOUGH),
        (LONG_ENOUGH + b"\r\n", LONG_ENOUGH),
        (LONG_ENOUGH + b"\n\n", LONG_ENOUGH + b"\n"),
        (b"\0" * 20 + b" \xff", b"\0" * 20 + b" \xff"),
        (b"x" * SECRET_BYTES_MAX + b"\r\n", b"x" * SECRET_BYTES_MAX),
    ],
)
def test_a_secret_is_what_the_file_holds(tmp_path: Path, data: bytes, secret: bytes) -> None:
    """All bytes count but the line break at the end."""
    assert read_secret(secret_file(tmp_path, data)) == secret


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o606, 0o610, 0o644, 0o777])
def test_others_may_not_use_the_file(tmp_path: Path, mode: int) -> None:
    """A file that a group or all may read or write is refused, with what to do."""
    reason = complaint("--secret-file", f"--secret-file={secret_file(tmp_path, LONG_ENOUGH, mode)}")
    assert f"others may use it (mode {mode:o}), chmod 600 it" in reason


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "a secret has 16 to 1024 bytes, not 0"),
        (LONG_ENOUGH[1:] + b"\n", "a secret has 16 to 1024 bytes, not 15"),
        (b"x" * (SECRET_BYTES_MAX + 1), "a secret has 16 to 1024 bytes, not more"),
        (b"x" * (1 << 20), "a secret has 16 to 1024 bytes, not more"),
    ],
)
def test_a_secret_is_neither_short_nor_long(tmp_path: Path, data: bytes, reason: str) -> None:
    """What can be guessed is refused, and what looks like another file; neither is shown."""
    path = secret_file(tmp_path, data)
    assert reason in (told := complaint("--secret-file", f"--secret-file={path}"))
    assert "sss" not in told
    assert "xxx" not in told


def test_what_is_no_file_of_secrets(tmp_path: Path) -> None:
    """A missing file, a folder and a device are refused with the system's reason."""
    assert "No such file" in complaint("--secret-file", f"--secret-file={tmp_path / 'none'}")
    for path in (tmp_path, "/dev/null"):
        reason = complaint("--secret-file", f"--secret-file={path}")
        assert "neither a regular file nor a pipe" in reason


def test_a_secret_may_come_through_a_pipe() -> None:
    """A shell's <(...), or what a parent hands on, is as good as a file."""
    near, far = os.pipe()
    os.write(far, LONG_ENOUGH)
    os.close(far)
    assert read_secret(f"/dev/fd/{near}") == LONG_ENOUGH
    os.close(near)


def test_a_pipe_without_a_writer_is_no_wait(tmp_path: Path) -> None:
    """A named pipe that nobody writes to is an empty secret, not a hang."""
    os.mkfifo(tmp_path / "pipe", 0o600)
    assert "not 0" in complaint("--secret-file", f"--secret-file={tmp_path / 'pipe'}")


def test_fresh_secrets_are_fresh(tmp_path: Path) -> None:
    """Without a file each migration has a secret of its own; with one it is the file's."""
    made = {with_secret(access_of(values())).secret or b"" for _ in range(10)}
    assert len(made) == 10
    assert all(SECRET_BYTES_MIN <= len(secret) <= SECRET_BYTES_MAX for secret in made)
    path = secret_file(tmp_path, LONG_ENOUGH)
    assert with_secret(access_of(values(f"--secret-file={path}"))).secret == LONG_ENOUGH


def test_nothing_is_demanded_by_default() -> None:
    """Without options there is neither a secret nor TLS."""
    assert not credentials(values(), server=True).demanding


@pytest.mark.parametrize("server", [False, True])
def test_certificates_make_a_context(tmp_path: Path, server: bool) -> None:
    """The context shows a certificate, demands one, and speaks nothing before TLS 1.3."""
    made = credentials(values(*write_certificates(tmp_path, "side")), server=server)
    assert made.demanding
    assert made.tls is not None
    assert made.tls.verify_mode is ssl.CERT_REQUIRED
    assert made.tls.minimum_version is ssl.TLSVersion.TLSv1_3
    assert made.tls.check_hostname is not server


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_the_three_options_go_together(tmp_path: Path, missing: int) -> None:
    """With one of them missing it is that one that the complaint names."""
    options = write_certificates(tmp_path, "side")
    option = options.pop(missing).partition("=")[0]
    assert "go together" in complaint(option, *options)


@pytest.mark.parametrize("kind", ["cert", "key", "ca"])
def test_what_is_wrong_with_certificates_is_told(tmp_path: Path, kind: str) -> None:
    """A missing, an empty and a wrong file are refused by option and name."""
    options = write_certificates(tmp_path, "side")
    path = tmp_path / f"side-{kind}.pem"
    path.write_text("no certificate, nor a key")
    assert f"side-{kind}.pem" in complaint(f"--tls-{kind}", *options)
    path.unlink()
    assert "No such file" in complaint(f"--tls-{kind}", *options)
    with pytest.raises(click.BadParameter, match="No such file"):
        access_of(values(*options))


@pytest.mark.parametrize("mode", [0o640, 0o644, 0o604, 0o620])
def test_a_key_that_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    """As a secret is: the line says the mode, and what to do."""
    options = write_certificates(tmp_path, "side")
    (tmp_path / "side-key.pem").chmod(mode)
    assert f"others may use it (mode {mode:o}), chmod 600 it" in complaint("--tls-key", *options)
    # Certificates are no secrets.
    (tmp_path / "side-key.pem").chmod(0o400)
    (tmp_path / "side-cert.pem").chmod(0o644)
    assert credentials(values(*options), server=False).tls is not None


def test_a_key_of_another_certificate(tmp_path: Path) -> None:
    """A key that does not belong to the certificate is refused, and both are named."""
    certificate, _, authority = write_certificates(tmp_path, "one")
    _, key, _ = write_certificates(tmp_path, "two")
    reason = complaint("--tls-key", certificate, key, authority)
    assert "two-key.pem" in reason
    assert "one-cert.pem" in reason


def test_a_key_with_a_password_asks_nobody(tmp_path: Path) -> None:
    """An encrypted key is refused; nothing waits at the terminal for its password."""
    options = write_certificates(tmp_path, "side")
    path = tmp_path / "side-key.pem"
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"password"),
        )
    )
    assert "plain private key" in complaint("--tls-key", *options)


def test_the_name_of_a_certificate(tmp_path: Path) -> None:
    """A source may be told what the destination's certificate is for; a destination has no use."""
    options = write_certificates(tmp_path, "side")
    assert credentials(values(*options), server=False).server_name is None
    for typed, name in (("there.example", "there.example"), ("[::1]", "::1"), ("::1", "::1")):
        given = values(*options, f"--tls-hostname={typed}")
        assert credentials(given, server=False).server_name == name
        assert credentials(given, server=True).server_name is None
        assert access_of(given).server_name == name


@pytest.mark.parametrize("name", ["", ".", "a..b", "x" * 300, "a\nb"])
def test_what_is_no_name_of_a_certificate(tmp_path: Path, name: str) -> None:
    """No host has such a name, so no certificate can be for it."""
    options = [*write_certificates(tmp_path, "side"), f"--tls-hostname={name}"]
    assert "is no host's name" in complaint("--tls-hostname", *options)
    with pytest.raises(click.BadParameter, match="is no host's name"):
        access_of(values(*options))


def test_a_name_without_certificates() -> None:
    """Nothing would be compared with it."""
    assert "only with --tls-cert" in complaint("--tls-hostname", "--tls-hostname=there")


@pytest.mark.parametrize("option", ["--tls-cert", "--tls-key", "--tls-ca"])
def test_certificates_are_no_endless_files(tmp_path: Path, option: str) -> None:
    """A device without an end, or a file far too long, is refused before anybody reads it."""
    long = tmp_path / "long"
    with long.open("wb") as file:
        file.truncate((1 << 20) + 1)
    for path, reason in (("/dev/zero", "neither a regular file"), (str(long), "longer than 1 MiB")):
        given = values(*write_certificates(tmp_path, "side"), f"{option}={path}")
        with pytest.raises(click.BadParameter, match=reason) as caught:
            credentials(given, server=False)
        assert caught.value.param_hint == option
