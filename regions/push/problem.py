"""The one shape of "this push cannot be committed": rules raise it, `commit` makes it a verdict."""


class ProblemError(Exception):
    """A reason not to commit, and the next step. `may_pass`: a file still to come would mend it."""

    def __init__(self, code: str, message: str, next_step: str, *, may_pass: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.next_step = next_step
        self.may_pass = may_pass
