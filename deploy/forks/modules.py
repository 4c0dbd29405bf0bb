"""What each role will have loaded soon after it is ready, loaded ahead in the process that it is forked from."""

import contextlib
import gc
import importlib
import os
from collections.abc import Iterator, Mapping
from types import MappingProxyType

HTTP = ("uvicorn.lifespan.off", "uvicorn.protocols.http.httptools_impl")
"""What uvicorn finds by name when it starts."""

MODULES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "store": ("storage.run", "awscrt.checksums"),
        "node": ("inference.node", *HTTP),
        "region": ("regions.gateway.pass_on", "regions.run"),
        "edge": ("deploy.roles.crew", "edge.dns.voice", "edge.listeners", "edge.relay.patience", "edge.run"),
        "anycast": ("edge.anycast.run",),
        "dns": ("edge.dns.run",),
        "acme": ("edge.acme.run",),
        "wan": ("wire.wan",),
    }
)
AHEAD: Mapping[str, tuple[str, str]] = MappingProxyType({"region": ("storage.client.aws", "read_ahead")})
"""(module, function) of what a role would compute for itself, and finds in its memory: 0.1 s for the SDK's S3."""
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1"}
"""numpy's pool of threads is made at import, and with a second thread there is no safe fork."""


def load(role: str) -> None:
    """Load what `role` needs, and have the collector leave it alone: a page that nobody writes to stays shared.

    A module that cannot be loaded is the role's to stumble over, so that its own log says why.
    """
    with _environment(ONE_THREAD):
        for name in MODULES.get(role, ()):
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
        with contextlib.suppress(ImportError):
            _compute(role)
    gc.collect()
    gc.freeze()


def _compute(role: str) -> None:
    if role in AHEAD:
        module, function = AHEAD[role]
        getattr(importlib.import_module(module), function)()


@contextlib.contextmanager
def _environment(wanted: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value
