"""`ServeConfig`: where a server listens, and what a request may cost. Imports nothing that is optional."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path

from olmo.config import BaseConfig
from olmo.exceptions import OLMoConfigurationError

_LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")


@dataclass(kw_only=True)
class ServeConfig(BaseConfig):
    """Limits of a server. Past one a request is refused with status 400, 413 or 429 and a sentence that says which."""

    host: str = "127.0.0.1"
    """Address that the server listens at; the default is reachable from this machine alone."""

    port: int = 8000
    """Port, 0 to 65535; 0 takes a free one."""

    model_name: str = "molmo"
    """What the model is called in requests and answers."""

    max_rows: int = 16
    """Answers that are decoded together."""

    max_waiting: int = 64
    """Requests that may wait for a place among them."""

    max_choices: int = 8
    """Answers to one request (`n`), at most max_rows."""

    max_new_tokens: int = 2048
    """Most tokens of an answer that may be asked for."""

    default_max_tokens: int = 512
    """Most tokens of an answer where the request does not say."""

    max_prompt_tokens: int | None = None
    """Most tokens of a prompt, pictures included; None: the context of the model."""

    max_prompt_chars: int = 200_000
    """Most characters of all text of a request."""

    max_schema_bytes: int = 65_536
    """Largest JSON schema that an answer may be held to."""

    max_images: int = 8
    """Pictures of a request, or videos."""

    max_pixels: int = 50_000_000
    """Pixels of a picture or of a frame; read from the header, before anything is decoded."""

    max_media_bytes: int = 20 * 2**20
    """Largest file of a picture or a video."""

    max_body_bytes: int = 32 * 2**20
    """Largest body of a request."""

    max_connections: int = 512
    """Connections that are open at a time."""

    body_timeout_s: float = 30.0
    """Seconds in which a body must have come in."""

    request_timeout_s: float = 120.0
    """Seconds from a prompt's place in the queue to the end of its answer."""

    drain_timeout_s: float = 30.0
    """Seconds that running answers get to finish when the server is told to stop."""

    media_workers: int = 2
    """Processes that decode pictures and videos."""

    media_timeout_s: float = 20.0
    """Seconds to fetch one picture, and to decode one picture or video."""

    media_memory_bytes: int = 2 * 2**30
    """Address space of such a process, where the system can limit it."""

    remote_hosts: list[str] = field(default_factory=list)
    """Hosts that pictures may be fetched from, such as `images.example.org` or `*.example.org`; empty: none."""

    media_root: str | None = None
    """Folder that `file:` addresses of requests may name pictures in; None: none may."""

    allowed_hosts: list[str] = field(default_factory=list)
    """Names that the Host header may give; empty: those of this machine where `host` is its own address, else any."""

    page: bool = True
    """Show the web page at `/`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.port <= 65535:
            raise OLMoConfigurationError(f"must be 0 to 65535, got {self.port}", "port")
        counts = (
            "max_rows", "max_waiting", "max_choices", "max_new_tokens", "default_max_tokens", "max_prompt_chars",
            "max_schema_bytes", "max_images", "max_pixels", "max_media_bytes", "max_body_bytes", "max_connections",
            "media_workers",
        )  # fmt: skip
        for name in counts:
            if getattr(self, name) < 1:
                raise OLMoConfigurationError(f"must be at least 1, got {getattr(self, name)}", name)
        if self.max_prompt_tokens is not None and self.max_prompt_tokens < 1:
            raise OLMoConfigurationError(
                f"must be at least 1 or None, got {self.max_prompt_tokens}", "max_prompt_tokens"
            )
        for name in ("body_timeout_s", "request_timeout_s", "drain_timeout_s", "media_timeout_s"):
            if not getattr(self, name) > 0:
                raise OLMoConfigurationError(f"must be above 0, got {getattr(self, name)}", name)
        if self.media_memory_bytes < 2**28:
            raise OLMoConfigurationError(
                f"must be at least {2**28} (a process needs that much to start), got {self.media_memory_bytes}",
                "media_memory_bytes",
            )
        if self.max_choices > self.max_rows:
            self.max_choices = self.max_rows
        if self.media_root is not None and not Path(self.media_root).is_dir():
            raise OLMoConfigurationError(f"{self.media_root!r} is not a folder", "media_root")

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach `host`."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def host_names(self) -> tuple[str, ...] | None:
        """Names that the Host header may give, without port; None: any."""
        if self.allowed_hosts:
            return tuple(name.lower() for name in self.allowed_hosts)
        return _LOCAL_NAMES if self.is_local else None
