"""One spelling for what can be written in several: Unicode, markdown, LaTeX and phrases around an answer.

Nothing here decides whether two answers are equal; it removes what carries no meaning, so that the rules which decide
stay short. All rules are our choice.
"""

import re
import unicodedata
from functools import lru_cache
from itertools import groupby

from .words import LISTS


@lru_cache(maxsize=4096)  # a reference is read once for each completion of its group
def normalize(text: str) -> str:
    """`text` in its plain spelling: ASCII digits and signs, LaTeX for mathematical symbols, no wrapping, no phrase.

    Total on any `str`; callers bound the length (`rewards.response.MAX_ANSWER_CHARS`).
    """
    text = re.sub(r"\s+", " ", text if text.isascii() and text.isprintable() else _ascii_signs(text)).strip()
    if "**" in text:
        text = _BOLD.sub(r"\1", text)
    text = re.sub(r"(?<=[^ (])~|~(?![A-Za-z(])", " ", _THOUSANDS.sub("", text))
    if "\\" in text:
        for pattern, replacement in _LATEX:
            text = pattern.sub(replacement, text)
    if "\\" in text or "^" in text:
        text = re.sub(r"(?<=[{(\[]) +| +(?=[})\]])", "", re.sub(r" +", " ", text)).strip()
    if "^" in text or "=" in text:
        text = re.sub(r" ?\^ ?", "^", text.replace("<=", r"\le ").replace(">=", r"\ge ").replace("!=", r"\ne "))
    if text.count("$") > 1:
        text = _DOLLARS.sub(r" \1 ", text).strip()
    if len(_BOXES.findall(text)) == 1 and not re.search(r"\d *\\f?box", text):  # 1\\boxed{234} is no 1234
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
    text = _raised(text)
    text = _CJK_UNIT.sub(lambda unit: " " + "/".join(_CJK_UNITS[part] for part in filter(None, unit.groups())), text)
    return "".join(char if char.isascii() and char.isprintable() else _ascii_sign(char) for char in text)


@lru_cache(maxsize=4096)
def _ascii_sign(char: str) -> str:
    if char in _SIGNS:
        return _SIGNS[char]
    if char.isspace():
        return " "
    compatible = unicodedata.normalize("NFKC", char)
    if unicodedata.decomposition(char).startswith("<circle>"):  # 5① is not 51
        return char
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


def _raised(text: str) -> str:
    """Runs of superscripts as `^{...}`, of subscripts as `_{...}`: `2ˣ` is a power, `xₖ` has an index."""
    out = ""
    for mark, run in groupby(text, key=_mark):
        chars = "".join(run)
        out += f"{mark}{{{unicodedata.normalize('NFKC', chars)}}}" if mark else chars
    return out


def _mark(char: str) -> str:
    kind = "" if char in _SIGNS or char.isascii() else unicodedata.decomposition(char).partition(" ")[0]
    return {"<super>": "^", "<sub>": "_"}.get(kind, "")


_CJK_UNITS = {
    "元": "CNY", "米": "m", "厘米": "cm", "毫米": "mm", "千米": "km", "公里": "km", "平方米": "m^2",
    "克": "g", "千克": "kg",
    "公斤": "kg", "升": "L", "毫升": "mL", "秒": "s", "分钟": "min", "小时": "h",
    "天": "days", "周": "weeks", "年": "years",
    "度": "degrees", "个": "items", "個": "items", "只": "items", "本": "items", "人": "people",
}  # fmt: skip
_ANY_CJK_UNIT = "|".join(sorted(_CJK_UNITS, key=len, reverse=True))
_CJK_UNIT = re.compile(rf"(?<=\d) ?({_ANY_CJK_UNIT})(?:[/每]({_ANY_CJK_UNIT}))?(?!\w)")
_SIGNS = {
    "−": "-",
    "∶": ":", "≧": r"\ge ", "⩾": r"\ge ", "≦": r"\le ", "⩽": r"\le ", "∛": r"\sqrt[3]", "∜": r"\sqrt[4]",
    "∠": r"\angle ", "㎡": " m^2", "㎥": " m^3", "℃": r"^\circ C", "℉": r"^\circ F", "。": ".", "、": ", ",
    "△": r"\triangle ", "∥": r"\parallel ", "⊥": r"\perp ", "≅": r"\cong ", "∽": r"\sim ", "∖": r"\setminus ",
    "【": "[", "】": "]", "٪": "%", "∨": " or ", "⟨": "(", "⟩": ")", "〈": "(", "〉": ")",
    **dict.fromkeys("「」『』", '"'),
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

# Commas that are surely no list's: `1{,}000`, `1,\!000`
_THOUSANDS = re.compile(r"(?<=\d)(?:\{,\}|,\\!) ?(?=\d)")
_BOLD = re.compile(r"(?<![\w*])\*\*([^*]+)\*\*(?![\w*])")  # not 2**3**4
_STYLE = "underline|text|textbf|textit|textrm|textsf|textnormal|mathrm|mathbf|mathit|mathsf|mbox|operatorname"
_LATEX = [
    (re.compile(pattern), replacement)
    for pattern, replacement in [
        (r"\\(?:left|right|[bB]igg?[lr]?)(?![A-Za-z])\.?", ""),
        (r"\\!|(?<!\\)\\[()\[\]]", ""),
        (r"(?<!\\)\\(?:[,;: ]|$|quad(?![A-Za-z])|qquad(?![A-Za-z])|displaystyle(?![A-Za-z]))", " "),
        (r"\\([%$#&])", r"\1"),
        (rf"\\(?:{_STYLE})\s*\{{((?:[^{{}}]|\{{[^{{}}]*\}})*)\}}", r" \1 "),
        (r"\\(?:tiny|small|large|Large|LARGE|huge|Huge|bf|rm|it)(?![A-Za-z])", " "),
        (r"\\(?:text)?color\{\w+\}", ""),
        (r"(?<=[A-Za-z])\{\}", " "),
        (r"\\lor(?![A-Za-z])", " or "),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\{((?:[^{}\\]|\\(?!over(?![A-Za-z])))+)\\over(?![A-Za-z]) ?([^{}]+)\}", r"\\frac{\1}{\2}"),
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
# What says no more than that an answer follows. What it leaves must still be right as a whole.
_QUANTITY = rf"(?:(?:total|final|average) )?(?:{LISTS['named'].replace(' ', '|')})"
_PHRASE = re.compile(
    r"(?:(?:so|thus|therefore|hence),? )?(?:"
    r"(?:the |my )?(?:final |correct |right )?(?:answer(?= [-(\\\d])|(?:answer|(?:option|choice)(?! \w* ?\d))"
    r"(?: is:?| ?:| ?=|(?= \(?[A-Z]\)?$)))"
    r"|(?:the |its )(?:" + _QUANTITY + r")(?: is| are| was| equals)"
    r"|there (?:are|is|were|was)|it(?: i|')s|this is|that is|they are|these are|we (?:get|have)|(?:in|a) total(?:,| of)"
    r"|the (?:point|vertex|interval|set|ordered pair)(?= [(\[{\\])|in(?= \d{4}$)"
    r"|(?:正确)?答案?(?:[是为]:?|:)|选[择项]?(?=[A-Z])"
    r") ?(?=\S)",
    re.IGNORECASE,
)
_MINUS = re.compile(r"^(?:minus|negative) (?=[\d.\\]|infinity$)", re.IGNORECASE)
# Yes!, but n! and 2^nn!
_CRY = re.compile(r"^([A-Za-z', .]*(?:[a-z]{3}|\bno|\bok)|.*[一-龥])!$", re.IGNORECASE)
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
    text = re.sub(r"^\$(?=[A-Z]$)", "", text)  # of dollars of which one is missing: $B
    text = _CRY.sub(r"\1", text)
    if match := _PHRASE.match(text):
        text = text[match.end() :]
    text = _MINUS.sub("-", text)
    if match := _QUOTED.fullmatch(text):
        text = match[2].strip()
    return text
