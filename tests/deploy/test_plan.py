"""The plan of a push: what it knows, foretells, asks money for, and how it is scored."""

import hashlib
import json
import os
import re
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from blake3 import blake3

from deploy.models.push import PushPlan
from deploy.plan import forecast, memory, predict, scores
from deploy.plan.local import blake3_of, held, is_same
from deploy.plan.plan import Known, make
from deploy.prices.book import PricesError
from deploy.prices.reading import read
from storage.client.sdk import PART_BYTES
from weights_cache.model.revision import Spec

MIB = 1024 * 1024
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "hidden_size": 4096,
    "dtype": "bfloat16",
}


def test_keys_and_values_are_reckoned_as_the_engine_keeps_them():
    """Llama 3 8B: 2 x 32 layers x 8 heads x 128 x 2 bytes."""
    assert memory.needs(LLAMA, 16 << 30).kv_bytes_per_token == 131_072
    assert memory.needs(LLAMA, 0, dtype="float32").kv_bytes_per_token == 262_144
    assert memory.needs({"architectures": ["BertModel"], "hidden_size": 384}, 9).kv_bytes_per_token == 0
    nested = {"architectures": ["XForConditionalGeneration"], "text_config": LLAMA}
    assert memory.needs(nested, 0).kv_bytes_per_token == 131_072
    assert memory.needs(
        {"architectures": ["GPT2LMHeadModel"], "n_layer": 2, "n_head": 4, "n_embd": 64}, 0
    ) == (memory.Needs(0, 2 * 2 * 64 * 4))
    assert memory.needs({"architectures": "LlamaForCausalLM"}, 5) == memory.Needs(5, 0)


def test_a_model_fits_by_weights_and_one_short_conversation():
    """The rule of the region that judges it again."""
    model = memory.Needs(1000, 2)
    at_edge, below = (memory.Device("n", "iad", "cpu", num) for num in (2024, 2023))

    assert [fit.fits for fit in memory.fits(model, (at_edge, below))] == [True, False]
    assert memory.fits(model, [at_edge])[0].kv_tokens == 512
    assert memory.fits(memory.Needs(5000, 2), [at_edge])[0].kv_tokens == 0


@pytest.mark.parametrize("size", [0, 5, PART_BYTES, PART_BYTES + 1])
def test_a_file_is_known_by_the_etag_that_its_upload_gets(tmp_path, size):
    """Whole, or of parts as `nearfield push` cuts them; another cut is another file for all we know."""
    path = tmp_path / "f"
    data = os.urandom(1024) * (size // 1024 + 1)
    path.write_bytes(data[:size])
    parts = [data[:size][at : at + PART_BYTES] for at in range(0, size, PART_BYTES)]
    of_parts = hashlib.md5(b"".join(hashlib.md5(part).digest() for part in parts)).hexdigest()

    assert is_same(path, hashlib.md5(data[:size]).hexdigest())
    assert not is_same(path, hashlib.md5(b"other").hexdigest())
    assert is_same(path, f"{of_parts}-{len(parts)}") == bool(parts)
    assert not is_same(path, f"{of_parts}-{len(parts) + 1}")
    assert not is_same(path, "0x8D9-azure")


def test_files_are_hashed_only_where_a_blob_has_their_size(tmp_path):
    """And each once, however many regions are asked about."""
    files = {}
    for name, data in {"a": b"one", "b": b"two!", "c": b"six"}.items():
        (tmp_path / name).write_bytes(data)
        files[name] = (tmp_path / name, len(data))
    known: dict[str, str] = {}

    assert held(files, {blake3(b"one").hexdigest(): 3}, known) == {"a"}
    assert set(known) == {"a", "c"}, "the sizes of others agree with nothing"
    (tmp_path / "a").unlink()
    assert held(files, {known["a"]: 3, known["c"]: 3}, known) == {"a", "c"}
    assert blake3_of(tmp_path / "b") == blake3(b"two!").hexdigest()


BODY = {"store_bytes_per_s": 1e9, "host_bytes_per_s": 4e9, "origin_bytes_per_s": 1e8, "attach_s": 0.5}


def test_cold_seconds_are_the_ones_that_an_edge_chooses_by():
    """From home: over the link, then from the store, then attached."""
    seen = predict.measured(BODY)

    assert predict.cold_s(1_000_000_000, seen) == pytest.approx({"origin": 11.5, "region": 1.5, "host": 0.75})
    assert predict.brought_s(500_000_000, 1_000_000_000, seen) == pytest.approx(6.5)
    assert seen.is_complete
    assert not predict.measured(None).is_complete


PRICES = {
    "currency": "EUR",
    "storage_gb_month": 0.73,
    "egress_gb": 0.5,
    "devices": {"cpu": 0.1, "cuda": 2.0, "cuda:1": 3.0},
    "regions": {"fra": {"storage_gb_month": 1.46, "devices": {"cuda": 4.0}}},
}


def test_prices_are_a_regions_own_where_the_file_says_so():
    iad, fra = map(read(PRICES, ("iad", "fra")).of, ("iad", "fra"))

    assert iad.stored_hour(1_000_000_000) == pytest.approx(0.001)
    assert fra.stored_hour(1_000_000_000) == pytest.approx(0.002)
    assert fra.moved(2_000_000_000) == 1.0
    assert [each.hour_of("cuda:0") for each in (iad, fra)] == [2.0, 4.0]
    assert fra.hour_of("cuda:1") == 3.0
    assert iad.hour_of("tpu") is None


def test_the_price_file_in_the_docs_is_one():
    page = (Path(__file__).parents[2] / "docs" / "plan.md").read_text()
    (shown,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    found = read(tomllib.loads(shown), ("iad", "fra"))

    assert (found.of("iad").hour_of("cuda:0"), found.of("fra").hour_of("cuda")) == (2.5, 3.1)
    assert found.source_of("devices.cuda") == "the same"
    assert found.scale is not None
    assert found.scale.num_cold_starts == 1000


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"curency": "EUR"}, "did you mean `currency`"),
        ({"egress_gb": -1}, "0 or more"),
        ({"egress_gb": float("nan")}, "0 or more"),
        ({"devices": 3}, "must be a table"),
        ({"regions": {"sfo": {}}}, "known keys: iad"),
        ({"regions": {"iad": {"egres_gb": 1}}}, "did you mean `egress_gb`"),
        ({"currency": 1}, "currency = 1 must be a string"),
        ({"sources": {"egres_gb": "me"}}, "did you mean `egress_gb`"),
        ({"sources": {"devices.cuda": "me"}}, "unknown key `sources.devices.cuda`"),
        ({"rtt_ms": {"iad": 90}}, "two regions"),
        ({"rtt_ms": {"iad-fra": -1}}, "0 or more"),
        ({"report": {"device": "cuda"}}, "report.cold_starts = None"),
        ({"report": {"device": "cuda", "cold_starts": 1.5}}, "whole number"),
        ({"report": {"device": "cuda", "cold_start": 1}}, "did you mean `cold_starts`"),
    ],
)
def test_a_mistake_in_the_price_file_is_named(tree, words):
    with pytest.raises(PricesError, match=words):
        read(tree, ("iad",))


def _push(folder, unchanged=()):
    files = {"config.json": 1000, "model.safetensors": 1_000_000_000}
    same = dict.fromkeys(unchanged, "etag")
    return PushPlan("acme/m", folder, files, {}, Spec(), frozenset({"model.safetensors"}), same)


def _known(**changes):
    devices = [memory.Device(f"{r}-0", r, "cpu", 4_000_000_000) for r in ("iad", "fra")]
    held_bytes = {"iad": 1_000_000_000, "fra": 0}
    values = {
        "bodies": {"iad": BODY, "fra": BODY, "nrt": None},
        "home": "iad",
        "held_bytes": held_bytes,
        "devices": devices,
    }
    return Known(**(values | changes))


def test_a_region_is_told_what_comes_and_how_long_it_takes(tmp_path):
    """Home waits for a start alone; far regions for what they lack as well."""
    plan = make(_push(tmp_path), memory.Needs(1_000_000_000, 0), ("iad", "fra", "nrt"), _known())
    iad, fra, nrt = plan.regions

    assert (iad.copy_bytes, fra.copy_bytes) == (1000, 1_000_001_000)
    assert (iad.start_s, fra.start_s) == pytest.approx((1.5, 11.5), rel=1e-4)
    assert (iad.far_bytes, fra.far_bytes) == (0, 1_000_001_000)
    assert fra.low_s < fra.start_s < fra.live_s < fra.high_s
    assert (iad.is_measured, fra.is_measured, nrt.is_measured) == (True, True, False)
    assert nrt.held_bytes is None
    assert nrt.fits == ()
    assert plan.upload_s is None
    assert json.dumps(plan.as_value())


def test_what_is_unchanged_is_not_sent_again(tmp_path):
    plan = make(_push(tmp_path, ["model.safetensors"]), memory.Needs(1, 0), ("iad",), _known())

    assert plan.push.upload_bytes == 1000
    assert [each["is_unchanged"] for each in plan.as_value()["files"]] == [False, True]


def test_money_is_the_cheapest_device_that_holds_it(tmp_path):
    """A worker up, none up, and the bytes from home once."""
    devices = [memory.Device("a", "fra", "cpu", 1), memory.Device("b", "fra", "cuda:0", 4_000_000_000)]
    known = _known(devices=devices, prices=read(PRICES, ("iad", "fra")))
    iad, fra = make(_push(tmp_path), memory.Needs(1_000_000_000, 0), ("iad", "fra"), known).regions

    assert fra.costs.running_hour == pytest.approx(4.002, rel=1e-4)
    assert fra.costs.idle_hour == pytest.approx(0.002, rel=1e-4)
    assert fra.costs.once == pytest.approx(0.5, rel=1e-4)
    assert (iad.costs.running_hour, iad.costs.once) == (None, 0.0), (
        "no device known there, and nothing comes from afar"
    )


def test_what_fits_no_device_is_seen_before_it_moves(tmp_path):
    far_too_large = make(_push(tmp_path), memory.Needs(5_000_000_000, 0), ("iad", "fra"), _known())
    unknown = make(_push(tmp_path), memory.Needs(5_000_000_000, 0), ("iad",), _known(devices=[]))

    assert not far_too_large.fits_somewhere
    assert unknown.fits_somewhere, "what is not known is for the region to say"


def _past(region="iad", start=1.0, predicted=1.0, took=2.0, num_bytes=10 * MIB, upload_s=1.0):
    return scores.Prediction(1.0, "a/m", region, start, predicted, took, num_bytes, upload_s)


def test_past_predictions_are_scored_and_learned_from(tmp_path):
    """What pushes took beside bytes and start is in the next plan."""
    past = (_past(), _past(predicted=2.0, took=2.5), _past("fra", took=1.0))
    found = scores.score(past, "iad")

    assert (found.num, found.num_within) == (2, 0), "they were foretold without a span"
    within, beyond = (replace(_past(took=took), low_s=1.0, high_s=2.0) for took in (1.5, 4.0))
    assert (within.error, beyond.error) == (0.0, 0.5)
    assert scores.score([within, beyond], "iad").num_within == 1
    assert found.error == pytest.approx((0.5 + 0.2) / 2)
    assert found.bias == pytest.approx((0.5 + 0.2) / 2)
    assert scores.score(past, "nrt") is None
    small = replace(_push(tmp_path), files={"model.safetensors": 10 * MIB})
    plan = make(small, memory.Needs(1_000_000_000, 0), ("iad",), _known(past=past, held_bytes={}))
    assert plan.regions[0].live_s == pytest.approx(1.5 + 1.25)
    assert plan.upload_s == pytest.approx(plan.push.upload_bytes / (10 * MIB))


def test_before_the_first_push_the_span_is_wide_and_a_far_region_is_trips_away(tmp_path):
    """Seconds of one first push of 7 MB under simulated 90 and 150 ms: 0.58 at home, then 2.2 and 2.8."""
    bodies = dict.fromkeys(("iad", "fra", "nrt"))
    known = _known(bodies=bodies, held_bytes={}, rtts_ms={"iad": 0.4, "fra": 90.0, "nrt": 150.0})
    small = replace(_push(tmp_path), files={"model.safetensors": 7_000_000})
    plan = make(small, memory.Needs(7_000_000, 0), ("iad", "fra", "nrt"), known)

    for region, took_s in zip(plan.regions, (0.58, 2.2, 2.8), strict=True):
        assert region.low_s < took_s < region.high_s < 10 * region.low_s


def test_the_span_of_a_region_that_was_pushed_to_is_as_wide_as_its_pushes_were_apart():
    """One tells little; eight that agree are near the truth; of many only the newest count."""
    start, extra = 1.0, 1.0
    one = forecast.learned(start, [_past(took=2.0)])
    eight = forecast.learned(start, [_past(took=9.0), *(_past(took=2.0) for _ in range(8))])
    apart = forecast.learned(start, [_past(took=took) for took in (1.8, 2.0, 4.0)])

    assert (one.low_s, one.middle_s, one.high_s) == pytest.approx((1.0, start + extra, 4.0))
    assert (eight.low_s, eight.high_s) == pytest.approx((2 / 1.125, 2 * 1.125))
    assert apart.high_s > 4.0
    assert apart.low_s < 1.8


def test_small_pushes_say_nothing_of_a_large_one(tmp_path):
    """A push of 407 MB after five of 7 MB was foretold as theirs: 0.9 to 2.7 s, and took 15."""
    past = tuple(_past(took=1.5, num_bytes=7 * MIB) for _ in range(5))
    large = make(_push(tmp_path), memory.Needs(1_000_000_000, 0), ("iad",), _known(past=past))

    assert not forecast.alike(past, "iad", 400 * MIB)
    assert forecast.alike(past, "iad", 0) == list(past), "what is sent again is as small"
    assert large.regions[0].low_s > 2.0
    assert large.regions[0].high_s > 20.0


def test_a_prediction_of_before_spans_is_still_read(tmp_path):
    scores.keep(tmp_path, [_past()])
    path = tmp_path / scores.FILE_NAME
    value = json.loads(path.read_text())
    del value["low_s"], value["high_s"]
    path.write_text(json.dumps(value) + "\n")

    assert scores.load(tmp_path) == (_past(),)


def test_the_rate_of_uploads_is_not_that_of_round_trips():
    assert scores.upload_bytes_per_s([_past(num_bytes=20)]) is None
    assert scores.upload_bytes_per_s([_past(num_bytes=20), _past()]) == 10 * MIB


def test_the_rate_of_uploads_is_that_of_most_bytes():
    """Twenty pushes of 2 MiB, a second each, say little beside one of 400 MiB that took four."""
    small, large = _past(num_bytes=2 * MIB), replace(_past(num_bytes=400 * MIB), upload_s=4.0)
    assert scores.upload_bytes_per_s([*[small] * 20, large]) == 100 * MIB
    assert scores.upload_bytes_per_s([*[small] * 300, large]) == 2 * MIB


def test_predictions_outlive_the_command_and_stay_few(tmp_path):
    """A torn or foreign line is passed over; the newest are kept."""
    scores.keep(tmp_path, [_past(took=float(number)) for number in range(scores.KEPT)])
    with (tmp_path / scores.FILE_NAME).open("a") as file:
        file.write('{"torn\n{"at": 1}\n[]\n')
    scores.keep(tmp_path, [_past(took=999.0)])
    found = scores.load(tmp_path)

    assert len(found) == scores.KEPT
    assert (found[0].took_s, found[-1].took_s) == (1.0, 999.0)
    assert [path.name for path in tmp_path.iterdir()] == [scores.FILE_NAME]
