"""ceph/s3-tests against a store of ours: configuration, selection, run. None of its code is in this repository.

Fetch https://github.com/ceph/s3-tests into a folder of its own, make a virtual environment with its requirements
and pytest-timeout, and name both in the environment (FOLDER, PYTHON). The store it is run against lets strangers in
(`anonymous`), which no store does unless it is told to: the suite asks what ACLs and policies open to everybody.
"""

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from storage.auth.key import AccessKey
from tests.storage.stores import ROOT_KEY, StoreThread

FOLDER = "NEARFIELD_S3_TESTS"
PYTHON = "NEARFIELD_S3_TESTS_PYTHON"
CASE_TIMEOUT_S = 60  # none that passes takes 10 s; a hang must not cost the run
FILE = "s3tests/functional/test_s3.py"
LEFT_OUT_MARKS = (
    "fails_on_aws",  # what only Ceph does
    "lifecycle_expiration",  # waits for days that its server makes short; test_lifecycle.py turns a clock instead
    "lifecycle_transition",
    "cloud_transition",
    "cloud_restore",
    "bucket_logging",
    "bucket_logging_cleanup",
    "encryption",
    "sse_s3",
    "bucket_encryption",
    "s3website",
    "s3website_routing_rules",
    "s3website_redirect_location",
    "object_ownership",
    "appendobject",
    "storage_class",
    "auth_aws2",
    "iam_account",
    "iam_cross_account",
    "iam_role",
    "iam_tenant",
    "iam_user",
    "target_by_bucket",
)
LINE = re.compile(rf"^{FILE}::(\S+) (PASSED|FAILED|ERROR|SKIPPED)", re.MULTILINE)
SELECTION = " and ".join(f"not {mark}" for mark in LEFT_OUT_MARKS)


@dataclass(frozen=True, slots=True)
class Suite:
    """Where the suite lies, and the interpreter that has what it needs."""

    folder: Path
    python: str

    @classmethod
    def from_environment(cls) -> "Suite | None":
        folder, python = os.environ.get(FOLDER), os.environ.get(PYTHON)
        return cls(Path(folder), python) if folder and python else None

    def run(
        self, store: StoreThread, users: tuple[AccessKey, ...], work: Path, *more: str
    ) -> dict[str, set[str]]:
        """The outcomes (PASSED, FAILED, ERROR, SKIPPED) of each case by name; a clean-up that fails adds ERROR.

        Read from the run's own lines, so that a run that is cut off still says what it did.
        """
        settings, output = work / "s3tests.conf", work / "output.txt"
        settings.write_text(_configuration(store.port, users))
        command = [self.python, "-m", "pytest", "-v", "-p", "no:cacheprovider", "--tb=short", "--color=no"]
        command += [f"--timeout={CASE_TIMEOUT_S}", FILE, "-m", SELECTION, *more]
        environment = os.environ | {"S3TEST_CONF": str(settings), "PYTHONUNBUFFERED": "1"}
        with output.open("w") as file:
            subprocess.run(command, check=False, cwd=self.folder, env=environment, stdout=file, stderr=file)
        outcomes: dict[str, set[str]] = {}
        for name, outcome in LINE.findall(output.read_text()):
            outcomes.setdefault(name, set()).add(outcome)
        return outcomes


def _configuration(port: int, users: tuple[AccessKey, ...]) -> str:
    """The suite's ini file. The sections of roles that no selected case uses name the first user again."""
    sections = ["[DEFAULT]", "host = 127.0.0.1", f"port = {port}", "is_secure = False", "ssl_verify = False"]
    sections += ["[fixtures]", "bucket prefix = conf-{random}-", "iam name prefix = conf-"]
    sections += ["iam path prefix = /conf/"]
    main, alt, tenant = users
    for name, user in (("s3 main", main), ("s3 alt", alt), ("s3 tenant", tenant), ("iam", main)):
        sections += [f"[{name}]", f"access_key = {user.id}", f"secret_key = {user.secret(ROOT_KEY)}"]
        sections += [f"display_name = {user.user}", f"user_id = {user.user}", "email = nobody@example.com"]
        sections += ["api_name = us-east-1"] * (user is main) + ["tenant = testx"] * (name == "s3 tenant")
    for name in ("iam root", "iam alt root"):
        sections += [f"[{name}]", f"access_key = {main.id}", f"secret_key = {main.secret(ROOT_KEY)}"]
        sections += [f"user_id = {main.user}", "email = nobody@example.com"]
    return "\n".join([*sections, ""])
