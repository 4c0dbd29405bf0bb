"""What must stay true of the code of this room, whoever changes it."""

import ast
import subprocess
import sys
from pathlib import Path

from tests.syntax import HOUSE, files, nodes_of

FILES = files("storage")
SDKS = {"boto3", "botocore", "aiobotocore", "s3transfer", "aiohttp"}


def imports(path: Path) -> set[str]:
    found = set()
    for node in nodes_of(path):
        if isinstance(node, ast.Import):
            found |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
    return found


def test_only_blobs_flushes():
    callers = {
        path.name for path in FILES if "os.fsync(" in path.read_text() or "fdatasync" in path.read_text()
    }

    assert callers == {"blobs.py"}


def test_only_the_client_knows_the_sdks():
    users = {path.name for path in FILES if imports(path) & SDKS}

    assert users == {"aws.py"}


def test_secrets_are_compared_in_constant_time():
    """Nothing called a signature or a secret is compared with == to anything but a constant of ours."""
    for path in FILES:
        for node in nodes_of(path):
            if not isinstance(node, ast.Compare) or not any(
                isinstance(op, ast.Eq | ast.NotEq) for op in node.ops
            ):
                continue
            for side in (node.left, *node.comparators):
                text = ast.unparse(side)
                assert text.isupper() or not {"signature", "secret", "claimed"} & set(text.split(".")), (
                    path,
                    text,
                )


def test_no_unsafe_reader_is_used():
    for path in FILES:
        assert not imports(path) & {"pickle", "marshal", "shelve", "yaml", "dill"}


def test_starting_a_store_loads_no_sdk_and_no_torch():
    banned = SDKS | {"torch", "transformers", "numpy", "awscrt"}
    code = f"import sys, storage.run, storage.client.sdk, storage.__main__; print(sorted({banned} & set(sys.modules)))"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=HOUSE, check=True)

    assert done.stdout.strip() == "[]"


def test_every_operation_has_a_handler_and_every_handler_an_operation():
    from storage.http.surface import BUCKET_RIGHTS, COPIES, KEY_RIGHTS, LIST_RIGHTS, OPERATIONS
    from storage.s3 import HANDLERS

    operations = set(OPERATIONS.values()) | set(COPIES.values())
    checked = set(KEY_RIGHTS) | set(BUCKET_RIGHTS) | set(LIST_RIGHTS)

    assert operations == set(HANDLERS)
    assert operations - checked == {
        "ListBuckets",
        "ListChanges",
        "ListDeadLetters",
        "ReplayDeadLetters",
        "DeleteDeadLetter",
        "HeadBucket",
        "GetBucketLocation",
        "DeleteObjects",
    }
