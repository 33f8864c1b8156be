"""The web page of a server: files of this package, and the headers that keep it from loading or telling anything else.

The page is the same for everybody and holds no secret, so it needs no key. It asks for the key, and sends it with what
it asks.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files

PAGE_ROUTES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/page/picture.js": ("picture.js", "text/javascript; charset=utf-8"),
    "/page/request.js": ("request.js", "text/javascript; charset=utf-8"),
    "/page/answer.js": ("answer.js", "text/javascript; charset=utf-8"),
    "/page/example.png": ("example.png", "image/png"),
}
"""File and type of each path."""

PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
}
"""Nothing of another origin, nothing inline, no text that becomes markup, no frame around the page."""


@dataclass(frozen=True)
class PageFile:
    """One file of the page.

    Attributes:
        data: what is in it.
        media_type: for the Content-Type header.
    """

    data: bytes
    media_type: str


def page_files() -> dict[str, PageFile]:
    """The files of the page by the paths that they are served at."""
    folder = files("olmo.serve").joinpath("page")
    return {
        path: PageFile(folder.joinpath(name).read_bytes(), media_type)
        for path, (name, media_type) in PAGE_ROUTES.items()
    }
