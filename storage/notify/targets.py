"""A NotificationConfiguration: which events of a bucket go to which webhook. Pure.

Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/NotificationHowTo.html
"""

import json
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from storage.fault import S3Error
from storage.http.document import Element, Node
from storage.notify.webhook import ARN_PREFIX

ROOT = "NotificationConfiguration"
# The element of each kind of destination, and the child that names it. Here they all mean a webhook.
KINDS: Mapping[str, str] = MappingProxyType(
    {
        "TopicConfiguration": "Topic",
        "QueueConfiguration": "Queue",
        "CloudFunctionConfiguration": "CloudFunction",
    }
)
MAX_TARGETS = 100  # S3's limit for one bucket
MAX_ID_CHARS = 255
MAX_FIX_CHARS = 1024  # a key is not longer
EVENTS = frozenset(
    [
        "ObjectCreated:*",
        "ObjectCreated:Put",
        "ObjectCreated:Post",
        "ObjectCreated:Copy",
        "ObjectCreated:CompleteMultipartUpload",
        "ObjectRemoved:*",
        "ObjectRemoved:Delete",
        "ObjectRemoved:DeleteMarkerCreated",
        "LifecycleExpiration:*",
        "LifecycleExpiration:Delete",
        "LifecycleExpiration:DeleteMarkerCreated",
    ]
)
# Event names of S3's for what this store does not do, or does not tell.
UNTOLD = (
    "ReducedRedundancyLostObject",
    "ObjectRestore:",
    "Replication:",
    "LifecycleTransition",
    "IntelligentTiering",
    "ObjectTagging:",
    "ObjectAcl:",
)


@dataclass(frozen=True, slots=True)
class Target:
    """One configuration: events, without `s3:`, of keys with that beginning and end, to a webhook.

    `since`: the outbox number that was the last one when it was set; what came before is not told.
    """

    id: str
    kind: str
    webhook: str
    events: tuple[str, ...]
    prefix: str = ""
    suffix: str = ""
    since: int = 0

    def wants(self, name: str, key: str, seq: int) -> bool:
        """True if an event is for this target."""
        family = name.partition(":")[0] + ":*"
        named = name in self.events or family in self.events
        return named and seq > self.since and key.startswith(self.prefix) and key.endswith(self.suffix)


def targets_of(root: Element, webhooks: Collection[str]) -> tuple[Target, ...]:
    """The targets in a document. Raises: S3Error MalformedXML, InvalidArgument, NotImplemented."""
    known = {*KINDS, "EventBridgeConfiguration"}
    strangers = [child.name for child in root.children if child.name not in known]
    if strangers:
        raise S3Error("MalformedXML", f"{ROOT} has no {strangers[0]}.")
    if root.all("EventBridgeConfiguration"):
        raise S3Error("NotImplemented", "There is no EventBridge here; name a webhook.")
    found = tuple(_target(child, webhooks) for child in root.children)
    if len(found) > MAX_TARGETS or len({target.id for target in found}) != len(found):
        raise S3Error("InvalidArgument", f"At most {MAX_TARGETS} configurations, each with an Id of its own.")
    return found


def _target(element: Element, webhooks: Collection[str]) -> Target:
    arn = element.need(KINDS[element.name])
    webhook = arn.removeprefix(ARN_PREFIX)
    if not arn.startswith(ARN_PREFIX) or webhook not in webhooks:
        message = "Unable to validate the following destination configurations"
        raise S3Error(
            "InvalidArgument", f"{message}: {ARN_PREFIX}<id of a [[webhooks]] of the store>", ArgumentName=arn
        )
    id_ = element.value("Id") or secrets.token_hex(16)
    if len(id_) > MAX_ID_CHARS:
        raise S3Error("InvalidArgument", f"An Id has at most {MAX_ID_CHARS} characters.")
    events = tuple(_event(child.text.strip()) for child in element.all("Event"))
    if not events:
        raise S3Error("MalformedXML", "A configuration names an Event.")
    prefix, suffix = _fixes(element)
    return Target(id_, element.name, webhook, events, prefix, suffix)


def _event(raw: str) -> str:
    name = raw.removeprefix("s3:")
    if name.startswith(UNTOLD):
        raise S3Error("NotImplemented", f"This store does not tell of {raw}.")
    if not raw.startswith("s3:") or name not in EVENTS:
        raise S3Error("InvalidArgument", "The event is not supported for notifications", ArgumentValue=raw)
    return name


def _fixes(element: Element) -> tuple[str, str]:
    """(prefix, suffix) of the filter."""
    rules = [
        rule for each in element.all("Filter") for key in each.all("S3Key") for rule in key.all("FilterRule")
    ]
    named: dict[str, str] = {}
    for rule in rules:
        name = rule.need("Name").lower()
        if name not in {"prefix", "suffix"} or name in named:
            message = "filter rule name must be either prefix or suffix, each at most once"
            raise S3Error("InvalidArgument", message)
        named[name] = rule.exact("Value")
    if any(len(value) > MAX_FIX_CHARS for value in named.values()):
        raise S3Error("InvalidArgument", f"A filter's value has at most {MAX_FIX_CHARS} characters.")
    return named.get("prefix", ""), named.get("suffix", "")


def begun(targets: Collection[Target], before: Collection[Target], head: int) -> tuple[Target, ...]:
    """`targets` as they begin after `head`; one that was there before goes on where it is, so no event is lost."""
    since = {(target.id, target.webhook): target.since for target in before}
    return tuple(replace(each, since=since.get((each.id, each.webhook), head)) for each in targets)


def pack_targets(targets: Collection[Target]) -> str:
    """Targets as a setting of the bucket."""
    fields = ([t.id, t.kind, t.webhook, t.events, t.prefix, t.suffix, t.since] for t in targets)
    return json.dumps(list(fields), separators=(",", ":"))


def unpack_targets(text: str | None) -> tuple[Target, ...]:
    """A setting as targets."""
    found = json.loads(text) if text else []
    return tuple(Target(id_, kind, hook, tuple(events), *rest) for id_, kind, hook, events, *rest in found)


def target_nodes(targets: Collection[Target]) -> list[Node]:
    """A document's content."""
    return [(target.kind, _nodes_of(target)) for target in targets]


def _nodes_of(target: Target) -> list[Node]:
    nodes: list[Node] = [("Id", target.id), (KINDS[target.kind], ARN_PREFIX + target.webhook)]
    nodes += [("Event", f"s3:{event}") for event in target.events]
    fixes = (("Prefix", target.prefix), ("Suffix", target.suffix))
    rules: list[Node] = [("FilterRule", [("Name", name), ("Value", value)]) for name, value in fixes if value]
    return [*nodes, ("Filter", [("S3Key", rules)])] if rules else nodes
