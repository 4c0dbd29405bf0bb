"""What is published is what the code says: schemas, the reference page, and the schema of the TOML."""

import copy
import datetime as dt
import json
import tomllib
from pathlib import Path

import pytest

from deploy import fleet, reference
from deploy.config.convert import _CONVERTERS
from deploy.config.read import ConfigError, parse
from deploy.config.shape import SHAPES
from deploy.schemas.outputs import OUTPUTS
from deploy.schemas.published import REPORT, SCHEMAS, schema_of
from deploy.schemas.toml import TYPES
from deploy.trust import pki
from tests.deploy.conforms import breaches

MADE = "these pages are made from the code: run `python -m deploy.reference`"
DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.mark.parametrize(("name", "text"), reference.pages())
def test_a_page_that_is_made_from_the_code_is_what_the_code_says(name, text):
    """Made anew with `python -m deploy.reference`."""
    assert (DOCS / name).read_text() == text, MADE


def test_the_page_of_figures_is_what_the_roles_count():
    assert (DOCS / "metrics.md").read_text() == reference.metrics_page(), MADE


def test_the_published_schemas_are_those_of_the_code():
    """The same files, no more and no fewer."""
    written = {path.name: path.read_text() for path in (DOCS / "schemas").glob("*.json")}

    assert written == dict(reference.schemas()), MADE


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fleet")
    authority = pki.ensure(folder / "tls", dt.datetime.now(dt.UTC))
    return tomllib.loads(fleet.write(fleet.FleetPlan(folder, profile="us-eu-jp"), authority).read_text())


def test_what_up_writes_conforms_to_the_published_schema(tree):
    assert breaches(tree, schema_of("toml")) == []


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("platform", "hoem", "iad"),
        ("platform", "idle_timeout_s", "long"),
        ("platform", "idle_timeout_s", -1),
        ("platform", "mutual_tls", 1),
        ("nodes.iad-0", "num_threads", 1.5),
        ("nodes.iad-0", "cache", ["a"]),
        ("edges.local", "pins", {"iad": 1}),
        ("edges.local", "patience", {"connect_s": 0}),
        ("edges.local", "patience", {"conect_s": 1.0}),
        ("stores.iad", "domains", "one"),
    ],
)
def test_schema_and_parser_refuse_the_same(tree, tmp_path, section, key, value):
    """Whatever an editor marks by the schema, a role refuses too."""
    wrong = copy.deepcopy(tree)
    table = wrong
    for part in section.split("."):
        table = table[part]
    table[key] = value

    assert breaches(wrong, schema_of("toml"))
    with pytest.raises(ConfigError):
        parse(wrong, tmp_path / "nearfield.toml")


def test_every_kind_of_field_has_a_converter_and_a_schema():
    assert set(TYPES) == set(_CONVERTERS)
    assert set(schema_of("toml")["properties"]) == set(SHAPES)


@pytest.mark.parametrize("name", [name for name in SCHEMAS if name != REPORT])  # that one has its own test
def test_every_schema_is_written_in_words_that_tests_know(name):
    """So a test that finds no breach has looked at all of it."""

    def walk(schema):
        breaches(None, schema)
        below = [schema.get("items"), *schema.get("anyOf", ()), *schema.get("properties", {}).values()]
        for each in below:
            if isinstance(each, dict):
                walk(each)

    walk(schema_of(name))
    json.dumps(schema_of(name))


def test_conformance_is_not_granted_blindly():
    """The checker itself: each word of a schema can be broken."""
    assert breaches({"error": {"code": "x", "message": "y"}}, OUTPUTS["error"]) == ["$.error lacks next"]
    assert breaches({"models": 1}, OUTPUTS["error"]) == ["$ lacks error", "$.models is not foreseen"]
    assert breaches([{"name": "a", "well": 1, "seen": "", "fix": ""}], OUTPUTS["doctor"])
    assert breaches({"a/m": {"iad": {"revision": 3}}}, OUTPUTS["ls"])
    assert breaches({"model": "a/m", "deleted_objects": -1, "ended_uploads": 0}, OUTPUTS["rm"])
    assert breaches({"a": {"fra": None}}, OUTPUTS["ls"]) == []
