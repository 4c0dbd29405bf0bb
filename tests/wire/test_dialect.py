"""An error in the words of whoever asked: what is no error of ours is passed on as it came."""

import json

import pytest

from wire.dialect import translated
from wire.refused.refusal import Refusal

PATH = "/v1/messages"


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, "invalid_request_error"), (418, "invalid_request_error"), (500, "api_error"), (599, "api_error")],
)
def test_an_error_of_ours_is_anthropic_s_on_its_path_alone(status, kind):
    body = Refusal(status, "some_code", "Why.", param="top_p").body()
    error = json.loads(translated(PATH, status, body))

    assert error == {
        "type": "error",
        "error": {"type": kind, "message": "Why.", "param": "top_p", "code": "some_code"},
    }
    assert translated("/v1/chat/completions", status, body) == body


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b'{"error": 1}',
        b'{"error": "told"}',
        b'{"detail": {}}',
        b'{"error": ' + b"[" * 20_000,
        b'{"type": "error", "error": {"type": "api_error", "message": "Why."}}',
    ],
)
def test_anything_else_stays_as_it_is(body):
    assert translated(PATH, 500, body) == body
