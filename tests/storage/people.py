"""Callers of a store with and without keys, what a policy says, and what somebody may do with a bucket."""

import json

from storage.auth.key import AccessKey, Grant
from tests.storage.stores import ADMIN, ALICE, BOB, READER, TENANT, Raw

NOBODY = AccessKey("NFNOBODY", 1, (), user="nobody")
ALICES_READER = AccessKey("NFALICE2", 1, (Grant.parse("elsewhere::read"),), user="alice")


class Caller(Raw):
    """Somebody with a key, or with none."""

    def __init__(self, store, key):
        super().__init__(store.endpoint(key or ADMIN))
        self._key = key

    def send(self, method, path, query="", headers=None, body=b"", **signing):
        if self._key is not None:
            return super().send(method, path, query, headers, body, **signing)
        return self.send_as_is(method, path, query, {"host": self.endpoint.netloc, **(headers or {})}, body)

    def policy(self, bucket, *statements):
        document = {"Version": "2012-10-17", "Statement": statements}
        return self.send("PUT", f"/{bucket}", "policy=", {}, json.dumps(document).encode())

    def block(self, bucket, *switches):
        on = "".join(f"<{name}>true</{name}>" for name in switches)
        body = f"<PublicAccessBlockConfiguration>{on}</PublicAccessBlockConfiguration>"
        return self.send("PUT", f"/{bucket}", "publicAccessBlock=", {}, body.encode())


def callers(store):
    keys = {"admin": ADMIN, "alice": ALICE, "bob": BOB, "tenant": TENANT, "reader": READER, "anyone": None}
    keys |= {"nobody": NOBODY, "alices_reader": ALICES_READER}
    return {name: Caller(store, key) for name, key in keys.items()}


def allow(bucket, action, who="*", key="*", effect="Allow", **condition):
    resource = f"arn:aws:s3:::{bucket}" + (f"/{key}" if key else "")
    plain = {"Effect": effect, "Principal": who if who == "*" else {"AWS": who}, "Action": action}
    return plain | {"Resource": resource} | ({"Condition": condition} if condition else {})


def outcome(caller, bucket):
    """What may be done with alice's bucket: a letter for each thing that was not refused."""
    tried = {
        "g": caller.get(bucket, "k"),
        "h": caller.send("HEAD", f"/{bucket}/k"),
        "l": caller.send("GET", f"/{bucket}", "list-type=2"),
        "b": caller.send("HEAD", f"/{bucket}"),
        "p": caller.put(bucket, "other", b"x"),
        "d": caller.delete(bucket, "gone"),
        "m": caller.send("POST", f"/{bucket}/m", "uploads="),
        "a": caller.send("GET", f"/{bucket}/k", "acl="),
        "t": caller.send("GET", f"/{bucket}/k", "tagging="),
        "A": caller.send("GET", f"/{bucket}", "acl="),
        "P": caller.send("GET", f"/{bucket}", "policyStatus="),
    }
    assert {answer.status for answer in tried.values()} <= {200, 204, 403}
    return "".join(letter for letter, answer in tried.items() if answer.status != 403)


EVERYTHING = "ghlbpdmatAP"


def bucket_of_alice(world, request):
    """A bucket of alice's with two objects."""
    name = f"a{abs(hash(request.node.nodeid)) % 10**12}"
    assert world["alice"].send("PUT", f"/{name}").status == 200
    for key in ("k", "other"):
        assert world["alice"].put(name, key, key.encode()).status == 200
    return name
