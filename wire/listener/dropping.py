"""What a client still sends is dropped, so that it reads the answer that it has.

Closed at once, with unread bytes in our buffer, the kernel would send a reset that hides the answer.
"""

LINGER_S = 5.0  # how long a refused client may go on sending before the reset that could hide our answer
LINGER_BYTES = 64 * 1024 * 1024  # and how much: many clients read only when they have sent everything


class Dropping:
    """Until the message ends, if `only_message`, which another may follow; else until the connection does."""

    __slots__ = ("_num_bytes_left", "only_message")

    def __init__(self, *, only_message: bool) -> None:
        self.only_message = only_message
        self._num_bytes_left = LINGER_BYTES

    def bears(self, num_bytes: int) -> bool:
        """Whether so many more may come; else the client is cut."""
        self._num_bytes_left -= num_bytes
        return self._num_bytes_left >= 0
