"""What keeps a platform from running. The command line names these errors without loading what raises them."""


class RoleFailed(Exception):
    """A role's process did not come up; the message says why, in the process's own last words."""


class StateInUse(Exception):
    """Another `up` holds the state folder."""


class ConfigError(Exception):
    """The configuration cannot be used; the message names the key, the cause and the next step."""


class NotLive(Exception):
    """The model was refused, failed its probe, or took too long; carries code, cause and next step."""

    def __init__(self, code: str, message: str, next_step: str) -> None:
        super().__init__(message)
        self.code, self.next_step = code, next_step
