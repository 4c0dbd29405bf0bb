"""The same against somebody else's ACME server (acme2certifier), which `.ci/run` installs into a folder of its own."""

import asyncio
import datetime as dt
import os
import socket
import sys
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from edge.acme.run import AcmeSettings, Keeper
from edge.acme.shelf import Shelf
from edge.dns.run import DnsSettings
from edge.dns.run import run as run_dns
from tests.edge.dns.zones import APEX, settings

SERVER = os.environ.get("NEARFIELD_ACME_SERVER", "")
KEY = b"k" * 32
START_S = 60.0
CONFIG = """[DEFAULT]
debug: False
dns_server_list: ["127.0.0.1"]
[Nonce]
nonce_check_disable: False
[CAhandler]
handler_module: acme2certifier.cahandlers.openssl_ca_handler
issuing_ca_key: {folder}/ca.key
issuing_ca_cert: {folder}/ca.pem
issuing_ca_crl: {folder}/crl.pem
cert_save_path: {folder}/saved
[DBhandler]
handler: wsgi
dbfile: {folder}/acme.db
[Certificate]
[Challenge]
challenge_validation_disable: False
[Order]
"""

pytestmark = pytest.mark.skipif(
    not SERVER, reason="NEARFIELD_ACME_SERVER names no folder with acme2certifier"
)


def make_issuer(folder: Path) -> x509.Certificate:
    """What acme2certifier signs with, and its empty revocation list."""
    key = rsa.generate_private_key(65_537, 2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "issuer")])
    now = dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + dt.timedelta(days=400))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    made = builder.add_extension(identifier, critical=False).sign(key, hashes.SHA256())
    lists = x509.CertificateRevocationListBuilder().issuer_name(name).last_update(now)
    revoked = lists.next_update(now + dt.timedelta(days=30)).sign(key, hashes.SHA256())
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL
    (folder / "ca.key").write_bytes(key.private_bytes(pem, form, serialization.NoEncryption()))
    (folder / "ca.pem").write_bytes(made.public_bytes(pem))
    (folder / "crl.pem").write_bytes(revoked.public_bytes(pem))
    return made


def free_port(kind: socket.SocketKind) -> int:
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@pytest.fixture
async def name_server():
    """(its port, its feed)."""
    feed, stop = ("127.0.0.1", free_port(socket.SOCK_DGRAM)), asyncio.Event()
    ready = asyncio.get_running_loop().create_future()
    server = DnsSettings(settings(), (("127.0.0.1", 0),), feed, 1e6, KEY)
    serving = asyncio.ensure_future(run_dns(server, ready.set_result, stop))
    await asyncio.wait([ready, serving], return_when=asyncio.FIRST_COMPLETED)
    yield ready.result(), feed
    stop.set()
    await serving


@pytest.fixture
async def ca(tmp_path, certificate, name_server):
    """(directory, what signs, what signed the directory's own certificate)."""
    folder = tmp_path / "ca"
    (folder / "saved").mkdir(parents=True)
    issuer = make_issuer(folder)
    (folder / "acme_srv.cfg").write_text(CONFIG.format(folder=folder))
    port = free_port(socket.SOCK_STREAM)
    environment = os.environ | {"ACME_SRV_CONFIGFILE": str(folder / "acme_srv.cfg"), "PYTHONPATH": SERVER}
    script = Path(__file__).with_name("real_server.py")
    command = [sys.executable, str(script), str(port), str(name_server[0]), *map(str, certificate[:2])]
    with (folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=log, env=environment, cwd=folder
        )
    line = await asyncio.wait_for(process.stdout.readline(), START_S)
    assert line == b"ready\n", (folder / "log").read_text()[-2000:]
    yield f"https://127.0.0.1:{port}/directory", issuer, certificate[2]
    process.terminate()
    await process.wait()


async def test_somebody_elses_server_issues_and_our_name_server_proves(tmp_path, ca, name_server):
    """A wildcard beside its parent, and a single name: two orders of one account."""
    directory, issuer, trust = ca
    port, feed = name_server
    orders = {"wild": (f"*.api.{APEX}", f"api.{APEX}"), "one": (f"stream.{APEX}",)}
    made = AcmeSettings(
        directory,
        ("mailto:ops@example.com",),
        True,
        trust,
        tmp_path / "state",
        tmp_path / "certificates",
        orders,
        APEX,
        (feed,),
        (("127.0.0.1", port),),
        KEY,
    )
    shelf = Shelf(made.state, made.certificates)
    keeper = Keeper(made, shelf, shelf.open())
    num = await keeper.look()
    shelf.close()

    assert num == 2, [shelf.trouble(name) for name in orders]
    for name, domains in orders.items():
        chain = x509.load_pem_x509_certificates((made.certificates / name / "chain.pem").read_bytes())
        chain[0].verify_directly_issued_by(issuer)
        assert shelf.held(name).domains == set(domains)
