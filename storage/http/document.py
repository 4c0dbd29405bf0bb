"""S3's XML, both ways: a bounded parser that knows neither entities nor document types, and a writer.

Source of the shapes: https://docs.aws.amazon.com/AmazonS3/latest/API/API_Operations_Amazon_Simple_Storage_Service.html
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from xml.parsers import expat
from xml.sax.saxutils import escape

from storage.fault import S3Error

NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
MAX_DEPTH = 8  # CompleteMultipartUpload needs 3
MAX_ELEMENTS = 90_000  # 10,000 parts with two fields and all five checksums
MAX_DOCUMENT_BYTES = 8 * 1024 * 1024  # 1,000 keys of 1,024 bytes, all escaped, and 10,000 parts, both fit

Node = tuple[str, "str | Iterable[Node]"]


@dataclass(slots=True)
class Element:
    """One parsed element; namespaces are dropped."""

    name: str
    text: str = ""
    children: list["Element"] = field(default_factory=list)

    def all(self, name: str) -> list["Element"]:
        """The children of that name, in order."""
        return [child for child in self.children if child.name == name]

    def value(self, name: str) -> str | None:
        """The text of the only child of that name. Raises: S3Error MalformedXML if there are several."""
        found = self.all(name)
        if len(found) > 1:
            raise _malformed()
        return found[0].text.strip() if found else None

    def exact(self, name: str) -> str:
        """The same to the last blank, for keys: `a` and `a ` are two objects. Raises: S3Error MalformedXML."""
        found = self.all(name)
        if len(found) != 1:
            raise _malformed()
        return found[0].text

    def need(self, name: str) -> str:
        """The text of the only child of that name. Raises: S3Error MalformedXML."""
        text = self.value(name)
        if text is None:
            raise _malformed()
        return text


class _Builder:
    """Expat's events to elements, within bounds."""

    def __init__(self) -> None:
        self.root = Element("")
        self._open = [self.root]
        self._num_elements = 0

    def start(self, name: str, _: object) -> None:
        self._num_elements += 1
        if len(self._open) > MAX_DEPTH or self._num_elements > MAX_ELEMENTS:
            raise _malformed()
        element = Element(name.rpartition(" ")[2])
        self._open[-1].children.append(element)
        self._open.append(element)

    def end(self, _: str) -> None:
        self._open.pop()

    def text(self, text: str) -> None:
        self._open[-1].text += text

    def refuse(self, *_: object) -> None:
        raise _malformed()


def parse(data: bytes, name: str) -> Element:
    """The root element, which must be called `name`. Raises: S3Error MalformedXML."""
    builder = _Builder()
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.text
    parser.StartDoctypeDeclHandler = builder.refuse  # no document type, hence no entity of anybody's making
    parser.EntityDeclHandler = builder.refuse
    parser.ProcessingInstructionHandler = builder.refuse
    try:
        parser.Parse(data, True)
    except (expat.ExpatError, ValueError) as error:
        raise _malformed() from error
    root = builder.root.children[0]
    if root.name != name:
        raise _malformed()
    return root


def _malformed() -> S3Error:
    return S3Error(
        "MalformedXML",
        "The XML you provided was not well-formed or did not validate against our published schema",
    )


def write(root: str, children: Iterable[Node], *, text: str = "", namespace: bool = True) -> bytes:
    """A document of `children`, or of `text` alone."""
    parts = [
        '<?xml version="1.0" encoding="UTF-8"?>\n<',
        root,
        f' xmlns="{NAMESPACE}">' if namespace else ">",
    ]
    parts.append(escape_text(text))
    _write_children(children, parts)
    parts.append(f"</{root}>")
    return "".join(parts).encode()


def _write_children(children: Iterable[Node], parts: list[str]) -> None:
    for name, content in children:
        parts.append(f"<{name}>")
        if isinstance(content, str):
            parts.append(escape_text(content))
        else:
            _write_children(content, parts)
        parts.append(f"</{name}>")


def escape_text(text: str) -> str:
    """Text for XML. Control characters become references, as S3 writes them; encoding-type=url avoids it."""
    escaped = escape(text, {'"': "&quot;"})
    if escaped.isprintable():
        return escaped
    return "".join(char if char >= " " else f"&#x{ord(char):x};" for char in escaped)


def error_document(error: S3Error, resource: str, request_id: str) -> bytes:
    """The body of an error answer."""
    nodes: list[Node] = [("Code", error.code), ("Message", error.message)]
    nodes += error.details.items()
    nodes += [("Resource", resource), ("RequestId", request_id)]
    return write("Error", nodes, namespace=False)
