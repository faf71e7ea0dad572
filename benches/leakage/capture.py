"""The observer: segments of TCP connections as the network shows them, with the kernel's times.

A packet socket on the loopback device gets a copy of each segment, stamped by the kernel when the segment passes the
device. Copies wait in the kernel until an exchange is over, so the observer does not run while the server works, and
Python's scheduling does not change a time. Only headers are read: addresses, ports, lengths, flags.

A packet socket needs CAP_NET_RAW. Without it `SocketCapture` takes the kernel's receive times of the client's own
socket: no acknowledgements, and segments that arrive while the client is not scheduled are merged into one.
"""

import ctypes
import socket
import struct
import threading
import time
from dataclasses import dataclass

# Clients that are observed connect from here, or to it; the filter drops the segments of all others.
OBSERVED = "127.0.0.2"

SO_TIMESTAMPNS = 35
SO_ATTACH_FILTER = 26
SO_RCVBUFFORCE = 33
SOL_PACKET, PACKET_STATISTICS = 263, 6
ETH_P_IP = 0x0800
BUFFER_BYTES = 32 << 20
# Longest IP and TCP headers.
HEADER_BYTES = 120


@dataclass(frozen=True)
class Segment:
    """One segment: nanoseconds since 1970, whether the server sent it, bytes of payload."""

    at: int
    down: bool
    size: int


class CaptureLost(Exception):
    """The kernel dropped segments because they were not read in time."""


class PacketCapture:
    """Every segment from and to `OBSERVED`, by the client's port. The address is that of clients, or of the server that `serves`."""

    name = "packet socket"

    def __init__(self, serves=False):
        self.flows, self.serves = {}, serves
        self.lock = threading.Lock()
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
        try:
            self._set_up()
        except OSError:
            self.socket.close()
            raise

    def _set_up(self):
        self.socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        try:
            self.socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
        except PermissionError:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        self._attach_filter()
        self.socket.setblocking(False)
        # A handler of one protocol sees received packets only, so that loopback shows each segment once.
        self.socket.bind(("lo", ETH_P_IP))

    def _attach_filter(self):
        (address,) = struct.unpack("!I", socket.inet_aton(OBSERVED))
        load_byte, load_word, equal, give = 0x30, 0x20, 0x15, 0x06
        program = [
            (load_byte, 0, 0, 9),
            (equal, 0, 4, socket.IPPROTO_TCP),
            (load_word, 0, 0, 12),
            (equal, 1, 0, address),
            (load_word, 0, 0, 16),
            (equal, 0, 1, address),
            (give, 0, 0, HEADER_BYTES),
            (give, 0, 0, 0),
        ]
        # From the source address, a match goes to the same instruction as one of the destination's.
        program[3] = (equal, 2, 0, address)
        code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
        self.socket.setsockopt(
            socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HP", len(program), ctypes.addressof(code))
        )

    def take(self, port):
        """The segments of the connection from the client's `port`, in order; call it when the connection has ended."""
        with self.lock:
            self._drain()
            dropped = self._dropped()
            if dropped:
                raise CaptureLost(f"{dropped} segments")
            return self.flows.pop(port, [])

    def take_all(self):
        """The segments so far of all connections, by port."""
        with self.lock:
            self._drain()
            if self._dropped():
                raise CaptureLost("segments")
            flows, self.flows = self.flows, {}
            return flows

    def _dropped(self):
        return struct.unpack("II", self.socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))[1]

    def _drain(self):
        while True:
            try:
                packet, control, _, _ = self.socket.recvmsg(HEADER_BYTES, 128)
            except BlockingIOError:
                return
            down, port, size = parse(packet, self.serves)
            self.flows.setdefault(port, []).append(Segment(kernel_time(control), down, size))

    def close(self):
        self.socket.close()


class SocketCapture:
    """Receive times of the client's own socket, for machines that allow no packet socket."""

    name = "receive times of the client's socket"

    def __init__(self):
        self.flows = {}

    def sent(self, port, size):
        self.flows[port] = [Segment(time.time_ns(), False, size)]

    def received(self, port, control, size):
        self.flows[port].append(Segment(kernel_time(control), True, size))

    def take(self, port):
        return self.flows.pop(port, [])

    def close(self):
        pass


def open_capture():
    """The best observer that this machine allows."""
    try:
        return PacketCapture()
    except PermissionError:
        return SocketCapture()


def parse(packet, serves=False):
    """Direction, the client's port and payload bytes of an IPv4 packet without its link header. `serves` as in PacketCapture."""
    words = (packet[0] & 15) * 4
    (total,) = struct.unpack_from("!H", packet, 2)
    source = socket.inet_ntoa(packet[12:16])
    ports = struct.unpack_from("!HH", packet, words)
    size = total - words - (packet[words + 12] >> 4) * 4
    down = (source == OBSERVED) == serves
    return down, ports[1] if down else ports[0], size


def kernel_time(control):
    for level, kind, data in control:
        if (level, kind) == (socket.SOL_SOCKET, SO_TIMESTAMPNS):
            seconds, nanoseconds = struct.unpack_from("qq", data)
            return seconds * 1_000_000_000 + nanoseconds
    return time.time_ns()
