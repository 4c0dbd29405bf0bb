"""A small, strict certificate authority that speaks RFC 8555 and really asks the DNS; it forgives nothing."""

import base64
import datetime as dt
import hashlib
import hmac
import itertools
import json
import secrets

import dns.asyncquery
import dns.message
import dns.rdatatype
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.x509.oid import NameOID

from wire.secured.tls import server_context
from wire.serve import Server

URN = "urn:ietf:params:acme:error:"
JSON = (("content-type", "application/json"),)


def unb64(text: str) -> bytes:
    assert "=" not in text
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


class Problem(Exception):
    def __init__(self, status, kind, detail, headers=()):
        super().__init__(detail)
        self.status, self.kind, self.detail, self.headers = status, kind, detail, headers


class FakeCa:
    """`problems`: raised by the next requests to a path's first word; `aliases`: CNAMEs of other people's zones."""

    def __init__(self, certificate, resolver, *, life=dt.timedelta(days=90)):
        cert, key, self.ca = certificate
        self._tls = server_context(cert, key)
        self._dns = resolver
        self._life = life
        self._nonces, self._accounts, self._keys = set(), {}, {}
        self.orders, self.authorizations, self.certificates = {}, {}, {}
        self._number = itertools.count(1)
        self._issuer = ec.generate_private_key(ec.SECP256R1())
        self.problems = []
        self.aliases = {}
        self.asked, self.contacts = [], []
        self.processing_polls = 1

    async def start(self):
        self._server = await Server.start(self._serve, "127.0.0.1", 0, tls=self._tls)
        self.url = f"https://127.0.0.1:{self._server.port}"
        return self

    async def stop(self):
        await self._server.close()

    # HTTP --------------------------------------------------------------------------------------------------

    async def _serve(self, exchange):
        head = exchange.head
        body = await exchange.read_body(100_000)
        kind, _, name = head.path.lstrip("/").partition("/")
        self.asked.append((head.method, kind))
        nonce = secrets.token_urlsafe(12)
        self._nonces.add(nonce)
        own = (("replay-nonce", nonce), ("cache-control", "no-store"))
        try:
            for problem in [each for each in self.problems if each[0] == kind][:1]:
                self.problems.remove(problem)
                raise problem[1]
            status, headers, value = await self._answer(head, kind, name, body)
        except Problem as problem:
            said = {"type": URN + problem.kind, "detail": problem.detail, "status": problem.status}
            headers = (("content-type", "application/problem+json"), *problem.headers, *own)
            await exchange.respond(problem.status, headers, json.dumps(said).encode())
            return
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        await exchange.respond(status, (*headers, *own), data)

    async def _answer(self, head, kind, name, body):
        if kind == "directory":
            names = ("newNonce", "newAccount", "newOrder")
            return 200, JSON, {each: f"{self.url}/{each}" for each in names}
        if kind == "newNonce":
            assert head.method == "HEAD"
            return 200, (), b""
        if head.method != "POST":
            raise Problem(405, "malformed", "POST only")
        payload, account = self._verify(head, kind, body)
        return await getattr(self, f"_{kind}")(name, payload, account)

    def _verify(self, head, kind, body):
        """Section 6.2 to 6.5, each rule of it."""
        if dict(head.headers).get("content-type") != "application/jose+json":
            raise Problem(415, "malformed", "content-type")
        jws = json.loads(body)
        if set(jws) != {"protected", "payload", "signature"}:
            raise Problem(400, "malformed", "a flattened JWS and nothing else")
        protected = json.loads(unb64(jws["protected"]))
        if protected["alg"] != "ES256":
            raise Problem(400, "badSignatureAlgorithm", protected["alg"])
        if protected["nonce"] not in self._nonces:
            raise Problem(400, "badNonce", "not ours, or used")
        self._nonces.remove(protected["nonce"])
        if protected["url"] != self.url + head.path:
            raise Problem(403, "unauthorized", "signed for another URL")
        if ("jwk" in protected) == ("kid" in protected) or ("jwk" in protected) != (kind == "newAccount"):
            raise Problem(400, "malformed", "jwk for a new account, kid for everything else")
        if "kid" in protected and protected["kid"] not in self._accounts:
            raise Problem(400, "accountDoesNotExist", protected["kid"])
        jwk = protected.get("jwk") or self._accounts[protected["kid"]]
        self._check_signature(jwk, jws)
        payload = json.loads(unb64(jws["payload"])) if jws["payload"] else None
        return payload, protected.get("kid") or jwk

    def _check_signature(self, jwk, jws):
        numbers = [int.from_bytes(unb64(jwk[each])) for each in ("x", "y")]
        public = ec.EllipticCurvePublicNumbers(*numbers, ec.SECP256R1()).public_key()
        signature = unb64(jws["signature"])
        if len(signature) != 64:
            raise Problem(400, "malformed", "r and s are 32 bytes each")
        der = encode_dss_signature(int.from_bytes(signature[:32]), int.from_bytes(signature[32:]))
        try:
            public.verify(der, f"{jws['protected']}.{jws['payload']}".encode(), ec.ECDSA(hashes.SHA256()))
        except InvalidSignature as error:
            raise Problem(400, "malformed", "a wrong signature") from error

    # objects -----------------------------------------------------------------------------------------------

    async def _newAccount(self, _name, payload, jwk):  # noqa: N802 - the directory's own words
        if not payload.get("termsOfServiceAgreed"):
            raise Problem(403, "userActionRequired", "agree to the terms")
        thumbprint = hashlib.sha256(json.dumps(jwk, sort_keys=True, separators=(",", ":")).encode()).digest()
        known = thumbprint in self._keys
        url = self._keys.setdefault(thumbprint, f"{self.url}/account/{len(self._keys)}")
        self._accounts[url] = jwk
        self.contacts = payload.get("contact", [])
        return (200 if known else 201), (*JSON, ("location", url)), {"status": "valid"}

    async def _newOrder(self, _name, payload, account):  # noqa: N802
        domains = [each["value"] for each in payload["identifiers"]]
        assert all(each["type"] == "dns" for each in payload["identifiers"])
        number = str(next(self._number))
        names = [f"{number}-{at}" for at in range(len(domains))]
        for name, domain in zip(names, domains, strict=True):
            self.authorizations[name] = {
                "domain": domain.removeprefix("*."),
                "wildcard": domain.startswith("*."),
                "token": secrets.token_urlsafe(16),
                "status": "pending",
                "account": account,
                "error": None,
            }
        self.orders[number] = {
            "domains": domains,
            "names": names,
            "account": account,
            "certificate": None,
            "polls": 0,
        }
        return 201, (*JSON, ("location", f"{self.url}/order/{number}")), self._order_value(number)

    def _order_value(self, number):
        order = self.orders[number]
        states = {self.authorizations[each]["status"] for each in order["names"]}
        status = "invalid" if "invalid" in states else "ready" if states == {"valid"} else "pending"
        if order["certificate"]:
            order["polls"] += 1
            status = "valid" if order["polls"] > self.processing_polls else "processing"
        value = {
            "status": status,
            "identifiers": [{"type": "dns", "value": each} for each in order["domains"]],
            "authorizations": [f"{self.url}/authz/{each}" for each in order["names"]],
            "finalize": f"{self.url}/finalize/{number}",
        }
        if status == "valid":
            value["certificate"] = f"{self.url}/certificate/{order['certificate']}"
        return value

    async def _order(self, number, payload, account):
        self._post_as_get(payload, self.orders[number]["account"], account)
        return 200, (*JSON, ("retry-after", "0")), self._order_value(number)

    def _post_as_get(self, payload, owner, account):
        if payload is not None:
            raise Problem(400, "malformed", "POST-as-GET has an empty payload")
        if owner != account:
            raise Problem(403, "unauthorized", "another account's")

    def _challenge_value(self, name, kind):
        authorization = self.authorizations[name]
        value = {"type": kind, "url": f"{self.url}/challenge/{name}", "token": authorization["token"]}
        value["status"] = authorization["status"]
        return value | ({"error": authorization["error"]} if authorization["error"] else {})

    async def _authz(self, name, payload, account):
        authorization = self.authorizations[name]
        self._post_as_get(payload, authorization["account"], account)
        kinds = ("dns-01",) if authorization["wildcard"] else ("http-01", "dns-01", "tls-alpn-01")
        value = {
            "status": authorization["status"],
            "identifier": {"type": "dns", "value": authorization["domain"]},
            "challenges": [self._challenge_value(name, kind) for kind in kinds],
        }
        return 200, (*JSON, ("retry-after", "0")), value

    async def _challenge(self, name, payload, account):
        authorization = self.authorizations[name]
        if payload != {} or authorization["account"] != account:
            raise Problem(400, "malformed", "the answer to a challenge is {}")
        jwk = self._accounts[account]
        thumbprint = hashlib.sha256(json.dumps(jwk, sort_keys=True, separators=(",", ":")).encode()).digest()
        text = f"{authorization['token']}.{base64.urlsafe_b64encode(thumbprint).rstrip(b'=').decode()}"
        wanted = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=")
        found = await self._txt(f"_acme-challenge.{authorization['domain']}")
        if any(hmac.compare_digest(wanted, each) for each in found):
            authorization["status"] = "valid"
        else:
            authorization["status"] = "invalid"
            authorization["error"] = {
                "type": URN + "unauthorized",
                "detail": f"TXT has {len(found)} other values",
            }
        return 200, JSON, self._challenge_value(name, "dns-01")

    async def _txt(self, name):
        name = self.aliases.get(name, name)
        reply = await dns.asyncquery.tcp(dns.message.make_query(name, "TXT"), self._dns[0], 20, self._dns[1])
        return [
            b"".join(each.strings)
            for rrset in reply.answer
            if rrset.rdtype == dns.rdatatype.TXT
            for each in rrset
        ]

    async def _finalize(self, number, payload, account):
        order = self.orders[number]
        if order["account"] != account or self._order_value(number)["status"] != "ready":
            raise Problem(403, "orderNotReady", "prove every name first")
        request = x509.load_der_x509_csr(unb64(payload["csr"]))
        names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        if not request.is_signature_valid or sorted(names.get_values_for_type(x509.DNSName)) != sorted(
            order["domains"]
        ):
            raise Problem(400, "badCSR", "signature or names")
        order["certificate"] = secrets.token_urlsafe(8)
        self.certificates[order["certificate"]] = (self._sign(request, names), account)
        return 200, JSON, self._order_value(number)

    def _sign(self, request, names):
        now = dt.datetime.now(dt.UTC)
        issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fake")])
        builder = x509.CertificateBuilder().issuer_name(issuer).subject_name(request.subject)
        builder = builder.public_key(request.public_key()).serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now).not_valid_after(now + self._life)
        leaf = builder.add_extension(names, critical=False).sign(self._issuer, hashes.SHA256())
        return leaf.public_bytes(serialization.Encoding.PEM)

    async def _certificate(self, name, payload, account):
        pem, owner = self.certificates[name]
        self._post_as_get(payload, owner, account)
        return 200, (("content-type", "application/pem-certificate-chain"),), pem
