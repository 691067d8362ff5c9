"""Which text is mathematics, and which of it is a value and no work that was not done. All rules are our choice."""

import re

FUNCTIONS = set("sqrt sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log ln exp pi".split())
GREEK = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau phi chi psi omega "
    "Gamma Delta Theta Lambda Sigma Phi Psi Omega".split()
)
_COMMANDS = FUNCTIONS | {*"frac infty times cdot div lg lfloor rfloor lceil rceil".split(), *GREEK}
_NO_EXPRESSION = re.compile(
    r"(?<![_\d])\d+ \d|\d ?\\frac"  # `7 8` and `2\frac12` are no products
    r"|(?<!\d)\.(?!\d)|\.\d*\.|\d_|(?<![\d.])0\d|[-+][-+]|- [-+]|[-+*/^_]$"
    r"|^\d+-\d+-\d+$|^\d+/\d+/\d+$"  # dates
)


def is_expression(text: str) -> bool:
    """Whether `text` is made of numbers, variables, functions and operators alone, so that algebra may see it."""
    if not re.fullmatch(r"[-\w+*/^(){}\[\]|!. \\]+", text, re.ASCII) or _NO_EXPRESSION.search(text):
        return False
    if not set(re.findall(r"\\([A-Za-z]+)", text)) <= _COMMANDS or re.search(r"\\[^A-Za-z]", text):
        return False
    words = re.findall(r"([A-Za-z]+)(\d?)", re.sub(r"\\[A-Za-z]+", " ", text))  # `H2O` is no product
    if re.search(r"\d [A-Za-z]{1,2} \d|\d [A-Za-z]{2}$", text) and "\\" not in text:  # `5 ft 3 in`, `3 to 5`, `9 am`
        return False
    longest = 3 if "\\" in text or "^" in text or re.fullmatch(r"\d+[a-z]{3}", text) else 2
    return all(word in FUNCTIONS or (len(word) <= longest and not digit) for word, digit in words)


def has_variable(text: str) -> bool:
    """Whether a letter stands alone in `text`, other than `e`."""
    return bool(re.search(r"(?<![\\A-Za-z])[A-Za-df-z](?![A-Za-z])", text))


def spelled(text: str) -> str:
    """`text` without blanks that separate nothing: two texts of one spelling are equal without algebra."""
    text = with_braces(text) if "\\sqrt" in text or "\\frac" in text else text
    return re.sub(r"(?<![0-9A-Za-z]) | (?![0-9A-Za-z])", "", text)


_ATOM = r"(?:\d+(?:\.\d+)?|\.\d+|\\pi|i|#)"  # `#` is a value that was read before
_VALUE_STEPS = [
    re.compile(pattern)
    for pattern in (
        rf"\\sqrt ?(?:\[\d+\])? ?(?:\{{ ?-?{_ATOM} ?\}}|{_ATOM})",
        rf"\\frac ?(?:\{{ ?-?{_ATOM} ?\}}|\d|#) ?(?:\{{ ?-?{_ATOM} ?\}}|\d|#)",
        rf"{_ATOM}\^(?:\{{ ?-?{_ATOM} ?\}}|-?{_ATOM})",
        rf"[({{|] ?-?{_ATOM} ?[)}}|]",
    )
]
_QUOTIENT = re.compile(rf"[-+]?{_ATOM}(?: ?/ ?-?{_ATOM})?")


def is_value(text: str) -> bool:
    """Whether `text` is a value and no arithmetic that is left to do: one fraction, power or root, `\\pi`, `|-8|`."""
    if mixed := re.fullmatch(r"-?\d+ ?\+ ?(\d+) ?/ ?(\d+)", text):  # 2 + 1/4 is 2 1/4
        return 0 < int(mixed[1]) < int(mixed[2])
    text = spelled(re.sub(r"sqrt ?\(([^()]*)\)", r"sqrt{\1}", text.replace("**", "^")))
    text = re.sub(r"(?<!\\)sqrt", r"\\sqrt", text)
    before = ""
    while text != before and not _QUOTIENT.fullmatch(text):
        before = text
        for pattern in _VALUE_STEPS:
            text = pattern.sub("#", text)
    return bool(_QUOTIENT.fullmatch(text))


# --- the arguments of commands ----------------------------------------------------------------------------------------

_TOKEN = re.compile(r" ?(?:\{|\\[A-Za-z]+|\d|[A-Za-z])")


def with_braces(text: str) -> str:
    r"""`text` with braces round each argument of `\frac` and `\sqrt`."""
    out, at = "", 0
    for match in re.finditer(r"\\(?:frac|sqrt)(?![A-Za-z])", text):
        if match.start() < at:  # inside an argument, which is done
            continue
        out, at = out + text[at : match.end()], match.end()
        if match[0] == r"\sqrt" and (index := re.match(r" ?\[[^\]]*\]", text[at:])):
            out, at = out + index[0], at + index.end()
        for _ in range(1 + (match[0] == r"\frac")):
            end = _argument_end(text, at)
            argument = text[at:end].strip()
            out, at = out + f"{{{with_braces(argument[1:-1] if argument.startswith('{') else argument)}}}", end
    return out + text[at:]


def _argument_end(text: str, at: int) -> int:
    """Where the LaTeX argument that begins at `at` ends: a group, a command with its arguments, or one character."""
    token = _TOKEN.match(text, at)
    if token is None:
        return at
    if token[0].endswith("{"):
        depth = 0
        for index in range(token.end() - 1, len(text)):
            depth += (text[index] == "{") - (text[index] == "}")
            if depth == 0:
                return index + 1
        return len(text)
    end = token.end()
    if "sqrt" in token[0] or "frac" in token[0]:
        for _ in range(1 + ("frac" in token[0])):
            end = _argument_end(text, end)
    return end
