"""Write requirements/*.lock anew after a pin has changed: `pip install uv`, then `python requirements/lock.py`.

A lock names every package that a list brings along, at the version in constraints.txt, with the hash of each of its
files on PyPI: pip takes no other file. It holds for Python 3.11 and 3.12 on every Linux that PyPI has wheels for.

torch and what it alone brings (NVIDIA's libraries, Triton) have a lock of their own: which build is right depends on
the machine, and builds for CPUs or other CUDA versions come from other indexes, with the same version number and a
label. torch_cpu.lock is written by hand.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

REQUIREMENTS = Path(__file__).resolve().parent
LISTS = ("ros", "demo", "test")
WITH_TORCH = re.compile(r"(torch|triton|(nvidia|cuda)-[\w-]+)==")
HEADER = "# Written by requirements/lock.py from {name}.txt and constraints.txt.\n"


def parted(lock: str) -> tuple[str, str]:
    """What is not of torch, and what is. A lock has a package a block, whose lines after the first are indented."""
    blocks = re.split(r"(?m)^(?=\S)", lock)
    of_torch = [block for block in blocks if WITH_TORCH.match(block)]
    return "".join(block for block in blocks if block not in of_torch), "".join(of_torch)


def main() -> None:
    for name in LISTS:
        command = ["uv", "pip", "compile", "--quiet", "--universal", "--python-version", "3.11", "--generate-hashes"]
        command += ["--no-annotate", "--no-header", "-c", "constraints.txt", f"{name}.txt"]
        made = subprocess.run(command, cwd=REQUIREMENTS, check=True, stdout=subprocess.PIPE, text=True)
        rest, of_torch = parted(made.stdout)
        for lock, text in {name: rest, **({"torch": of_torch} if of_torch else {})}.items():
            part = REQUIREMENTS / f".{lock}.lock.part"
            part.write_text(HEADER.format(name=name) + text)
            os.replace(part, REQUIREMENTS / f"{lock}.lock")


if __name__ == "__main__":
    main()
