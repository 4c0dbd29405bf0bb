"""A model goes from the bucket: its pointer, its objects, and the parts of pushes that were cut."""

from dataclasses import dataclass

from deploy.models.push import BUCKET, endpoint
from deploy.terminal import patience
from deploy.trust.credentials import Credentials
from regions.objects.ledger import pointer_key
from regions.objects.register import Found
from regions.push.prefix import CANNOT_SAY
from storage.client.sdk import S3, Endpoint, StoreError


@dataclass(frozen=True, slots=True)
class Removed:
    """How much of a model was taken away."""

    num_objects: int
    num_uploads: int
    """Uploads that had begun and not ended, whose parts took room."""


def remove(credentials: Credentials, model: str) -> Removed:
    """Delete the pointer first, so that no region serves it again, then every object of the prefix."""
    return patience.ask(_remove(endpoint(credentials), model), credentials.home_store)


async def _remove(store: Endpoint, model: str) -> Removed:
    async with S3(store) as s3:
        await Found(s3).clear(pointer_key(model))
        keys = [entry.key async for entry in s3.list(BUCKET, model + "/")]
        for key in keys:
            await s3.delete(BUCKET, key)
            patience.heard()
        return Removed(len(keys), await _end_uploads(s3, model))


async def _end_uploads(s3: S3, model: str) -> int:
    """Free the parts of pushes that were cut."""
    try:
        begun = await s3.uploads(BUCKET, model + "/")
    except StoreError as error:
        if error.code not in CANNOT_SAY:
            raise
        return 0
    for upload in begun:
        await s3.abort(BUCKET, upload)
        patience.heard()
    return len(begun)
