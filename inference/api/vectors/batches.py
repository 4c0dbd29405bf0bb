"""Embeddings: batches for the engine, and its vectors as OpenAI's answer."""

from __future__ import annotations

import base64
import binascii
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from inference.api.fields import bad

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

MAX_BATCH_ROWS = 64
"""Rows in one message to the engine; 64 vectors of 8,192 floats are 2.8 MB of base64, under a frame's 16 MiB."""
MAX_BATCH_TOKENS = 16_384
"""Tokens in one message, padding counted: keeps a batch's step short, so that a cancel is seen soon."""


class VectorError(ValueError):
    """The engine's vectors are not what it said they are."""


def num_batches(num_rows: int) -> int:
    """The least number of messages for so many rows: known before they are cut into tokens."""
    return -(-num_rows // MAX_BATCH_ROWS)


def batches(rows: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Indices of `rows` in batches of like length (shortest first), so that little is padded."""
    batch: list[int] = []
    for index in sorted(range(len(rows)), key=lambda index: len(rows[index])):
        if batch and (len(batch) == MAX_BATCH_ROWS or len(rows[index]) * (len(batch) + 1) > MAX_BATCH_TOKENS):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def read_vectors(data: str, dim: int, num_rows: int) -> NDArray[np.float32]:
    """The rows in an engine's answer: base64 of little-endian f32.

    Raises:
        VectorError: the length is not `num_rows * dim`, or a number is not finite.
    """
    try:
        flat = np.frombuffer(base64.b64decode(data, validate=True), dtype="<f4")
    except (binascii.Error, ValueError) as cause:
        raise VectorError(f"vectors that are no base64 of f32: {cause}") from cause
    if dim < 1 or flat.size != num_rows * dim:
        raise VectorError(f"{flat.size} numbers for {num_rows} vectors of {dim}")
    if not np.isfinite(flat).all():
        raise VectorError("a vector holds NaN or infinity")
    return flat.reshape(num_rows, dim)


def cut(vectors: NDArray[np.float32], dimensions: int | None, *, normalize: bool) -> NDArray[np.float32]:
    """The first `dimensions` of each vector, of length one again if the model makes such (OpenAI's rule).

    Raises:
        Refusal: 400 when the model has fewer dimensions.
    """
    dim = vectors.shape[1]
    if dimensions is None or dimensions == dim:
        return vectors
    if dimensions > dim:
        raise bad("dimensions", f"'dimensions' is {dimensions}, and this model makes vectors of {dim}.")
    short = vectors[:, :dimensions]
    if not normalize:
        return short
    lengths = np.linalg.norm(short, axis=1, keepdims=True)
    return np.asarray(short / np.maximum(lengths, np.finfo(np.float32).tiny), dtype=np.float32)


def embedding_body(vectors: NDArray[np.float32], model: str, num_tokens: int, *, as_base64: bool) -> bytes:
    """The body of `/v1/embeddings`, vectors in the order of the inputs."""
    rows: list[Any] = vectors.tolist()
    if as_base64:
        rows = [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in vectors]
    data = [{"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(rows)]
    usage = {"prompt_tokens": num_tokens, "total_tokens": num_tokens}
    return json.dumps({"object": "list", "data": data, "model": model, "usage": usage}).encode()
