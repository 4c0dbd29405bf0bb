"""Cross-origin rules: which pages of other origins may use a bucket from a browser. The rules are pure.

Source of the rules: https://docs.aws.amazon.com/AmazonS3/latest/userguide/ManageCorsUsing.html
"""

import re
from dataclasses import dataclass

from storage.fault import S3Error
from storage.http.document import Element, parse
from storage.http.reply import Reply
from storage.http.request import parse_path
from storage.index.rows import Headers
from storage.index.settings import find_setting
from storage.operations.documents import Kind
from storage.store import Store
from wire.http.http1 import RequestHead

MAX_RULES = 100  # S3's limit for one bucket
_ASKED = (("origin", "Origin"), ("access-control-request-method", "Access-Control-Request-Method"))
METHODS = frozenset({"GET", "PUT", "POST", "DELETE", "HEAD"})


@dataclass(frozen=True, slots=True)
class Rule:
    """One CORSRule; patterns hold at most one `*`."""

    origins: tuple[str, ...]
    methods: tuple[str, ...]
    headers: tuple[str, ...]
    exposed: tuple[str, ...]
    max_age_s: str | None

    def allows(self, origin: str, method: str, headers: tuple[str, ...]) -> bool:
        """True if a page of `origin` may send `method` with these lower-case header names."""
        named = any(_matches(pattern, origin) for pattern in self.origins)
        lowered = [pattern.lower() for pattern in self.headers]
        return (
            named
            and method in self.methods
            and all(any(_matches(pattern, header) for pattern in lowered) for header in headers)
        )

    def answer(self, origin: str, headers: tuple[str, ...]) -> Headers:
        """The headers that tell the browser so."""
        everybody = "*" in self.origins
        lines = [
            ("access-control-allow-origin", "*" if everybody else origin),
            ("access-control-allow-methods", ", ".join(self.methods)),
            ("vary", "Origin, Access-Control-Request-Headers, Access-Control-Request-Method"),
        ]
        if not everybody:
            lines.append(("access-control-allow-credentials", "true"))
        if headers:
            lines.append(("access-control-allow-headers", ", ".join(headers)))
        if self.exposed:
            lines.append(("access-control-expose-headers", ", ".join(self.exposed)))
        if self.max_age_s is not None:
            lines.append(("access-control-max-age", self.max_age_s))
        return tuple(lines)


def _matches(pattern: str, value: str) -> bool:
    return re.fullmatch(re.escape(pattern).replace(r"\*", ".*"), value, re.DOTALL) is not None


def rules_of(root: Element) -> tuple[Rule, ...]:
    """Raises: S3Error MalformedXML, InvalidRequest."""
    rules = tuple(_rule(element) for element in root.all("CORSRule"))
    if not 0 < len(rules) <= MAX_RULES:
        raise S3Error("MalformedXML", f"CORSConfiguration has 1 to {MAX_RULES} rules.")
    return rules


def _rule(element: Element) -> Rule:
    def texts(name: str) -> tuple[str, ...]:
        return tuple(child.text.strip() for child in element.all(name))

    rule = Rule(
        texts("AllowedOrigin"),
        texts("AllowedMethod"),
        texts("AllowedHeader"),
        texts("ExposeHeader"),
        element.value("MaxAgeSeconds"),
    )
    if not rule.origins or not rule.methods:
        raise S3Error("MalformedXML", "A CORSRule has an AllowedOrigin and an AllowedMethod.")
    if not METHODS.issuperset(rule.methods):
        raise S3Error("InvalidRequest", "Found unsupported HTTP method in CORS config.")
    if any(pattern.count("*") > 1 for pattern in (*rule.origins, *rule.headers)):
        raise S3Error("InvalidRequest", "A pattern can not have more than one wildcard.")
    if rule.max_age_s is not None and not (rule.max_age_s.isascii() and rule.max_age_s.isdigit()):
        raise S3Error("MalformedXML", "MaxAgeSeconds is a number.")
    if not "".join((*rule.exposed, *rule.methods)).isascii():
        raise S3Error("InvalidRequest", "Header names are ASCII.")
    return rule


def _check(root: Element) -> None:
    rules_of(root)


CORS = Kind("CORS", "CORSConfiguration", "NoSuchCORSConfiguration", _check)


def allowed(document: str | None, origin: str, method: str, headers: tuple[str, ...] = ()) -> Headers | None:
    """The answer of the first rule that allows it; None if none does."""
    if document is None:
        return None
    rules = rules_of(parse(document.encode(), CORS.root))
    found = next((rule for rule in rules if rule.allows(origin, method, headers)), None)
    return None if found is None else found.answer(origin, headers)


def is_preflight(head: RequestHead) -> bool:
    """True for a browser's question before a request; it is never signed, and S3 has no other OPTIONS."""
    return head.method == "OPTIONS"


def preflight(store: Store, head: RequestHead) -> Reply:
    """What a bucket's rules say to a browser's question. Raises: S3Error BadRequest, AccessForbidden."""
    for name, title in _ASKED:
        if head.get(name) is None:
            raise S3Error("BadRequest", f"Insufficient information. {title} request header needed.")
    names = (head.get("access-control-request-headers") or "").lower().split(",")
    headers = tuple(name.strip() for name in names if name.strip())
    method = head.get("access-control-request-method") or ""
    found = allowed(_document(store, head), head.get("origin") or "", method, headers)
    if found is None:
        raise S3Error("AccessForbidden", "CORSResponse: This CORS request is not allowed.")
    return Reply(200, found)


def answer_headers(store: Store, head: RequestHead) -> Headers:
    """What an answer to a page of another origin carries, errors too."""
    origin = head.get("origin")
    if origin is None or is_preflight(head):
        return ()
    method = head.get("access-control-request-method") or head.method
    return allowed(_document(store, head), origin, method) or ()


def _document(store: Store, head: RequestHead) -> str | None:
    try:
        bucket, _ = parse_path(head.path)
    except S3Error:
        return None  # the answer itself will say what is wrong with the path
    return None if bucket is None else find_setting(store.index.reader(), bucket, CORS.name)
