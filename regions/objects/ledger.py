"""Reading and writing the objects of `nearfield-system`, typed. Each is small, bounded, whole in one put."""

from __future__ import annotations

from typing import TYPE_CHECKING

from regions.map.names import MODELS_BUCKET, SYSTEM_BUCKET, BadNameError, ModelName
from regions.objects.pointer import MAX_POINTER_BYTES, Judged, LocalRecord, Pointer
from regions.objects.proof import MAX_PROOF_BYTES, Proof
from regions.objects.register import Found
from regions.push.folder import CONFIG, STATUS
from regions.rollout.canary import MAX_VERDICT_BYTES, Verdict
from storage.client.sdk import NotFound, PreconditionFailed
from weights_cache.model.revision import MAX_REVISION_BYTES, Revision, RevisionError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from regions.objects.pointer import Status
    from regions.objects.store import Store

POINTERS = "models/"
REFUSALS = "refusals/"
JUDGED = "judged/"
LOCALS = "local/pointers/"
PROOFS = "proofs/"  # in the home region: REVISION/REGION.json, what its boot and probes there came to
AWAITED_PROOFS = "local/proofs/"  # of this region, until home has them
KEYS = "keys/"
CANARY = "canary/"  # in the home region: what the canary says of a model's newest revision
RULES = "rules.json"  # in the home region: what the operator decided for all edges
POLICY = "policy.json"  # the signed policy row, in the home region
EPOCH = "local/epoch"  # the last one that the region's rows began with, ms since 1970
LOCAL_POLICY = "local/policy.json"  # its copy in every region


def revision_key(revision: str) -> str:
    """Where a revision object lies."""
    return f"revisions/{revision}.json"


def pointer_key(model: str) -> str:
    """Where a model's pointer lies, or the hint to it (see regions.objects.numbered)."""
    return f"{POINTERS}{model}.json"


def model_of(key: str, prefix: str = "", suffix: str = "") -> str | None:
    """The model that a key of the system bucket is about; None for any other key."""
    if not (key.startswith(prefix) and key.endswith(suffix)):
        return None
    try:
        return str(ModelName.parse(key[len(prefix) : len(key) - len(suffix)]))
    except BadNameError:
        return None


def model_below(key: str) -> tuple[str | None, str]:
    """The model whose prefix in the bucket `models` a key lies below, and its path there."""
    org, _, rest = key.partition("/")
    name, _, path = rest.partition("/")
    try:
        return str(ModelName.parse(f"{org}/{name}")) if path else None, path
    except BadNameError:
        return None, path


def misplaced_folder(key: str) -> str | None:
    """The folder of a model's file that lies a level too high in the bucket: `m/config.json`."""
    folder, _, name = key.partition("/")
    return (
        folder if folder and (name == CONFIG or name.endswith(".safetensors")) and "/" not in name else None
    )


class Ledger:
    """One store's `nearfield-system`. Raises StoreError when the store fails; an absent object is None."""

    def __init__(self, store: Store, registers: Found | None = None) -> None:
        self._store = store
        self.registers = registers or Found(store)  # of what several may move: pointers, the policy

    async def pointer(self, model: str) -> tuple[Pointer, str] | None:
        """A model's pointer and its token. Raises PointerError for bytes that are none."""
        found = await self.registers.read(pointer_key(model))
        return None if found is None else (Pointer.from_json(found[0]), found[1])

    async def move(self, pointer: Pointer, over: str | None) -> None:
        """Puts a pointer over the one with that token, or where there is none. Raises PreconditionFailed."""
        await self.registers.move(pointer_key(pointer.model), pointer.to_json(), over)

    async def models(self) -> list[str]:
        """The models that have a pointer."""
        return [model async for model in self._models(POINTERS)]

    async def revision(self, revision: str) -> Revision | None:
        """A revision, checked against its id. Raises RevisionError."""
        found = await self.read(revision_key(revision), MAX_REVISION_BYTES)
        if found is None:
            return None
        read = Revision.from_json(found[0])
        if read.id != revision:
            raise RevisionError(f"the object of revision {revision[:12]} holds {read.id[:12]}")
        return read

    async def keep_revision(self, revision: Revision) -> None:
        """Writes a revision object if it is not there: its key is its hash, so what is there is the same."""
        try:
            await self._store.put(
                SYSTEM_BUCKET, revision_key(revision.id), revision.to_json(), if_none_match=True
            )
        except PreconditionFailed:
            return

    async def drop_revision(self, revision: str) -> None:
        """Deletes a revision object."""
        await self._store.delete(SYSTEM_BUCKET, revision_key(revision))

    async def judged(self, model: str) -> Judged | None:
        """What was last decided about a model's prefix: refused, else committed. Raises PointerError."""
        for prefix in (REFUSALS, JUDGED):
            found = await self.read(f"{prefix}{model}.json")
            if found is not None:
                return Judged.from_json(found[0])
        return None

    async def keep_judged(self, judged: Judged) -> None:
        """Writes down what was decided; a refusal goes when the next push is committed."""
        if judged.fault is not None:
            await self.write(f"{REFUSALS}{judged.model}.json", judged.to_json())
            return
        await self.write(f"{JUDGED}{judged.model}.json", judged.to_json())
        await self.drop(f"{REFUSALS}{judged.model}.json")

    async def drop_judged(self, model: str) -> None:
        """Forgets what was decided about a prefix that is empty now."""
        await self.drop(f"{JUDGED}{model}.json")
        await self.drop(f"{REFUSALS}{model}.json")

    async def verdict(self, model: str) -> Verdict | None:
        """What the canary says of a model. Raises PointerError."""
        found = await self.read(f"{CANARY}{model}.json", MAX_VERDICT_BYTES)
        return None if found is None else Verdict.from_json(found[0])

    async def keep_verdict(self, verdict: Verdict) -> None:
        """Tells the other regions what the canary says."""
        await self.write(f"{CANARY}{verdict.model}.json", verdict.to_json())

    async def proof(self, revision: str, region: str) -> Proof | None:
        """What is kept of a revision's boot in a region. Raises PointerError."""
        found = await self.read(f"{PROOFS}{revision}/{region}.json", MAX_PROOF_BYTES)
        return None if found is None else Proof.from_json(found[0])

    async def proofs(self, revision: str) -> list[Proof]:
        """Every region's, by region. Raises PointerError."""
        return await self._proofs(f"{PROOFS}{revision}/")

    async def keep_proof(self, proof: Proof) -> None:
        """Writes one down with its revision."""
        await self.write(f"{PROOFS}{proof.revision}/{proof.region}.json", proof.to_json())

    async def drop_proofs(self, revision: str) -> None:
        """Forgets all of a revision's with it."""
        keys = [entry.key async for entry in self._store.list(SYSTEM_BUCKET, f"{PROOFS}{revision}/")]
        for key in keys:
            await self.drop(key)

    async def await_proof(self, proof: Proof) -> None:
        """Keeps one until home has it."""
        await self.write(f"{AWAITED_PROOFS}{proof.revision}.json", proof.to_json())

    async def awaited(self) -> list[Proof]:
        """Those that home may not have yet. Raises PointerError."""
        return await self._proofs(AWAITED_PROOFS)

    async def drop_awaited(self, revision: str) -> None:
        """Home has it."""
        await self.drop(f"{AWAITED_PROOFS}{revision}.json")

    async def _proofs(self, prefix: str) -> list[Proof]:
        keys = [entry.key async for entry in self._store.list(SYSTEM_BUCKET, prefix)]
        found = [await self.read(key, MAX_PROOF_BYTES) for key in keys]
        return [Proof.from_json(each[0]) for each in found if each is not None]

    async def locals(self) -> list[LocalRecord]:
        """What this region serves, as it last wrote it down. Raises PointerError."""
        found = [await self.read(f"{LOCALS}{model}.json") async for model in self._models(LOCALS)]
        return [LocalRecord.from_json(each[0]) for each in found if each is not None]

    async def keep_local(self, model: str, record: bytes) -> None:
        """Writes down what this region serves of a model (a LocalRecord's JSON)."""
        await self.write(f"{LOCALS}{model}.json", record)

    async def drop_local(self, model: str) -> None:
        """Forgets a model in this region."""
        await self.drop(f"{LOCALS}{model}.json")

    async def tell(self, model: str, status: Status) -> None:
        """Writes the status beside the pushed files, unless it says the same already."""
        key, data = f"{model}/{STATUS}", status.to_json()
        try:
            if (await self._store.get(MODELS_BUCKET, key, max_bytes=MAX_POINTER_BYTES)).data == data:
                return
        except NotFound:
            pass
        await self._store.put(MODELS_BUCKET, key, data)

    async def untell(self, model: str) -> None:
        """Takes the status away."""
        await self._store.delete(MODELS_BUCKET, f"{model}/{STATUS}")

    async def read(self, key: str, max_bytes: int = MAX_POINTER_BYTES) -> tuple[bytes, str] | None:
        """An object's bytes and etag; None if there is none."""
        try:
            got = await self._store.get(SYSTEM_BUCKET, key, max_bytes=max_bytes)
        except NotFound:
            return None
        return got.data, got.etag

    async def write(self, key: str, data: bytes) -> None:
        """Writes an object that has one writer."""
        await self._store.put(SYSTEM_BUCKET, key, data)

    async def drop(self, key: str) -> None:
        """Deletes an object, there or not."""
        await self._store.delete(SYSTEM_BUCKET, key)

    async def _models(self, prefix: str) -> AsyncIterator[str]:
        async for entry in self._store.list(SYSTEM_BUCKET, prefix):
            model = model_of(entry.key, prefix, ".json")
            if model is not None:
                yield model
