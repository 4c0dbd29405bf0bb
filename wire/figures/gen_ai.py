"""OpenTelemetry's figures of a generative service, in the form that Prometheus gives to its names.

https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-metrics/: dots become underscores, and a histogram of
seconds ends in `_seconds`. The buckets reach further than the ones that page advises, since a first token may wait
until a model is awake. A node's figures are of its own time; a gateway's hold the wait for a start.
"""

from typing import Final

from wire.figures.metrics import SECONDS, Metrics

PROVIDER: Final = "nearfield"
TOKENS: Final = tuple(4.0**power for power in range(14))  # to 67 million, as that page has them
OPERATIONS: Final = {
    "/v1/chat/completions": "chat",
    "/v1/responses": "chat",
    "/v1/messages": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
    "/v1/rerank": "rerank",
    "/v2/rerank": "rerank",
    "/rerank": "rerank",
}
"""What each route of inference does; the others (`/tokenize`) do none."""
_LABELS: Final = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model")


class GenAIFigures:
    """The figures of one role. Operations are those of `OPERATIONS`."""

    def __init__(self, metrics: Metrics) -> None:
        self._first = metrics.histogram(
            "gen_ai_server_time_to_first_token_seconds", "From a request's head to its first token.", *_LABELS
        )
        self._per_token = metrics.histogram(
            "gen_ai_server_time_per_output_token_seconds",
            "Of each answer: what a token took after the first one.",
            *_LABELS,
        )
        self._duration = metrics.histogram(
            "gen_ai_server_request_duration_seconds",
            "From a request's head to its end; error_type is empty where it went well.",
            *_LABELS,
            "error_type",
            bounds=SECONDS,
        )
        self._tokens = metrics.histogram(
            "gen_ai_client_token_usage",
            "Tokens of each request, as its usage says.",
            *_LABELS,
            "gen_ai_token_type",
            bounds=TOKENS,
        )

    def first_token(self, operation: str, model: str, seconds: float) -> None:
        """An answer has begun."""
        self._first.observe(seconds, operation, PROVIDER, model)

    def per_token(self, operation: str, model: str, seconds: float) -> None:
        """An answer of two tokens or more has ended well."""
        self._per_token.observe(seconds, operation, PROVIDER, model)

    def ended(self, operation: str, model: str, seconds: float, error: str = "") -> None:
        """A request has ended; `error` is the code of what it ended by."""
        self._duration.observe(seconds, operation, PROVIDER, model, error)

    def used(self, operation: str, model: str, num_input: int, num_output: int) -> None:
        """The tokens of a request that went well."""
        self._tokens.observe(num_input, operation, PROVIDER, model, "input")
        if operation not in {"embeddings", "rerank"}:
            self._tokens.observe(num_output, operation, PROVIDER, model, "output")
