"""The regression gate: every case of ceph/s3-tests that has passed passes still."""

import shutil
from pathlib import Path

import pytest

from storage.auth.key import AccessKey, Grant
from tests.storage.conformance.suite import FOLDER, PYTHON, Suite
from tests.storage.stores import StoreThread, memory_folder

HERE = Path(__file__).parent
USERS = tuple(
    AccessKey(f"CONF{name.upper()}", 1, (Grant.parse("*::own"),), user=f"conf-{name}")
    for name in ("main", "alt", "tenant")
)
RUN_S = 30 * 60  # the whole selection on two busy cores


def passing() -> list[str]:
    return (HERE / "passing.txt").read_text().split()


def left_out() -> dict[str, str]:
    lines = (HERE / "left_out.txt").read_text().splitlines()
    return dict(line.split(" ", 1) for line in lines)


def test_the_lists_are_lists():
    """Sorted, nothing twice, nothing on both, and a reason beside each case that is left out."""
    ours, not_ours = passing(), left_out()

    assert ours == sorted(set(ours))
    assert list(not_ours) == sorted(not_ours)
    assert not set(ours) & set(not_ours)
    assert all(reason.strip() for reason in not_ours.values())


@pytest.mark.timeout(RUN_S)
def test_what_passed_passes_still(tmp_path, monkeypatch):
    suite = Suite.from_environment()
    if suite is None:
        pytest.skip(
            f"{FOLDER} names no folder with ceph/s3-tests, or {PYTHON} no interpreter that can run it"
        )
    monkeypatch.setattr("tests.storage.stores.KEYS", USERS)
    store = StoreThread(memory_folder(), anonymous=True, sigv2=True)
    try:
        outcomes = suite.run(store, USERS, tmp_path)
    finally:
        store.stop()
        shutil.rmtree(store.settings.root)
    passed = {name for name, seen in outcomes.items() if seen == {"PASSED"}}

    assert sorted(set(passing()) - passed) == [], (tmp_path / "output.txt").read_text()[-20_000:]
    assert set(outcomes) <= set(passing()) | set(left_out()), "a case is on neither list"
