"""Text of strangers made fit to be shown: nothing that a terminal obeys, and no secret that a server echoes."""

from __future__ import annotations

import re

SECRETS: set[str] = set()
"""What must never be shown; whoever sends a secret adds it."""

# Controls, marks that turn the direction of writing or have no width, line and paragraph separators, tags, halves of
# surrogate pairs.
_UNSEEN = (
    "\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f\ud800-\udfff"
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
