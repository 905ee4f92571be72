"""What a plot can show: the characters of DejaVu Sans, which matplotlib brings, and of fonts installed beside it."""

from __future__ import annotations

from functools import cache

from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font

from bench.text import one_line, plain

OWN = "DejaVu Sans"
# With the scripts that it lacks, as systems and their users install them.
OTHERS = (
    *(f"Noto Sans CJK {region}" for region in ("SC", "TC", "JP", "KR")),
    *(f"Source Han Sans {region}" for region in ("SC", "TC", "JP", "KR")),
    *("WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "Droid Sans Fallback"),
    *("Microsoft YaHei", "SimHei", "MS Gothic", "Yu Gothic", "Malgun Gothic"),
    *("PingFang SC", "Hiragino Sans", "Hiragino Sans GB", "Apple SD Gothic Neo", "Arial Unicode MS"),
)


def drawable(text: object, limit: int = 60) -> str:
    """A stranger's text for a plot, at most `limit` of its characters; one that no font has is written out (`\\u87ba`)
    instead of as a box, which would make different names the same."""
    known = _characters()
    return plain("".join(c if ord(c) in known else _written(c) for c in one_line(text, limit)), 3 * limit)


@cache
def families() -> tuple[str, ...]:
    """What text is drawn in: the first font of these that has a character."""
    installed = {font.name for font in fontManager.ttflist}
    return (OWN, *(name for name in OTHERS if name in installed))


@cache
def _characters() -> frozenset[int]:
    files = (findfont(FontProperties(family=[name])) for name in families())
    return frozenset().union(*(get_font(file).get_charmap() for file in files))


def _written(character: str) -> str:
    return character.encode("unicode_escape").decode()
