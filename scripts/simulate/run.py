"""One simulated run: both sides, what is between them, and the report of what came of it."""

from __future__ import annotations

import resource
from collections.abc import Callable
from dataclasses import dataclass
from time import process_time
from typing import Any

from guest.programs import Program
from protocol.channels import Channel
from protocol.errors import MigrationError
from protocol.events import Emit, ignore, is_heard, tell_run
from protocol.messages import Message
from protocol.report import assemble
from scripts.links.spec import LinkSpec
from scripts.runtime.parent import LinkNote
from scripts.simulate.agenda import Agenda, Host
from scripts.simulate.dest import DestSide
from scripts.simulate.kernel import ModelFrame, ModelOutlet
from scripts.simulate.leaps import Leaps
from scripts.simulate.link import Flow, Link
from scripts.simulate.model import Model
from scripts.simulate.source import SourceSide
from scripts.simulate.vcpus import SourceVcpus
from source.config import SourceConfig

Report = dict[str, Any]

# As a report names what lies between the sides.
MODELLED_LINK = "modelled"


@dataclass(frozen=True, kw_only=True)
class Told:
    """The recorder of either side's events."""

    source: Emit
    dest: Emit


NOBODY = Told(source=ignore, dest=ignore)


@dataclass(frozen=True, kw_only=True)
class Point:
    """The migration that is simulated.

    Attributes:
        config: As of a real source.
        link: What lies between the sides.
        model: What machine and kernel take.
        model_name: Where that is from.
        quiet: What the model was measured on was quiet enough to tell of rare events by it.
        leaps: Frames of the background go many in one step where nothing else is due. Without, the
            run is the same, and takes longer.
    """

    config: SourceConfig
    link: LinkSpec
    model: Model
    model_name: str
    quiet: bool = True
    leaps: bool = True


def simulate(point: Point, told: Callable[[Agenda], Told] = lambda _: NOBODY) -> Report:
    """Simulate a migration; return the report, as a real run would write it.

    Args:
        point: What is simulated.
        told: Returns who takes events, given whose clock is theirs.

    Raises:
        MigrationError: It came to a stand, or failed as a real one would.
    """
    began = process_time()
    run = Run(point, told)
    run.run()
    report = run.report()
    if not point.quiet:
        withhold_tails(report)
    seconds = process_time() - began
    report["midstream"]["simulated"] = {
        "model": point.model_name,
        "model-quiet": point.quiet,
        "values": point.model.to_plain(),
        "seed": point.config.spec.seed,
        "events": run.agenda.count,
        "cpu-seconds": round(seconds, 3),
        "memory-max-bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10,
    }
    return report


def withhold_tails(report: Report) -> None:
    """Remove from a report what a model of a noisy machine cannot tell: what happens rarely."""
    own = report["midstream"]
    for summary in (own["faults"], own["accesses"], *own["stages"].values()):
        for name in ("p99-us", "p999-us", "max-us"):
            summary[name] = None


class Run:
    """Both sides of one migration on one agenda.

    Attributes:
        agenda: What is due.
        source: The source's side.
        dest: The destination's.
    """

    def __init__(self, point: Point, told: Callable[[Agenda], Told]) -> None:
        """Put everything together; nothing happens yet."""
        config, model = point.config, point.model.beside(point.config.spec.vcpu_count)
        self.agenda = agenda = Agenda(config.spec.seed)
        emits = told(agenda)
        self._point = point
        self._link = link = Link(agenda, model, point.link)
        self._source_host, self._dest_host = Host.of(agenda, model), Host.of(agenda, model)
        program = Program(config.spec, config.geometry)
        self._vcpus = SourceVcpus(program, config.geometry, model.access_ns)
        self.source = SourceSide(config, self._source_host, self._vcpus, emits.source)
        self.dest = DestSide(
            config, self._dest_host, link, program, self._vcpus.steps, emits.dest, self._reply
        )
        self._tell_source = emits.source
        self._dest_emit = emits.dest

    def run(self) -> None:
        """Let it happen, to the end.

        Raises:
            MigrationError: Nothing is due, and it is not over.
        """
        config, link = self._point.config, self._link
        spec, model = config.spec, self._point.model
        tell_run(
            self._tell_source, config.geometry, policy=config.policy.name,
            chunk_bytes=config.chunk_bytes, vcpus=spec.vcpu_count, program=spec.name,
        )  # fmt: skip
        outlets = {
            name: ModelOutlet(link.flows[name], link, self.agenda, model, self._expect)
            for name in config.policy.channels
        }
        may_leap = not (model.noise_ns or self._link.loses or is_heard(self._tell_source))
        if self._point.leaps and may_leap and not is_heard(self._dest_emit):
            processors = self._source_host.processor, self._dest_host.processor
            leaps = Leaps(self.agenda, link, outlets, self.source, self.dest, processors)
            self.source.on_frame = leaps.look
        self.source.start(outlets)
        faults = self.dest.engine.faults
        if not self.agenda.run(lambda: self.source.is_done and self.dest.is_done):
            raise MigrationError("the simulated migration came to a stand")
        # Those that were woken last say so.
        self.agenda.run(lambda: not (self.dest.presence.stopped or faults.is_waking))

    def report(self) -> Report:
        """Return the report, which says what is modelled and that nothing was compared."""
        source = self.source.part()
        dest = self.dest.part(self._dest_host.processor.busy_ns / 1e9)
        report = assemble("completed", source, dest)
        own = report["midstream"]
        own["verified"] = None
        if self._point.link:
            own["link"] = _link_plain(self._point.link, self._link)
        return report

    def _expect(self, flow: Flow, frame: ModelFrame) -> None:
        self.dest.expect(flow, frame)

    def _reply(self, channel: Channel, message: Message, payload: bytes) -> None:
        self.source.expect(message, payload)
        arrives_ns = self.agenda.clock_ns() + self._link.way_ns
        self.agenda.at(arrives_ns, self.source.hear, channel, message, payload)


def _link_plain(spec: LinkSpec, link: Link) -> dict[str, str | float]:
    return LinkNote(
        kind=MODELLED_LINK, bytes_per_second=spec.bytes_per_second, queue=link.queue,
        rtt_us=spec.rtt_us, loss=spec.loss,
    ).to_plain()  # fmt: skip
