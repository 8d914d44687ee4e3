"""Reference pages, written from what the code says: a text for the reader, then tables. PAGES lists them.

    python -m docs.pages

`test/test_docs_pages.py` fails where a page in docs/ is not what this writes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from docs.pages import bundle, messages, parameters

DOCS = Path(__file__).resolve().parent.parent
PAGES: dict[str, Callable[[], str]] = {
    "parameters.md": parameters.page,
    "messages.md": messages.page,
    "bundle.md": bundle.page,
}
