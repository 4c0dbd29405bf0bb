"""The tables of `nearfield ls` and `nearfield status`."""

from deploy.commands.status import EDGE_COLUMNS, REGION_COLUMNS, _edge_row, _policy_lines, _region_row


def shown(**body):
    seen = {"rtt_ms": 1.0, "heard_s": 0.5, "breaker": "closed", "body": body}
    return dict(zip(REGION_COLUMNS, _region_row("fra", seen), strict=True))


def test_status_says_how_far_a_region_is_behind_its_home():
    assert shown(behind_bytes=0, behind_s=0.0)["behind home"] == "-"
    assert shown(behind_bytes=1_250_000_000, behind_s=14.2)["behind home"] == "1.2 GB, 14 s"
    assert shown(behind_bytes=0, behind_s=61.0)["behind home"] == "0 B, 61 s", "a silent home"
    assert shown(origin_bytes_per_s=2e7)["from home"] == "20.0 MB/s"


def test_status_says_how_far_a_regions_estimates_were_off():
    assert shown(eta_error=0.0)["ETA off"] == "-", "no start yet"
    assert shown(eta_error=0.123)["ETA off"] == "12%"


def test_status_says_what_is_unusual_about_the_map():
    usual = {
        "frozen": False,
        "refused": {},
        "policy": {"trial": None, "withdrawn": "", "rules": {"drained": []}},
    }
    assert list(_policy_lines(usual)) == list(_policy_lines({})) == []
    policy = {
        "trial": {"edges": ["a", "b"], "seconds": 30.0},
        "withdrawn": "0123 edge a: acme/m is nowhere",
        "rules": {"drained": ["fra"]},
    }
    said = "\n".join(_policy_lines({"frozen": True, "refused": {"older": 2}, "policy": policy}))
    for part in ("FROZEN", "at a, b for 30 s", "acme/m is nowhere", "rules: fra", "2 older"):
        assert part in said


def edge_shown(**changes):
    ways = {"iad": {"rtt_ms": 0.4, "down": False, "busy": 2, "answered": 9}}
    usual = {"self": False, "heard_s": 1.24, "up_s": 7300, "processes": 2, "nearest": "iad", "regions": ways}
    seen = usual | {"answers_per_s": 3.25, "failed_per_s": 0.0} | changes
    return dict(zip(EDGE_COLUMNS, _edge_row("two", seen), strict=True))


def test_status_says_of_an_edge_where_it_is_and_what_it_carries():
    told = edge_shown()
    assert (told["nearest"], told["heard"], told["up"]) == ("iad 0.4 ms", "1.2 s ago", "2 h")
    assert (told["processes"], told["answers/s"], told["failed/s"]) == ("2", "3.2", "0.0")
    assert told["under way"] == "2"
    assert edge_shown(self=True, heard_s=0.0)["heard"] == "asked"


def test_status_says_of_an_edge_that_was_never_heard_nothing_else():
    unknown = {"heard_s": None, "up_s": None, "nearest": None, "answers_per_s": None, "failed_per_s": None}
    told = edge_shown(**unknown, processes=0, regions={})

    assert told.pop("edge") == "two"
    assert told.pop("heard") == "never"
    assert set(told.values()) == {"-"}
