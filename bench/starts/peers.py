"""The peers of `bench weights`: boto3's TransferManager, and Run:ai's streamer, from the same store to tensors.

Run:ai's two wheels are installed without what they need, which we have already, into a folder of their own (26 MB).
"""

import importlib
import os
from pathlib import Path
from typing import Any

from bench.packages import installed
from bench.starts.loaders import Order, Tensors

PACKAGES = Path(__file__).with_name("peers.txt")
REGION = "us-east-1"


def install(cache: Path) -> Path:
    """The folder to put on the path of the streamer's process; filled when it is not there. Raises: Missing."""
    return installed(cache / "weights-peers", PACKAGES)


class Boto3:
    """`TransferManager` at its defaults into a file in memory, then safetensors' own loading of that file."""

    def __init__(self) -> None:
        self._manager: Any = None
        self._file = Path()

    def prepare(self, order: Order) -> None:
        """A client that has answered already."""
        import boto3
        import safetensors.torch  # noqa: F401 - its import is not the load's
        from s3transfer.manager import TransferManager

        if self._manager is None:
            client = boto3.client(
                "s3",
                endpoint_url=order.url,
                aws_access_key_id=order.access_key,
                aws_secret_access_key=order.secret,
                region_name=REGION,
            )
            client.head_object(Bucket=order.bucket, Key=order.key)
            self._manager = TransferManager(client)
        self._file = Path(order.scratch) / "boto3.safetensors"
        self._file.unlink(missing_ok=True)

    def load(self, order: Order) -> Tensors:
        """Download, then load."""
        from safetensors.torch import load_file

        self._manager.download(order.bucket, order.key, str(self._file)).result()
        tensors: Tensors = load_file(self._file)
        return tensors

    def let_go(self) -> None:
        """The file is memory."""
        self._file.unlink()


class Runai:
    """`SafetensorsStreamer.stream_file` of an s3 address, at its defaults, on the CPU."""

    def __init__(self) -> None:
        self._streamer: Any = None

    def prepare(self, order: Order) -> None:
        """What it reads from its environment; its library is loaded."""
        os.environ |= {
            "AWS_ACCESS_KEY_ID": order.access_key,
            "AWS_SECRET_ACCESS_KEY": order.secret,
            "AWS_ENDPOINT_URL": order.url,
            "AWS_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
            "RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "0",
        }
        module: Any = importlib.import_module(
            "runai_model_streamer"
        )  # of its own folder, where types are not looked for
        self._streamer = module.SafetensorsStreamer().__enter__()

    def load(self, order: Order) -> Tensors:
        """Stream it, keeping every tensor."""
        self._streamer.stream_file(f"s3://{order.bucket}/{order.key}", None, "cpu")
        return dict(self._streamer.get_tensors())

    def let_go(self) -> None:
        """Its buffers."""
        self._streamer.__exit__(None, None, None)
        self._streamer = None
