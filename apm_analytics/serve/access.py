"""Authenticate senders by token, each with its own rate limit and attributes.

In:  a file of token hashes, the credentials of a request.
Out: the `Sender`, or `Refused`.

A token permits writing and nothing else. The file holds SHA-256 hashes only; a token has 192 random
bits, so it cannot be recovered from its hash.
"""

import hashlib
import json
import re
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import Field

from apm_analytics.foundation import specs
from apm_analytics.foundation.errors import BadParameter
from apm_analytics.serve.limits import Rate
from apm_analytics.serve.refusals import Reason, Refused

TOKEN_BYTES = 24
_BEARER = re.compile(r"bearer\s+(\S+)\s*", re.IGNORECASE)


class Token(specs.Spec):
    """One entry of the token file."""

    name: str = Field(min_length=1)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    resource: dict[str, str] = Field(default_factory=dict)  # added to every resource it sends
    max_bytes_per_s: float | None = Field(default=None, gt=0)


class TokenFile(specs.Spec):
    """The whole file."""

    tokens: list[Token]


@dataclass(frozen=True)
class Sender:
    """An authenticated sender: name, attributes for its resources, rate limit."""

    name: str
    resource: dict[str, str] = field(default_factory=dict)
    rate: Rate | None = None


ANYONE = Sender("anyone")


class Access:
    """The known tokens, by hash; None means that everyone may send."""

    def __init__(self, tokens: list[Token] | None = None) -> None:
        self._senders = {
            token.sha256: Sender(
                token.name,
                token.resource,
                Rate(token.max_bytes_per_s) if token.max_bytes_per_s else None,
            )
            for token in tokens or []
        }
        self.open = tokens is None

    def identify(self, authorization: str | None, api_key: str | None) -> Sender:
        """Return the sender of `Authorization: Bearer TOKEN` or `x-api-key: TOKEN`.

        Raises
        ------
        Refused
            The token is missing or unknown.
        """
        if self.open:
            return ANYONE
        bearer = _BEARER.fullmatch(authorization or "")
        token = bearer[1] if bearer else api_key
        if not token:
            raise Refused(
                Reason.UNAUTHENTICATED,
                "a token is needed: send `Authorization: Bearer TOKEN` or `x-api-key: TOKEN` "
                "(OTEL_EXPORTER_OTLP_HEADERS)",
            )
        sender = self._senders.get(_hash(token))
        if sender is None:
            raise Refused(Reason.UNAUTHENTICATED, "the token is not known here; ask for a new one")
        return sender


def load_access(file: Path | None) -> Access:
    """Read the token file; with None everyone may send.

    Raises
    ------
    BadParameter
        The file is missing or invalid, or lists a token twice.
    """
    if file is None:
        return Access()
    tokens = specs.load(file, TokenFile).tokens
    if len({token.sha256 for token in tokens}) < len(tokens):
        raise BadParameter(f"{file} holds one token twice; make a new one with `apm token NAME`")
    return Access(tokens)


def new_token(name: str) -> tuple[str, str]:
    """Create a token; return it and its entry for the token file.

    Raises
    ------
    BadParameter
        The name is empty or not printable.

    Examples
    --------
    >>> token, entry = new_token("shop")
    >>> entry.startswith('- name: "shop"')
    True
    """
    if not name.isprintable() or not name.strip():
        raise BadParameter(f"got the name {name!r}, need printable text, such as shop")
    token = secrets.token_urlsafe(TOKEN_BYTES)
    return token, f'- name: {json.dumps(name, ensure_ascii=False)}\n  sha256: "{_hash(token)}"\n'


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode(errors="surrogateescape")).hexdigest()
