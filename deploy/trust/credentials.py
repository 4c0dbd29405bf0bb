"""The file a user's tools read: endpoint, keys and certificate authority of one platform; mode 0600."""

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from deploy import toml
from deploy.trust.secrets import SecretsError, read_private, write_private

FILE_NAME = "credentials.toml"


class NoPlatform(Exception):
    """No credentials were found: the platform was never started here, or another folder holds them."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """Everything a client needs.

    `api_key` asks for tokens at `base_url`, `admin_key` steers the platform at `admin_url`. `s3_ca` is empty where the
    bucket's certificate is checked against the public authorities. `home` is the bucket's region, if
    that was told.
    """

    base_url: str
    api_key: str
    admin_url: str
    admin_key: str
    s3_url: str
    s3_access_key: str
    s3_secret_key: str
    ca: str
    state: str
    s3_ca: str = ""
    simulated_wan: str = ""
    home: str = ""
    regions: Mapping[str, str] = field(default_factory=dict)

    @property
    def home_store(self) -> str:
        """In words, whom commands about the bucket wait for."""
        return f"the home store in region {self.home}" if self.home else "the bucket's home store"

    @property
    def home_region(self) -> str:
        """In words, whom commands about keys wait for."""
        return f"the home region {self.home}" if self.home else "the home region"

    def save(self, folder: Path) -> Path:
        """Write the file, readable by its owner alone."""
        path = folder / FILE_NAME
        plain = {k: v for k, v in asdict(self).items() if k != "regions"}
        lines = [toml.pair(k, v) for k, v in plain.items()]
        lines += ["", "[regions]", *(toml.pair(k, v) for k, v in self.regions.items())]
        write_private(path, ("\n".join(lines) + "\n").encode())
        return path

    def environment(self) -> dict[str, str]:
        """The variables that aws, boto3, curl and the openai client read by themselves."""
        own_ca = {"AWS_CA_BUNDLE": self.s3_ca} if self.s3_ca else {}
        return {
            "AWS_ACCESS_KEY_ID": self.s3_access_key,
            "AWS_SECRET_ACCESS_KEY": self.s3_secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.s3_url,
            **own_ca,
            "OPENAI_BASE_URL": self.base_url,
            "OPENAI_API_KEY": self.api_key,
            "SSL_CERT_FILE": self.ca,
            "CURL_CA_BUNDLE": self.ca,
            "REQUESTS_CA_BUNDLE": self.ca,
        }


def load(folder: Path) -> Credentials:
    """Read the credentials in a state folder.

    Raises:
        NoPlatform: there are none.
        SecretsError: others can read the file, or it is damaged.
    """
    path = folder / FILE_NAME
    if not path.exists():
        raise NoPlatform(
            f"no platform in {folder}. Start one with `nearfield up`, or name its folder: --state DIR."
        )
    try:
        return Credentials(**tomllib.loads(read_private(path).decode()))
    except (ValueError, TypeError) as error:
        cause = f"{path} is not what `nearfield up` or your operator wrote: {error}"
        raise SecretsError(
            f"{cause}. Take it away: a start writes it anew, or your operator gives it again."
        ) from error
