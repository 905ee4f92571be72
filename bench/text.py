"""Text made safe for Markdown, LaTeX, CSV and matplotlib: strangers name detectors, datasets and image files."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

LONGEST = 600  # of a sentence in a table's heading or notes
MISSING = "–"  # noqa: RUF001  an en dash, as tables use for "not there"

_MARKDOWN = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "&#124;"} | {c: f"\\{c}" for c in "\\`*_[]#~$!"}
_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "`": r"\textasciigrave{}",
    # After the \\ of a row, [ and * would be read as its arguments.
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
    MISSING: "--",
    "—": "---",
    "†": r"\dag{}",
    "‡": r"\ddag{}",
    "§": r"\S{}",
    "¶": r"\P{}",
    "≥": r"$\geq$",
    "ε": r"$\varepsilon$",
    "∞": r"$\infty$",
    "×": r"$\times$",  # noqa: RUF001
    "±": r"$\pm$",
    "−": "$-$",  # noqa: RUF001
}


_BEYOND_LATIN = 0x180  # what pdflatex's T1 fonts lack
_OTHER_SCRIPTS = (
    "% Some names are not in Latin script: compile with xelatex or lualatex, \\usepackage{fontspec}, and a\n"
    "% \\setmainfont that has their characters (Noto Sans CJK SC, for example)."
)

# What moves a cursor, colours or clears a terminal, or turns the direction of what follows; half of a pair is no text.
_HIDDEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_BREAKS = re.compile(r"[\t-\r\x85\u2028\u2029]+")


# East Asian spreadsheets take the wide signs for the others.
_FORMULA = re.compile(r"(^|;\s*)([=+\-@\uff1d\uff0b\uff0d\uff20])")


def visible(text: str) -> str:
    """The text with its control characters written out (`\\x1b`), but for tabs and line feeds: what a stranger named
    reaches no terminal as a command."""
    return _HIDDEN.sub(lambda found: found.group().encode("unicode_escape").decode(), text)


class VisibleFormatter(logging.Formatter):
    """For logs that go to a terminal: `visible`."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))


def one_line(text: object, limit: int = 300) -> str:
    """Without line breaks, with control characters written out, cut to `limit` characters. Of a stranger's exception
    that fails when it is asked for its text, its class."""
    try:
        plain = str(text)
    except Exception:
        plain = f"a {type(text).__name__} without words"
    cleaned = visible(_BREAKS.sub(" ", plain).strip())
    return cleaned if len(cleaned) <= limit else cleaned[: limit - 1] + "…"


def plural(count: int, noun: str) -> str:
    """ "1 picture", "2 pictures"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def escape_markdown(text: object) -> str:
    """For GitHub's Markdown, inside a table or a line: no HTML, no links (bare ones included), no formatting."""
    escaped = "".join(_MARKDOWN.get(c, c) for c in one_line(text, LONGEST))
    # GitHub links bare addresses and notifies @names; an entity shows the same and is not recognised.
    escaped = re.sub(r"(?i)(https?|ftp|mailto|xmpp):", r"\1&#58;", escaped)
    return re.sub(r"(?i)\bwww\.", lambda m: m.group()[:3] + "&#46;", escaped).replace("@", "&#64;")


def escape_latex(text: object) -> str:
    """For LaTeX: with T1 fonts, as long as all is Latin; other scripts stay what they are (`latex_table`)."""
    return "".join(_LATEX.get(c, c) for c in one_line(text, LONGEST))


def escape_csv(text: object) -> str:
    """For a CSV that a spreadsheet may open: what would run as a formula gets an apostrophe in front. So does what
    stands behind a semicolon, at which spreadsheets of half the world part cells."""
    return _FORMULA.sub(r"\1'\2", one_line(text, limit=2000))


def plain(text: object, limit: int = 60) -> str:
    """For matplotlib, to which dollar signs mean mathematics (and an unbalanced one an exception)."""
    return one_line(text, limit).replace("$", r"\$")


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, first column left, the others right. Cells must be escaped already."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (header, *rows)]
    lines.insert(1, "|:--" + "|--:" * (len(header) - 1) + "|")
    return "\n".join(lines) + "\n"


def latex_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, caption: str, notes: Sequence[str]) -> str:
    """A booktabs table (needs \\usepackage{booktabs} and T1 fonts). Everything must be escaped already."""
    lines = [
        r"% \usepackage[T1]{fontenc} \usepackage{textcomp,booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{caption}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}",
        r"\toprule",
        " & ".join(header) + r" \\",
        r"\midrule",
        *(" & ".join(row) + r" \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
        *(rf"\par\footnotesize {note}" for note in notes),
        r"\end{table}",
    ]
    text = "\n".join(lines) + "\n"
    if any(ord(c) >= _BEYOND_LATIN for c in text):
        text = f"{_OTHER_SCRIPTS}\n{text}"
    return text


def epsilon_text(epsilon: float, norm: str) -> str:
    """ "2/255" for l-inf where it is that, or half or a quarter of such a one, else the shortest decimal number."""
    quarters = round(4 * 255 * epsilon) if norm == "linf" else 0
    if quarters >= 1 and abs(255 * epsilon - quarters / 4) < 1e-6:
        return f"{quarters / 4:g}/255"
    return f"{epsilon:.6g}"


def norm_text(norm: str) -> str:
    """The norm as the field writes it in plain text."""
    return {"linf": "l-inf", "l2": "l2"}.get(norm, norm)


# Of threat models that are no balls: what their epsilon is, and how far one of them goes.
_OTHER_SIZES = {"corruptions": "severity", "semantic": "strength", "patch": "side of the square"}
_OTHER_THREATS = {"patch": "a square of {} of the side"}


def is_ball(norm: str) -> bool:
    """Whether a threat model of that name is a ball, as far as is known."""
    return norm not in _OTHER_SIZES


def size_text(norm: str) -> str:
    """What epsilon measures: "l-inf epsilon"; "severity" of corruptions."""
    return _OTHER_SIZES.get(norm, f"{norm_text(norm)} epsilon")


def threat_text(epsilon: float, norm: str, *, short: bool = False) -> str:
    """How far an attack may go: "l-inf epsilon 2/255" ("l-inf 2/255" where it must be short), "severity 3"."""
    if short and is_ball(norm):
        return f"{norm_text(norm)} {epsilon_text(epsilon, norm)}"
    return _OTHER_THREATS.get(norm, f"{size_text(norm)} {{}}").replace("{}", epsilon_text(epsilon, norm))


def attack_text(attack: str, epsilon: float, norm: str) -> str:
    """An attack and how far it may go: "pgd-linf at l-inf epsilon 2/255", "corruptions, severity 3"."""
    return f"{attack}{' at' if is_ball(norm) else ','} {threat_text(epsilon, norm)}"


def interval_text(value: float | None, low: float | None = None, high: float | None = None) -> str:
    """ "93.1 [88.0, 96.2]" in per cent; a missing value is a dash, never a zero."""
    if value is None or value != value:
        return MISSING
    return f"{value:.1f}" if low is None or high is None else f"{value:.1f} [{low:.1f}, {high:.1f}]"
