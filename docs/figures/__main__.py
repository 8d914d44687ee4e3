"""`python -m docs.figures`: draw every figure of FIGURES into docs/images/."""

from __future__ import annotations

from bev_perception.files import write_atomic
from docs.figures import FIGURES, IMAGES


def main() -> None:
    for name, draw in FIGURES.items():
        write_atomic(IMAGES / name, draw())
        print(f"docs/images/{name}")


if __name__ == "__main__":
    main()
