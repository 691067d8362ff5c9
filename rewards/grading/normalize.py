"""One spelling for what can be written in several: Unicode, markdown, LaTeX and phrases around an answer.

Nothing here decides whether two answers are equal; it removes what carries no meaning, so that the rules which decide
stay short. All rules are our choice.
"""

import re
import unicodedata
from functools import lru_cache


@lru_cache(maxsize=4096)  # a reference is read once for each completion of its group
def normalize(text: str) -> str:
    """`text` in its plain spelling: ASCII digits and signs, LaTeX for mathematical symbols, no wrapping, no phrase.

    Total on any `str`; callers bound the length (`rewards.response.MAX_ANSWER_CHARS`).
    """
    text = re.sub(r"\s+", " ", text if text.isascii() and text.isprintable() else _ascii_signs(text)).strip()
    if "**" in text:
        text = _BOLD.sub(r"\1", text)
    text = _THOUSANDS.sub("", text).replace("~", " ")
    if "\\" in text:
        for pattern, replacement in _LATEX:
            text = pattern.sub(replacement, text)
        text = re.sub(r"(?<=[{(\[]) +| +(?=[})\]])", "", re.sub(r" +", " ", text)).strip()
    if "^" in text or "=" in text:
        text = re.sub(r" ?\^ ?", "^", text.replace("<=", r"\le ").replace(">=", r"\ge ").replace("!=", r"\ne "))
    if text.count("$") > 1:
        text = _DOLLARS.sub(r" \1 ", text).strip()
    if len(_BOXES.findall(text)) == 1:
        text = _BOX.sub(lambda match: f" {match[1] or match[2]} ", text).strip()
    text = re.sub(" +", " ", text)
    previous = None
    while previous != text:
        previous = text
        text = _unwrapped(text)
    return text


def _ascii_signs(text: str) -> str:
    """Unicode to ASCII and LaTeX, one character at a time."""
    text = re.sub(
        r"\^([¼-¾⅐-⅞])", lambda power: f"^{{{_ascii_sign(power[1]).strip()}}}", unicodedata.normalize("NFC", text)
    )
    text = re.sub(f"[{_SUPERSCRIPTS}]+", lambda run: f"^{{{unicodedata.normalize('NFKC', run[0])}}}", text)
    text = re.sub(f"[{_SUBSCRIPTS}]+", lambda run: f"_{{{unicodedata.normalize('NFKC', run[0])}}}", text)
    return "".join(char if char.isascii() and char.isprintable() else _ascii_sign(char) for char in text)


@lru_cache(maxsize=4096)
def _ascii_sign(char: str) -> str:
    if char in _SIGNS:
        return _SIGNS[char]
    if char.isspace():
        return " "
    compatible = unicodedata.normalize("NFKC", char)
    if "⁄" in compatible:  # a vulgar fraction: 1½ is one and a half, not 11/2
        return " " + compatible.replace("⁄", "/")
    char = compatible if len(compatible) == 1 else char
    match unicodedata.category(char):
        case "Nd":  # the digits of every script
            return str(unicodedata.decimal(char))
        case "Pd":
            return "-"
        case "Cc" | "Cf":
            return ""
    if greek := re.fullmatch(r"GREEK (SMALL|CAPITAL) LETTER ([A-Z]+)", unicodedata.name(char, "")):
        return f"\\{greek[2].lower() if greek[1] == 'SMALL' else greek[2].capitalize()} "
    return compatible


_SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿⁱ"
_SUBSCRIPTS = "₀₁₂₃₄₅₆₇₈₉₊₋₍₎ₙᵢ"
_SIGNS = {
    "−": "-",
    **dict.fromkeys("×✕⨯", r"\times "),
    **dict.fromkeys("·⋅∙•", r"\cdot "),
    **dict.fromkeys("÷∕", "/"),
    **dict.fromkeys("°˚º", r"^\circ "),
    **dict.fromkeys("“”„«»", '"'),
    **dict.fromkeys("‘’‚′", "'"),
    "√": r"\sqrt ", "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "±": r"\pm ",
    "∓": r"\mp ", "∪": r"\cup ", "∩": r"\cap ", "∅": r"\emptyset ", "∈": r"\in ", "ℝ": r"\mathbb{R}",
    "٫": ".", "٬": ",", "€": "EUR ", "£": "GBP ", "¥": "JPY ", "₹": "INR ", "¢": " cents",
}  # fmt: skip

# Commas that are surely no list's: `1{,}000`, `1,\!000`, `1,000\pi`
_THOUSANDS = re.compile(r"(?<=\d)(?:\{,\}|,\\!) ?(?=\d)|(?<=\d),(?=\d{3}(?:,\d{3})*\s*[\\a-zA-Z])")
_BOLD = re.compile(r"(?<![\w*])\*\*([^*]+)\*\*(?![\w*])")  # not 2**3**4
_STYLE = "text|textbf|textit|textrm|textsf|textnormal|mathrm|mathbf|mathit|mathsf|mbox|operatorname"
_LATEX = [
    (re.compile(pattern), replacement)
    for pattern, replacement in [
        (r"\\(?:left|right|[bB]igg?[lr]?)(?![A-Za-z])\.?", ""),
        (r"\\!|(?<!\\)\\[()\[\]]", ""),
        (r"(?<!\\)\\(?:[,;: ]|$|quad(?![A-Za-z])|qquad(?![A-Za-z])|displaystyle(?![A-Za-z]))", " "),
        (r"\\([%$#&])", r"\1"),
        (rf"\\(?:{_STYLE})\s*\{{([^{{}}]*)\}}", r" \1 "),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\{([^{}]+?) ?\\over(?![A-Za-z]) ?([^{}]+)\}", r"\\frac{\1}{\2}"),
        (r"\\langle(?![A-Za-z])", "("),
        (r"\\rangle(?![A-Za-z])", ")"),
        (r"\\lbrace(?![A-Za-z])", r"\\{"),
        (r"\\rbrace(?![A-Za-z])", r"\\}"),
        (r"\\(l|g|n)(?:eq|eqslant|eqq)(?![A-Za-z])", r"\\\1e"),
        (r"\\lt(?![A-Za-z])", "<"),
        (r"\\gt(?![A-Za-z])", ">"),
        (r"\\(?:varnothing|O)(?![A-Za-z])", r"\\emptyset"),
        (r"\\(?:degree|deg)(?![A-Za-z])|\^ ?\{ ?\\circ ?\}", r"^\\circ"),
        (r"\\colon(?![A-Za-z])", ":"),
    ]
]
_PHRASE = re.compile(
    r"(?:(?:so|thus|therefore|hence),? )?(?:the |my )?(?:final |correct |right )?(?:answer|option|choice)"
    r"(?: is:?| ?:| ?=|(?= \(?[A-Z]\)?$| [-(\\\d])) ?(?=\S)",
    re.IGNORECASE,
)
_MINUS = re.compile(r"^(?:minus|negative) (?=[\d.\\])", re.IGNORECASE)
_DOLLARS = re.compile(r"\$\$?([^$]+)\$\$?")
_BOXES = re.compile(r"\\f?box(?:ed)?(?![A-Za-z])|(?<![\\A-Za-z])f?box(?:ed)? ?\{")
_BOX = re.compile(
    r"(?:\\|(?<![A-Za-z]))f?box(?:ed)?(?![A-Za-z]) ?"
    r"(?:\{((?:[^{}]|\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\})*)\}|([0-9A-Za-z]$))"
)
_QUOTED = re.compile(r"([\"'`*_])((?:(?!\1).)+)\1")


def _unwrapped(text: str) -> str:
    """`text` without one layer of what stands around an answer: delimiters, a phrase before it, a full stop after."""
    text = text.removesuffix(".").strip() if not text.endswith("..") else text
    if match := _PHRASE.match(text):
        text = text[match.end() :]
    text = _MINUS.sub("-", text)
    if match := _QUOTED.fullmatch(text):
        text = match[2].strip()
    return text
