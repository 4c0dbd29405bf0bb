"""Kept prefixes without torch: a page holds what it says, for its own tenant, in every order of events."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from inference.engine.steps import pages as pages_module
from inference.engine.steps.pages import PAGE_TOKENS, Chain, PageCache, digest
from tests.evidence import count


def chain(*blocks, tenant="acme"):
    """Blocks of one repeated token each, and one token more than they hold."""
    return Chain(tenant, [token for token in blocks for _ in range(PAGE_TOKENS)] + [0])


def kept(cache, one, num_blocks):
    first, pages = cache.keep(one, num_blocks)
    cache.check()
    return first, list(pages)


def test_what_was_kept_is_found_as_far_as_it_is_the_same():
    cache = PageCache(8)
    assert kept(cache, chain(1, 2, 3), 3) == (0, [0, 1, 2])
    assert cache.find(chain(1, 2, 3, 4), 4) == (0, 1, 2)
    assert cache.find(chain(1, 2, 9), 3) == (0, 1)
    assert cache.find(chain(9, 2, 3), 3) == ()
    assert cache.find(chain(2, 3), 2) == (), "a block behind another prefix is another block"
    assert cache.find(chain(1, 2, 3), 2) == (0, 1)
    assert kept(cache, chain(1, 2, 9), 3) == (2, [3])
    assert kept(cache, chain(1, 2, 3), 3) == (3, [])


def test_a_tenants_prompt_is_found_by_nobody_else():
    cache = PageCache(8)
    cache.keep(chain(1, 2, tenant="acme"), 2)
    assert cache.find(chain(1, 2, tenant="evil"), 2) == ()
    assert cache.find(chain(1, 2, tenant=""), 2) == ()
    assert kept(cache, chain(1, 2, tenant="evil"), 2) == (0, [2, 3])
    assert cache.find(chain(1, 2, tenant="acme"), 2) == (0, 1)


def test_the_least_recently_used_end_gives_way_first():
    cache = PageCache(4)
    cache.keep(chain(1, 2), 2)
    cache.keep(chain(5, 6), 2)
    assert cache.find(chain(1, 2), 2) == (0, 1)
    assert kept(cache, chain(7), 1) == (0, [3]), "the last block of the older prefix"
    assert cache.find(chain(5, 6), 2) == (2,)
    assert kept(cache, chain(8), 1) == (0, [1]), "the prefix of 1 and 2 is older than that of 5 by now"


def test_a_prefix_longer_than_the_cache_is_kept_as_far_as_it_fits():
    cache = PageCache(2)
    assert kept(cache, chain(1, 2, 3, 4), 4) == (0, [0, 1])
    assert cache.find(chain(1, 2, 3, 4), 4) == (0, 1)
    assert kept(PageCache(0), chain(1, 2), 2) == (0, [])


def test_a_chain_grows_with_its_tokens_and_has_whole_blocks_only():
    tokens = [1] * PAGE_TOKENS
    one = Chain("acme", tokens)
    first = one.block(0)
    with pytest.raises(IndexError, match="block 1"):
        one.block(1)
    tokens += [2] * PAGE_TOKENS
    assert one.block(1)[1] == (2,) * PAGE_TOKENS
    assert one.block(0) == first


def test_digests_are_salted_by_the_tenant_and_by_the_process(monkeypatch):
    own, other = chain(1).block(0)[0], chain(1, tenant="evil").block(0)[0]
    monkeypatch.setattr(pages_module, "PROCESS_KEY", b"another process")
    assert len({own, other, chain(1).block(0)[0]}) == 3


TENANTS = st.sampled_from(["acme", "evil", ""])
BLOCKS = st.lists(st.integers(0, 2), max_size=5)


class Keeping(RuleBasedStateMachine):
    """Beside the cache: what a memory would hold if every page were filled as the cache says."""

    def __init__(self):
        super().__init__()
        self.memory = {}

    @initialize(num_pages=st.integers(0, 9))
    def make(self, num_pages):
        self.cache = PageCache(num_pages)

    @rule(tenant=TENANTS, blocks=BLOCKS)
    def keep(self, tenant, blocks):
        before = self.cache.find(chain(*blocks, tenant=tenant), len(blocks))
        first, pages = self.cache.keep(chain(*blocks, tenant=tenant), len(blocks))
        assert first == len(before)
        assert len(set(pages)) == len(pages)
        assert not set(pages) & set(before), "a prefix does not eat itself"
        for number, page in enumerate(pages, first):
            self.memory[page] = (tenant, tuple(blocks[: number + 1]))

    @rule(tenant=TENANTS, blocks=BLOCKS)
    def find(self, tenant, blocks):
        pages = self.cache.find(chain(*blocks, tenant=tenant), len(blocks))
        for number, page in enumerate(pages):
            assert self.memory[page] == (tenant, tuple(blocks[: number + 1]))

    @rule(tenant=TENANTS, blocks=BLOCKS)
    def what_was_just_used_is_still_there(self, tenant, blocks):
        one = chain(*blocks, tenant=tenant)
        first, pages = self.cache.keep(one, len(blocks))
        for number, page in enumerate(pages, first):
            self.memory[page] = (tenant, tuple(blocks[: number + 1]))
        assert len(self.cache.find(one, len(blocks))) == first + len(pages)

    @invariant()
    def nothing_is_leaked(self):
        if hasattr(self, "cache"):
            self.cache.check()
            assert 0 <= self.cache.num_kept <= self.cache.num_pages


@pytest.mark.parametrize("weak", [False, True], ids=["digests", "digests that collide"])
def test_in_every_order_of_events(weak, monkeypatch):
    if weak:  # three names for all there is: only the comparison is left
        monkeypatch.setattr(pages_module, "digest", lambda *parts: bytes([digest(*parts)[0] % 3]))
    run_state_machine_as_test(
        Keeping, settings=settings(max_examples=count(25, 1_500), stateful_step_count=30, deadline=None)
    )
