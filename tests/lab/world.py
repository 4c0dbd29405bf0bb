"""Our real roles on the lab's network: edges and gates on the POPs, store and gateway in the regions.

The one stand-in is each region's node, see standin.py. Every role is a process of its own, made from one TOML.
"""

import datetime as dt
import json
import shutil
import sys
import time

from deploy import fleet
from deploy.config.read import load
from deploy.roles.bootstrap import bootstrap
from deploy.roles.runner import endpoint
from deploy.trust import pki, secrets
from regions.push.manifest import Manifest, ManifestFile
from regions.rows import SLOW_START_S
from storage.client.sdk import S3
from tests.lab.clients import body, reply
from tests.lab.network import (
    PLACES,
    VIP,
    Network,
    by_rtt,
    client_net,
    pop_address,
    region_address,
    until,
)
from tests.lab.places import Place
from tests.regions.folders import whole
from wire.dial import DialError, Pool
from wire.secured.tls import client_context

HOME = "us"
MODEL = "acme/chat"
FAR, ASIAN = "acme/far", "acme/asian"  # each of one region alone
MODELS = {MODEL: PLACES, FAR: ("us",), ASIAN: ("ap",)}
PORT, ADMIN_PORT, GATEWAY_PORT = 443, 8445, 8000
NODE = "127.0.0.1:7000"
LOAD_S = 0.5
TTL_S = 2


def _table(name, values):
    return f"\n[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())


def render(folder, authority):
    """One TOML for the whole fleet; hosts differ in nothing but the role they run."""
    text = _table("platform", {"home": HOME, "secrets": "secrets", "quiet_s": 0.2})
    for grants in (fleet.SYSTEM_GRANTS, fleet.NODE_GRANTS, fleet.USER_GRANTS):
        text += _table("[access_keys]", {"id": secrets.new_access_key_id(), "grants": list(grants)})
    for place in PLACES:
        host = region_address(place)
        key = secrets.make_signing_key(folder / "secrets", place)
        region = {
            "gateway": f"{host}:{GATEWAY_PORT}",
            "store": f"http://{host}:9000",
            "nodes": [NODE],
            "public_key": key,
        }
        text += _table(f"regions.{place}", region)
        text += _table(f"stores.{place}", {"listen": f"{host}:9000", "root": f"store-{place}"})
        edge = {
            "listen": f"{pop_address(place)}:{PORT}",
            "anycast": f"{VIP}:{PORT}",
            "admin": f"{pop_address(place)}:{ADMIN_PORT}",
            "unicast": f"{place}.api.lab:{PORT}",
            "cert": str(authority.cert),
            "key": str(authority.key),
            "state": f"edge-{place}",
        }
        text += _table(f"edges.{place}", edge)
        gate = {
            "ca": str(authority.ca),
            "server_name": f"{place}.api.lab",
            "drain": f"drain-{place}",
            "drain_s": 5.0,
            "bird": f"pop-{place}.ctl",
        }
        text += _table(f"anycast.{place}", gate)
    name_server = pop_address(HOME)
    text += _table("dns", {"zone": "lab", "ttl_s": TTL_S, "anycast": [VIP]})
    text += _table("dns.servers.ns1", {"listen": [f"{name_server}:53"], "feed": f"{name_server}:5300"})
    for place in PLACES:
        near = {
            "addresses": [pop_address(place)],
            "near": [client_net(place)],
            "then": list(by_rtt(place))[1:],
        }
        text += _table(f"dns.pops.{place}", near)
    return text


class Lab:
    """The whole of it. `clients` are places by name; `edge`, `gate`, ... are processes by place."""

    def __init__(self, folder):
        self.has_starts = False  # a region's models became resident under the edges' eyes
        self.folder = folder
        self.network = Network(folder)
        self.edge, self.gate, self.store, self.region, self.node = {}, {}, {}, {}, {}
        self.clients = {place: Place(self.network.spaces[f"c-{place}"]) for place in PLACES}
        self.inside = {place: Place(self.network.spaces[f"r-{place}"]) for place in PLACES}
        names = [f"{place}.api.lab" for place in PLACES] + ["api.lab"]
        addresses = [VIP, *(pop_address(place) for place in PLACES)]
        self.authority = pki.ensure(folder / "tls", dt.datetime.now(dt.UTC), tuple(names), tuple(addresses))
        self.tls = client_context(self.authority.ca)
        root = secrets.make_root_key(folder / "secrets")
        self.hop_token = secrets.hop_token(root)
        self.config = folder / "nearfield.toml"
        self.config.write_text(render(folder, self.authority))

    def start(self):
        self.network.start()
        for place in PLACES:
            self.store[place] = self.role("r", "store", place)
        for process in self.store.values():
            _ready(process)
        self.credentials = self.inside[HOME].do(bootstrap(load(self.config), self.folder))
        for place in PLACES:
            self.start_node(place)
            self.region[place] = self.role("r", "region", place)
        for process in self.region.values():
            _ready(process)
        for place in PLACES:  # after the regions: one that was seen to come up gets few requests at first
            self.edge[place] = self.role("pop", "edge", place)
            self.gate[place] = self.role("pop", "anycast", place)
        self.dns = self.role("pop", "dns", HOME, "ns1")
        for process in (*self.edge.values(), *self.gate.values(), self.dns):
            _ready(process)
        for model, regions in MODELS.items():
            self.inside[HOME].do(self._push(model, whole(), regions))
        for place in PLACES:
            for model, regions in MODELS.items():
                live = lambda place=place, model=model, regions=regions: self.serves(place, model, regions)  # noqa: E731
                until(live, 60, f"{place} hears of {model}")
            until(lambda place=place: self.network.path_to_vip(place) == place, 30, f"{place} announces")

    def role(self, kind, role, place, name=None):
        words = [sys.executable, "-m", "deploy.roles.process", role, name or place, str(self.config)]
        return self.network.launch(f"{kind}-{place}", words, f"{role}-{place}")

    def start_edge(self, place):
        self.edge[place] = self.role("pop", "edge", place)
        _ready(self.edge[place])

    def start_gate(self, place):
        self.gate[place] = self.role("pop", "anycast", place)
        _ready(self.gate[place])

    def renew(self, place):
        """A fresh edge and gate: what they remember of a loss (ejections, hysteresis) is not waited for."""
        self.kill(self.edge[place], self.gate[place])
        self.start_edge(place)
        self.start_gate(place)

    def start_store(self, place):
        self.store[place] = self.role("r", "store", place)
        _ready(self.store[place])

    def start_region(self, place, *, node=True):
        if node:
            self.start_node(place)
        self.has_starts = True
        self.region[place] = self.role("r", "region", place)
        _ready(self.region[place])

    def start_node(self, place):
        words = [sys.executable, "-m", "tests.lab.standin", NODE, self.hop_token, str(LOAD_S)]
        self.node[place] = self.network.launch(f"r-{place}", words, f"node-{place}")

    def kill(self, *processes):
        for process in processes:
            process.kill()
            process.wait(30)

    def pop(self, place):
        """Every process of a POP."""
        return [self.edge[place], self.gate[place], self.network.birds[f"pop-{place}"]]

    def signal(self, processes, number):
        for process in processes:
            process.send_signal(number)

    async def _push(self, model, files, regions=None):
        async with S3(endpoint(load(self.config), HOME, fleet.SYSTEM_GRANTS)) as store:
            listed = []
            for path, data in files.items():
                etag = await store.put("models", f"{model}/{path}", data)
                listed.append(ManifestFile(path, len(data), etag))
            await store.put("models", f"{model}/manifest.json", Manifest(tuple(listed), regions).to_json())

    def status(self, place):
        """The status of the POP there, as an admin of the place sees it."""
        pool = Pool(pop_address(place), ADMIN_PORT, tls=self.tls)

        async def ask():
            headers = (("authorization", f"Bearer {self.credentials.admin_key}"),)
            try:
                return json.loads(await (await pool.request("GET", "/nearfield/status", headers)).read())
            except DialError:
                return {"regions": {}}
            finally:
                await pool.close()

        return self.clients[place].do(ask())

    def serves(self, place, model, regions=PLACES):
        """Whether the POP of `place` hears that the regions serve the model, and reaches them."""
        heard = self.status(place).get("regions", {})
        return bool(heard) and all(
            seen["body"]
            and seen["breaker"] == "closed"
            and seen["rtt_ms"]
            and (seen["heard_s"] or 9) < 2
            and seen["body"]["models"].get(model, {}).get("state") == "live"
            for seen in (heard[name] for name in regions)
        )

    def seen(self, place):
        """What the stand-in of a region saw."""
        host, _, port = NODE.partition(":")

        async def ask():
            pool = Pool(host, int(port))
            headers = (("authorization", f"Bearer {self.hop_token}"),)
            try:
                return json.loads(await (await pool.request("GET", "/lab/seen", headers)).read())
            finally:
                await pool.close()

        return self.inside[place].do(ask())

    def settled(self):
        """Every POP announces, and every POP hears every region: a test's beginning."""
        for place in PLACES:
            until(lambda place=place: self.network.path_to_vip(place) == place, 90, f"{place} announces")
            until(lambda place=place: self.serves(place, MODEL), 90, f"{place} hears all regions")
            until(lambda place=place: self.answers(place), 90, f"the region of {place} answers its POP")
        if self.has_starts:  # a load of requests would find them full
            time.sleep(SLOW_START_S + 1.0)
            self.has_starts = False

    def answers(self, place):
        """Whether a request to the POP is answered by the region of the same place."""

        async def ask():
            pool = Pool(pop_address(place), PORT, tls=self.tls)
            try:
                return await reply(pool, self.credentials.api_key, body(MODEL))
            finally:
                await pool.close()

        return all(self.clients[place].do(ask()).region == place for _ in range(3))

    def close(self):
        for place in (*self.clients.values(), *self.inside.values()):
            place.close()
        self.network.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def _ready(process):
    line = process.stdout.readline()
    assert json.loads(line or "{}").get("ready"), line
