"""A LifecycleConfiguration document as rules, checked as S3 checks it; what this store cannot do is refused."""

import secrets
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from types import MappingProxyType

from storage.fault import S3Error
from storage.http.document import Element, parse
from storage.lifecycle.rules import DAY_MS, Filter, Rule

ROOT = "LifecycleConfiguration"
MAX_RULES = 1000  # S3's limit for one bucket
MAX_ID_CHARS = 255
MAX_DAYS = 100_000  # 270 years: nothing overflows
MAX_CACHED = 64  # documents; each is parsed again for no request
TRANSITIONS = ("Transition", "NoncurrentVersionTransition")
ACTIONS = frozenset({"Expiration", "NoncurrentVersionExpiration", "AbortIncompleteMultipartUpload"})
FILTERS = frozenset({"Prefix", "Tag", "ObjectSizeGreaterThan", "ObjectSizeLessThan"})


@lru_cache(maxsize=MAX_CACHED)
def rules_of_document(document: str) -> tuple[Rule, ...]:
    """The enabled rules of a document that was checked when it was set."""
    return rules_of(parse(document.encode(), ROOT))


def rules_of(root: Element) -> tuple[Rule, ...]:
    """The enabled rules. A rule without an id gets one, in `root` too.

    Raises: S3Error MalformedXML, InvalidArgument, InvalidRequest, NotImplemented.
    """
    found = root.all("Rule")
    if not 0 < len(found) <= MAX_RULES:
        raise S3Error("MalformedXML", f"{ROOT} has 1 to {MAX_RULES} rules.")
    read = [(_rule(element), element.need("Status")) for element in found]
    ids = [rule.id for rule, _ in read]
    if len(set(ids)) != len(ids):
        raise S3Error("InvalidArgument", "Rule ID must be unique. Found same ID for more than one rule")
    return tuple(rule for rule, status in read if status == "Enabled")


def _rule(element: Element) -> Rule:
    if element.need("Status") not in {"Enabled", "Disabled"}:
        raise S3Error("MalformedXML", "Status is Enabled or Disabled.")
    transitions = [each for name in TRANSITIONS for each in element.all(name)]
    for date in (each.value("Date") for each in transitions):
        _midnight_ms(date or "1970-01-01")
    if transitions:
        raise S3Error("NotImplemented", "This store has one storage class; there is nothing to move between.")
    named = [name for name in sorted(ACTIONS) if element.all(name)]
    if not named:
        raise S3Error("InvalidRequest", "At least one action needs to be specified in a rule")
    actions: dict[str, int | bool | None] = {}
    for name in named:
        actions |= _READERS[name](_only(element, name))
    filter_ = _filter(element)
    if filter_.looks_inside and (actions.get("abort_days") or actions.get("expire_lone_markers")):
        message = "Unfinished uploads and delete markers have neither tags nor a size to filter by."
        raise S3Error("InvalidRequest", message)
    return Rule(_id(element), filter_, **actions)  # type: ignore[arg-type]  # each reader's names are fields


def _id(element: Element) -> str:
    given = element.value("ID")
    if given is None:
        given = secrets.token_hex(16)
        element.children.append(Element("ID", given))
    if len(given) > MAX_ID_CHARS:
        raise S3Error("InvalidArgument", f"ID length should not exceed allowed limit of {MAX_ID_CHARS}")
    return given


def _filter(element: Element) -> Filter:
    """The filter; the older form is a prefix in the rule itself."""
    old = element.value("Prefix")
    filters = element.all("Filter")
    if (old is None) == (not filters) or len(filters) > 1:
        raise S3Error("MalformedXML", "A rule has either a Filter or a Prefix.")
    if old is not None:
        return Filter(prefix=element.exact("Prefix"))
    return _filter_of(_holder(filters[0]))


def _holder(element: Element) -> Element:
    """What holds the conditions: the Filter itself, which has one at most, or its And, which may have several."""
    joined = bool(element.all("And"))
    holder = _only(element, "And") if joined else element
    if joined and len(element.children) > 1:
        raise S3Error("MalformedXML", "A filter with And has nothing beside it.")
    names = [child.name for child in holder.children]
    if not FILTERS.issuperset(names) or (not joined and len(names) > 1):
        raise S3Error("MalformedXML", f"A filter is one of {', '.join(sorted(FILTERS))}; And joins several.")
    return holder


def _filter_of(holder: Element) -> Filter:
    tags = {tag.need("Key"): tag.need("Value") for tag in holder.all("Tag")}
    if len(tags) != len(holder.all("Tag")):
        raise S3Error("InvalidRequest", "Duplicate Tag Keys are not allowed.")
    prefix = holder.exact("Prefix") if holder.all("Prefix") else ""
    larger, smaller = _size(holder, "ObjectSizeGreaterThan"), _size(holder, "ObjectSizeLessThan")
    return Filter(prefix, MappingProxyType(tags), larger, smaller)


def _size(holder: Element, name: str) -> int | None:
    text = holder.value(name)
    return None if text is None else _number(text, name, least=0, most=2**50)


def _only(element: Element, name: str) -> Element:
    found = element.all(name)
    if len(found) != 1:
        raise S3Error("MalformedXML", f"There is one {name}.")
    return found[0]


def _expiration(element: Element) -> Mapping[str, int | bool | None]:
    days, date = element.value("Days"), element.value("Date")
    marker = element.value("ExpiredObjectDeleteMarker")
    if sum(each is not None for each in (days, date, marker)) != 1:
        raise S3Error("MalformedXML", "Expiration has one of Days, Date and ExpiredObjectDeleteMarker.")
    if days is not None:
        return {"expire_days": _number(days, "'Days' for Expiration action")}
    if date is not None:
        return {"expire_at_ms": _midnight_ms(date)}
    return {"expire_lone_markers": marker == "true"}


def _noncurrent(element: Element) -> Mapping[str, int | bool | None]:
    kept = element.value("NewerNoncurrentVersions")
    days = _number(element.need("NoncurrentDays"), "'NoncurrentDays'")
    if kept is None:
        return {"noncurrent_days": days}
    return {
        "noncurrent_days": days,
        "num_noncurrent_kept": _number(kept, "'NewerNoncurrentVersions'", most=100),
    }


def _abort(element: Element) -> Mapping[str, int | bool | None]:
    return {"abort_days": _number(element.need("DaysAfterInitiation"), "'DaysAfterInitiation'")}


_READERS: Mapping[str, Callable[[Element], Mapping[str, int | bool | None]]] = MappingProxyType(
    {
        "Expiration": _expiration,
        "NoncurrentVersionExpiration": _noncurrent,
        "AbortIncompleteMultipartUpload": _abort,
    }
)


def _number(text: str, what: str, least: int = 1, most: int = MAX_DAYS) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 17 and least <= int(text) <= most):
        raise S3Error("InvalidArgument", f"{what} must be a whole number from {least} to {most}")
    return int(text)


def _midnight_ms(text: str) -> int:
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise S3Error("InvalidArgument", "'Date' must be in ISO 8601 format") from error
    at_ms = int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)
    if at_ms % DAY_MS:
        raise S3Error("InvalidArgument", "'Date' must be at midnight GMT")
    return at_ms
