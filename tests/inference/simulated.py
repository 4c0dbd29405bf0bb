"""What a scheduler's steps would do to slots and pages, without a model."""

from inference.engine.steps.pace import Pace


class Budget(Pace):
    def __init__(self, tokens):
        super().__init__()
        self.tokens = tokens

    def prefill_tokens(self, *_):
        return self.tokens


class Memory:
    """What slots and pages hold when every step is done as it says: the tokens, and whose they are."""

    def __init__(self, orders=()):
        self.orders = {one.id: one for one in orders}
        self.slots, self.pages = {}, {}

    def compute(self, step):
        for part in step:
            row = self.slots.setdefault(part.slot, [])
            tenant = self.orders[part.id].tenant
            del row[part.start - 16 * len(part.pages) :]
            for page in part.pages:
                row += self.pages[page]
            assert len(row) == part.start, "a slot is written from the front without a gap"
            row += [(tenant, token) for token in part.tokens]

    def store(self, event):
        row = self.slots[event.slot]
        for number, page in enumerate(event.pages):
            start = event.start + 16 * number
            self.pages[page] = row[start : start + 16]
            assert len(self.pages[page]) == 16
