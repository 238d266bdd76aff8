"""Text for a terminal: names and errors come from records, which anybody may have written."""

from __future__ import annotations

import unicodedata

__all__ = ["printable"]

# Control characters, invisible ones (such as those that reverse the direction of writing), halves of characters, and
# breaks of lines and paragraphs. The two joiners are part of words and emoji.
HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
JOINERS = "\u200c\u200d"


def printable(text: str) -> str:
    r"""Put a text in one line without anything that a terminal would obey instead of show: ``\x1b[31m``."""
    if text.isprintable():
        return text
    return "".join(
        sign if unicodedata.category(sign) not in HIDDEN or sign in JOINERS else repr(sign)[1:-1] for sign in text
    )
