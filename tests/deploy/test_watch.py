"""What the regions say of a model, and when waiting for it ends."""

import pytest

from deploy.chat import ask
from deploy.client import ApiError, Unreachable
from deploy.commands.chat import Firsts, where_time_went
from deploy.models import watch
from regions.push.manifest import Manifest, ManifestFile


class Scripted:
    """A client whose answers are written down."""

    def __init__(self, *statuses):
        self.statuses = list(statuses)

    def get(self, _path):
        from deploy.client import Reply

        body = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        return Reply(200, {}, body)

    def stream(self, _path, _body, region=None):
        return {"x-nearfield-region": region or "iad"}, iter(self.statuses)


def _status(**states):
    def body(state):
        row = {"state": state, "revision": "r1", "tier": "resident", "error": None, "progress": None}
        if state == "failed":
            row["error"] = {"code": "probe_failed", "message": "no token", "next": "look"}
        return {"body": {"models": {"a/m": row}}} if state else {"body": None}

    return {"regions": {region: body(state) for region, state in states.items()}}


def test_it_ends_when_every_named_region_is_live():
    """Regions that were not asked for do not matter."""
    client = Scripted(_status(iad="warming", fra=None), _status(iad="live", fra=None))
    seen = []

    live = watch.until_live(client, "a/m", watch.Move("r1"), ("iad",), seen.append, 5)

    assert set(live) == {"iad"}
    assert [s["iad"].state for s in seen] == ["warming", "live"]


def test_a_failed_region_ends_the_wait_with_its_reason():
    """Nobody waits for a timeout when the answer is known."""
    with pytest.raises(watch.NotLive, match="fra: no token") as caught:
        watch.until_live(
            Scripted(_status(iad="live", fra="failed")), "a/m", watch.Move("r1"), None, lambda _: None, 5
        )
    assert caught.value.next_step == "look"


def test_a_wait_that_is_too_long_names_who_is_late():
    """And the command that shows more."""
    with pytest.raises(watch.NotLive, match="fra warming"):
        watch.until_live(
            Scripted(_status(iad="live", fra="warming")), "a/m", watch.Move("r1"), None, lambda _: None, 0.3
        )


def test_a_wait_that_is_too_long_says_what_is_waited_for():
    """A region whose disk is full goes on trying by itself: its words, and what to do about it."""
    full = _status(iad="live", fra="verified")
    row = full["regions"]["fra"]["body"]["models"]["a/m"]
    row["error"] = {
        "code": "InsufficientStorage",
        "message": "The store's disk is full.",
        "next": "free some",
    }
    with pytest.raises(watch.NotLive, match=r"fra verified \(The store's disk is full\.\)") as caught:
        watch.until_live(Scripted(full), "a/m", watch.Move("r1"), None, lambda _: None, 0.3)

    assert (caught.value.code, caught.value.next_step) == ("timeout", "free some")


def test_another_revision_does_not_count():
    """The old one still serving is not the new one live."""
    with pytest.raises(watch.NotLive) as caught:
        watch.until_live(Scripted(_status(iad="live")), "a/m", watch.Move("r2"), None, lambda _: None, 0.3)
    assert caught.value.code == "timeout"


def test_a_wait_ends_when_the_model_is_to_serve_another_revision(monkeypatch):
    """Whoever was overtaken by another push or promotion is told so, not left to a timeout."""

    def moved_on():
        raise watch.NotLive("overtaken", "a/m was moved on", "look")

    monkeypatch.setattr(watch, "LOOK_S", 0.0)
    with pytest.raises(watch.NotLive, match="moved on"):
        watch.until_live(
            Scripted(_status(iad="live")),
            "a/m",
            watch.Move("r2"),
            None,
            lambda _: None,
            60,
            still_named=moved_on,
        )


def manifest(push_id, etag="e", regions=None):
    return Manifest((ManifestFile("config.json", 1, etag), ManifestFile("w", 2, "f")), regions, push_id)


@pytest.mark.parametrize(
    ("lies_there", "cause"),
    [
        (manifest("theirs", "other"), "another push came over"),
        (manifest("theirs", regions=("fra",)), "another push came over"),
        (None, "was removed"),
    ],
)
async def test_the_platforms_word_on_another_push_is_not_taken_for_ours(monkeypatch, lies_there, cause):
    """Of two pushes to one name at once, one is told that it was overtaken: what went live is the other's."""

    async def read(_store, _model):
        return lies_there, "e"

    monkeypatch.setattr(watch.push, "lying_manifest", read)
    with pytest.raises(watch.NotLive, match=cause) as told:
        await watch._is_shared(None, "a/m", manifest("mine"))

    assert told.value.code == "overtaken"


@pytest.mark.parametrize("lies_there", ["mine", "theirs"])
async def test_the_word_on_a_push_of_the_same_files_is_that_on_ours(monkeypatch, lies_there):
    async def read(_store, _model):
        found = manifest(lies_there)
        return Manifest(found.files[::-1], None, lies_there), "e"

    monkeypatch.setattr(watch.push, "lying_manifest", read)

    assert await watch._is_shared(None, "a/m", manifest("mine")) is (lies_there == "theirs")


def test_a_stream_is_read_with_its_comments_and_receipts():
    """Progress goes to one callback, text to another, receipts are kept by hop."""
    client = Scripted(
        ': nearfield {"phase":"fetch","percent":50,"eta_s":0.5}',
        'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}',
        'data: {"choices":[{"delta":{"content":"Par"}}]}',
        'data: {"choices":[{"delta":{"content":"is"}}]}',
        'data: {"choices":[],"usage":{"total_tokens":5}}',
        "data: [DONE]",
        ': nearfield {"hop":"node","total_ms":3.0,"phases":{"prefill":1.0}}',
    )
    pieces, waits = [], []

    told = ask(client, "a/m", [], on_text=pieces.append, on_wait=waits.append)

    assert told.text == "Paris"
    assert pieces == ["Par", "is"]
    assert waits[0]["percent"] == 50
    assert told.usage == {"total_tokens": 5}
    assert told.receipt("node")["phases"] == {"prefill": 1.0}


def test_an_error_event_is_an_error():
    """A stream that ends in one is never taken for a whole answer."""
    client = Scripted('data: {"error":{"message":"the region went away","code":"upstream_failed"}}')

    with pytest.raises(ApiError, match="went away"):
        ask(client, "a/m", [])


def test_what_tokens_without_text_take_is_no_network():
    """A model that thinks first, or begins with white space: the first token is here with the opening event."""
    client = Scripted(
        'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}',
        'data: {"choices":[{"delta":{"reasoning_content":"hm"}}]}',
        'data: {"choices":[{"delta":{"content":"4"}}]}',
        "data: [DONE]",
        ': nearfield {"hop":"node","total_ms":150.0,"phases":{"prefill":10.0,"decode":140.0}}',
    )
    later, at_once = (Firsts(iter(times).__next__) for times in ([0.0, 0.015, 0.152], [0.0, 0.015, 0.0152]))

    told = ask(client, "a/m", [], on_token=later.token, on_text=later.text)
    at_once.token()
    at_once.text("4")
    line = where_time_went(told, later)

    assert "first token 15 ms: prefill 10 ms, network 5.0 ms · first text 152 ms, after tokens that" in line
    assert "first text" not in where_time_went(told, at_once)


def test_an_answer_without_its_end_is_never_taken_for_a_whole_one():
    """An edge that is killed ends the connection, which looks like an end."""
    with pytest.raises(Unreachable, match="broke off before its end"):
        ask(Scripted('data: {"choices":[{"delta":{"content":"half an ans"}}]}'), "a/m", [])
