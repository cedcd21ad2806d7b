"""Text of strangers made fit to be shown: nothing that a terminal obeys, and no secret that a server echoes."""

from __future__ import annotations

import re
from collections.abc import Iterable

SECRETS: set[str] = set()
"""What must never be shown; whoever sends a secret adds it."""

_UNSEEN = (
    "\x00-\x1f\x7f-\x9f"  # controls: DEL and C1, too, among them CSI and OSC in one character
    "\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f"  # Unicode's Default_Ignorable_Code_Point, as far as it …
    "\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164"  # … has names; line and paragraph separators
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff"  # tags and more variation selectors: text that rides along unseen
    "\ud800-\udfff"  # halves of surrogate pairs, as in paths that are not UTF-8
)
_IN_A_LINE = re.compile(f"[{_UNSEEN}]")
_IN_LINES = re.compile(f"(?![\n\t])[{_UNSEEN}]")
_SHORTEST_SECRET = 6


def printable(text: str) -> str:
    """A line with what a terminal would obey, instead of show, escaped: `\\x1b`; ends of lines too."""
    return _IN_A_LINE.sub(_escape, masked(text))


def printable_lines(text: str) -> str:
    """The same of text whose ends of lines and tabs are meant."""
    return _IN_LINES.sub(_escape, masked(text))


def lines_of(texts: Iterable[str]) -> str:
    """Several problems, each on one line, whatever names they tell of."""
    return "\n".join(map(printable, texts))


def json_text(text: str) -> str:
    """JSON with the same characters as JSON escapes, so that it still says the same."""
    return _IN_LINES.sub(_json_escape, text)


def masked(text: str) -> str:
    """The text without secrets."""
    for secret in SECRETS:
        if len(secret) >= _SHORTEST_SECRET and secret in text:
            text = text.replace(secret, f"{secret[:3]}…")
    return text


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()


def _json_escape(match: re.Match[str]) -> str:
    units = match[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))
