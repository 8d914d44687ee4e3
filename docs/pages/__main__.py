"""`python -m docs.pages`: write every page of PAGES into docs/."""

from __future__ import annotations

from bev_perception.files import write_atomic
from docs.pages import DOCS, PAGES


def main() -> None:
    for name, page in PAGES.items():
        write_atomic(DOCS / name, page())
        print(f"docs/{name}")


if __name__ == "__main__":
    main()
