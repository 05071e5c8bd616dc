"""The one exception type that is meant for users.

Every mistake a user can make (a wrong file, element, unit, option, version or shape) raises :class:`MindscaipError`
with one sentence that names the offending value and the cure. The command line prints that sentence and exits with
status 2; anything else that reaches the user is a defect.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MindscaipError(Exception):
    """A mistake in the input, stated in one sentence that names the value and the cure."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the known word nearest to ``word``, or an empty string."""
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean {matches[0]!r}?)" if matches else ""
