"""The values of JSON as expressions over bytes: strict, and without a way back, so that no text makes them slow.

Character sets are written as ranges of what is allowed: the engine reads a negated set twice as slowly. Whether the
bytes are UTF-8 is not said here.

Source: RFC 8259 sections 2, 6 and 7.
"""

from __future__ import annotations

SPACE = rb"[ \t\n\r]*+"
_PLAIN = rb"[\]-\xff#-\[ !]*+"  # all but quote, backslash and control characters
TEXT = _PLAIN + rb'(?:\\(?:["\\/bfnrt]|u[0-9A-Fa-f]{4})' + _PLAIN + rb")*+"
"""What stands between the quotes of a string."""
STRING = rb'"' + TEXT + rb'"'
OTHER = rb"(?:null|-?+(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?+(?:[eE][+-]?+[0-9]++)?+|true|false)"
"""A number or a literal. What follows decides whether it has ended."""
SCALAR = rb"(?:" + STRING + rb"|" + OTHER + rb")"
