"""Keys rotate and are revoked while the store serves."""

import asyncio
import time
from dataclasses import replace
from datetime import timedelta

import pytest

from deploy.config.read import load
from deploy.roles.runner import _keys_of
from deploy.trust.keys_now import KeysNow
from storage.auth.canonical import Signable
from storage.auth.key import AccessKey, Grant
from storage.auth.keyring import KeyRing, keep_current
from storage.auth.sigv4 import Verifier
from storage.client.sdk import Endpoint, presign, sign
from storage.fault import S3Error
from tests.storage.stores import ADMIN, KEYS, ROOT_KEY, TENANT, Raw, StoreThread
from tests.storage.test_sigv4 import NOW

NOW_S = NOW.timestamp()
OLD = AccessKey("NFROTATED", 1, (Grant.parse("models:acme/:write"),))
NEW = replace(OLD, generation=2)


def code(verifier: Verifier, key: AccessKey, now=NOW) -> str:
    """The refusal of a request that `key` signed, or nothing."""
    endpoint = Endpoint("http://127.0.0.1:1", key.id, key.secret(ROOT_KEY))
    try:
        verifier.verify(Signable("GET", "/", "", sign(endpoint, "GET", "/", now=now)), now)
    except S3Error as error:
        return error.code
    return ""


def test_a_new_generation_refuses_the_old_at_once():
    verifier = Verifier((NEW,), ROOT_KEY)

    assert (code(verifier, OLD), code(verifier, NEW)) == ("SignatureDoesNotMatch", "")


def test_the_old_generation_may_be_given_a_while():
    verifier = Verifier((replace(NEW, old_until_s=NOW_S + 60),), ROOT_KEY)
    later = NOW + timedelta(seconds=61)

    assert (code(verifier, OLD), code(verifier, NEW)) == ("", "")
    assert (code(verifier, OLD, later), code(verifier, NEW, later)) == ("SignatureDoesNotMatch", "")


def test_only_the_generation_just_before_is_given_a_while():
    verifier = Verifier((replace(OLD, generation=3, old_until_s=NOW_S + 60),), ROOT_KEY)

    assert [code(verifier, replace(OLD, generation=n)) for n in (1, 2, 3, 4)] == [
        "SignatureDoesNotMatch",
        "",
        "",
        "SignatureDoesNotMatch",
    ]


def test_the_old_secret_has_the_new_grants():
    """A right that was taken away is gone for whoever signs with the old secret too."""
    ring = KeyRing((replace(NEW, grants=(), old_until_s=NOW_S + 60),), ROOT_KEY)

    identity, secrets = ring.find(OLD.id, NOW_S)
    assert (identity.grants, len(secrets)) == ((), 2)


def test_a_first_generation_has_none_before_it():
    ring = KeyRing((replace(OLD, old_until_s=NOW_S + 60),), ROOT_KEY)

    assert ring.find(OLD.id, NOW_S)[1] == (OLD.secret(ROOT_KEY),)


def test_what_is_revoked_is_unknown():
    verifier = Verifier((OLD, ADMIN), ROOT_KEY)
    verifier.keys.replace((ADMIN,))

    assert (code(verifier, OLD), code(verifier, ADMIN)) == ("InvalidAccessKeyId", "")


def test_two_keys_of_one_id_are_refused_and_change_nothing():
    ring = KeyRing((OLD,), ROOT_KEY)
    with pytest.raises(ValueError, match="NFROTATED"):
        ring.replace((NEW, OLD))

    assert ring.find(OLD.id, NOW_S)[1] == (OLD.secret(ROOT_KEY),)


async def test_keys_that_cannot_be_read_stay_as_they_were(caplog):
    answers = [OSError("no such file"), OSError("no such file"), ValueError("no TOML"), (NEW,)]

    def read():
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    ring = KeyRing((OLD,), ROOT_KEY)
    task = asyncio.create_task(keep_current(ring, read, 0.01))
    while ring.find(OLD.id, NOW_S)[1] == (OLD.secret(ROOT_KEY),):  # noqa: ASYNC110 - nothing tells of it
        await asyncio.sleep(0.01)
    task.cancel()

    assert caplog.text.count("no such file") == 1
    assert caplog.text.count("no TOML") == 1


def test_a_revoked_key_is_refused_within_seconds_and_so_are_its_presigned_urls(tmp_path):
    keys = list(KEYS)
    store = StoreThread(tmp_path, read_keys=lambda: tuple(keys))
    tenant = store.endpoint(TENANT)
    url = presign(tenant, "GET", "/models/acme/a", 600)
    with Raw(store.endpoint()) as admin, Raw(tenant) as raw:
        admin.send("PUT", "/models")
        before = [raw.put("models", "acme/a", b"1").status, by_url(raw, url)]
        keys.remove(TENANT)
        deadline_s = time.monotonic() + 15
        while raw.get("models", "acme/a").status == 200 and time.monotonic() < deadline_s:
            time.sleep(0.05)
        after = raw.put("models", "acme/a", b"2")
        presigned = by_url(raw, url)
        kept = admin.get("models", "acme/a").body
    store.stop()

    assert before == [200, 200]
    assert (after.status, after.code, presigned) == (403, "InvalidAccessKeyId", 403)
    assert kept == b"1"


def by_url(raw: Raw, url: str) -> int:
    path, _, query = url.removeprefix(raw.endpoint.url).partition("?")
    return raw.send_as_is("GET", path, query, {"host": raw.endpoint.netloc}).status


def test_the_configuration_is_read_anew(tmp_path):
    """What `[[access_keys]]` says now, and a file that is half-written is a ValueError, which changes nothing."""
    from tests.deploy.test_config import dt, fleet, pki

    authority = pki.ensure(tmp_path / "tls", dt.datetime.now(dt.UTC))
    path = fleet.write(fleet.FleetPlan(tmp_path), authority)
    first = load(path).access_keys[0]
    text = path.read_text()
    path.write_text(
        text.replace(f'id = "{first.id}"', f'id = "{first.id}"\ngeneration = 2\nold_until_s = 9.5')
    )

    changed = next(key for key in _keys_of(path) if key.id == first.id)
    path.write_text(text + "[[access_keys]]\nid =")

    assert (changed.generation, changed.old_until_s) == (2, 9.5)
    with pytest.raises(ValueError, match="TOML"):
        _keys_of(path)


def a_file_of_keys(tmp_path):
    """Keys as bytes in a file, and what has been read of it."""
    path, num_read = tmp_path / "nearfield.toml", []

    def read(path):
        num_read.append(path)
        return tuple(replace(OLD, generation=int(n)) for n in path.read_text().split())

    path.write_text("1")
    return path, read, num_read


def test_a_file_that_is_the_same_is_not_read_again(tmp_path):
    path, read, num_read = a_file_of_keys(tmp_path)
    later_ns = time.time_ns() + 3_600 * 10**9
    keys_now = KeysNow(path, read, clock_ns=lambda: later_ns)

    before = keys_now()
    assert [keys_now() is before for _ in range(5)] == [True] * 5
    assert len(num_read) == 1
    path.write_text("1 2")
    assert [key.generation for key in keys_now()] == [1, 2]
    path.unlink()
    with pytest.raises(OSError, match="No such file"):
        keys_now()


def test_a_file_that_changed_just_now_may_change_again_and_look_the_same(tmp_path):
    """In place, as long as before, in one tick of the file system's clock: until it has settled it is read anew."""
    path, read, _ = a_file_of_keys(tmp_path)
    clock_ns = path.stat().st_ctime_ns
    keys_now = KeysNow(path, read, clock_ns=lambda: clock_ns)

    assert [key.generation for key in keys_now()] == [1]
    with path.open("r+") as file:
        file.write("2")
    assert [key.generation for key in keys_now()] == [2]


async def test_keys_that_are_the_same_do_not_touch_the_ring(monkeypatch):
    ring, looks, replaced = KeyRing((OLD,), ROOT_KEY), [(OLD,)] * 3 + [(NEW,)], []
    monkeypatch.setattr(ring, "replace", replaced.append)

    def read():
        return looks.pop(0) if len(looks) > 1 else looks[0]

    task = asyncio.create_task(keep_current(ring, read, 0.001))
    while len(replaced) < 2:  # noqa: ASYNC110 - nothing tells of it
        await asyncio.sleep(0.001)
    task.cancel()

    assert replaced == [(OLD,), (NEW,)]
