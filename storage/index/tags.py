"""Tags of objects and buckets: parsed once, kept as one header line among the object's own.

Limits: https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-tagging.html
"""

from collections.abc import Mapping
from urllib.parse import parse_qsl, urlencode

from storage.fault import S3Error
from storage.http.document import Element, Node, parse
from storage.index.rows import Headers

TAGGING = "x-amz-tagging"  # the header a write sends, and the name under which the tags are kept
MAX_OBJECT_TAGS = 10
MAX_BUCKET_TAGS = 50
MAX_NAME_CHARS = 128
MAX_VALUE_CHARS = 256


def split_tags(headers: Headers) -> tuple[Headers, Headers]:
    """(the headers to give back, the tags' line or nothing)."""
    return (
        tuple(pair for pair in headers if pair[0] != TAGGING),
        tuple(pair for pair in headers if pair[0] == TAGGING),
    )


def tags_of(headers: Headers) -> dict[str, str]:
    """The tags kept among an object's headers."""
    return dict(parse_qsl(dict(headers).get(TAGGING, ""), keep_blank_values=True))


def line_of(tags: Mapping[str, str]) -> Headers:
    """Tags as they are kept; nothing for none."""
    return ((TAGGING, urlencode(tags)),) if tags else ()


def parse_header(raw: str | None) -> Headers:
    """An x-amz-tagging header as the line to keep. Raises: S3Error InvalidArgument, InvalidTag."""
    if not raw:
        return ()
    pairs = parse_qsl(raw, keep_blank_values=True)
    return line_of(_checked(pairs, MAX_OBJECT_TAGS))


def parse_tagging(data: bytes, most: int) -> dict[str, str]:
    """A Tagging document's tags. Raises: S3Error MalformedXML, InvalidTag."""
    sets = parse(data, "Tagging").all("TagSet")
    if len(sets) != 1:
        raise S3Error("MalformedXML", "Tagging has one TagSet.")
    return _checked([_pair(tag) for tag in sets[0].all("Tag")], most)


def _pair(tag: Element) -> tuple[str, str]:
    return tag.need("Key"), tag.need("Value")


def _checked(pairs: list[tuple[str, str]], most: int) -> dict[str, str]:
    if len(pairs) > most:
        raise S3Error("InvalidTag", f"Tags cannot be more than {most}.")
    if len(dict(pairs)) != len(pairs):
        raise S3Error("InvalidTag", "Cannot provide multiple Tags with the same key")
    for name, value in pairs:
        if not 0 < len(name) <= MAX_NAME_CHARS:
            raise S3Error(
                "InvalidTag", f"The TagKey you have provided is invalid: 1 to {MAX_NAME_CHARS} characters."
            )
        if len(value) > MAX_VALUE_CHARS:
            raise S3Error(
                "InvalidTag",
                f"The TagValue you have provided is invalid: up to {MAX_VALUE_CHARS} characters.",
            )
    return dict(pairs)


def tag_nodes(tags: Mapping[str, str]) -> list[Node]:
    """A Tagging document's content."""
    return [("TagSet", [("Tag", [("Key", name), ("Value", value)]) for name, value in sorted(tags.items())])]
