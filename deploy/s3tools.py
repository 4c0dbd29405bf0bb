"""Ready-to-paste settings of one bucket endpoint for the S3 tools that people have. Pure: credentials in, text out."""

from __future__ import annotations

import json
from shlex import quote
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from deploy.trust.credentials import Credentials

REGION = "us-east-1"  # every SDK wants one; ours answers to it


def aws(c: Credentials) -> str:
    """The aws command: a profile of its own, so that nobody's other profile changes."""
    trust = f"\naws configure set ca_bundle {quote(c.s3_ca)} --profile nearfield" if c.s3_ca else ""
    return (
        f"aws configure set aws_access_key_id {c.s3_access_key} --profile nearfield\n"
        f"aws configure set aws_secret_access_key {c.s3_secret_key} --profile nearfield\n"
        f"aws configure set region {REGION} --profile nearfield\n"
        f"aws configure set endpoint_url {c.s3_url} --profile nearfield{trust}\n"
        "unset AWS_CA_BUNDLE AWS_ENDPOINT_URL AWS_ENDPOINT_URL_S3   # where a shell has them they go before a profile\n"
        "aws --profile nearfield s3 sync ./my-model s3://models/acme/my-model/"
    )


def boto3(c: Credentials) -> str:
    """Python."""
    verify = f", verify={json.dumps(c.s3_ca, ensure_ascii=False)}" if c.s3_ca else ""
    return (
        "import boto3\n"
        f's3 = boto3.client("s3", endpoint_url="{c.s3_url}", region_name="{REGION}"{verify},\n'
        f'    aws_access_key_id="{c.s3_access_key}", aws_secret_access_key="{c.s3_secret_key}")\n'
        's3.upload_file("config.json", "models", "acme/my-model/config.json")'
    )


def rclone(c: Credentials) -> str:
    """A section of rclone.conf, and how to use it."""
    trust = f"--ca-cert {quote(c.s3_ca)} " if c.s3_ca else ""
    return (
        "# in ~/.config/rclone/rclone.conf\n"
        "[nearfield]\n"
        "type = s3\n"
        "provider = Other\n"
        f"access_key_id = {c.s3_access_key}\n"
        f"secret_access_key = {c.s3_secret_key}\n"
        f"endpoint = {c.s3_url}\n"
        f"region = {REGION}\n"
        "force_path_style = true\n"
        "# then\n"
        f"rclone {trust}sync ./my-model nearfield:models/acme/my-model"
    )


def s5cmd(c: Credentials) -> str:
    """Variables and one command."""
    trust = f"export SSL_CERT_FILE={quote(c.s3_ca)}\n" if c.s3_ca else ""
    return (
        f"export AWS_ACCESS_KEY_ID={c.s3_access_key} AWS_SECRET_ACCESS_KEY={c.s3_secret_key} AWS_REGION={REGION}\n"
        f"{trust}s5cmd --endpoint-url {c.s3_url} sync ./my-model/ s3://models/acme/my-model/"
    )


TOOLS: Mapping[str, Callable[[Credentials], str]] = MappingProxyType(
    {"aws": aws, "boto3": boto3, "rclone": rclone, "s5cmd": s5cmd}
)
