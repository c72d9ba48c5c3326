"""The source's marks: what is between them, and what went by then."""

import pytest
import trio

from guest.streams.tcp import TcpStream
from protocol.channels import Channel
from protocol.messages import PassEnd
from source.channel import OutChannel
from source.connect import Connection
from source.meter import Meter, channel_bytes, sent_bytes
from source.returns import ReturnPath
from tests.sockets import tcp_pair

MS = 1_000_000


def test_times_are_differences_of_marks() -> None:
    """Each figure is the time between the two marks that its name says."""
    meter = Meter()
    start_ns = meter.started_ns
    meter.prepared_ns = start_ns + 20 * MS
    meter.stopped_ns = start_ns + 50 * MS
    meter.running_ns = start_ns + 57 * MS
    meter.finished_ns = start_ns + 100 * MS
    assert (meter.setup_ms, meter.downtime_ms, meter.total_ms) == (20, 7, 100)


def test_the_total_runs_until_it_is_finished() -> None:
    """Before the destination's last word the total is the time until now."""
    meter = Meter()
    first = meter.total_ms
    assert 0 <= first <= meter.total_ms
    meter.finish(meter.started_ns + 40 * MS)
    assert meter.total_ms == 40
    meter.finish(meter.started_ns + 50 * MS)
    assert meter.total_ms == 40


def test_what_has_not_happened_lasts_until_the_end() -> None:
    """A migration that ends in its setup was all setup; a guest that stands still is down."""
    meter = Meter()
    start_ns = meter.started_ns
    assert 0 <= meter.setup_ms <= meter.total_ms
    assert meter.downtime_ms == 0
    meter.finish(start_ns + 40 * MS)
    assert (meter.setup_ms, meter.downtime_ms) == (40, 0)
    meter.prepared_ns = start_ns + 10 * MS
    meter.stopped_ns = start_ns + 15 * MS
    assert (meter.setup_ms, meter.downtime_ms) == (10, 25)


def test_the_rate_is_over_the_time_of_sending() -> None:
    """Megabits are 10^6 bits, and before anything was sent the rate is none."""
    meter = Meter()
    assert meter.mbps(1000) == 0
    meter.sending_ns = 2_000_000_000
    assert meter.mbps(250_000_000) == 1000


def test_sending_is_counted_however_it_ends() -> None:
    """What was sent until a break or a cancellation took its time, too."""
    meter = Meter()

    def fail() -> None:
        with meter.sending():
            raise ConnectionError

    with pytest.raises(ConnectionError):
        fail()
    assert meter.sending_ns > 0
    assert meter.mbps(1000) > 0


async def test_bytes_are_counted_by_channel() -> None:
    """All channels together make what was sent; a channel that there is not sent nothing."""
    with tcp_pair() as (near, _):
        connection = _connection(Channel.PRECOPY, near)
        await connection.out.send(PassEnd(index=0))
        sent = connection.out.bytes_sent
        assert sent
        connections = {Channel.PRECOPY: connection}
        assert sent_bytes([connections]) == sent
        assert channel_bytes([connections], Channel.PRECOPY) == sent
        assert channel_bytes([connections], Channel.POSTCOPY) == 0
        with tcp_pair() as (second, _):
            connections[Channel.POSTCOPY] = _connection(Channel.POSTCOPY, second)
            await connections[Channel.POSTCOPY].out.send(PassEnd(index=1))
            assert sent_bytes([connections]) == 2 * sent


def _connection(name: Channel, sock: trio.socket.SocketType) -> Connection:
    return Connection(OutChannel(name, TcpStream(sock)), ReturnPath(name, TcpStream(sock)))
