"""Kinds of journal entries: signal and encoding, and the fingerprint of what was sent.

In:  the kind and the bytes of a request.
Out: `traces`, `logs+json`, or `traces;<fingerprint>` where the journalled bytes are not those sent.

A request that is sent again is recognised by the fingerprint of the sent bytes, although redaction
or transcoding changed what the journal holds.
"""

import hashlib

_MARK = ";"


def fingerprint(payload: bytes, stamp: bytes = b"") -> str:
    """Return the length and hash of a request; the same bytes of two tenants are two requests."""
    digest = hashlib.blake2b(payload, digest_size=16)
    digest.update(stamp)
    return f"{len(payload)}-{digest.hexdigest()}"


def sent_as(kind: str, payload: bytes, stamp: bytes = b"") -> str:
    """Return the kind of a journal entry whose bytes differ from those that were sent."""
    return f"{kind}{_MARK}{fingerprint(payload, stamp)}"


def sent_fingerprint(kind: str, payload: bytes, stamp: bytes = b"") -> str:
    """Return the fingerprint of the sent bytes of a journal entry."""
    return kind.partition(_MARK)[2] or fingerprint(payload, stamp)


def plain_kind(kind: str) -> str:
    """Return the kind of a journal entry without its fingerprint."""
    return kind.partition(_MARK)[0]
