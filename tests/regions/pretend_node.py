"""A node that says what its script says: facts, budgets, loads, probes; and remembers what it was asked."""

from regions.map.region import ModelFault
from regions.nodes.client import Inspected, LoadLine, NodeError, NodeView, WorkerView
from weights_cache.model.revision import ModelFacts

FACTS = ModelFacts(
    kind="generate",
    architecture="LlamaForCausalLM",
    model_type="llama",
    dtype="float32",
    num_params=4,
    num_layers=1,
    max_len=2048,
    vocab_size=8,
    kv_bytes_per_token=16,
    weight_bytes=16,
)


def failure(code="load_failed", *, passing=False):
    return NodeError(ModelFault(code, f"the node says {code}", "do something"), passing=passing)


class FakeNode:
    def __init__(self, address="127.0.0.1:7001", budget_bytes=1 << 30):
        self.address = address
        self.budget_bytes = budget_bytes
        self.facts = FACTS
        self.resident = {}
        self.loads = []
        self.unloads = []
        self.probes = []
        self.inspects = []
        self.inspect_errors = []
        self.load_errors = []  # raised by the next loads, one each
        self.probe_errors = []
        self.said = []  # by the next probes, one each
        self.down = False
        self.on_load = lambda: None

    def _up(self):
        if self.down:
            raise failure("node_unreachable", passing=True)

    async def status(self):
        self._up()
        workers = [
            WorkerView(model, revision, "resident", 0, 0, 4, 0.0, 0.0, 0.0)
            for revision, model in self.resident.items()
        ]
        return NodeView(self.address, self.budget_bytes, 0, tuple(workers))

    async def inspect(self, bucket, prefix, files, tensors, quantize=None):
        self._up()
        self.inspects.append(
            (bucket, prefix, [each["path"] for each in files], [each["name"] for each in tensors])
        )
        if self.inspect_errors:
            raise self.inspect_errors.pop(0)
        return Inspected(self.facts, ())

    async def load(self, revision, reason, idle_timeout_s, min_replicas):
        self._up()
        self.loads.append((revision.id, reason, idle_timeout_s, min_replicas))
        self.on_load()
        yield LoadLine("fetch", 50.0, 0.1)
        if self.load_errors:
            raise self.load_errors.pop(0)
        self.resident[revision.id] = revision.model
        yield LoadLine("ready", 100.0, start="region")

    async def probe(self, revision, tenant="nearfield"):
        self._up()
        self.probes.append(revision.id)
        if self.probe_errors:
            raise self.probe_errors.pop(0)
        return self.said.pop(0) if self.said else " hello"

    async def unload(self, revision, to):
        self._up()
        self.unloads.append((revision, to))
        self.resident.pop(revision, None)
        return 1

    async def close(self):
        pass
