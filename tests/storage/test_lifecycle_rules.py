"""Lifecycle rules alone: no store, no clock. A simple model says the same of every rule and version."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.fault import S3Error
from storage.http.document import parse
from storage.lifecycle.document import MAX_RULES, rules_of
from storage.lifecycle.rules import (
    DAY_MS,
    Action,
    Filter,
    Rule,
    Version,
    day_after,
    decide,
    is_upload_due,
    next_expiry,
)

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def ms(at):
    return int(at.timestamp() * 1000)


def test_days_are_counted_as_s3_counts_them():
    """The example of S3's own page: written on 15 January at 10:30, three days: gone on 19 January at midnight."""
    written = ms(datetime(2014, 1, 15, 10, 30, tzinfo=UTC))

    assert day_after(written, 3) == ms(datetime(2014, 1, 19, tzinfo=UTC))


days = st.none() | st.integers(1, 4)
prefixes = st.sampled_from(["", "a", "a/", "b"])
tag_sets = st.dictionaries(st.sampled_from("xy"), st.sampled_from("12"), max_size=2)
sizes = st.none() | st.integers(0, 5)
filters = st.builds(Filter, prefixes, tag_sets, sizes, sizes)
rules_made = st.builds(
    Rule,
    st.text("abc", min_size=1, max_size=3),
    filters,
    expire_days=days,
    expire_at_ms=st.none() | st.integers(0, 6).map(lambda day: day * DAY_MS),
    expire_lone_markers=st.booleans(),
    noncurrent_days=days,
    num_noncurrent_kept=st.integers(0, 2),
    abort_days=days,
)
versions_made = st.builds(
    Version,
    st.sampled_from(["a", "a/b", "b", "c"]),
    st.integers(0, 6),
    tag_sets,
    st.integers(0, 5 * DAY_MS),
    is_current=st.booleans(),
    is_marker=st.booleans(),
    num_newer=st.integers(0, 3),
    alone=st.booleans(),
)


def model(rule, version, now):
    """What one rule takes away, written down as S3's pages say it, in datetimes."""
    begun = datetime.fromtimestamp(0, UTC)
    at = begun + timedelta(milliseconds=version.age_from_ms)
    today = datetime.fromtimestamp(now / 1000, UTC)

    def old(num_days):
        if num_days is None:
            return False
        after = at + timedelta(days=num_days)
        midnight = after.replace(hour=0, minute=0, second=0, microsecond=0)
        return today >= (midnight if midnight == after else midnight + timedelta(days=1))

    expired = (
        old(rule.expire_days)
        if rule.expire_days is not None
        else (rule.expire_at_ms is not None and now >= rule.expire_at_ms)
    )
    wanted = rule.filter
    by_key = version.key.startswith(wanted.prefix)
    by_tags = all(version.tags.get(name) == value for name, value in wanted.tags.items())
    large_enough = wanted.larger_than is None or wanted.larger_than < version.size
    small_enough = wanted.smaller_than is None or wanted.smaller_than > version.size
    if version.is_current and version.is_marker:
        plain = not wanted.tags and wanted.larger_than is None and wanted.smaller_than is None
        return version.alone and plain and by_key and (rule.expire_lone_markers or expired)
    if not (by_key and by_tags and large_enough and small_enough):
        return False
    if version.is_current:
        return expired
    return old(rule.noncurrent_days) and version.num_newer >= rule.num_noncurrent_kept


@given(st.lists(rules_made, max_size=3), versions_made, st.integers(0, 12 * DAY_MS))
def test_a_simple_model_agrees(rules, version, now):
    expected = any(model(rule, version, now) for rule in rules)
    action = Action.EXPIRE if version.is_current and not version.is_marker else Action.REMOVE

    assert decide(rules, version, now) == (action if expected else None)


@given(st.lists(rules_made, max_size=3), versions_made, st.integers(0, 12 * DAY_MS))
def test_what_is_due_stays_due(rules, version, now):
    if decide(rules, version, now) is not None:
        assert decide(rules, version, now + 1) is not None


@given(st.lists(rules_made, min_size=1, max_size=3), versions_made)
def test_the_announced_time_is_the_time(rules, version):
    found = next_expiry(rules, version)
    if found is None:
        assert decide(rules, version, 10**15) is None
        return
    at_ms, rule = found
    assert decide(rules, version, at_ms) is not None
    assert decide(rules, version, at_ms - 1) is None
    assert rule in {each.id for each in rules}


@given(st.lists(rules_made, max_size=3), st.sampled_from(["a", "b"]), st.integers(0, 9 * DAY_MS))
def test_uploads_are_aborted_by_key_and_age_alone(rules, key, now):
    fitting = [
        rule
        for rule in rules
        if rule.abort_days is not None and rule.filter == replace(Filter(), prefix=rule.filter.prefix)
    ]
    expected = any(key.startswith(r.filter.prefix) and now >= (r.abort_days + 1) * DAY_MS for r in fitting)

    assert is_upload_due(rules, key, 1, now) == expected


def rule_xml(*parts, status="Enabled", filter_="<Filter/>"):
    return f"<Rule><Status>{status}</Status>{filter_}{''.join(parts)}</Rule>"


DAYS = "<Expiration><Days>3</Days></Expiration>"


def read(*rules):
    document = f"<LifecycleConfiguration>{''.join(rules)}</LifecycleConfiguration>"
    return rules_of(parse(document.encode(), "LifecycleConfiguration"))


def test_a_document_is_read_whole():
    both = (
        "<Filter><And><Prefix>a b/ </Prefix><Tag><Key>k</Key><Value>v</Value></Tag>"
        "<ObjectSizeGreaterThan>1</ObjectSizeGreaterThan><ObjectSizeLessThan>9</ObjectSizeLessThan></And></Filter>"
    )
    noncurrent = (
        "<NoncurrentVersionExpiration><NoncurrentDays>4</NoncurrentDays>"
        "<NewerNoncurrentVersions>2</NewerNoncurrentVersions></NoncurrentVersionExpiration>"
    )
    days = "<DaysAfterInitiation>7</DaysAfterInitiation>"
    abort = f"<AbortIncompleteMultipartUpload>{days}</AbortIncompleteMultipartUpload>"
    first, second, third = read(
        rule_xml("<ID>one</ID>", DAYS, noncurrent, filter_=both),
        rule_xml(
            "<Expiration><Date>2026-03-01T00:00:00Z</Date></Expiration>", abort, filter_="<Prefix>p</Prefix>"
        ),
        rule_xml("<Expiration><ExpiredObjectDeleteMarker>true</ExpiredObjectDeleteMarker></Expiration>"),
    )

    assert first == Rule(
        "one", Filter("a b/ ", {"k": "v"}, 1, 9), 3, noncurrent_days=4, num_noncurrent_kept=2
    )
    assert (second.expire_at_ms, second.abort_days, second.filter) == (ms(NOW), 7, Filter("p"))
    assert third.expire_lone_markers
    assert len({first.id, second.id, third.id}) == 3


def test_disabled_rules_do_nothing():
    assert read(rule_xml(DAYS, status="Disabled")) == ()


TAG = "<Filter><Tag><Key>k</Key><Value>v</Value></Tag></Filter>"


@pytest.mark.parametrize(
    ("rules", "code"),
    [
        ([], "MalformedXML"),
        ([rule_xml(DAYS)] * (MAX_RULES + 1), "MalformedXML"),
        ([rule_xml("<ID>a</ID>", DAYS)] * 2, "InvalidArgument"),
        ([rule_xml(f"<ID>{'a' * 256}</ID>", DAYS)], "InvalidArgument"),
        ([rule_xml(DAYS, status="enabled")], "MalformedXML"),
        ([rule_xml(DAYS, filter_="")], "MalformedXML"),
        ([rule_xml(DAYS, filter_="<Filter/><Prefix/>")], "MalformedXML"),
        ([rule_xml(DAYS, filter_="<Filter><Prefix>a</Prefix><Tag/></Filter>")], "MalformedXML"),
        ([rule_xml(DAYS, filter_="<Filter><And/><Prefix>a</Prefix></Filter>")], "MalformedXML"),
        ([rule_xml(DAYS, filter_="<Filter><Colour>a</Colour></Filter>")], "MalformedXML"),
        ([rule_xml()], "InvalidRequest"),
        ([rule_xml(DAYS, DAYS)], "MalformedXML"),
        ([rule_xml("<Expiration/>")], "MalformedXML"),
        ([rule_xml("<Expiration><Days>1</Days><Date>2026-03-01</Date></Expiration>")], "MalformedXML"),
        *(
            ([rule_xml(f"<Expiration><Days>{n}</Days></Expiration>")], "InvalidArgument")
            for n in ("0", "-1", "x", "9" * 20)
        ),
        ([rule_xml("<Expiration><Date>2026-03-01T01:00:00Z</Date></Expiration>")], "InvalidArgument"),
        ([rule_xml("<Expiration><Date>soon</Date></Expiration>")], "InvalidArgument"),
        ([rule_xml("<NoncurrentVersionExpiration/>")], "MalformedXML"),
        (
            [
                rule_xml(
                    "<Expiration><ExpiredObjectDeleteMarker>true</ExpiredObjectDeleteMarker></Expiration>",
                    filter_=TAG,
                )
            ],
            "InvalidRequest",
        ),
        (
            [rule_xml("<Transition><Days>1</Days><StorageClass>GLACIER</StorageClass></Transition>", DAYS)],
            "NotImplemented",
        ),
    ],
)
def test_what_is_no_rule_is_refused_in_s3s_words(rules, code):
    with pytest.raises(S3Error) as error:
        read(*rules)

    assert error.value.code == code
