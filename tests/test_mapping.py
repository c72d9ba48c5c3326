"""The tests mirror the rooms: who looks for the tests of x/y.py finds them in tests/x/test_y.py."""

from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
ROOMS = ("protocol", "guest", "source", "dest", "scripts")
NOT_MIRRORED = frozenset({"__init__.py", "__main__.py"})


class Elsewhere(NamedTuple):
    """The test file that covers a module in the place of its mirror, and why."""

    test_file: str
    reason: str


# Modules without a mirror, by their path from the project folder.
COVERED_ELSEWHERE: dict[str, Elsewhere] = {
    "dest/connection.py": Elsewhere(
        "tests/dest/test_channel.py", "what the connections of either peer have in common"
    ),
    "dest/listening.py": Elsewhere(
        "tests/dest/test_admission.py", "how either peer's connections are accepted"
    ),
    "dest/words.py": Elsewhere(
        "tests/dest/test_engine.py", "what the engine has to say, which it queues there"
    ),
    "guest/crew.py": Elsewhere(
        "tests/guest/test_process.py", "all vCPUs of a process, which are there when it is"
    ),
    "guest/interface.py": Elsewhere(
        "tests/test_layering.py", "what every guest promises, which is all that engines may know"
    ),
    "guest/streams/stream.py": Elsewhere(
        "tests/guest/streams/test_memory.py", "what every stream promises: an interface"
    ),
    "guest/thread.py": Elsewhere(
        "tests/guest/test_vcpu.py", "what vCPUs of all kinds do alike, which guests of each show"
    ),
    "source/control_paths.py": Elsewhere(
        "tests/source/test_control.py", "where control sockets are, which takes some"
    ),
    "source/commands.py": Elsewhere(
        "tests/source/test_engine.py", "what the engine wants done, which it says"
    ),
    "scripts/links/namespaces.py": Elsewhere(
        "tests/scripts/links/test_link.py", "what a link is made of, which it takes to make one"
    ),
    "scripts/links/tools.py": Elsewhere(
        "tests/scripts/links/test_link.py", "where the tools are that a link is made with"
    ),
    "protocol/page_messages.py": Elsewhere(
        "tests/protocol/test_messages.py", "some of the messages, which it takes all together"
    ),
    "protocol/events/event.py": Elsewhere(
        "tests/protocol/test_events.py", "the shape of an event, which each of them has"
    ),
    "protocol/events/connections.py": Elsewhere(
        "tests/protocol/test_events.py", "fields and no code"
    ),
    "protocol/events/pages.py": Elsewhere("tests/protocol/test_events.py", "fields and no code"),
    "protocol/events/passing.py": Elsewhere("tests/protocol/test_events.py", "fields and no code"),
    "protocol/events/run.py": Elsewhere(
        "tests/protocol/test_events.py", "fields, and how a run is told"
    ),
    "protocol/events/states.py": Elsewhere("tests/protocol/test_events.py", "fields and no code"),
    "protocol/events/waits.py": Elsewhere("tests/protocol/test_events.py", "fields and no code"),
    "protocol/report/latency.py": Elsewhere(
        "tests/protocol/test_report.py", "figures that a report has: no code"
    ),
    "protocol/report/parts.py": Elsewhere("tests/protocol/test_report.py", "fields and no code"),
    "protocol/report/whole.py": Elsewhere(
        "tests/protocol/test_report.py", "the report that both parts make"
    ),
    "protocol/channels.py": Elsewhere(
        "tests/protocol/test_messages.py", "two names, which are the roles of Hello"
    ),
    "protocol/qemu/heads.py": Elsewhere(
        "tests/protocol/qemu/test_following.py", "what a stream is read by that is followed"
    ),
    "protocol/qemu/known.py": Elsewhere(
        "tests/protocol/qemu/test_following.py", "what all connections that are followed share"
    ),
    "protocol/qemu/pieces.py": Elsewhere(
        "tests/protocol/qemu/test_following.py", "what a stream is cut into"
    ),
    "protocol/qemu/search.py": Elsewhere(
        "tests/protocol/qemu/test_following.py", "how a place is found again in what is followed"
    ),
    "protocol/qemu/commands.py": Elsewhere(
        "tests/protocol/qemu/test_stream.py", "a part of what a stream says"
    ),
    "protocol/qemu/constants.py": Elsewhere(
        "tests/protocol/qemu/test_stream.py", "numbers and no code"
    ),
    "protocol/qemu/cursor.py": Elsewhere(
        "tests/protocol/qemu/test_stream.py", "the fields that a stream is read by"
    ),
    "protocol/qemu/decoder.py": Elsewhere(
        "tests/protocol/qemu/test_stream.py", "what both decoders have in common"
    ),
    "protocol/qemu/messages.py": Elsewhere(
        "tests/protocol/qemu/test_stream.py", "what a stream says: no code"
    ),
    "protocol/qemu/ram.py": Elsewhere(
        "tests/protocol/qemu/test_stream.py", "a part of what a stream says"
    ),
    "protocol/qemu/resync.py": Elsewhere(
        "tests/protocol/qemu/test_following.py", "where a stream is read on, which takes a stream"
    ),
    "scripts/relay/courses.py": Elsewhere(
        "tests/scripts/relay/test_relay.py", "what becomes of the bytes that pass a relay"
    ),
    "scripts/relay/judging.py": Elsewhere(
        "tests/scripts/relay/test_pair.py", "what becomes of a run between two QEMUs"
    ),
    "scripts/relay/pump.py": Elsewhere(
        "tests/scripts/relay/test_relay.py", "one direction of what a relay passes on"
    ),
    "scripts/relay/telling.py": Elsewhere(
        "tests/scripts/relay/test_tracker.py", "what the tracker says of a message"
    ),
    "dest/qemu/handshakes.py": Elsewhere(
        "tests/dest/qemu/test_session.py", "a part of what a session does"
    ),
    "dest/qemu/peer.py": Elsewhere(
        "tests/dest/qemu/test_session.py", "a part of what a session does"
    ),
    "dest/qemu/receiver.py": Elsewhere(
        "tests/dest/qemu/test_session.py", "a part of what a session does"
    ),
    "dest/peer.py": Elsewhere(
        "tests/dest/test_midstream.py", "what a destination needs of its peer: an interface"
    ),
    "dest/steps.py": Elsewhere("tests/dest/test_phases.py", "what there is to do: no code"),
    "dest/qemu/report.py": Elsewhere(
        "tests/dest/qemu/test_session.py", "what a session tells in the end"
    ),
    "dest/hosted.py": Elsewhere(
        "tests/dest/test_migration.py", "the guest of every migration, until the report of it"
    ),
    "protocol/fields.py": Elsewhere(
        "tests/protocol/test_messages.py", "what a message's fields may hold, field by field"
    ),
    "source/config.py": Elsewhere("tests/source/test_session.py", "fields and no code"),
    "dest/config.py": Elsewhere("tests/dest/test_session.py", "fields and no code"),
    "scripts/processes/source_side.py": Elsewhere(
        "tests/test_migrate.py", "a session, and how it is run"
    ),
    "scripts/processes/dest_side.py": Elsewhere(
        "tests/test_migrate.py", "a session, and how it is run"
    ),
    "scripts/runtime/spawn.py": Elsewhere(
        "tests/scripts/processes/test_child.py", "the beginning of a child"
    ),
    "guest/spec.py": Elsewhere("tests/guest/test_programs.py", "what programs are told"),
    "scripts/injection/actions.py": Elsewhere(
        "tests/scripts/injection/test_scenario.py", "a part of what a scenario's text says"
    ),
    "scripts/injection/director.py": Elsewhere(
        "tests/scripts/injection/test_inject.py", "does what the steps of a run say"
    ),
    "scripts/injection/expect.py": Elsewhere(
        "tests/scripts/injection/test_scenario.py", "a part of what a scenario's text says"
    ),
    "scripts/injection/gates.py": Elsewhere(
        "tests/scripts/injection/test_proxy.py", "what happens to the bytes that pass the proxy"
    ),
    "scripts/links/holder.py": Elsewhere(
        "tests/scripts/links/test_link.py",
        "a process that does nothing, for a link's namespaces",
    ),
    "scripts/injection/outcome.py": Elsewhere(
        "tests/scripts/injection/test_checks.py", "what checks look at"
    ),
    "scripts/injection/pipes.py": Elsewhere(
        "tests/scripts/injection/test_proxy.py", "one direction of what the proxy passes on"
    ),
    "scripts/injection/trial.py": Elsewhere(
        "tests/scripts/injection/test_inject.py", "one run of a scenario, with all of its processes"
    ),
    "scripts/injection/triggers.py": Elsewhere(
        "tests/scripts/injection/test_scenario.py", "a part of what a scenario's text says"
    ),
    "scripts/views/embed.py": Elsewhere(
        "tests/scripts/views/test_outputs.py", "what a page holds of a run"
    ),
    "source/background.py": Elsewhere(
        "tests/source/test_scheduler.py", "what comes next depends on all that the scheduler did"
    ),
    "source/epochs.py": Elsewhere(
        "tests/source/test_phases.py", "the channels of the phases, and what comes back"
    ),
    "source/frames.py": Elsewhere(
        "tests/source/test_engine.py", "the frames that the engine has the streams take"
    ),
    "source/jobs.py": Elsewhere(
        "tests/source/test_scheduler.py", "what the scheduler keeps its books in, and says"
    ),
    "source/steps.py": Elsewhere(
        "tests/source/test_handshakes.py", "what phases want done, and hear in its time"
    ),
    "scripts/examples/events.py": Elsewhere(
        "tests/scripts/library/test_library.py", "an example, which is run there"
    ),
    "scripts/examples/in_a_loop.py": Elsewhere(
        "tests/scripts/library/test_library.py", "an example, which is run there"
    ),
    "scripts/examples/links.py": Elsewhere(
        "tests/scripts/library/test_library.py", "an example, which is run there"
    ),
    "scripts/injection/findings.py": Elsewhere(
        "tests/scripts/injection/test_inject.py", "the report of what was run"
    ),
    "scripts/injection/keeping.py": Elsewhere(
        "tests/scripts/injection/test_inject.py", "the files of runs that are kept"
    ),
    "scripts/library/midstream/options.py": Elsewhere(
        "tests/scripts/library/test_library.py", "how the library spells a command"
    ),
    "scripts/library/midstream/results.py": Elsewhere(
        "tests/scripts/library/test_library.py", "what the library returns"
    ),
    "scripts/library/midstream/running.py": Elsewhere(
        "tests/scripts/library/test_library.py", "how the library runs a command"
    ),
    "scripts/results/reading.py": Elsewhere(
        "tests/scripts/results/test_rows.py", "the reports that rows are made of"
    ),
    "scripts/results/summary.py": Elsewhere(
        "tests/scripts/views/test_report.py", "a report in a few lines, as its command prints them"
    ),
    "scripts/sweep/running.py": Elsewhere(
        "tests/scripts/sweep/test_processes.py", "what each worker does, beside the same done here"
    ),
    "scripts/sweep/worker.py": Elsewhere(
        "tests/scripts/sweep/test_processes.py", "the process that is lost there"
    ),
    "scripts/sweep/tables.py": Elsewhere(
        "tests/scripts/sweep/test_command.py", "the tables that the command leaves"
    ),
    "scripts/simulate/against.py": Elsewhere(
        "tests/scripts/simulate/test_command.py", "what the command prints beside real runs"
    ),
    "scripts/simulate/model_files.py": Elsewhere(
        "tests/scripts/simulate/test_command.py", "models that the command is given"
    ),
    "scripts/simulate/model.py": Elsewhere(
        "tests/scripts/simulate/test_command.py", "the values of a model: no code"
    ),
    "scripts/simulate/agenda.py": Elsewhere(
        "tests/scripts/simulate/test_run.py", "a part of what is simulated together"
    ),
    "scripts/simulate/dest.py": Elsewhere(
        "tests/scripts/simulate/test_run.py", "a part of what is simulated together"
    ),
    "scripts/simulate/kernel.py": Elsewhere(
        "tests/scripts/simulate/test_run.py", "a part of what is simulated together"
    ),
    "scripts/simulate/link.py": Elsewhere(
        "tests/scripts/simulate/test_run.py", "a part of what is simulated together"
    ),
    "scripts/simulate/presence.py": Elsewhere(
        "tests/scripts/simulate/test_run.py", "a part of what is simulated together"
    ),
    "scripts/simulate/reader.py": Elsewhere(
        "tests/scripts/simulate/test_run.py", "a part of what is simulated together"
    ),
    "scripts/simulate/sender.py": Elsewhere(
        "tests/scripts/simulate/test_run.py", "a part of what is simulated together"
    ),
    "scripts/simulate/source.py": Elsewhere(
        "tests/scripts/simulate/test_run.py", "a part of what is simulated together"
    ),
    "scripts/simulate/vcpus.py": Elsewhere(
        "tests/scripts/simulate/test_run.py", "a part of what is simulated together"
    ),
    "scripts/views/columns.py": Elsewhere(
        "tests/scripts/library/test_library.py", "events as columns, which the library returns"
    ),
    "scripts/views/run_tables.py": Elsewhere(
        "tests/scripts/views/test_report.py", "tables of the runs that its command is given"
    ),
    "source/prefetched.py": Elsewhere(
        "tests/source/test_prefetching.py", "what became of the pages that were fetched ahead"
    ),
    "source/prefetchers/bubbling.py": Elsewhere(
        "tests/source/test_prefetchers.py", "a prefetcher among the others"
    ),
    "source/prefetchers/demotion.py": Elsewhere(
        "tests/source/test_prefetchers.py", "a prefetcher among the others"
    ),
    "source/prefetchers/locality.py": Elsewhere(
        "tests/source/test_prefetchers.py", "a prefetcher among the others"
    ),
    "source/prefetchers/read_ahead.py": Elsewhere(
        "tests/source/test_prefetchers.py", "a prefetcher among the others"
    ),
    "source/prefetchers/recorded.py": Elsewhere(
        "tests/source/test_prefetchers.py", "a prefetcher among the others"
    ),
    "source/prefetchers/schemes.py": Elsewhere(
        "tests/source/test_prefetchers.py", "a prefetcher among the others"
    ),
    "source/prefetchers/streams.py": Elsewhere(
        "tests/source/test_prefetchers.py", "a prefetcher among the others"
    ),
    "source/prefetchers/stride.py": Elsewhere(
        "tests/source/test_prefetchers.py", "a prefetcher among the others"
    ),
    "source/answering.py": Elsewhere(
        "tests/source/test_scheduler.py", "what a request leads to, as the scheduler answers"
    ),
    "source/gate.py": Elsewhere(
        "tests/source/test_engine.py", "what the engine's commands have to wait for"
    ),
    "source/in_flight.py": Elsewhere(
        "tests/source/test_scheduler.py", "what the scheduler has given out"
    ),
    "source/work.py": Elsewhere(
        "tests/source/test_scheduler.py", "what there is to send, over which the scheduler decides"
    ),
    "source/request_queue.py": Elsewhere(
        "tests/source/test_scheduler.py", "whose turn it is, as the scheduler says"
    ),
    "source/scheme.py": Elsewhere(
        "tests/source/test_prefetching.py", "a policy with what a user adds to it"
    ),
    "scripts/figures/compared.py": Elsewhere(
        "tests/scripts/figures/test_compare.py", "what is compared, which its table shows"
    ),
    "scripts/figures/workload.py": Elsewhere(
        "tests/scripts/figures/test_compare.py", "the accesses of the runs that are compared"
    ),
    "scripts/simulate/growth.py": Elsewhere(
        "tests/test_examples.py", "runs that a document shows, of code that has its own tests"
    ),
    "scripts/simulate/probes.py": Elsewhere(
        "tests/scripts/simulate/test_calibrate.py", "what a calibration tries"
    ),
}


def mirror_of(module: str) -> str:
    """Return the test file that belongs to a module; both are paths from the project folder."""
    path = Path(module)
    return str(Path("tests") / path.parent / f"test_{path.name}")


def mapping_faults(
    modules: set[str], test_files: set[str], elsewhere: dict[str, Elsewhere]
) -> list[str]:
    """Return one line for each module without tests and each entry of the dict that is stale."""
    faults = [
        f"{module} has no {mirror_of(module)}"
        for module in sorted(modules - elsewhere.keys())
        if mirror_of(module) not in test_files
    ]
    for module, (test_file, reason) in sorted(elsewhere.items()):
        if module not in modules:
            faults.append(f"{module} is named in COVERED_ELSEWHERE but does not exist")
        elif mirror_of(module) in test_files:
            faults.append(f"{module} is named in COVERED_ELSEWHERE but has {mirror_of(module)}")
        if test_file not in test_files:
            faults.append(f"{test_file}, which should cover {module}, does not exist")
        if not reason:
            faults.append(f"{module} is covered elsewhere for no stated reason")
    return faults


def test_every_module_has_its_test_file() -> None:
    """Each module of the rooms has its test file, or is named with the file that covers it."""
    modules = {
        str(path.relative_to(ROOT))
        for room in ROOMS
        for path in (ROOT / room).rglob("*.py")
        if path.name not in NOT_MIRRORED
    }
    test_files = {str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("test_*.py")}
    faults = mapping_faults(modules, test_files, COVERED_ELSEWHERE)
    assert not faults, "\n".join(faults)


def test_a_module_without_tests_is_found() -> None:
    """A module is reported until its mirror exists; the same name in another room is no mirror."""
    tests = {"tests/source/test_wire.py"}
    assert mapping_faults({"protocol/wire.py"}, tests, {}) == [
        "protocol/wire.py has no tests/protocol/test_wire.py"
    ]
    assert mapping_faults({"protocol/wire.py"}, {"tests/protocol/test_wire.py"}, {}) == []


def test_a_module_covered_elsewhere_needs_that_test_file() -> None:
    """An entry of the dict stands for a mirror only while its test file and its reason exist."""
    entry = {"protocol/limits.py": Elsewhere("tests/protocol/test_wire.py", "constants only")}
    assert mapping_faults({"protocol/limits.py"}, {"tests/protocol/test_wire.py"}, entry) == []
    assert len(mapping_faults({"protocol/limits.py"}, set(), entry)) == 1
    unexplained = {"protocol/limits.py": Elsewhere("tests/protocol/test_wire.py", "")}
    faults = mapping_faults({"protocol/limits.py"}, {"tests/protocol/test_wire.py"}, unexplained)
    assert len(faults) == 1


def test_a_stale_entry_is_found() -> None:
    """An entry for a module that is gone, or that has its mirror by now, is reported."""
    entry = {"protocol/limits.py": Elsewhere("tests/protocol/test_wire.py", "constants only")}
    tests = {"tests/protocol/test_wire.py", "tests/protocol/test_limits.py"}
    assert len(mapping_faults(set(), tests, entry)) == 1
    assert len(mapping_faults({"protocol/limits.py"}, tests, entry)) == 1
