import contextlib
import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regions.map.policy import KeyGrant, PolicyRow, Quota
from regions.map.region import (
    MAX_MODELS,
    MAX_ROW_BYTES,
    LeftOutFile,
    ModelFault,
    ModelRow,
    Progress,
    RegionRow,
    RolloutState,
    Tier,
)
from regions.rows import RowRefused, canonical, decode, encode, encode_change, encode_whole
from tests.evidence import count
from tests.regions.made import KEYS, MODEL, SIGNERS, model_row, policy_row, region_row

LINE = encode(region_row(), KEYS["iad"])
POLICY_LINE = encode(policy_row(), KEYS["iad"])


def granted(**changes):
    """A policy's body of one key, changed."""
    grant = {"tenant": "t", "scopes": ["infer"], "models": ["*"], "expires_s": 0, "quota": [0, 0, 0, 1]}
    return {"keys": {"d" * 64: grant | changes}}


def resigned(line=LINE, key="iad", **changes):
    """The line with fields of the envelope changed, signed well again: only the change is at fault."""
    document = {**json.loads(line), **changes}
    document.pop("sig", None)
    return canonical({**document, "sig": KEYS[key].sign(canonical(document)).hex()})


def body(**changes):
    return {**json.loads(LINE)["body"], **changes}


def model(**changes):
    return body(models={MODEL: {**json.loads(LINE)["body"]["models"][MODEL], **changes}})


def code_of(line, signers=SIGNERS):
    with pytest.raises(RowRefused) as caught:
        decode(line, signers)
    return caught.value.code


RULES = {
    "areas": {"eu": ["fra"]},
    "aliases": {"a": MODEL},
    "residency": {"acme/*": ["eu"]},
    "drained": ["fra"],
}
TRIAL = {"serial": 1, "rules": RULES, "edges": ["one"], "seconds": 9.5}
FULL = [
    LINE,
    encode_change(region_row(seq=2), region_row(), {MODEL, "acme/gone"}, KEYS["iad"]),
    resigned(body=body(part=[0, 2])),
    resigned(
        POLICY_LINE,
        body={
            **granted(),
            "rules": RULES,
            "trial": TRIAL,
            "withdrawn": "b" * 64,
            "canary": {"regions": ["fra"], "bake_s": 1.0},
        },
    ),
]
"""Of each kind one that says all it can."""


texts = st.text(st.characters(codec="utf-8"), max_size=20)
amounts = st.floats(0, 1e12) | st.integers(0, 1 << 40)
counts = st.integers(0, 1 << 50)
models = st.builds(
    ModelRow,
    revision=st.sampled_from(["", "b" * 64]),
    state=st.sampled_from(RolloutState),
    tier=st.sampled_from(Tier),
    kind=st.sampled_from(["generate", "embed", "rerank"]),
    bytes=counts,
    max_len=counts,
    running=counts,
    prefill_ms_per_token=amounts,
    error=st.none() | st.builds(ModelFault, texts, texts, texts),
    left_out=st.lists(st.builds(LeftOutFile, texts, texts), max_size=3).map(tuple),
    progress=st.none() | st.builds(Progress, texts, st.floats(0, 100)),
    pushed_s=st.integers(0, 4_000_000_000),
    deterministic=st.booleans(),
)
rows = st.builds(
    RegionRow,
    id=st.just("fra"),
    epoch=counts,
    seq=counts,
    models=st.dictionaries(st.sampled_from(["a/b", "acme/m", "x/y.z"]), models),
    store_bytes_per_s=amounts,
    draining=st.booleans(),
)


@given(rows)
@settings(max_examples=count(30, 60))
def test_rows_what_is_encoded_decodes_to_the_same_value(row):
    assert decode(encode(row, KEYS["fra"]), SIGNERS) == row


def test_rows_a_policy_row_comes_back_whole():
    row = PolicyRow(
        5,
        9,
        {
            "e" * 64: KeyGrant(
                "acme",
                frozenset({"infer", "admin"}),
                ("acme/*", "o/m"),
                1_900_000_000,
                Quota(60, 90_000, 4, 2),
            )
        },
    )

    assert decode(encode(row, KEYS["iad"]), SIGNERS) == row


@pytest.mark.parametrize(
    ("code", "line"),
    [
        ("empty", b""),
        ("empty", resigned(POLICY_LINE, body={"keys": {}})),
        ("oversized", LINE + b" " * MAX_ROW_BYTES),
        ("not_json", LINE + LINE),
        ("not_json", LINE[: len(LINE) // 2]),
        ("not_json", b"[" * 100_000),
        ("not_json", b'{"id":"\\ud800"}'),
        ("not_json", b'{"seq":NaN}'),
        ("not_json", b"\xff\xfe"),
        ("not_json", b"[]"),
        ("not_canonical", b" " + LINE),
        ("not_canonical", LINE.replace(b'"seq":1', b'"seq":1,"seq":1')),
        ("unsigned", canonical({k: v for k, v in json.loads(LINE).items() if k != "sig"})),
        ("unsigned", canonical({**json.loads(LINE), "sig": ""})),
        ("bad_signature", resigned(key="fra")),
        ("bad_signature", resigned(POLICY_LINE, key="fra")),
        ("bad_signature", LINE.replace(b'"seq":1', b'"seq":2')),
        ("bad_signature", canonical({**json.loads(LINE), "sig": "zz"})),
        ("unknown_field", resigned(extra=1)),
        ("unknown_field", resigned(body=body(extra=1))),
        ("unknown_field", resigned(body=model(extra=1))),
        ("missing_field", resigned(body={})),
        ("missing_field", resigned(body=body(models={MODEL: {}}))),
        ("bad_value", resigned(body=body(models=[]))),
        ("bad_value", resigned(body=body(models={"no-slash": {}}))),
        ("bad_value", resigned(body=body(models={f"a/m{i}": {} for i in range(MAX_MODELS + 1)}))),
        ("bad_value", resigned(body=body(draining=1))),
        ("bad_value", resigned(body=body(store_bytes_per_s=-1))),
        ("bad_value", resigned(body=model(bytes=True))),
        ("bad_value", resigned(body=model(bytes=1.5))),
        ("bad_value", resigned(body=model(state="odd"))),
        ("bad_value", resigned(body=model(state=[]))),
        ("bad_value", resigned(body=model(kind={}))),
        ("bad_value", resigned(body=model(revision="short"))),
        ("bad_value", resigned(body=model(error="text"))),
        ("bad_value", resigned(body=model(error={"code": "c" * 2000, "message": "", "next": ""}))),
        ("bad_value", resigned(body=model(left_out=[{"path": "p", "reason": "r"}] * 33))),
        ("bad_value", resigned(body=body(part=[1, 1]))),
        ("bad_value", resigned(body=body(part=[2, 2]))),
        ("bad_value", resigned(body=body(part="12"))),
        ("bad_value", resigned(body=body(part=5))),
        ("bad_value", resigned(body=model(residency="iad"))),
        ("bad_value", resigned(body=model(residency=5))),
        ("bad_value", resigned(FULL[1], body={**json.loads(FULL[1])["body"], "gone": MODEL})),
        (
            "bad_value",
            resigned(FULL[1], body={**json.loads(FULL[1])["body"], "gone": [MODEL] * (MAX_MODELS + 1)}),
        ),
        ("bad_value", resigned(POLICY_LINE, body={**granted(), "trial": {**TRIAL, "edges": 5}})),
        ("bad_value", resigned(POLICY_LINE, body={**granted(), "trial": {**TRIAL, "edges": []}})),
        ("bad_value", resigned(seq=1 << 54)),
        ("bad_value", resigned(kind="other")),
        ("bad_value", resigned(POLICY_LINE, body={"keys": {"short": {}}})),
        ("bad_value", resigned(POLICY_LINE, body=granted(scopes="infer"))),
        ("bad_value", resigned(POLICY_LINE, body=granted(models=["*"] * 33))),
        ("bad_value", resigned(POLICY_LINE, body=granted(expires_s=-1))),
        ("bad_value", resigned(POLICY_LINE, body=granted(quota=[1, 2, 3]))),
        ("bad_value", resigned(POLICY_LINE, body=granted(quota=[1, 2, 3, "4"]))),
        ("unknown_field", resigned(POLICY_LINE, body=granted(quotas=[]))),
        ("unknown_region", resigned(id="mars")),
        ("wrong_region", resigned(POLICY_LINE, id="other")),
    ],
)
def test_rows_each_bad_line_is_refused_by_its_code(code, line):
    assert code_of(line) == code


def test_rows_every_truncated_line_and_every_flipped_byte_is_refused():
    for end in range(0, len(LINE), 7):
        code_of(LINE[:end])
    for at in range(len(LINE)):
        code_of(LINE[:at] + bytes([LINE[at] ^ 1]) + LINE[at + 1 :])


@given(st.binary(max_size=200))
def test_rows_no_bytes_raise_anything_but_a_refusal(data):
    code_of(data)


def holders(value):
    """Every object and list in it."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [value, *(each for one in inner for each in holders(one))] if inner else []


def test_rows_that_say_all_they_can_are_taken():
    for line in FULL:
        decode(line, SIGNERS)


@given(st.integers(0, 2**32))
@settings(max_examples=count(120, 400))
def test_rows_no_mutation_under_a_good_signature_raises_anything_but_a_refusal(seed):
    rng = random.Random(seed)
    document = json.loads(rng.choice(FULL))
    place = rng.choice(holders(document))
    place[rng.choice(list(place) if isinstance(place, dict) else range(len(place)))] = rng.choice(
        [None, [], {}, "", "x", -1, 1.5, True, {"a": {}}, [[]], 10**20]
    )
    with contextlib.suppress(RowRefused):
        decode(resigned(canonical(document)), SIGNERS)


def test_rows_a_row_too_long_to_be_taken_is_not_sent():
    many = {f"acme/m{i:04d}": model_row() for i in range(5000)}

    with pytest.raises(RowRefused, match="oversized"):
        encode(region_row(models=many), KEYS["iad"])
    assert len(encode_whole(region_row(models=many), KEYS["iad"])) > 1
