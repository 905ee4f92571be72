"""Where a detector comes from, as its class says; nothing of one that is not installed."""

from __future__ import annotations

import inspect
import re
from functools import cache

from bench.text import one_line
from detectors import registry
from detectors.base import Detector
from detectors.errors import DetectorError
from detectors.parts import weights

_ARXIV = re.compile(r"arXiv:? ?(\d{4}\.\d{4,5})")
_DOI = re.compile(r"doi:? ?(10\.\d{4,9}/[A-Za-z0-9._/-]+)")


@cache
def installed(name: str) -> type[Detector] | None:
    """Its class; None of a detector that cannot be had here."""
    if not _is_known(name):
        return None
    try:
        return registry.get(name)
    except DetectorError:
        return None


def _is_known(name: str) -> bool:
    """Asked first: the registry's own error takes long to find what else may have been meant."""
    prefix, colon, member = name.partition(":")
    return member in _members().get(prefix, ()) if colon else name in _names()


@cache
def _names() -> frozenset[str]:
    return frozenset(registry.names())


@cache
def _members() -> dict[str, frozenset[str]]:
    return {family.prefix: frozenset((*family.members(), *family.revisions)) for family in registry.families()}


def forget() -> None:
    """Ask anew what is installed: a process may register a detector after it has made pages."""
    for remembered in (installed, _names, _members):
        remembered.cache_clear()


def paper(name: str) -> str:
    """The paper of a method; "" where it is not known."""
    cls = installed(name)
    return "" if cls is None else one_line(cls.paper, 200)


def method(name: str) -> str:
    """What it does, in the words that its module begins with; "" where it is not installed."""
    cls = installed(name)
    told = "" if cls is None else inspect.getdoc(inspect.getmodule(cls)) or ""
    return one_line(told.partition("\n\n")[0], 400)


def paper_link(name: str) -> str:
    """Where the paper can be read; "" where the class names no such place."""
    text = paper(name)
    if found := _ARXIV.search(text):
        return f"https://arxiv.org/abs/{found[1]}"
    found = _DOI.search(text)
    return f"https://doi.org/{found[1]}" if found else ""


@cache
def weights_licence(name: str) -> str:
    """The licence of pretrained weights, given by their name at timm; "" where it is not known."""
    return one_line(weights.licence(name), 40)
