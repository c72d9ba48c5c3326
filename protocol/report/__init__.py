"""The report: what each side knows, as records that cross at the end, and their union.

Field names and units are those of QEMU's `query-migrate` (`qapi/migration.json`) where the meaning
is the same; what QEMU has no name for stands in the object `midstream`.
"""

from __future__ import annotations

from protocol.report.latency import LATENCY_BIN_COUNT, STAGE_WORDS, STAGES, StageSummary, Summary
from protocol.report.parts import AccountRecord, CauseCount, DestPart, PrefetchPart, SourcePart
from protocol.report.whole import SCHEMA, Result, assemble, assemble_failed, latencies, of_dest

__all__ = [
    "LATENCY_BIN_COUNT",
    "SCHEMA",
    "STAGES",
    "STAGE_WORDS",
    "AccountRecord",
    "CauseCount",
    "DestPart",
    "PrefetchPart",
    "Result",
    "SourcePart",
    "StageSummary",
    "Summary",
    "assemble",
    "assemble_failed",
    "latencies",
    "of_dest",
]
