"""What stands in the way of a certificate, as sentences."""

from __future__ import annotations


class CertificateError(Exception):
    """A certificate cannot be had so; the text says what to change."""
