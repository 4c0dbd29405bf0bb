"""TLS between a socket's transport and whoever speaks over it, without the event loop's own in between.

Against uvloop's (0.22): a message is read by one call of OpenSSL, where that one asks until it is told to wait, by an
exception each time; what is written may leave within the call; and no connection owns a buffer of 256 KiB. The
protocol itself (RFC 8446, RFC 5246) is OpenSSL's: here is only when it is asked.
"""

import asyncio
import contextlib
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, Generic, TypeVar, cast

from wire.prompt import Prompt
from wire.secured.ticket import Ticket

RECORD_BYTES: Final = 16 * 1024  # of plain text, the most that one record has (RFC 8446, 5.1)
SLICE_BYTES: Final = (
    RECORD_BYTES  # of a transfer, at once: a MemoryBIO never shrinks again, and no slice is faster
)
JOIN_BYTES: Final = 64 * 1024  # of small pieces together; more would be copied for nothing


Above = TypeVar("Above", bound=asyncio.Protocol)
InTurn = Callable[[Callable[[], None]], None]


class Secured(asyncio.Transport, asyncio.Protocol, Generic[Above]):
    """A protocol to the transport below and a transport to what `above()` makes, once hands are shaken."""

    def __init__(
        self,
        above: Callable[[], Above],
        context: ssl.SSLContext,
        server_name: str | None = None,
        ticket: Ticket | None = None,
        in_turn: InTurn | None = None,
    ) -> None:
        """A server by its context is one here; a client's `ticket` is of that server and that context.

        With `in_turn` each step of the handshake is handed to that, to be called once, in its turn.

        Raises ValueError: a client that checks names was given none.
        """
        super().__init__()
        self._make = above
        self._above: Above | None = None
        self._below: asyncio.Transport
        self._prompt: Prompt | None = None
        self._is_server = context.protocol is ssl.PROTOCOL_TLS_SERVER
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        session = None if ticket is None else ticket.session(time.monotonic())
        self._tls = context.wrap_bio(self._in, self._out, self._is_server, server_name, session)
        self._ticket = ticket  # until it is renewed
        self._in_turn = in_turn
        self._awaits_turn = False
        self._closing = False
        self._is_over = False  # the peer sends no more
        self._fault: Exception | None = None
        self._shaken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def handshake(self) -> Above:
        """What is above, once the peer is known. Raises OSError (ssl.SSLError is one); all but success ends it."""
        try:
            await self._shaken
        except BaseException:
            if not self._closing:
                self.abort()
            raise
        if self._above is None:
            raise self._fault or ConnectionResetError("the connection ended behind the handshake of TLS")
        return self._above

    # asyncio.Protocol: of the transport below ---------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client speaks first."""
        self._below = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        if not self._is_server:
            self._shake()

    def data_received(self, data: bytes) -> None:
        """Records, or parts of them."""
        if self._closing:
            return
        if self._above is None:
            self._in.write(data)
            if self._in_turn is None:
                self._shake_on()
            elif not self._awaits_turn:
                self._awaits_turn = True
                self._below.pause_reading()  # who says more than a handshake needs is not listened to meanwhile
                self._in_turn(self._take_turn)
        elif len(data) <= SLICE_BYTES:
            self._in.write(data)
            self._pass_on(self._above, self._opened())
        else:
            self._pass_on(self._above, b"".join(self._opened_in_slices(data)))

    def eof_received(self) -> bool:
        """Without a word of TLS: what was framed by the end only is cut, and whoever is above knows its framing."""
        if self._above is not None and not self._closing:
            self._above.eof_received()
            self.close()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over for both sides, which let go of each other: OpenSSL's 25 KiB would wait for the collector."""
        self._closing = True
        above, self._above = self._above, None
        if above is not None:
            above.connection_lost(self._fault or exc)
        else:
            self._fail(exc or ConnectionResetError("the connection ended during the handshake of TLS"))

    def pause_writing(self) -> None:
        """The peer reads slowly."""
        if self._above is not None:
            self._above.pause_writing()

    def resume_writing(self) -> None:
        """It caught up."""
        if self._above is not None:
            self._above.resume_writing()

    # asyncio.Transport: for the protocol above --------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """With the loop's turn."""
        if data and not self._closing:
            for each in _slices(data):
                self._tls.write(each)
                self._below.write(self._out.read())

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        """In as few records as they need, unless that would copy much."""
        pieces = list(list_of_data)
        if sum(map(len, pieces)) <= JOIN_BYTES:
            pieces = [b"".join(pieces)]
        for each in pieces:
            self.write(each)

    def say(self, data: bytes) -> None:
        """At once, if nothing waits to be written."""
        if len(data) > JOIN_BYTES:
            self.write(data)
        elif data and not self._closing:
            self._prompt = self._prompt or Prompt(self._below)
            for each in _slices(data):
                self._tls.write(each)
                self._prompt.write(self._out.read())

    def close(self) -> None:
        """After what is written, and our close_notify; the peer's is not waited for (RFC 8446, 6.1)."""
        if self._closing:
            return
        self._closing = True
        if self._above is not None:
            with contextlib.suppress(ssl.SSLError):  # it would have us wait
                self._tls.unwrap()
            self._flush()
        self._below.close()

    def abort(self) -> None:
        """Now."""
        self._closing = True
        self._below.abort()

    def is_closing(self) -> bool:
        """Whether nothing more can be written."""
        return self._closing or self._below.is_closing()

    def pause_reading(self) -> None:
        """What was read already has been passed on."""
        self._below.pause_reading()

    def resume_reading(self) -> None:
        """After a pause."""
        self._below.resume_reading()

    def can_write_eof(self) -> bool:
        """TLS has no half of a close."""
        return False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """In bytes of records."""
        self._below.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        """In bytes of records."""
        return self._below.get_write_buffer_size()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Of TLS, else of the socket."""
        if name == "ssl_object":
            return self._tls
        return self._tls.context if name == "sslcontext" else self._below.get_extra_info(name, default)

    # inside -------------------------------------------------------------------------------------------------

    def _take_turn(self) -> None:
        self._awaits_turn = False
        if not self.is_closing():
            self._below.resume_reading()
            self._shake_on()

    def _shake_on(self) -> None:
        self._shake()
        if self._above is not None:
            self._pass_on(self._above, self._opened())

    def _shake(self) -> None:
        """The handshake's next step."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
        except ssl.SSLError as error:
            self._flush()  # the alert, which tells the peer why
            self._fail(error)
            self.close()
        else:
            self._flush()
            if self._tls.session_reused and _has_ended(self._tls.getpeercert()):
                self._fail(ssl.SSLError("the certificate of the session that is resumed has ended"))
                self.abort()
                return
            above = self._above = self._make()
            above.connection_made(self)
            if not self._shaken.done():
                self._shaken.set_result(None)

    def _fail(self, error: Exception) -> None:
        if not self._shaken.done():
            self._shaken.set_exception(error)
            self._shaken.exception()  # whoever shook hands may be gone: nothing is to be logged of that

    def _opened_in_slices(self, data: bytes) -> Iterator[bytes]:
        for each in _slices(data):
            self._in.write(each)
            yield self._opened()

    def _opened(self) -> bytes:
        """The plain text of all records that are whole."""
        pieces = []
        try:
            while self._in.pending:
                piece = self._tls.read(RECORD_BYTES)
                if not piece:  # close_notify
                    self._is_over = True
                    break
                pieces.append(piece)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            self._fault = error
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _pass_on(self, above: Above, data: bytes) -> None:
        if self._out.pending:  # a new key's, or an alert
            self._flush()
        if data and self._ticket is not None:  # the server's tickets come before its first word
            self._ticket.renew(self._tls, time.monotonic())
            self._ticket = None
        if data and not self._closing:
            above.data_received(data)
        if self._closing or (self._fault is None and not self._is_over):
            return
        if self._fault is not None:
            self.abort()
        else:
            above.eof_received()
            self.close()

    def _flush(self) -> None:
        if self._out.pending:
            self._below.write(self._out.read())


def _has_ended(certificate: Mapping[str, Any] | None) -> bool:
    """OpenSSL looks at it once, when the session begins; a session may be resumed for as long as one likes."""
    if not certificate:
        return False
    return ssl.cert_time_to_seconds(certificate["notAfter"]) < time.time()


def promptly(transport: asyncio.Transport) -> Callable[[bytes], None]:
    """How bytes leave it at once."""
    return transport.say if isinstance(transport, Secured) else Prompt(transport).write


def _slices(data: bytes | bytearray | memoryview) -> Iterable[bytes | bytearray | memoryview]:
    if len(data) <= SLICE_BYTES:
        return (data,)
    view = memoryview(data)
    return (view[at : at + SLICE_BYTES] for at in range(0, len(view), SLICE_BYTES))
