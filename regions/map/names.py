"""What things are called: models, regions, digests, buckets. A raw string becomes a `ModelName` once, at the wall."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

MODELS_BUCKET: Final = "models"  # users push here; it lives in the home region
SYSTEM_BUCKET: Final = "nearfield-system"  # revisions, pointers, refusals, keys: ours, and durable
BLOBS_BUCKET: Final = "nearfield-blobs"  # in every region's store; key = BLAKE3 hex, never overwritten

MODEL_PATTERN: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
PREVIEW_PATTERN: Final = r"[a-z0-9][a-z0-9-]{0,31}"  # as a label of a host name
DEPLOYED_PATTERN: Final = rf"{MODEL_PATTERN}(?:@{PREVIEW_PATTERN})?"
MODEL_WORDS: Final = (
    "a model is named org/name or org/name@preview: org and name of letters, digits, '.', '_' and '-', at most 64 and "
    "96 of them, a preview of a-z, 0-9 and '-', at most 32; each begins with a letter or digit"
)
MAX_DEPLOYED_CHARS: Final = 64 + 1 + 96 + 1 + 32
_MODEL = re.compile(DEPLOYED_PATTERN)
_REGION = re.compile(r"[a-z][a-z0-9-]{0,31}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


class BadNameError(ValueError):
    """A model or region name outside its pattern; the message says it in words."""


@dataclass(frozen=True, slots=True, order=True)
class ModelName:
    """`org/name`, or `org/name@preview`; made only by `parse`, so all parts are safe in keys and paths.

    `name` is with its preview's: that is a model of its own but for whose revisions it serves.
    """

    org: str
    name: str

    @classmethod
    def parse(cls, text: str) -> ModelName:
        """The name in `text`; raises BadNameError."""
        if _MODEL.fullmatch(text) is None:
            raise BadNameError(MODEL_WORDS)
        org, _, name = text.partition("/")
        return cls(org, name)

    @property
    def prefix(self) -> str:
        """Where its files lie in the bucket `models`: `org/name/`."""
        return f"{self.org}/{self.name}/"

    def __str__(self) -> str:
        return f"{self.org}/{self.name}"


def base_of(model: str) -> str:
    """The model that a name's revisions are of: `org/name` of `org/name@preview`, and of itself."""
    return model.partition("@")[0]


def is_preview(model: str) -> bool:
    """Whether it is a preview of another model."""
    return "@" in model


def region_name(text: str) -> str:
    """`text` if it may name a region; raises BadNameError."""
    if _REGION.fullmatch(text) is None:
        raise BadNameError("a region's name has 1 to 32 of a-z, 0-9 and '-', and begins with a letter")
    return text


def is_digest(text: str) -> bool:
    """Whether `text` is 64 lower-case hex digits: a key's SHA-256, a blob's or a revision's BLAKE3."""
    return _DIGEST.fullmatch(text) is not None
