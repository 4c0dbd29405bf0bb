"""One order, from its names to a chain (RFC 8555, 7.4), proven by TXT records in our own zone (8.4)."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from edge.acme.faults import AcmeError
from edge.acme.jose import b64

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edge.acme.talk import Reply, Talk

PENDING: Final = frozenset({"pending", "processing"})
MAX_COMMON_NAME: Final = 64  # X.520's upper bound


class Prover(Protocol):
    """Shows TXT values to the world."""

    async def show(self, values: Mapping[str, Sequence[str]]) -> None:
        """By domain; returns once every name server that can be asked says them. Raises AcmeError."""

    async def take_away(self, domains: Sequence[str]) -> None:
        """What was shown is not needed any more."""


@dataclass(frozen=True, slots=True)
class Issued:
    """A chain, leaf first, and the leaf's key; both PEM."""

    chain: bytes
    key: bytes


async def issue(talk: Talk, prover: Prover, domains: Sequence[str]) -> Issued:
    """A certificate for `domains`. Raises AcmeError."""
    identifiers = [{"type": "dns", "value": domain} for domain in domains]
    order = await talk.post(talk.url("newOrder"), {"identifiers": identifiers})
    url = order.location
    await _prove(talk, prover, _list(order.value, "authorizations"))
    ready = await talk.until(url, PENDING)
    key = ec.generate_private_key(ec.SECP256R1())
    if ready.value.get("status") == "ready":
        await talk.post(_text(ready.value, "finalize"), {"csr": b64(_csr(key, domains))})
    done = await talk.until(url, PENDING | {"ready"})
    if done.value.get("status") != "valid":
        raise _failed(done, f"the order for {', '.join(domains)}")
    chain = (await talk.post(_text(done.value, "certificate"), None)).body
    _check(chain, key, domains)
    form = serialization.PrivateFormat.PKCS8
    return Issued(chain, key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))


async def _prove(talk: Talk, prover: Prover, urls: Sequence[str]) -> None:
    """All names at once: a wildcard and its parent are proven by two values of one name."""
    values: dict[str, list[str]] = defaultdict(list)
    waiting: list[tuple[str, str, str]] = []
    for url in urls:
        authorization = (await talk.post(url, None)).value
        if authorization.get("status") == "valid":  # proven lately, and remembered
            continue
        domain, challenge = _challenge(authorization)
        values[domain].append(talk.txt_value(_text(challenge, "token")))
        waiting.append((url, _text(challenge, "url"), domain))
    if not waiting:
        return
    try:
        await prover.show(values)
        for _, challenge_url, _ in waiting:
            await talk.post(challenge_url, {})
        for url, _, domain in waiting:
            decided = await talk.until(url, PENDING)
            if decided.value.get("status") != "valid":
                raise _failed(decided, f"the proof for {domain}")
    finally:
        await prover.take_away(tuple(values))


def _challenge(authorization: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    identifier = authorization.get("identifier")
    offered = authorization.get("challenges")
    domain = identifier.get("value") if isinstance(identifier, dict) else None
    if isinstance(domain, str) and isinstance(offered, list):
        for each in offered:
            if isinstance(each, dict) and each.get("type") == "dns-01":
                return domain, each
    raise AcmeError("malformed", f"no dns-01 for {domain}")


def _failed(reply: Reply, what: str) -> AcmeError:
    """What the CA says of it."""
    problems = [reply.value.get("error")]
    problems += [each.get("error") for each in reply.value.get("challenges", ()) if isinstance(each, dict)]
    said = [each for each in problems if isinstance(each, dict)]
    kind = str(said[0].get("type", "invalid")).rpartition(":")[2] if said else "invalid"
    text = "; ".join(str(each.get("detail", ""))[:300] for each in said)
    return AcmeError(kind, f"{what} is {reply.value.get('status')}: {text or 'the CA says no more'}")


def _csr(key: ec.EllipticCurvePrivateKey, domains: Sequence[str]) -> bytes:
    short = next((name for name in domains if len(name) <= MAX_COMMON_NAME), None)
    subject = [x509.NameAttribute(NameOID.COMMON_NAME, short)] if short is not None else []
    names = x509.SubjectAlternativeName([x509.DNSName(domain) for domain in domains])
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(subject))
    request = builder.add_extension(names, critical=False).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.DER)


def _check(chain: bytes, key: ec.EllipticCurvePrivateKey, domains: Sequence[str]) -> None:
    """What came is for our key and our names. Raises AcmeError."""
    try:
        leaf = x509.load_pem_x509_certificates(chain)[0]
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        found = set(names.get_values_for_type(x509.DNSName))
    except (ValueError, x509.ExtensionNotFound) as error:
        raise AcmeError("malformed", f"the chain cannot be read: {error}") from error
    if leaf.public_key() != key.public_key():
        raise AcmeError("malformed", "the certificate is for another key")
    if missing := set(domains) - found:
        raise AcmeError("malformed", f"the certificate is not for {', '.join(sorted(missing))}")


def _text(value: Mapping[str, Any], name: str) -> str:
    found = value.get(name)
    if not isinstance(found, str):
        raise AcmeError("malformed", f"no {name} in the CA's answer")
    return found


def _list(value: Mapping[str, Any], name: str) -> Sequence[str]:
    found = value.get(name)
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise AcmeError("malformed", f"no {name} in the CA's answer")
    return found
