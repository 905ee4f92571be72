"""Where each page lies in the folder. Names that strangers gave never get there as they are: they are made harmless,
and a hash keeps apart those that look alike then."""

from __future__ import annotations

import hashlib

from bench.records.certificate import Certificate
from bench.records.paths import safe_name
from bench.records.record import Record

INDEX, MEANING, CERTIFICATES, TRANSFER = "index.html", "meaning.html", "certificates.html", "transfer.html"
SHORT = 12  # digits of a key


def stem(record: Record) -> str:
    """ "freerad--4db27d7a6532"."""
    return f"{safe_name(record.detector_name)}--{_digits(record.key)}"


def cell(record: Record) -> str:
    """The page of one cell."""
    return f"cells/{stem(record)}.html"


def document(record: Record) -> str:
    """The copy of its record."""
    return f"records/{stem(record)}.json"


def scores(record: Record) -> str:
    """The copy of its per-image scores."""
    return f"records/{stem(record)}.scores.csv"


def scores_as_text(record: Record) -> str:
    """The same where a spreadsheet would run what is in it."""
    return f"records/{stem(record)}.scores.txt"


def picture(record: Record) -> str:
    """The copy of its example pictures."""
    return f"pictures/{stem(record)}.png"


def certificate(one: Certificate) -> str:
    """The copy of a certificate."""
    return f"records/{safe_name(one.claim.detector.name)}--certificate--{_digits(one.key)}.json"


def detector(name: str) -> str:
    """The page of a detector."""
    return f"detectors/{hashed(name)}.html"


def board(slug: str) -> str:
    """The page of a leaderboard, whose slug is harmless and has its hash in it."""
    return f"boards/{slug}.html"


def curves(key: str) -> str:
    """The page of security curves, by the name of their group, which is harmless and has its hash in it."""
    return f"curves/{key}.html"


def parts(name: str) -> str:
    """The page for those who look at parts of their own."""
    return f"parts/{hashed(name)}.html"


def hashed(name: str) -> str:
    """The name made harmless, and the first digits of its hash."""
    return f"{safe_name(name)[:48]}-{hashlib.sha256(name.encode('utf-8', 'surrogateescape')).hexdigest()[:6]}"


def _digits(key: str) -> str:
    """A key's first digits; of what is no hash, its hash's."""
    digits = key[:SHORT]
    if all(c in "0123456789abcdef" for c in digits) and len(digits) == SHORT:
        return digits
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:SHORT]
