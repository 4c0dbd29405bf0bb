"""How a region is lost, and comes back; and how a client reaches its POP."""

from tests.lab.network import pop_address, region_address
from tests.lab.world import PORT
from wire.dial import Pool


def pool_of(lab, place):
    """As a client of that place reaches its POP."""
    return Pool(pop_address(place), PORT, tls=lab.tls, server_name=f"{place}.api.lab", max_idle=512)


def dead(lab, place):
    """`kill -9` of all that a region is."""
    lab.kill(lab.region[place], lab.node[place], lab.store[place])


def vanished(lab, place):
    """Every packet to it and from it is lost, on the last router before it; nobody hears of that."""
    router = lab.network.spaces[f"t-{place}"]
    router.ip(f"route add blackhole {region_address(place)}/32", "rule add iif r blackhole")


def back(lab, place):
    lab.start_store(place)
    lab.start_region(place)
    lab.renew("eu")


def appeared(lab, place):
    router = lab.network.spaces[f"t-{place}"]
    router.ip(f"route del blackhole {region_address(place)}/32", "rule del iif r blackhole")
    lab.renew("eu")
