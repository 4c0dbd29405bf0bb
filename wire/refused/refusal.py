"""One shape of error for every hop: what went wrong, whose fault it is, and what to do next."""

import json
import math


class Refusal(Exception):
    """A request that is not served; becomes one HTTP response in OpenAI's shape.

    Attributes:
        status: the HTTP status, 400-599.
        code: a short name that programs compare, such as `model_not_found`.
        message: one or two sentences for people: the cause, then the next step. Never our internals.
        kind: OpenAI's `type`: `invalid_request_error`, `rate_limit_error` or `server_error`.
        param: the request field at fault, if one is.
        retry_after_s: seconds after which another try is worth while, if known.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        kind: str = "invalid_request_error",
        param: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(status, code, message)
        self.status = status
        self.code = code
        self.message = message
        self.kind = kind
        self.param = param
        self.retry_after_s = retry_after_s

    def body(self) -> bytes:
        """The JSON body, UTF-8: `{"error": {"message", "type", "param", "code"}}`."""
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return json.dumps({"error": error}, ensure_ascii=False).encode()

    def headers(self) -> tuple[tuple[str, str], ...]:
        """`content-type`, and `retry-after` in whole seconds (rounded up, at least 1) when it is known."""
        headers = (("content-type", "application/json"),)
        if self.retry_after_s is None:
            return headers
        return (*headers, ("retry-after", str(max(1, math.ceil(self.retry_after_s)))))
