"""What a check says: one line, what was found, what was expected, how it is mended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

Verdict = Literal["ok", "unknown", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """check: the name of the check, a key of its table. verdict `unknown`: what it takes to tell was not there; mend
    says what that is. expected and mend are empty where all is well."""

    check: str
    verdict: Verdict
    found: str
    expected: str = ""
    mend: str = ""

    def line(self) -> str:
        text = f"{self.verdict:<8}{self.check:<22}{self.found}"
        if self.expected:
            text += f"; expected {self.expected}"
        return text + (f"; {self.mend}" if self.mend else "")


SHOWN = 3  # lines of one check with one verdict, for a person


def lines(findings: Iterable[Finding]) -> list[str]:
    """For a person: what is alike is cut short."""
    told: Counter[tuple[str, str]] = Counter()
    texts = []
    listed = list(findings)
    many = Counter((finding.check, finding.verdict) for finding in listed)
    for finding in listed:
        kind = (finding.check, finding.verdict)
        told[kind] += 1
        if told[kind] <= SHOWN:
            texts.append(finding.line())
        if told[kind] == SHOWN < many[kind]:
            texts.append(f"{finding.verdict:<8}{finding.check:<22}and {many[kind] - SHOWN} more like these (--json)")
    return texts


def or_fine(found: Iterable[Finding], check: str, fine: str, seen: int = 1) -> list[Finding]:
    """The findings, or the one that all is well. seen: how much was looked at; nothing is not called well."""
    nothing = Finding(check, "unknown", "nothing came", "messages", "the findings above")
    return list(found) or [Finding(check, "ok", fine) if seen else nothing]


def merged(findings: Iterable[Finding]) -> list[Finding]:
    """Findings that say the same of several sensors (`NAME: text`) as one, where the first of them stands."""
    together: dict[tuple[str, ...], list[str]] = {}
    firsts: dict[tuple[str, ...], Finding] = {}
    for finding in findings:
        name, colon, text = finding.found.partition(": ")
        key = (finding.check, finding.verdict, text, finding.expected, finding.mend, "" if colon else name)
        together.setdefault(key, []).append(name)
        firsts.setdefault(key, finding)
    return [
        replace(first, found=", ".join(together[key]) + first.found.removeprefix(together[key][0]))
        for key, first in firsts.items()
    ]


def has_errors(findings: Iterable[Finding]) -> bool:
    return any(finding.verdict == "error" for finding in findings)


def summed_up(findings: Iterable[Finding]) -> str:
    """How many of each verdict."""
    listed = list(findings)
    words = {"error": "errors", "warning": "warnings", "unknown": "not to be told", "ok": "well"}
    return ", ".join(f"{sum(f.verdict == verdict for f in listed)} {word}" for verdict, word in words.items())


def to_plain(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """For JSON."""
    return [asdict(finding) for finding in findings]
