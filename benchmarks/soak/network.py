"""A network between camera and monitor that can be cut, stalled and disturbed."""

from __future__ import annotations

import random
import select
import socket
import threading
from contextlib import suppress

_RTP_HEADER = 14  # and the first bytes of the payload: the damage is meant for the picture
_PATIENCE_S = 0.2  # of a wait for data, so that a fault that begins or ends is noticed


class Network:
    """Passes the connections to a port on to another, and does to them what its attributes say.

    Args:
        to: port of the RTSP server on this machine.

    Attributes:
        port: where clients connect.
        cut: open connections are closed and new ones refused.
        stalled: connections stay open and nothing passes.
        damage: share of the RTP packets in which a byte is changed, 0 to 1.
    """

    def __init__(self, to: int) -> None:
        self.cut = False
        self.stalled = False
        self.damage = 0.0
        self._to = to
        self._random = random.Random(0)
        self._closed = threading.Event()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Close every connection."""
        self._closed.set()
        self._listening.close()

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            with suppress(OSError):
                if self.cut:
                    client.close()
                    continue
                server = socket.create_connection(("127.0.0.1", self._to))
                for source, sink, damages in ((client, server, False), (server, client, True)):
                    arguments = (source, sink, damages)
                    threading.Thread(target=self._pass_on, args=arguments, daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, damages: bool) -> None:
        waiting = b""
        try:
            while not (self.cut or self._closed.is_set()):
                if self.stalled:
                    self._closed.wait(_PATIENCE_S)
                    continue
                if not select.select([source], [], [], _PATIENCE_S)[0]:
                    continue
                data = source.recv(65536)
                if not data:
                    return
                if damages:
                    data, waiting = self._damaged(waiting + data)
                sink.sendall(data)
        except (OSError, ValueError):  # the thread of the other direction has closed it
            return
        finally:
            for end in (source, sink):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)  # wakes up the other thread
                end.close()

    def _damaged(self, data: bytes) -> tuple[bytes, bytes]:
        """Return whole messages, of which some are damaged, and the beginning of another.

        RTP in RTSP (RFC 2326, 10.12) is "$", a channel, a length in two bytes and the packet;
        even channels carry pictures. Between packets there are answers, which are lines.
        """
        out = b""
        while data:
            if data[:1] != b"$":
                end = data.find(b"$")
                end = len(data) if end < 0 else end
                out, data = out + data[:end], data[end:]
                continue
            size = 4 + int.from_bytes(data[2:4], "big") if len(data) >= 4 else 4
            if len(data) < size:
                break
            packet, data = bytearray(data[:size]), data[size:]
            picture = packet[1] % 2 == 0 and size > 4 + _RTP_HEADER
            if picture and self._random.random() < self.damage:
                packet[self._random.randrange(4 + _RTP_HEADER, size)] ^= 0xFF
            out += packet
        return out, data
