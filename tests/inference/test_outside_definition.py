"""`[engines.NAME]`: defaults of each kind, what is refused with what to write instead, and words that stay words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.outside.definition import DefinitionError, EngineEntry, defined, environment_of, filled
from inference.outside.kinds import COMMAND, KINDS, ROUTES

GOOD = ("serve", "{model_dir}", "--port", "{port}")
VALUES = {
    "model_dir": "/m",
    "work_dir": "/w",
    "name": "acme/m",
    "host": "127.0.0.1",
    "port": "81",
    "max_len": "9",
}


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {COMMAND}))
def test_a_kind_needs_nothing_more_than_its_name(kind):
    made = defined(kind, EngineEntry())
    named = defined("fast", EngineEntry(kind=kind, args=("--more", "1")))

    assert (made.kind, made.health) == (kind, "/health")
    assert "{port}" in made.words
    assert set(made.routes) <= set(ROUTES)
    assert named.words == (*made.words, "--more", "1")


def test_no_default_lets_a_model_bring_code():
    words = [word for kind in KINDS.values() for word in (*kind.get("command", ()), *kind.get("prepare", ()))]

    assert not [word for word in words if "trust" in word or "remote" in word or "plugin" in word]
    assert "0.0.0.0" not in words


def test_vllm_s_words_are_those_of_its_page():
    assert filled(defined("vllm", EngineEntry()).words, VALUES) == (
        *("vllm", "serve", "/m", "--served-model-name", "acme/m", "--host", "127.0.0.1", "--port", "81"),
        *("--max-model-len", "9", "--enable-prompt-tokens-details"),
    )


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("mine", {"command": None}, "no command"),
        ("mine", {"kind": "vlm"}, "Did you mean 'vllm'"),
        ("nearfield", {}, "no name for an engine"),
        ("a b", {}, "no name for an engine"),
        ("mine", {"command": ("serve", "{modeldir}", "{port}")}, "Did you mean 'model_dir'"),
        ("mine", {"command": ("serve",)}, "where to listen"),
        ("mine", {"command": ("serve", "{port}", "{socket}")}, "one of them"),
        ("mine", {"prepare": ("convert", "{port}")}, "has no address"),
        ("mine", {"args": ("x",) * 300}, "256 words"),
        ("mine", {"args": ("a\0b",)}, "NUL"),
        ("mine", {"environment": ("A=B",)}, "environment variable"),
        ("mine", {"variables": {"A": "a\0"}}, "NUL"),
        ("mine", {"routes": ("/v1/chat/completion",)}, "Did you mean '/v1/chat/completions'"),
        ("mine", {"routes": ()}, "no request"),
        ("mine", {"health": "http://elsewhere/"}, "is not a path"),
        ("mine", {"metrics": "metrics"}, "is not a path"),
        ("mine", {"refuse": ("model",)}, "can be refused"),
        ("mine", {"extra": ("a b",)}, "an extra one"),
        ("mine", {"stop_signal": "SIGKILL"}, "is not SIGTERM"),
        ("mine", {"check_s": 0.0}, "more than 0"),
        ("mine", {"max_requests": 0}, "more than 0"),
    ],
)
def test_a_mistake_is_named_with_a_way_out(name, changes, said):
    with pytest.raises(DefinitionError) as caught:
        defined(name, EngineEntry(**({"command": GOOD} | changes)))

    assert said in str(caught.value)


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=60))
def test_a_value_is_never_more_than_a_part_of_its_word(value):
    """No space, quote, brace or dash in a model's name makes a second argument or another placeholder."""
    made = filled(("serve", "--name={name}", "{port}"), {"name": value, "port": "81"})

    assert made == ("serve", f"--name={value}", "81")


def test_braces_of_json_are_no_placeholders():
    words = (*GOOD, "--limits", '{"image": {"count": 0}}')

    assert filled(defined("mine", EngineEntry(command=words)).words, VALUES)[-1] == '{"image": {"count": 0}}'


def test_the_environment_is_what_is_named():
    made = defined(
        "mine",
        EngineEntry(command=GOOD, environment=("HF_HOME", "ABSENT"), variables={"HOME": "/h", "A": "1"}),
    )
    found = environment_of(made, {"PATH": "/bin", "SECRET": "s", "HF_HOME": "/hf"}, "/w")

    assert found == {"PATH": "/bin", "HF_HOME": "/hf", "HOME": "/h", "TMPDIR": "/w", "A": "1"}
