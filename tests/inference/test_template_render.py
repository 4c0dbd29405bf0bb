"""Chat templates render as transformers would, and a hostile one costs its own request only."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest

from inference.api.killable import child as child_of
from inference.api.text.template import ChatTemplate, TemplateChild, find_template
from wire.refused.refusal import Refusal

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "2 + 2 <b>\"quoted\"</b> & 'é'"},
    {"role": "assistant", "content": "4"},
    {"role": "user", "content": "and 3 + 3?", "name": "Eve"},
]
CHATML = (
    "{% for message in messages %}\n"
    "    {% if loop.first and message['role'] != 'system' %}{{ '<|im_start|>system\\nHi<|im_end|>\\n' }}{% endif %}\n"
    "{{ '<|im_start|>' + message.role + '\\n' + message['content'] | trim + '<|im_end|>' + '\\n' }}\n"
    "{% endfor %}\n"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
TEMPLATES = {
    "chatml": CHATML,
    "tokens": "{{ bos_token }}{% for m in messages %}[{{ m.role|upper }}] {{ m.content }} {{ eos_token }}{% endfor %}",
    "loops": (
        "{% set ns = namespace(seen=0) %}{% for m in messages %}"
        "{% if m.role == 'assistant' %}{% continue %}{% endif %}{% set ns.seen = ns.seen + 1 %}"
        "{{ m.content }}|{% if ns.seen == 2 %}{% break %}{% endif %}{% endfor %}{{ ns.seen }}"
    ),
    "json": "{{ messages | tojson }}{{ messages[0] | tojson(indent=2) }}",
    "generation": (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{{ eos_token }}"
        "{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}"
    ),
    "macros": (
        "{% macro turn(m) -%}<{{ m.role }}>{{ m.content }}</{{ m.role }}>{%- endmacro %}"
        "{% for m in messages %}{{ turn(m) }}{% endfor %}{{ messages[1:] | map(attribute='role') | list }}"
    ),
    "words": (
        "{% if tools is none and documents is none %}no tools{% endif %}"
        "{{ enable_thinking }}{{ strftime_now('%Y') }}"
    ),
    "missing": "{{ nothing }}{% if nothing is defined %}x{% endif %}{{ messages[0].get('x', 'y') }}\n",
    "spaces": "  {% if true %}\n  a\n  {% endif %}\n  {{- ' b ' -}}  \n\nc\n",
}


@pytest.fixture
async def child() -> AsyncIterator[TemplateChild]:
    made = TemplateChild(cpu_ms=150)
    await made.start()
    yield made
    await made.close()


def theirs(source: str, variables: dict[str, Any]) -> str:
    """What transformers renders; the oracle."""
    from transformers.utils.chat_template_utils import render_jinja_template

    rendered, _ = render_jinja_template(conversations=[MESSAGES], chat_template=source, **variables)
    return str(rendered[0])


@pytest.mark.parametrize("name", list(TEMPLATES))
@pytest.mark.parametrize("add_generation_prompt", [True, False])
async def test_renders_as_transformers_does(
    child: TemplateChild, name: str, add_generation_prompt: bool
) -> None:
    special = {"bos_token": "<s>", "eos_token": "</s>"}
    variables = {"add_generation_prompt": add_generation_prompt, "enable_thinking": False}
    ours = await child.render(ChatTemplate(TEMPLATES[name], special), MESSAGES, variables)

    assert ours == theirs(TEMPLATES[name], {**special, **variables})


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{% for", "line 1"),
        ("{{ messages | nofilter }}", "nofilter"),
        ("{{ nothing.at.all }}", "nothing"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ cycler.__init__.__globals__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{{ lipsum.__globals__['os'] }}", "unsafe"),
        ("{% set ns = namespace() %}{% set ns._x = 1 %}", "_x"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "deeply"),
        ("{{ 'a' * 2000000 }}", "1,048,576 bytes"),
        ("{{ 'a' * 10**10 }}", "memory"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ range(10**9) | list }}", "too big"),
        ("{% include 'x' %}", "loader"),
        ("{{ '\\ud800' }}", "surrogates"),
    ],
)
async def test_a_template_that_fails_says_why(child: TemplateChild, source: str, why: str) -> None:
    with pytest.raises(Refusal) as refused:
        await child.render(ChatTemplate(source, {}), MESSAGES, {})

    assert (refused.value.status, refused.value.code, refused.value.param) == (
        400,
        "chat_template_failed",
        "messages",
    )
    assert why in refused.value.message


ENDLESS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"


async def test_an_endless_template_is_killed_and_its_neighbours_are_served(child: TemplateChild) -> None:
    good = ChatTemplate(CHATML, {})
    endless = ChatTemplate(ENDLESS, {})
    outcomes = await asyncio.gather(
        *(child.render(endless if i == 1 else good, MESSAGES, {}) for i in range(4)), return_exceptions=True
    )

    assert isinstance(outcomes[1], Refusal)
    assert "150 ms of processor time" in outcomes[1].message
    assert [type(outcome) for outcome in outcomes] == [str, Refusal, str, str]
    assert child.num_killed == 1


async def test_a_huge_single_step_is_killed_too(child: TemplateChild) -> None:
    """One operation of C code that no check inside the process could interrupt."""
    with pytest.raises(Refusal):
        await child.render(ChatTemplate("{{ (7 ** 20000000) % 3 }}", {}), MESSAGES, {})


async def test_a_child_that_died_is_replaced(child: TemplateChild) -> None:
    assert await child.render(ChatTemplate("a", {}), MESSAGES, {}) == "a"
    process = child._process
    assert process is not None
    os.kill(process.pid, signal.SIGKILL)
    await process.wait()

    assert await child.render(ChatTemplate("b", {}), MESSAGES, {}) == "b"


async def test_a_child_killed_from_outside_costs_no_request(child: TemplateChild) -> None:
    """The template is not to blame for somebody's kill -9: the rendering is done again, and nobody is told off."""
    await child.start()
    process = child._process
    assert process is not None
    process.kill()

    assert await child.render(ChatTemplate("{{ 6 * 7 }}", {}), [], {}) == "42"
    assert child.num_killed == 0


async def test_a_caller_who_leaves_does_not_upset_the_next(child: TemplateChild) -> None:
    slow = ChatTemplate("{% for i in range(99999) %}{% endfor %}slow", {})
    leaving = asyncio.create_task(child.render(slow, MESSAGES, {}))
    await asyncio.sleep(0.001)
    leaving.cancel()

    assert await child.render(ChatTemplate("next", {}), MESSAGES, {}) == "next"
    assert child.num_killed == 0


async def test_more_templates_than_the_child_keeps(child: TemplateChild) -> None:
    for _ in range(2):
        for number in range(40):
            assert await child.render(ChatTemplate(f"t{number}", {}), MESSAGES, {}) == f"t{number}"


async def test_the_child_ends_with_its_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_of, "EXIT_S", 20.0)  # after which it would be killed: the machine may be busy
    made = TemplateChild()
    await made.render(ChatTemplate("up", {}), MESSAGES, {})
    process = made._process
    assert process is not None
    await made.close()

    assert process.returncode == 0


async def test_a_closed_child_stays_closed() -> None:
    made = TemplateChild()
    await made.close()
    with pytest.raises(Refusal):
        await made.render(ChatTemplate("x", {}), MESSAGES, {})
    await made.compile(ChatTemplate("x", {}))

    assert made._process is None


async def test_a_template_compiled_ahead_needs_no_source(child: TemplateChild) -> None:
    for source in ("ahead {{ messages[0].role }}", "{% for"):
        await child.compile(ChatTemplate(source, {}))

    assert await child._ask(
        {
            "digest": ChatTemplate("ahead {{ messages[0].role }}", {}).digest,
            "variables": {"messages": MESSAGES},
        }
    ) == {"text": "ahead system"}
    assert await child.render(ChatTemplate("{{ 1 }}", {}), MESSAGES, {}) == "1"


def test_where_a_template_is_found() -> None:
    config = b'{"chat_template": "from config", "eos_token": {"content": "</s>"}, "bos_token": null}'
    named = b'{"chat_template": [{"name": "rag", "template": "r"}, {"name": "default", "template": "d"}]}'
    marks = b'{"bos_token": "<s>", "eos_token": "no"}'

    assert find_template({}) is None
    assert find_template({"tokenizer_config.json": b"{}"}) is None
    assert find_template({"tokenizer_config.json": b"not json"}) is None
    assert (
        find_template({"tokenizer_config.json": b'{"chat_template": [{"name": "rag", "template": "r"}]}'})
        is None
    )
    found = find_template({"tokenizer_config.json": config, "special_tokens_map.json": marks})
    assert found == ChatTemplate("from config", {"eos_token": "</s>", "bos_token": "<s>"})
    own = find_template({"tokenizer_config.json": config, "chat_template.jinja": "é".encode()})
    assert own is not None
    assert own.source == "é"
    default = find_template({"tokenizer_config.json": named})
    assert default is not None
    assert default.source == "d"
    assert default.offering(["tools"]).source == "d"
    tools = named.replace(b'"rag"', b'"tool_use"')
    both = find_template({"tokenizer_config.json": tools, "special_tokens_map.json": marks})
    assert both is not None
    assert (both.offering(None).source, both.offering(["tools"]).source) == ("d", "r")
    assert both.offering(["tools"]).special == both.special == {"bos_token": "<s>", "eos_token": "no"}
    apart = {"chat_template.jinja": b"plain", "additional_chat_templates/tool_use.jinja": b"with tools"}
    files = find_template(apart)
    assert files is not None
    assert (files.offering(None).source, files.offering(["tools"]).source) == ("plain", "with tools")
    assert find_template({"additional_chat_templates/tool_use.jinja": b"alone"}) is None
    old = find_template({"chat_template.json": b'{"chat_template": "old"}'})
    assert old is not None
    assert old.source == "old"
