"""PostObject: a browser's form with a file in it. Its policy is the signature; the file streams, as in PutObject.

What the form says becomes the head of a PutObject, so that rights, metadata, tags, checksums and all that is refused
are decided where they always are.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from urllib.parse import quote, urlencode, urlsplit

from storage.auth.postpolicy import ANYTHING, Policy, parse_policy, verify_form
from storage.authority import authorise
from storage.fault import S3Error
from storage.http.bodyplan import MAX_PUT_BYTES, plan_body
from storage.http.document import write
from storage.http.form import Event, Field, FileBegins, FormParser, boundary_of
from storage.http.reply import XML, Reply
from storage.http.request import S3Request, parse_path, read_request
from storage.index.changes import POSTED
from storage.index.reads import demand_bucket
from storage.index.rows import ObjectRow
from storage.index.tags import MAX_OBJECT_TAGS, TAGGING, line_of, parse_tagging
from storage.operations.asked import CONTENT_HEADERS
from storage.operations.objects import put_body
from storage.operations.shown import checksum_headers, version_headers
from storage.store import Store
from wire.http.http1 import Headers, RequestHead
from wire.serve import Exchange

FILE_NAME = "${filename}"
HEADERS = frozenset({*CONTENT_HEADERS, "content-md5"})
# Fields that say x-amz- and are of the signature, not of the object.
SIGNATURE = frozenset(
    {"x-amz-algorithm", "x-amz-credential", "x-amz-date", "x-amz-signature", "x-amz-security-token"}
)
STATUSES = {"200": 200, "201": 201, "204": 204}
DEFAULT_STATUS = 204


def is_form(head: RequestHead) -> bool:
    """True for a form that is sent to a bucket; it is signed by nothing but its policy."""
    unsigned = head.get("authorization") is None and not head.query
    return head.method == "POST" and unsigned and boundary_of(head.get("content-type")) is not None


async def refuse(store: Store, exchange: Exchange, request: S3Request) -> Reply:
    """PostObject of something else than a form. Raises: S3Error PreconditionFailed."""
    del store, exchange, request
    condition = "Bucket POST must be of the enclosure-type multipart/form-data"
    message = "At least one of the pre-conditions you specified did not hold"
    raise S3Error("PreconditionFailed", message, Condition=condition)


@dataclass(slots=True)
class Form:
    """A form that is being read: its fields, once `read_fields` has returned; then its file, once."""

    exchange: Exchange
    parser: FormParser
    fields: dict[str, str] = field(default_factory=dict)
    _taken_bytes: int = 0
    _ahead: list[Event] = field(default_factory=list)

    async def read_fields(self) -> None:
        """Read up to the file. Raises: S3Error, wire's Refusal and Disconnected."""
        async for piece in self.exchange.body():
            self._taken_bytes += len(piece)
            events = self.parser.receive(piece)
            for at, event in enumerate(events):
                if isinstance(event, FileBegins):
                    self._ahead = events[at + 1 :]
                    self._name_file(event.name)
                    return
                self._keep(event)
        raise S3Error(
            "InvalidArgument", "POST requires exactly one file upload per request.", ArgumentName="file"
        )

    @property
    def peer_is_ahead(self) -> bool:
        """Never said: the file is cut out of the form as the pieces come."""
        return False

    async def read_ahead(self, pool: Executor, take: Callable[[memoryview], None]) -> None:
        """Nothing, since nobody is ahead."""

    async def body(self) -> AsyncIterator[bytes]:
        """The file. Raises: S3Error, wire's Refusal and Disconnected."""
        for event in self._ahead:
            if isinstance(event, bytes):
                yield event
        async for piece in self.exchange.body():
            for event in self.parser.receive(piece):
                if isinstance(event, bytes):
                    yield event
        if not self.parser.ended:
            raise S3Error("IncompleteBody", "The form ends before its closing boundary.")

    @property
    def most_bytes(self) -> int:
        """The file is not longer than what is left of the request."""
        ahead = sum(len(event) for event in self._ahead if isinstance(event, bytes))
        left = (self.exchange.head.content_length or 0) - self._taken_bytes
        return ahead + self.parser.held_bytes + left

    def _keep(self, event: Event) -> None:
        if not isinstance(event, Field):
            return
        if event.name in self.fields:
            raise S3Error("InvalidArgument", f"The form has the field {event.name} twice.")
        self.fields[event.name] = event.value

    def _name_file(self, name: str) -> None:
        for each, value in self.fields.items():
            self.fields[each] = value.replace(FILE_NAME, name)


async def receive_form(store: Store, exchange: Exchange, head: RequestHead) -> Reply:
    """PostObject: nothing of the file is taken before the policy is signed, and allows the fields.

    `head` has a path-style path, whatever was sent.
    """
    bucket, key = parse_path(head.path)
    boundary = boundary_of(head.get("content-type"))
    if bucket is None or key is not None or boundary is None:
        raise S3Error("MethodNotAllowed", "A form is sent to a bucket.")
    if head.content_length is None:
        raise S3Error("MissingContentLength", "You must provide the Content-Length HTTP header.")
    form = Form(exchange, FormParser(boundary))
    await form.read_fields()
    now = store.clock()
    verified = verify_form(store.verifier, form.fields, now)
    policy = ANYTHING if verified.identity.anonymous else parse_policy(form.fields["policy"])
    if not verified.identity.anonymous:
        policy.check(form.fields, bucket, now)
    request = authorise(store, read_request(_as_put(head, bucket, form), verified, exchange.peer))
    demand_bucket(store.index.reader(), bucket)
    done = await _store_file(store, form, request, policy)
    return _answer(store, exchange.head, form.fields, done)


async def _store_file(store: Store, form: Form, request: S3Request, policy: Policy) -> ObjectRow:
    most = MAX_PUT_BYTES if policy.most_bytes is None else min(policy.most_bytes, MAX_PUT_BYTES)
    plan = plan_body(request, form.most_bytes)
    plan = replace(plan, size=min(plan.size, most), least=policy.least_bytes or 0)
    return await put_body(store, form, request, plan, POSTED)


def _as_put(head: RequestHead, bucket: str, form: Form) -> RequestHead:
    """The head of the PutObject that the form stands for. Raises: S3Error InvalidArgument."""
    key = form.fields.get("key")
    if not key:
        message = "Bucket POST must contain a field named 'key'."
        raise S3Error("InvalidArgument", message, ArgumentName="key")
    path = f"/{bucket}/{quote(key, safe='/')}"
    headers = (("content-length", str(form.most_bytes)), *_headers_of(form.fields))
    return head.with_headers(headers)._replace(method="PUT", target=path, path=path)


def _headers_of(fields: Mapping[str, str]) -> Headers:
    named = {name: value for name, value in fields.items() if _is_header(name)}
    if "acl" in fields:
        named["x-amz-acl"] = fields["acl"]
    for name, value in named.items():
        if not (name + value).isascii() or not value.isprintable():
            raise S3Error("InvalidArgument", "This field must be printable ASCII.", ArgumentName=name)
    if "tagging" in fields:
        named |= line_of(parse_tagging(fields["tagging"].encode(), MAX_OBJECT_TAGS))
    return tuple(named.items())


def _is_header(name: str) -> bool:
    return name in HEADERS or (name.startswith("x-amz-") and name not in SIGNATURE and name != TAGGING)


def _answer(store: Store, head: RequestHead, fields: Mapping[str, str], done: ObjectRow) -> Reply:
    location = f"http://{head.get('host') or ''}{head.path.rstrip('/')}/{quote(done.key, safe='/')}"
    shown = (
        ("etag", f'"{done.etag}"'),
        ("location", location),
        *version_headers(store, done),
        *checksum_headers(done.checksum),
    )
    target = fields.get("success_action_redirect") or fields.get("redirect")
    if target and _is_web_address(target):
        named = urlencode({"bucket": done.bucket, "key": done.key, "etag": f'"{done.etag}"'})
        joint = "&" if urlsplit(target).query else "?"
        return Reply(
            303, (*(pair for pair in shown if pair[0] != "location"), ("location", target + joint + named))
        )
    status = STATUSES.get(fields.get("success_action_status", ""), DEFAULT_STATUS)
    if status != 201:
        return Reply(status, shown)
    nodes = [("Location", location), ("Bucket", done.bucket), ("Key", done.key), ("ETag", f'"{done.etag}"')]
    return Reply(201, XML + shown, write("PostResponse", nodes, namespace=False))


def _is_web_address(text: str) -> bool:
    """What is none is as if it had not been said, as in S3; a line end would split the answer's head."""
    if not (text.isascii() and text.isprintable()) or " " in text:
        return False
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(parts.netloc)
