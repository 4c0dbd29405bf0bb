"""The page's colours, light and dark, and the words that can be read on each: chosen by contrast. Pure."""

from collections.abc import Mapping

DARK_WORDS, LIGHT_WORDS = "#0b0d10", "#ffffff"

LIGHT: Mapping[str, str] = {
    "page": "#f6f5f1",
    "card": "#fffefb",
    "ink": "#1b1d22",
    "soft": "#5d636e",
    "line": "#dedbd2",
    "track": "#ece9e1",
    "good": "#1f7a4d",
    "bad": "#b3361e",
    "note": "#7a4f00",
    "note-back": "#fbeecb",
    "origin": "#33489c",
    "region": "#4585d6",
    "host": "#2f9c9a",
    "resident": "#d08a17",
    "warm": "#d8502c",
    "f-client": "#b9bec7",
    "f-network": "#9aa4b2",
    "f-edge": "#6c7789",
    "f-gateway": "#6f61bd",
    "f-wake": "#b3a8e0",
    "f-from-home": "#33489c",
    "f-process": "#a9744a",
    "f-bytes": "#4585d6",
    "f-attach": "#2f9c9a",
    "f-first-run": "#5c9e5a",
    "f-prompt": "#c9b03a",
    "f-prefill": "#e28a2b",
    "f-decode": "#d8502c",
    "f-unattributed": "#d3cfc5",
}
DARK: Mapping[str, str] = {
    "page": "#14161a",
    "card": "#1b1e24",
    "ink": "#eceae4",
    "soft": "#9ba1ad",
    "line": "#31353d",
    "track": "#262a31",
    "good": "#63c694",
    "bad": "#f0856c",
    "note": "#f0c566",
    "note-back": "#3a3018",
    "origin": "#7c90e6",
    "region": "#5c9df0",
    "host": "#4cbcb8",
    "resident": "#e8ac45",
    "warm": "#f07850",
    "f-client": "#5d6470",
    "f-network": "#7d8796",
    "f-edge": "#a3adbd",
    "f-gateway": "#9d90e4",
    "f-wake": "#6b6299",
    "f-from-home": "#7c90e6",
    "f-process": "#c48f64",
    "f-bytes": "#5c9df0",
    "f-attach": "#4cbcb8",
    "f-first-run": "#7fbf7c",
    "f-prompt": "#dcc65a",
    "f-prefill": "#f0a24d",
    "f-decode": "#f07850",
    "f-unattributed": "#4a4e57",
}
FILLS = tuple(name for name in LIGHT if name.startswith("f-"))


def variables(palette: Mapping[str, str]) -> str:
    """The palette as CSS variables; `--on-NAME` is the colour of words on a fill."""
    found = {**palette, **{f"on-{name}": words_on(palette[name]) for name in FILLS}}
    return " ".join(f"--{name}: {value};" for name, value in found.items())


def words_on(fill: str) -> str:
    """Dark or light, whichever can be read better on it."""
    return max((DARK_WORDS, LIGHT_WORDS), key=lambda words: contrast(words, fill))


def contrast(one: str, other: str) -> float:
    """The ratio of WCAG 2.2, from 1 to 21; 4.5 is its least for words."""
    high, low = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: str) -> float:
    red, green, blue = (_linear(int(colour[at : at + 2], 16) / 255) for at in (1, 3, 5))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _linear(channel: float) -> float:
    return float(channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4)
