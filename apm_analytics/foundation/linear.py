"""Replace what a pattern finds in a text, in time linear in the text whatever it contains.

In:  a pattern in RE2's syntax [1]_, a text.
Out: the text with the matches replaced.

RE2 has no lookaround and no backreferences, because these need backtracking. It searches without
the interpreter's lock, so that other threads run meanwhile.

References
----------
.. [1] https://github.com/google/re2/wiki/Syntax
"""

from collections.abc import Callable

import re2

from apm_analytics.foundation.errors import BadParameter

# A search costs at most this many steps per byte; counted repeats such as {0,1000} make it large.
MAX_INSTRUCTIONS = 10_000
# A search may read far beyond the match that it finds, so a text is searched this often at most.
MAX_MATCHES = 1_000
MASK = "***"


class LinearPattern:
    """A pattern; of each match, the first group that took part is replaced.

    A match in which no group took part stays as it is: an alternative without a group is an
    exception. A pattern without groups is replaced as a whole. The next search starts behind what
    was replaced, so two matches may share the text between their groups.

    Parameters
    ----------
    source : a pattern in RE2's syntax.

    Raises
    ------
    BadParameter
        RE2 does not know the syntax, or the pattern is too large or matches no character.

    Examples
    --------
    >>> pattern = LinearPattern(r"key=none|key=(\\w+)")
    >>> pattern.replaced("key=none&key=a&key=b", lambda found: "*")
    'key=none&key=*&key=*'
    """

    def __init__(self, source: str) -> None:
        options = re2.Options()
        options.log_errors = False
        try:
            self._regex = re2.compile(source, options)
        except re2.error as error:
            raise BadParameter(
                f"{error.args[0].decode()}; patterns take linear time (RE2), so there is no "
                "lookaround, backreference or possessive repeat: put what is replaced in a group "
                "and write what must be around it outside"
            ) from error
        if self._regex.programsize > MAX_INSTRUCTIONS:
            raise BadParameter(
                f"{self._regex.programsize:,} instructions, at most {MAX_INSTRUCTIONS:,} may be; "
                "write * or + in place of counts such as {0,1000}"
            )
        if any(match and not match[0] for match in map(self._regex.search, (b"", b"a"))):
            raise BadParameter("matches the empty text; needs at least one character")
        self._groups = range(1, self._regex.groups + 1)

    def replaced(
        self,
        text: str,
        replacement: Callable[[str], str],
        end: Callable[[bytes, int, int], int] | None = None,
    ) -> str:
        """Return the text with its matches replaced.

        After `MAX_MATCHES` matches, the rest of the text is replaced by `***`.

        Parameters
        ----------
        replacement : returns what replaces a piece of the text.
        end : returns where the piece ends, given the UTF-8 text and the offsets of the piece found.
        """
        content = text.encode(errors="replace")
        pieces: list[str] = []
        copied = at = 0
        count = 0
        while match := self._regex.search(content, at):
            start, stop = self._piece(match)
            count += 1
            if count > MAX_MATCHES:
                return "".join((*pieces, content[copied : match.start()].decode(), MASK))
            if start < 0:
                at = match.end()
                continue
            if end:
                stop = end(content, start, stop)
            pieces += (content[copied:start].decode(), replacement(content[start:stop].decode()))
            copied = stop
            at = stop if stop > at else match.end()
        return "".join((*pieces, content[copied:].decode())) if pieces else text

    def _piece(self, match: "re2._Match") -> tuple[int, int]:
        """Return the offsets of what a match replaces, (-1, -1) for nothing."""
        if not self._groups:
            return match.start(), match.end()
        for group in self._groups:
            start, end = match.span(group)
            if start >= 0:
                return start, end
        return -1, -1
