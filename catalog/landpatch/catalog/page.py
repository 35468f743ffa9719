"""An HTML page that holds everything itself.

One style sheet, pictures as ``data:`` URIs, no script, no link to anywhere: its content security policy forbids the
browser to load anything else.
"""

from collections.abc import Iterable
from html import escape
from pathlib import Path

from landpatch.catalog.store import Storage

_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
"""


def write(destination: Path, title: str, style: str, sections: Iterable[str]) -> Path:
    """Write the page to ``destination`` and return that path; ``sections`` are HTML, empty ones are left out.

    Raises StorageError.
    """
    page = (
        f"{_HEAD}<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(section for section in sections if section)
        + "\n</main>\n</body>\n</html>\n"
    )
    Storage.open(destination.absolute().parent, create=True).put_changed(destination.name, page.encode())
    return destination


def number(value: int) -> str:
    """Thousands apart by a narrow no-break space, as SI writes them."""
    return f"{value:,}".replace(",", "\u202f")
