import pytest
from hypothesis import given
from hypothesis import strategies as st

from regions.map.names import BadNameError, ModelName, is_digest, region_name
from tests.regions.made import model_row


@pytest.mark.parametrize("text", ["acme/m", "A/b", "a.b_c-d/e.f_g-h", "0/0", "a" * 64 + "/" + "b" * 96])
def test_map_a_good_model_name_comes_back_as_it_went_in(text):
    name = ModelName.parse(text)

    assert str(name) == text
    assert name.prefix == f"{text}/"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "m",
        "/m",
        "acme/",
        "acme//m",
        "a/b/c",
        "../m",
        "acme/..",
        "acme/.m",
        "-a/m",
        "a/m\n",
        "a /m",
        "ä/m",
        "a" * 65 + "/m",
        "a/" + "b" * 97,
        "a/m%2f",
        "a\\b/m",
        "a/m\0",
    ],
)
def test_map_a_bad_model_name_is_refused(text):
    with pytest.raises(BadNameError):
        ModelName.parse(text)


@given(st.text(max_size=20))
def test_map_no_text_parses_to_a_name_that_leaves_its_prefix(text):
    try:
        prefix = ModelName.parse(text).prefix
    except BadNameError:
        return

    assert prefix.count("/") == 2
    assert not any(part in {"", ".", ".."} for part in prefix[:-1].split("/"))


def test_map_region_names_and_digests():
    assert region_name("eu-west-1") == "eu-west-1"
    assert is_digest("0" * 64)
    assert not is_digest("0" * 63)
    assert not is_digest("A" * 64)
    for bad in ("", "IAD", "1a", "a b", "a" * 33):
        with pytest.raises(BadNameError):
            region_name(bad)


@pytest.mark.parametrize(
    ("state", "revision", "serves"),
    [
        ("live", "a" * 64, True),
        ("draining", "a" * 64, True),
        ("live", "", False),
        ("warming", "a" * 64, False),
        ("failed", "a" * 64, False),
    ],
)
def test_map_only_a_live_or_draining_revision_serves(state, revision, serves):
    assert model_row(state=state, revision=revision).serves is serves
