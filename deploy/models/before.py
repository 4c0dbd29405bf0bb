"""What a push is set against: the revision before it, and what that proved."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from deploy.models import pointing, proofs
from deploy.trust.credentials import Credentials
from regions.map.names import base_of, is_preview
from regions.objects.pointer import PointerError
from storage.client.sdk import StoreError


@dataclass(frozen=True, slots=True)
class Before:
    """The revision before a push: the name's own; a preview's first push has the model's.

    `regions` are where a preview goes whose push names none: where its model is.
    """

    revision: str = ""
    regions: tuple[str, ...] | None = None

    @classmethod
    def read(cls, credentials: Credentials, model: str) -> Self:
        """As it is now; nothing where this key may push and no more. Raises StoreError, PointerError."""
        names = (model, base_of(model)) if is_preview(model) else (model,)
        try:
            own, *others = pointing.read(credentials, *names)
        except StoreError as error:
            if error.status not in pointing.DENIED:
                raise
            return cls()
        known = own or next(iter(others), None)
        regions = known.regions if known is not None and is_preview(model) else None
        return cls(known.revision if known else "", regions)

    def compared(
        self, credentials: Credentials, result: Mapping[str, Any]
    ) -> tuple[dict[str, Any], list[str]]:
        """What the new revision proved and the change, for programs and for people; none if nothing changed."""
        revision, live = result["revision"], result["live"]
        try:
            named = (revision, *([self.revision] if self.revision not in {"", revision} else []))
            now, *others = pointing.proofs(credentials, *named, of=live)
        except (StoreError, PointerError) as error:
            return {}, [f"what it proved cannot be read: {error}"]
        now = {region: proof for region, proof in now.items() if region in live}
        found = proofs.changes(now, others[0] if others else {})
        value = {
            "before": self.revision or None,
            "proofs": [proof.as_value() for proof in now.values()],
            "changes": [each.as_value() for each in found],
        }
        return value, [each.words() for each in found]
