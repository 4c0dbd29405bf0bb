"""Another user's platform on this machine: what cannot be read or stopped is said so, with what helps."""

import os
import signal
from contextlib import contextmanager

import pytest

from deploy import lock
from deploy.commands import stop
from deploy.config.read import load
from deploy.doctor import fleet
from deploy.faults import NOT_YOURS, ConfigError, NotYours
from deploy.trust import secrets

NOBODY = 65534


@pytest.fixture
def theirs(tmp_path):
    """A folder that anybody may enter, with files that are its owner's alone."""
    for name in ("up.lock", "credentials.toml", "nearfield.toml"):
        secrets.write_private(tmp_path / name, b"")
    return tmp_path


@contextmanager
def _as_somebody_else(folder):
    """As root by another name; otherwise by taking our own right to look into the folder."""
    is_root = os.geteuid() == 0
    try:
        os.seteuid(NOBODY) if is_root else folder.chmod(0)
        yield
    finally:
        os.seteuid(0) if is_root else folder.chmod(0o755)


def test_what_cannot_be_looked_at_is_another_users(theirs):
    with _as_somebody_else(theirs):
        with pytest.raises(NotYours):
            lock.holder(theirs)
        with pytest.raises(secrets.SecretsError, match="is another user's") as secret:
            secrets.read_private(theirs / "credentials.toml")
        with pytest.raises(ConfigError, match="is another user's") as config:
            load(theirs / "nearfield.toml")

    assert secret.value.next_step == config.value.next_step == NOT_YOURS, (
        "not `nearfield up`: it cannot either"
    )


def test_doctor_finds_it_and_goes_on(theirs):
    with _as_somebody_else(theirs):
        (found,) = fleet.platform(theirs)

    assert (found.well, found.fix) == (False, NOT_YOURS)


def test_a_process_that_is_anothers_is_not_stopped(tmp_path, monkeypatch):
    def refused(pid, number):
        assert (pid, number) == (os.getpid(), signal.SIGTERM)
        raise PermissionError

    monkeypatch.setattr(os, "kill", refused)
    with lock.hold(tmp_path), pytest.raises(NotYours, match=f"process {os.getpid()}"):
        stop.platform(tmp_path, as_json=False)


def test_a_lock_whose_number_is_not_written_yet_is_nobodys(tmp_path):
    with lock.hold(tmp_path) as file:
        file.truncate(0)
        assert lock.holder(tmp_path) is None
