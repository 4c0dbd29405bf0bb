"""What of a device's memory an engine may have for keys and values, and whether its model fits at all.

The node counts what it gave out against the budget that the operator set; what is really free is known only here:
other processes may use the same GPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from inference.engine.attach.views import COMPUTED, NAMED, stored_dtype
from inference.engine.gpu.blocks import plan_blocks
from inference.engine.gpu.device import DeviceError
from inference.engine.gpu.sample import DRAWN_TOGETHER
from inference.engine.steps.pages import PAGE_TOKENS

if TYPE_CHECKING:
    from inference.engine.gpu.device import Device
    from inference.engine.steps.slots import SlotPlan
    from inference.spec import EngineSpec
    from weights_cache.model.revision import Revision, TensorEntry

STEP_BYTES = 768 * 1024 * 1024
"""Left for what a step computes in between, for graphs, and for the libraries' own work space. An estimate: a step of
1,024 prompt tokens of an 8B model has activations of about 200 MB."""
SAMPLING_BYTES = 40
"""For each logit of the rows that are sampled together: the probabilities, their order, and sums of 8 bytes."""


class DeviceRoom:
    """One model's needs on one device."""

    def __init__(self, device: Device, revision: Revision, spec: EngineSpec) -> None:
        self.device, self._spec = device, spec
        stored = stored_dtype(revision.tensors)
        self._computed = NAMED.get(spec.dtype, stored)
        self._tensors = revision.tensors
        facts = revision.facts
        self._token_bytes = facts.kv_bytes_per_token * self._computed.itemsize // stored.itemsize
        rows = min(spec.max_slots, DRAWN_TOGETHER) if facts.kind == "generate" else 0
        self._work_bytes = STEP_BYTES + rows * facts.vocab_size * SAMPLING_BYTES

    def check(self) -> None:
        """Look before the load: one error in place of a full device half-way.

        Raises:
            DeviceError: weights, work space and a block of keys and values are more than is free.
        """
        weights = sum(map(self._bytes_of, self._tensors))
        needed = weights + self._work_bytes + 2 * PAGE_TOKENS * self._token_bytes
        if needed > (free := self.device.free_bytes()):
            raise DeviceError(
                "device_memory_full",
                f"{self.device.torch_device} has {free:,} bytes free, and this model needs {needed:,}: {weights:,} "
                "of weights, the rest to compute with. Other processes may be using this device.",
            )

    def plan(self, max_len: int) -> SlotPlan:
        """Blocks within the node's budget and within what is free now, the weights' places being taken.

        Raises:
            DeviceError: nothing is left for keys and values.
        """
        free = self.device.free_bytes() - self._work_bytes
        try:
            return plan_blocks(
                max_slots=self._spec.max_slots,
                max_len=max_len,
                kv_bytes_per_token=self._token_bytes,
                budget_bytes=min(self._spec.kv_budget_bytes, free),
            )
        except ValueError as cause:
            message = f"no room for keys and values on {self.device.torch_device}: {cause}"
            raise DeviceError("device_memory_full", message) from cause

    def _bytes_of(self, tensor: TensorEntry) -> int:
        if tensor.dtype not in COMPUTED:
            return tensor.length
        return tensor.length // COMPUTED[tensor.dtype].itemsize * self._computed.itemsize
