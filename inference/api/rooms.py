"""What the node's HTTP asks of the node."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inference.api.stay.reply import Children
    from inference.workers.host import Host
    from wire.trace.tracer import Tracer


class Rooms(Protocol):
    """What the routes use; made and owned by `inference.node`."""

    @property
    def host(self) -> Host:
        """The workers."""

    @property
    def children(self) -> Children:
        """What renders chat templates and tries grammars."""

    @property
    def idle_timeout_s(self) -> float:
        """How long a model stays without requests, where nobody says otherwise."""

    @property
    def is_healthy(self) -> bool:
        """Whether this node can do its work: its shell lives and it is not stopping."""

    async def inspect(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """{"facts", "left_out"} of a pushed folder, or {"refused": {"code", "message", "next"}}."""

    @property
    def tracer(self) -> Tracer | None:
        """What records requests, if anything does."""

    def status(self) -> dict[str, Any]:
        """The body of `/status`."""

    def usage_told(self) -> dict[str, Any]:
        """The body of `/usage`: what was used and is in no store yet."""

    async def metrics_page(self) -> bytes:
        """What `/metrics` says: the node's figures, then those of external engines."""
