"""Addresses of servers: the base of an API's address, and whether a server is on this machine. Source: ours."""

import ipaddress
from collections.abc import Mapping, MutableMapping
from importlib.util import find_spec
from urllib.parse import urlsplit, urlunsplit

CALLS = ("/chat/completions", "/completions")
"""Paths of single calls, which people copy with the address. Not `/models`: some servers' addresses end so."""
PROXIES = ("ALL_PROXY", "all_proxy", "HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy")
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


def unusable_proxies(environ: Mapping[str, str]) -> dict[str, str]:
    """Proxy variables that end a client of httpx as soon as it is made, even one that would not use the proxy.

    They name a SOCKS proxy, for which a package is missing, or no proxy at all.
    """
    return {name: environ[name] for name in PROXIES if environ.get(name) and not _usable(environ[name])}


def _usable(proxy: str) -> bool:
    try:
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        known = parts.scheme in ("http", "https") or (
            parts.scheme in ("socks5", "socks5h") and find_spec("socksio") is not None
        )
        return known and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False


def spare_local(environ: MutableMapping[str, str]) -> None:
    """Name this machine in `no_proxy` and `NO_PROXY` beside what is there; libraries read either the one or the other."""
    named = [name for key in ("no_proxy", "NO_PROXY") for name in environ.get(key, "").split(",") if name.strip()]
    if any(name.strip() == "*" for name in named):
        return
    value = ",".join(dict.fromkeys(name.strip() for name in (*named, *LOCAL)))
    environ["no_proxy"] = environ["NO_PROXY"] = value
