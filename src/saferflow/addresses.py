"""Addresses of servers: the base of an API's address, and whether a server is on this machine. Source: ours."""

import ipaddress
from collections.abc import MutableMapping
from urllib.parse import urlsplit, urlunsplit

CALLS = ("/chat/completions", "/completions", "/responses", "/embeddings", "/models")
"""Paths of single calls, which people copy with the address."""
LOCAL = ("localhost", "127.0.0.1", "::1", "0.0.0.0")  # noqa: S104 nothing binds to it: servers are called by it
"""What `no_proxy` must name, so that no library sends what is meant for this machine to a proxy."""


def api_base(url: str) -> str:
    """The address that calls like `/chat/completions` are appended to; its query stays."""
    parts = urlsplit(url.strip())
    path = parts.path.rstrip("/")
    for call in CALLS:
        path = path.removesuffix(call).rstrip("/")
    return urlunsplit((parts.scheme, parts.netloc, path, parts.query, ""))


def is_local(url: str) -> bool:
    """Whether a server is on this machine, by its name or number alone."""
    host = (urlsplit(url if "://" in url else f"//{url}").hostname or "").rstrip(".").casefold()
    if host == "localhost" or host.endswith((".localhost", ".localdomain")):
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None) or address
    return mapped.is_loopback or mapped.is_unspecified


def spare_local(environ: MutableMapping[str, str]) -> None:
    """Name this machine in `no_proxy` and `NO_PROXY` beside what is there; libraries read either the one or the other."""
    named = [name for key in ("no_proxy", "NO_PROXY") for name in environ.get(key, "").split(",") if name.strip()]
    if any(name.strip() == "*" for name in named):
        return
    value = ",".join(dict.fromkeys(name.strip() for name in (*named, *LOCAL)))
    environ["no_proxy"] = environ["NO_PROXY"] = value
