"""What a report says in the end of why a command failed; test_sides.py has reports written."""

import json
from pathlib import Path

import pytest

from protocol.errors import ConnectionLost, MidstreamError, MigrationCancelled
from scripts.reports import put_reason


def test_a_reason_is_put_into_a_report_only(tmp_path: Path) -> None:
    """What holds no report is left as it is, for who then writes one."""
    path, cut = tmp_path / "report", ConnectionLost("cut")
    for text in ("", "[]", '{"status": "completed"}'):
        path.write_text(text, encoding="utf-8")
        assert not put_reason(path, cut)
        assert path.read_text(encoding="utf-8") == text
    assert not put_reason(tmp_path / "missing", cut)
    path.write_text('{"status": "failed", "midstream": {"reason": "?"}}', encoding="utf-8")
    assert put_reason(path, cut)
    told = json.loads(path.read_text(encoding="utf-8"))
    assert told == {"status": "failed", "midstream": {"reason": "cut"}}


@pytest.mark.parametrize(
    ("error", "status"),
    [(ConnectionLost("cut"), "failed"), (MigrationCancelled("why"), "cancelled")],
)
def test_who_was_called_off_was_not_cancelled(
    tmp_path: Path, error: MidstreamError, status: str
) -> None:
    """A side that is ended because the other has died reports a failure, not what a user wanted."""
    path = tmp_path / "report"
    path.write_text('{"status": "cancelled", "midstream": {"reason": "?"}}', encoding="utf-8")
    assert put_reason(path, error)
    assert json.loads(path.read_text(encoding="utf-8"))["status"] == status
