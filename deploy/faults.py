"""What keeps a platform from running. The command line names these errors without loading what raises them."""

NOT_YOURS = "the same command as the user who started it, or with a platform of your own: --state DIR"
"""What helps against another user's files."""


class RoleFailed(Exception):
    """A role's process did not come up; the message says why, in the process's own last words."""


class StateInUse(Exception):
    """Another `up` holds the state folder."""


class StateUnusable(Exception):
    """Nothing can be written where the state folder is to be."""


class NotYours(Exception):
    """Another user's platform: its lock cannot be looked at, or its process not be told to stop."""


class ConfigError(Exception):
    """The configuration cannot be used; the message names the key and the cause."""

    def __init__(self, message: str, next_step: str = "") -> None:
        super().__init__(message)
        self.next_step = next_step


class NoConfig(ConfigError):
    """There is none: no platform was ever made in that folder."""


class PortTaken(Exception):
    """Somebody else listens where a role should; who it is, and how to get the port back."""

    def __init__(self, message: str, next_step: str) -> None:
        super().__init__(message)
        self.next_step = next_step


class NoPorts(Exception):
    """This machine's loopback address has no ports for a platform; why, and what to do about it."""

    def __init__(self, message: str, next_step: str) -> None:
        super().__init__(message)
        self.next_step = next_step


class NoRoom(Exception):
    """The disk under the state folder is full."""

    def __init__(self, message: str, next_step: str) -> None:
        super().__init__(message)
        self.next_step = next_step


class NotLive(Exception):
    """The model was refused, failed its probe, or took too long; carries code, cause and next step."""

    def __init__(self, code: str, message: str, next_step: str) -> None:
        super().__init__(message)
        self.code, self.next_step = code, next_step


class Silent(Exception):
    """Who was asked did not answer in time; it may still do what it was asked for."""


class NotConfirmed(Exception):
    """A question that waits for a person's yes met the end of input: nothing was done."""
