"""The lab's map: three places, each with a transit router, a POP, clients and a region, and BGP between them.

 c-eu -- t-eu (AS 64601) ==40 ms== t-us (64602) -- c-us      POPs: pop-eu, pop-us, pop-ap, one AS 64500, each with
   pop-eu, r-eu  |  \\80 ms           60 ms//  |  pop-us, r-us   203.0.113.10/32 on its loopback device
                        ==  t-ap (64603)  -- c-ap, pop-ap, r-ap

BIRD, the routers' process and its links stand for machines of their own: they go before ours on the processor.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from tests.lab.netns import Namespace, join

ROOT = Path(__file__).resolve().parents[2]
PLACES = ("eu", "us", "ap")
VIP = "203.0.113.10"
ONE_WAY_MS = {frozenset({"eu", "us"}): 40, frozenset({"eu", "ap"}): 80, frozenset({"us", "ap"}): 60}
FIRST = ("chrt", "--fifo", "1")
NUMBER = {place: n for n, place in enumerate(PLACES, 1)}


def rtt_ms(one, other):
    return 0 if one == other else 2 * ONE_WAY_MS[frozenset({one, other})]


def pop_address(place):
    return f"10.1.{NUMBER[place]}.2"


def client_net(place):
    return f"10.2.{NUMBER[place]}.0/24"


def by_rtt(place):
    """Every place, the nearest first: itself."""
    return tuple(sorted(PLACES, key=lambda other: rtt_ms(place, other)))


def region_address(place):
    return f"10.3.{NUMBER[place]}.2"


TRANSIT = """
log stderr all;
router id 10.1.{n}.1;
protocol device {{ }}
protocol direct {{ ipv4; }}
protocol kernel {{ ipv4 {{ export where source = RTS_BGP; }}; }}
protocol bfd {{ interface "*" {{ interval 100 ms; multiplier 3; }}; }}
template bgp neighbour {{
    hold time 9; keepalive time 3; connect delay time 0; connect retry time 1; error wait time 1, 1;
}}
protocol bgp pop from neighbour {{
    local 10.1.{n}.1 as 6460{n};
    neighbor 10.1.{n}.2 as 64500;
    bfd on;
    ipv4 {{
        import filter {{ if (65535, 0) ~ bgp_community then bgp_local_pref = 0; else bgp_local_pref = 1000; accept; }};
        export none;
    }};
}}
"""
PEER = """
protocol bgp t_{other} from neighbour {{
    local {near} as 6460{n};
    neighbor {far} as 6460{m};
    ipv4 {{
        import filter {{
            if (65535, 0) ~ bgp_community then bgp_local_pref = 0;
            else if net = 203.0.113.10/32 then bgp_local_pref = {pref};
            accept;
        }};
        export where source ~ [ RTS_BGP, RTS_DEVICE ];
    }};
}}
"""


def pop_config(place):
    """The one that we ship, with this POP's addresses."""
    n = NUMBER[place]
    text = (ROOT / "deploy" / "packaging" / "bird.conf").read_text()
    changes = {
        "192.0.2.2": f"10.1.{n}.2",
        "192.0.2.1": f"10.1.{n}.1",
        "64601": f"6460{n}",
        "log syslog": "log stderr",
    }
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    return text


class Network:
    """Namespaces by name (`t-eu`, `pop-eu`, `c-eu`, `r-eu`), and the processes that run in them."""

    def __init__(self, folder):
        self.folder = folder
        self.processes = []
        self.spaces = {
            f"{kind}-{place}": Namespace(f"{kind}-{place}")
            for place in PLACES
            for kind in ("t", "pop", "c", "r")
        }
        self.birds = {}

    def start(self):
        for place in PLACES:
            self._cable(place)
        self._links()
        for place in PLACES:
            self._bird(f"t-{place}", self._transit_config(place))
            self.start_pop_bird(place)

    def start_pop_bird(self, place):
        self._bird(f"pop-{place}", pop_config(place))

    def _cable(self, place):
        n, transit = NUMBER[place], self.spaces[f"t-{place}"]
        transit.forward()
        for kind, net in (("pop", 1), ("c", 2), ("r", 3)):
            space = self.spaces[f"{kind}-{place}"]
            join(transit, kind, f"10.{net}.{n}.1/24", space, "out", f"10.{net}.{n}.2/24")
            space.ip(f"route add default via 10.{net}.{n}.1")
        self.spaces[f"pop-{place}"].ip(f"addr add {VIP}/32 dev lo")

    def _links(self):
        spec, fds = [], []
        for pair, delay_ms in ONE_WAY_MS.items():
            one, other = sorted(pair)
            a, b = self.spaces[f"t-{one}"], self.spaces[f"t-{other}"]
            spec.append([a.fd, f"to-{other}", b.fd, f"to-{one}", delay_ms / 1000])
            fds += [a.fd, b.fd]
        words = [*FIRST, sys.executable, "-m", "tests.lab.wan", json.dumps(spec)]
        wan = self.launch("t-eu", words, "wan", pass_fds=fds)
        assert wan.stdout.readline() == "ready\n"
        for pair in ONE_WAY_MS:
            one, other = sorted(pair)
            for near, far in ((one, other), (other, one)):
                self.spaces[f"t-{near}"].ip(
                    f"addr add {_link_address(near, far)}/30 dev to-{far}", f"link set to-{far} up"
                )

    def _transit_config(self, place):
        n = NUMBER[place]
        text = TRANSIT.format(n=n)
        for other in PLACES:
            if other != place:
                near, far = _link_address(place, other), _link_address(other, place)
                text += PEER.format(
                    n=n, m=NUMBER[other], other=other, near=near, far=far, pref=1000 - rtt_ms(place, other)
                )
        return text

    def _bird(self, space, text):
        config = self.folder / f"{space}.conf"
        config.write_text(text)
        words = [*FIRST, "bird", "-f", "-c", str(config), "-s", str(self.bird_socket(space))]
        self.birds[space] = self.launch(space, words, f"bird-{space}")

    def bird_socket(self, space):
        return self.folder / f"{space}.ctl"

    def birdc(self, space, *words):
        """What BIRD says; that there is no such route is an answer too."""
        words = ["birdc", "-s", str(self.bird_socket(space)), *words]
        return subprocess.run(words, capture_output=True, text=True, check=False).stdout

    def launch(self, space, words, log, pass_fds=(), env=None):
        """A process in a namespace; it dies with this one, however that ends."""
        with (self.folder / f"{log}.log").open("a") as file, self.spaces[space].entered():
            process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                cwd=ROOT,
                pass_fds=pass_fds,
                env=os.environ | {"PYTHONPATH": str(ROOT)} | (env or {}),
            )
        self.processes.append(process)
        return process

    def path_to_vip(self, place):
        """Which POP the transit router of `place` has clients sent to: the first AS of the best route, as a place."""
        said = self.birdc(f"t-{place}", "show", "route", "for", VIP, "primary", "all")
        for line in said.splitlines():
            words = line.split()
            if words[:1] == ["via"]:
                device = words[words.index("on") + 1]
                return place if device == "pop" else device.removeprefix("to-")
        return None

    def close(self):
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait(30)
            if process.stdout:
                process.stdout.close()
        for space in self.spaces.values():
            space.close()


def _link_address(near, far):
    """Of the device in `near` that leads to `far`."""
    one, other = sorted((near, far))
    k = NUMBER[one] * 4 + NUMBER[other]
    return f"10.9.{k}.{1 if near == one else 2}"


def until(condition, deadline_s, what, poll_s=0.05):
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(poll_s)
    raise AssertionError(f"after {deadline_s} s still not: {what}")
