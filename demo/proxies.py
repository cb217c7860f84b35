"""Gradio asks its own server whether it is there: a proxy must not be in between."""

from __future__ import annotations

import os
from importlib.util import find_spec
from urllib.request import getproxies

LOOPBACK = ("localhost", "127.0.0.1", "::1")


def bypass_proxies(*hosts: str) -> None:
    """Have this process reach `hosts` without a proxy; all of them where the proxy is one that
    httpx cannot use, since it could not even be imported then.
    """
    socks = any(url.startswith("socks") for url in getproxies().values())
    if socks and find_spec("socksio") is None:
        hosts = ("*",)
    for name in ("NO_PROXY", "no_proxy"):
        others = os.environ.get(name, "").split(",")
        os.environ[name] = ",".join(dict.fromkeys(filter(None, [*others, *hosts])))
