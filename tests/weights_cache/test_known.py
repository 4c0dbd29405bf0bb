"""A revision that was read is not read again, and nothing else is taken for it."""

import json
from dataclasses import replace

import pytest

from tests.weights_cache.test_revision import revision
from weights_cache.model.known import KnownRevisions
from weights_cache.model.revision import Revision, RevisionError, Spec


def value_of(found):
    """What travels in `POST /load`, parsed anew."""
    return json.loads(json.dumps(found.as_value()))


def test_the_same_bytes_are_the_same_revision():
    """However the keys are ordered."""
    known, first = KnownRevisions(), value_of(revision())
    found = known.read(first)

    assert found == revision()
    assert known.read(value_of(revision())) is found
    assert known.read(dict(reversed(first.items()))) is found


@pytest.mark.parametrize("changes", [{"model": "acme/other"}, {"spec": Spec(idle_timeout_s=31.0)}])
def test_any_other_value_is_read(changes):
    """One that is known stands for nothing else."""
    known = KnownRevisions()
    known.read(value_of(revision()))

    assert known.read(value_of(revision(**changes))) == revision(**changes)


def deep():
    """A value that no digest can be made of."""
    found = []
    for _ in range(100_000):
        found = [found]
    return found


@pytest.mark.parametrize("value", [None, [], {}, {"schema": float("nan")}, {"schema": "\ud800"}, deep()])
def test_what_is_no_revision_is_refused_again_and_again(value):
    """As `Revision.from_value` refuses it."""
    known = KnownRevisions()
    for _ in range(2):
        with pytest.raises(RevisionError):
            known.read(value)


def test_a_wrong_value_is_refused_beside_a_known_one():
    """A changed offset is another digest, and is checked."""
    known, value = KnownRevisions(), value_of(revision())
    known.read(value)
    value["tensors"][0]["offset"] += 1

    with pytest.raises(RevisionError):
        known.read(value)


def test_numbers_that_are_only_equal_are_not_the_same():
    """1 and true and 1.0 are equal in Python, and only one of them is a revision's."""
    known, value = KnownRevisions(), value_of(revision())
    known.read(value)
    for wrong in (True, 1.0):
        value["tensors"][0]["file"] = wrong
        with pytest.raises(RevisionError):
            known.read(value)


def test_the_oldest_goes_first():
    """What is remembered is bounded by its entries: here two revisions of five."""
    known = KnownRevisions(most_entries=10)
    names = ["acme/one", "acme/two", "acme/three"]
    one, two, _ = (known.read(value_of(revision(model=name))) for name in names[:2] + names[:1])
    known.read(value_of(revision(model=names[2])))

    assert known.read(value_of(revision(model=names[0]))) is one
    assert known.read(value_of(revision(model=names[1]))) is not two


def test_what_a_process_of_ours_checked_is_the_same_there():
    """Value, id and bytes, with every optional field said and not said."""
    full = Spec(
        regions=("iad",), idle_timeout_s=30, prewarm=("08:00-18:00",), quantize="int8", residency=("eu",)
    )
    for first in (revision(), revision(spec=full), revision(spec=Spec(), left_out=())):
        again = Revision.of_checked(value_of(first))

        assert again == first
        assert again.id == first.id
        assert again.to_json() == first.to_json()
        assert again.weight_files == first.weight_files
        assert replace(again) == first


def test_one_that_was_read_is_found_by_its_id_until_it_is_forgotten():
    """And finding it counts as use."""
    known, (first, second, third) = (
        KnownRevisions(10),
        [revision(model=name) for name in ("a/a", "a/b", "a/c")],
    )
    for each in (first, second):
        known.read(value_of(each))
    assert known.find(first.id).id == first.id
    known.read(value_of(third))
    assert [known.find(each.id) is not None for each in (first, second, third)] == [True, False, True]
