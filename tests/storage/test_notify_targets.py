"""Notification configurations, records, patience and webhooks: everything about events that needs no store."""

import hashlib
import hmac
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.fault import S3Error
from storage.http.document import parse, write
from storage.index.outbox import Line
from storage.notify.courier import Patience
from storage.notify.record import body_of, record_of
from storage.notify.targets import (
    ROOT,
    Target,
    begun,
    pack_targets,
    target_nodes,
    targets_of,
    unpack_targets,
)
from storage.notify.webhook import Webhook, signature_of

SECRET = b"0123456789abcdef"
HOOKS = {"a", "b"}


def read(xml):
    return targets_of(parse(f"<{ROOT}>{xml}</{ROOT}>".encode(), ROOT), HOOKS)


def topic(
    *more, arn="arn:nearfield:webhook:::a", event="s3:ObjectCreated:*", kind=("TopicConfiguration", "Topic")
):
    return f"<{kind[0]}><{kind[1]}>{arn}</{kind[1]}><Event>{event}</Event>{''.join(more)}</{kind[0]}>"


def rule(name, value):
    return f"<FilterRule><Name>{name}</Name><Value>{value}</Value></FilterRule>"


def fixes(*rules):
    return f"<Filter><S3Key>{''.join(rules)}</S3Key></Filter>"


def test_a_document_comes_back_as_it_was_understood():
    xml = topic("<Id>one</Id>", fixes(rule("Prefix", "in/"), rule("suffix", ".bin"))) + topic(
        "<Id>two</Id>", "<Event>s3:ObjectRemoved:Delete</Event>", kind=("QueueConfiguration", "Queue")
    )
    targets = read(xml)

    assert targets[0] == Target("one", "TopicConfiguration", "a", ("ObjectCreated:*",), "in/", ".bin")
    assert targets[1].events == ("ObjectCreated:*", "ObjectRemoved:Delete")
    assert targets_of(parse(write(ROOT, target_nodes(targets)), ROOT), HOOKS) == targets
    assert unpack_targets(pack_targets(targets)) == targets


def test_an_empty_document_is_none():
    assert read("") == ()
    assert unpack_targets(None) == ()


@pytest.mark.parametrize(
    ("xml", "code"),
    [
        (topic(arn="arn:aws:sqs:us-east-1:1:q"), "InvalidArgument"),
        (topic(arn="https://evil.example/"), "InvalidArgument"),
        (topic(arn="arn:nearfield:webhook:::c"), "InvalidArgument"),
        (topic(event="s3:ObjectCreated:Explode"), "InvalidArgument"),
        (topic(event="ObjectCreated:*"), "InvalidArgument"),
        (topic(event="s3:ObjectTagging:*"), "NotImplemented"),
        (topic(fixes(rule("infix", "a"))), "InvalidArgument"),
        (topic(fixes(rule("prefix", "a"), rule("Prefix", "b"))), "InvalidArgument"),
        (topic(fixes(rule("prefix", "a" * 1025))), "InvalidArgument"),
        (topic("<Id>x</Id>") * 2, "InvalidArgument"),
        (topic(f"<Id>{'x' * 256}</Id>"), "InvalidArgument"),
        (topic() * 101, "InvalidArgument"),
        ("<TopicConfiguration><Topic>arn:nearfield:webhook:::a</Topic></TopicConfiguration>", "MalformedXML"),
        ("<TopicConfiguration><Event>s3:ObjectCreated:*</Event></TopicConfiguration>", "MalformedXML"),
        ("<EventBridgeConfiguration/>", "NotImplemented"),
        ("<Webhook>https://evil.example/</Webhook>", "MalformedXML"),
    ],
)
def test_what_is_no_configuration(xml, code):
    with pytest.raises(S3Error) as error:
        read(xml)

    assert error.value.code == code


@given(
    st.lists(st.sampled_from(["ObjectCreated:*", "ObjectCreated:Put", "ObjectRemoved:Delete"]), min_size=1),
    st.sampled_from(["ObjectCreated:Put", "ObjectCreated:Copy", "ObjectRemoved:Delete", ""]),
    st.text("ab/", max_size=3),
    st.text("ab/", max_size=3),
    st.text("ab/", max_size=6),
    st.integers(0, 3),
)
def test_what_a_target_wants(events, name, prefix, suffix, key, seq):
    target = Target("t", "TopicConfiguration", "a", tuple(events), prefix, suffix, since=1)
    by_name = any(name == each or (each[-1] == "*" and name.startswith(each[:-1])) for each in events)
    by_key = key[: len(prefix)] == prefix and (not suffix or key[-len(suffix) :] == suffix)

    assert target.wants(name, key, seq) == (by_name and by_key and seq > 1)


def test_what_stays_goes_on_and_what_is_new_begins_now():
    old = Target("kept", "TopicConfiguration", "a", ("ObjectCreated:*",), since=5)
    new = Target("new", "TopicConfiguration", "a", ("ObjectCreated:*",))
    changed = Target("kept", "TopicConfiguration", "b", ("ObjectCreated:*",))

    assert [target.since for target in begun((old, new), (old,), 9)] == [5, 9]
    assert begun((changed,), (old,), 9)[0].since == 9


def test_a_record_has_the_shape_of_s3():
    line = Line(255, "models", "a b/ü.bin", 3, "e" * 32, 1_700_000_000_123, "ObjectCreated:Put", "v1")

    record = record_of(line, "one", "iad")

    assert (record["eventVersion"], record["eventSource"], record["awsRegion"]) == ("2.1", "aws:s3", "iad")
    assert (record["eventName"], record["eventTime"]) == ("ObjectCreated:Put", "2023-11-14T22:13:20.123Z")
    assert record["s3"]["configurationId"] == "one"
    assert record["s3"]["bucket"] == {
        "name": "models",
        "ownerIdentity": {"principalId": "nearfield"},
        "arn": "arn:aws:s3:::models",
    }
    assert record["s3"]["object"] == {
        "key": "a+b%2F%C3%BC.bin",
        "size": 3,
        "eTag": "e" * 32,
        "versionId": "v1",
        "sequencer": "00000000000000FF",
    }
    assert json.loads(body_of([record])) == {"Records": [record]}


def test_a_delete_says_neither_size_nor_etag():
    line = Line(1, "models", "a", 3, "e" * 32, 0, "LifecycleExpiration:Delete", "")

    record = record_of(line, "one", "iad")

    assert record["s3"]["object"] == {"key": "a", "sequencer": "0000000000000001"}
    assert record["eventVersion"] == "2.3"


@given(st.integers(1, 200), st.floats(0, 1))
def test_patience_doubles_spreads_and_ends(tries, chance):
    patience = Patience(first_s=1.0, most_s=300.0)

    wait = patience.wait_s(tries, chance)

    assert min(300.0, 2.0 ** (tries - 1)) / 2 <= wait <= min(300.0, 2.0 ** (tries - 1))


def test_a_signature_covers_the_time_and_the_body():
    headers = dict(Webhook("a", "http://h/", SECRET).sign(12, b"body"))

    assert headers["x-nearfield-timestamp"] == "12"
    assert (
        headers["x-nearfield-signature"]
        == "sha256=" + hmac.new(SECRET, b"12.body", hashlib.sha256).hexdigest()
    )
    assert signature_of(SECRET, 12, b"body") != signature_of(SECRET, 13, b"body")


@pytest.mark.parametrize(
    ("url", "address", "target"),
    [
        ("http://h", ("h", 80, False), "/"),
        ("https://h.example/p?q=1", ("h.example", 443, True), "/p?q=1"),
        ("http://[::1]:81/x", ("::1", 81, False), "/x"),
    ],
)
def test_addresses(url, address, target):
    hook = Webhook("a", url, SECRET)

    assert (hook.address, hook.target) == (address, target)


@pytest.mark.parametrize(
    ("id_", "url", "secret"),
    [
        ("a b", "http://h/", SECRET),
        ("", "http://h/", SECRET),
        ("a", "ftp://h/", SECRET),
        ("a", "http:///p", SECRET),
        ("a", "http://u:p@h/", SECRET),
        ("a", "http://h/#x", SECRET),
        ("a", "http://h:99999/", SECRET),
        ("a", "http://h:0/", SECRET),
        ("a", "http://a..b/", SECRET),
        ("a", f"http://{'a' * 64}.b/", SECRET),
        ("a", "http://[::1/", SECRET),
        ("a", "http://größe/", SECRET),
        ("a", "http://h/ x", SECRET),
        ("a", "http://h/\r\nx: y", SECRET),
        ("a", "http://h/", b"short"),
    ],
)
def test_what_is_no_webhook(id_, url, secret):
    with pytest.raises(ValueError, match=r"webhook|address"):
        Webhook(id_, url, secret)
