"""Two clocks that differ: what TLS takes for an expired certificate is often a clock that is wrong.

Where dates are the one thing that is wrong with a certificate of the federation's root, its holder is asked for the
time all the same. The answer is for people: nothing is decided by it.
"""

from __future__ import annotations

import ssl

NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME of OpenSSL: Python has no name for it
BAD_DATES = frozenset({9, 10})
"""Numbers of OpenSSL's X509_V_ERR_*: not yet valid, and expired."""
FAR_S = 30.0
"""Clocks further apart than this are worth a word; certificates forgive an hour."""


def without_dates(context: ssl.SSLContext) -> ssl.SSLContext:
    """Let a context take certificates whatever their dates; all else is checked as before. Returns the same one."""
    context.verify_flags |= NO_CHECK_TIME
    return context


def apart(offset_s: float) -> str:
    """Return how this clock stands to the coordinator's.

    Args:
        offset_s: Seconds by which the coordinator's is ahead of this one.

    Example:
        >>> apart(26 * 3600.0), apart(-600.0), apart(0.25)
        ("26 hours behind the coordinator's", "10 minutes ahead of the coordinator's", "0.2 s behind the coordinator's")
    """
    from fedloom.secure.certificates import span

    length = abs(offset_s)
    words = f"{length:.1f} s" if length < FAR_S else span(round(length, -1))  # the answer took a moment
    return f"{words} {'behind' if offset_s > 0 else 'ahead of'} the coordinator's"
