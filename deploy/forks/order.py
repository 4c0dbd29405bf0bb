"""What `up` asks of the fork server, and what it is answered: packets of a socket that keeps their boundaries.

One order is three packets: the order (JSON, with the role's two descriptors), `READY` back once the modules are
loaded, then `GO`, which the role itself answers with its process id once it is `up`'s own child.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

READY, GO = b"ready", b"go"
MAX_ORDER_BYTES = 16 * 1024  # a role, its name and a path
NUM_FDS = 2  # standard output, where the ready line goes, and standard error


@dataclass(frozen=True, slots=True)
class Order:
    """One role to fork: all that it is told. What else it needs it reads by itself, as `nearfield run` does."""

    role: str
    name: str
    config: Path

    def packet(self) -> bytes:
        """As it travels."""
        return json.dumps(asdict(self) | {"config": str(self.config)}).encode()

    @classmethod
    def parse(cls, packet: bytes) -> Self:
        """The other way. Raises ValueError, KeyError: it is none."""
        said = json.loads(packet)
        return cls(said["role"], said["name"], Path(said["config"]))

    @property
    def words(self) -> tuple[str, ...]:
        """The command that would start the same role afresh, without the interpreter."""
        return ("-m", "deploy.roles.process", self.role, self.name, str(self.config))
