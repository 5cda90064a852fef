"""The page of a server: search.html with its style and script put in, and the policy that holds it to them."""

from pathlib import Path

from report.page.template import checksum, fill

HERE = Path(__file__).parent


def page() -> tuple[bytes, str]:
    """(the page, its Content-Security-Policy): it runs no script but its own, and asks nobody but this server."""
    style = _read("search.css")
    script = _read("search.js")
    policy = (
        f"default-src 'none'; img-src 'self' blob: data:; media-src 'self' blob:; connect-src 'self'; "
        f"style-src {checksum(style)}; script-src {checksum(script)}; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return fill(_read("search.html"), {"style": style, "script": script}).encode(), policy


def _read(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")
