"""One short life of a store that takes every write path, and what must be there after each of its steps."""

import hashlib
import http.client
from collections.abc import Callable

from storage.client.sdk import url_path
from tests.storage.stores import Answer, Raw

SMALL = b"small"  # goes into the index
LARGE = bytes(range(256)) * 400  # 100 KiB: a file
PARTS = (LARGE[1:], LARGE[2:50_000])
State = dict[str, bytes]


class Walk:
    """The steps in order. `done` counts those that were acknowledged; `states[done]` is what they leave."""

    def __init__(self) -> None:
        self.done = 0
        self.upload = ""
        self.refusal: Answer | None = None
        self.states: list[State] = [{}]
        self._steps: list[Callable[[Raw], Answer]] = []
        self._plan()

    def _plan(self) -> None:
        self._put("small", SMALL)
        self._put("large", LARGE)
        self._put("small", SMALL[::-1], if_match=f'"{hashlib.md5(SMALL).hexdigest()}"')
        self._put("large", LARGE[::-1])
        self._then(self._begin, {})
        self._then(self._part(1), {})
        self._then(self._part(2), {})
        self._then(self._part(2), {})  # again: a blob of its own
        self._then(self._complete, {"parts": b"".join(PARTS)})
        self._then(self._copy, {"copied": LARGE[::-1]})
        self._then(lambda raw: raw.delete("models", "large"), {"large": None})
        self._put("created", LARGE, if_none_match="*")
        self._put("parts", LARGE)
        self._then(self._delete_two, {"small": None, "created": None})

    def _then(self, step: Callable[[Raw], Answer], change: dict[str, bytes | None]) -> None:
        after = self.states[-1] | change
        self.states.append({key: data for key, data in after.items() if data is not None})
        self._steps.append(step)

    def _put(self, key: str, data: bytes, **headers: str) -> None:
        self._then(lambda raw: raw.put("models", key, data, **headers), {key: data})

    def _begin(self, raw: Raw) -> Answer:
        answer = raw.send("POST", "/models/parts", "uploads=")
        self.upload = answer.body.partition(b"<UploadId>")[2].partition(b"</UploadId>")[0].decode()
        return answer

    def _part(self, number: int) -> Callable[[Raw], Answer]:
        return lambda raw: raw.put_part("models", "parts", self.upload, number, PARTS[number - 1])

    def _complete(self, raw: Raw) -> Answer:
        named = [(n, hashlib.md5(part).hexdigest()) for n, part in enumerate(PARTS, 1)]
        return raw.complete("models", "parts", self.upload, named)

    def _copy(self, raw: Raw) -> Answer:
        return raw.send("PUT", "/models/copied", "", {"x-amz-copy-source": url_path("models", "large")})

    def _delete_two(self, raw: Raw) -> Answer:
        named = "".join(f"<Object><Key>{key}</Key></Object>" for key in ("small", "created"))
        return raw.send("POST", "/models", "delete=", {}, f"<Delete>{named}</Delete>".encode())

    @property
    def length(self) -> int:
        return len(self._steps)

    def go(self, raw: Raw) -> None:
        """Walk until the end, a refusal, or the store's death."""
        for step in self._steps[self.done :]:
            try:
                answer = step(raw)
            except (OSError, http.client.HTTPException):
                return
            if answer.status not in {200, 204}:
                self.refusal = answer
                return
            self.done += 1

    def check(self, raw: Raw, done: int, *, exactly: bool = False) -> None:
        """What the first `done` steps left is there, or, unless `exactly`, what the next one leaves; never a mix."""
        now: State = {}
        for key in {key for state in self.states for key in state}:
            answer = raw.get("models", key)
            assert answer.status in {200, 404}, (key, answer)
            if answer.status == 200:
                now[key] = answer.body
        allowed = self.states[done : done + (1 if exactly else 2)]
        assert now in allowed, (done, {key: len(data) for key, data in now.items()})

    def finish_upload(self, raw: Raw, done: int) -> None:
        """Parts that were acknowledged are still there to be completed."""
        if 7 <= done <= 8:
            assert self._complete(raw).status == 200
            assert raw.get("models", "parts").body == b"".join(PARTS)
