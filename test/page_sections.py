"""What commands have written into a page, between its marks."""

from __future__ import annotations

import re
from pathlib import Path


def section(path: Path, name: str) -> str:
    """The one section `<!-- name -->` ... `<!-- end -->` of the page."""
    (found,) = re.findall(rf"<!-- {re.escape(name)} -->\n(.*?)(?=<!-- end -->)", path.read_text(), re.DOTALL)
    return str(found).strip()
