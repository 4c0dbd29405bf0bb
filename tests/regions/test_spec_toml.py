"""`model.toml`: strict, bounded, and unable to say anything but wishes."""

from re import findall

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regions.push.spec import MAX_SPEC_BYTES, SpecError, read_spec
from weights_cache.model.facts import HOURS
from weights_cache.model.revision import Spec

REGIONS = ("iad", "fra", "nrt")


def refusal(text):
    with pytest.raises(SpecError) as caught:
        read_spec(text.encode(), REGIONS)
    return caught.value


def test_every_key_is_read():
    text = (
        'regions = ["iad", "nrt"]\nmin_replicas = 1\nmax_replicas = 1\nidle_timeout_s = 30\n'
        'dtype = "bfloat16"\nmax_batch = 8\nengine = "vllm"\n'
    )

    assert read_spec(text.encode(), REGIONS) == Spec(("iad", "nrt"), 1, 1, 30.0, "bfloat16", 8, "vllm")


def test_deterministic_answers_are_asked_for_and_older_revisions_keep_their_id():
    assert read_spec(b"deterministic = true", REGIONS) == Spec(deterministic=True)
    assert "deterministic" not in Spec().as_value()
    assert Spec.from_value(Spec(deterministic=False).as_value()).deterministic is False
    assert "cannot promise" in refusal('deterministic = true\nengine = "vllm"').message


def test_guesses_are_bounded_and_only_our_own_engine_is_told():
    assert read_spec(b"num_speculative_tokens = 0", REGIONS) == Spec(num_speculative_tokens=0)
    assert "num_speculative_tokens" not in Spec().as_value()
    assert "num_speculative_tokens" in refusal("num_speculative_tokens = 65").message
    assert "is not told" in refusal('num_speculative_tokens = 4\nengine = "vllm"').message


def test_hours_that_are_none_are_told_by_examples():
    assert refusal('prewarm = ["mon-fri 00:00-24:00"]').message.endswith(HOURS)
    for example in findall('"(.*?)"', HOURS):
        assert read_spec(f'prewarm = ["{example}"]'.encode(), REGIONS) == Spec(prewarm=(example,))


def test_8_bit_weights_are_asked_for_and_nothing_else_is_known():
    assert read_spec(b'quantize = "int8"', REGIONS) == Spec(quantize="int8")
    assert "quantize" not in Spec().as_value()
    assert Spec.from_value(Spec(quantize="int8").as_value()).quantize == "int8"
    assert "quantize" in refusal('quantize = "int4"').message
    assert "quantize" in refusal("quantize = true").message
    assert "only our own" in refusal('quantize = "int8"\nengine = "vllm"').message


@pytest.mark.parametrize("text", [f"a = {'9' * 5000}", f"a = {'[' * 9000}{']' * 9000}", "a = "])
def test_what_no_parser_takes_is_refused_as_no_toml(text):
    """Python reads no integer of so many digits: that is no TOMLDecodeError, and ended a push in a traceback."""
    assert "is not TOML" in refusal(text).message


def test_an_empty_file_is_all_defaults():
    assert read_spec(b"# nothing\n", REGIONS) == Spec()


@pytest.mark.parametrize(
    ("text", "suggestion"),
    [
        ("min_replica = 1", "min_replicas"),
        ('region = ["iad"]', "regions"),
        ("idle_timeout = 3", "idle_timeout_s"),
        ("zzz = 3", "the keys are"),
        ("[tool]\nx = 1", "the keys are"),
    ],
)
def test_an_unknown_key_is_refused_with_a_suggestion(text, suggestion):
    assert suggestion in refusal(text).next_step


@pytest.mark.parametrize(
    "text",
    [
        '[engine]\ncommand = ["sh"]',
        '[engines.mine]\ncommand = ["sh"]',
        '[[engines]]\ncommand = ["sh"]',
    ],
)
def test_a_push_may_name_an_engine_but_never_define_one(text):
    error = refusal(text)

    assert "may only name one" in error.message
    assert "nearfield.toml" in error.next_step


@pytest.mark.parametrize(
    "text",
    [
        "min_replicas = -1",
        "min_replicas = true",
        'min_replicas = "1"',
        "max_replicas = 0",
        "idle_timeout_s = nan",
        "idle_timeout_s = inf",
        'dtype = "int8"',
        "max_batch = 99999",
        'deterministic = "yes"',
        "deterministic = 1",
        'engine = "../x"',
        'engine = "a b"',
        'regions = "iad"',
        "regions = []",
        'regions = ["mars"]',
        "min_replicas = 2",
        "max_replicas = 2",
        "not toml",
        "a = 1\na = 2",
    ],
)
def test_a_bad_value_is_refused(text):
    error = refusal(text)

    assert error.message
    assert error.next_step


def test_a_close_region_is_suggested():
    assert refusal('regions = ["irad"]').next_step == "did you mean 'iad'?"


def test_an_oversized_or_undecodable_file_is_refused():
    assert "at most" in refusal("#" * (MAX_SPEC_BYTES + 1)).message
    with pytest.raises(SpecError):
        read_spec(b"\xff\xfe", REGIONS)
    with pytest.raises(SpecError):
        read_spec(b"a = " + b"[" * 20_000, REGIONS)


@given(st.binary(max_size=300))
def test_no_bytes_raise_anything_else(data):
    try:
        read_spec(data, REGIONS)
    except SpecError as error:
        assert error.next_step  # noqa: PT017 - most bytes are refused, some are TOML


def test_an_engine_is_ours_or_one_that_the_operator_defined():
    defined = ("vllm", "fast")
    found = [
        read_spec(f'engine = "{name}"'.encode(), REGIONS, defined).engine for name in ("fast", "nearfield")
    ]

    assert found == ["fast", "nearfield"]
    assert read_spec(b"", REGIONS, ()).engine is None


@pytest.mark.parametrize(
    ("name", "defined", "said"),
    [("vlm", ("vllm",), "did you mean 'vllm'"), ("command", (), "without `engine`")],
)
def test_an_unknown_engine_is_refused_with_those_there_are(name, defined, said):
    with pytest.raises(SpecError) as caught:
        read_spec(f'engine = "{name}"'.encode(), REGIONS, defined)

    assert "nearfield" in caught.value.message
    assert said in caught.value.next_step
    assert f"[engines.{name}]" in caught.value.next_step
