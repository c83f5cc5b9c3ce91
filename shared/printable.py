"""Text that somebody else has written, as people may be shown it: it writes, and does not act."""


def printable(text: str) -> str:
    r"""``text`` in one line, with what cannot be printed written out, as ``\x1b`` or ``\n``.

    What is no printable character could move a terminal's cursor, end the line and begin one that
    looks like ours, or turn the order of what follows round.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
