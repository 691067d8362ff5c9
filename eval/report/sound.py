"""The numbers of a `scores.json` that can be shown: it may be damaged, or of older code."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from eval.report.found import Found, Row, is_number


def sound_scores(found: Found, path: Path) -> Row | None:
    """What of a file of scores can be used: all that `eval.scores` makes, or less. None without an accuracy.

    What is missing or is no number is noted in `found`, and not there.
    """
    held = found.json(path)
    if held is None:
        return None
    unusable: list[str] = []
    kept = _sound(held, _SCORES, unusable)
    if "accuracy" not in kept:
        found.lacks(path, "lacks accuracy, and is not shown")
        return None
    if lacking := [name for name in _ALWAYS if name not in held]:
        found.lacks(path, f"lacks {', '.join(lacking)}")
    if unusable:
        found.lacks(path, f"cannot be used: {', '.join(unusable)}")
    return kept


def _sound(held: Row, shape: Row, unusable: list[str], at: str = "") -> Row:
    kept = {}
    for name, value in held.items():
        fits = shape.get(name, _anything)
        if isinstance(fits, dict) and isinstance(value, dict):
            kept[name] = _sound(value, fits, unusable, f"{at}{name}.")
        elif isinstance(fits, dict) or not (fits(value) or (at and value is None)):  # accuracy of no responses is None
            unusable.append(at + name)
        else:
            kept[name] = value
    return kept


def _anything(_: Any) -> bool:
    return True


def _is_interval(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(is_number, value))


def _are_counts(value: Any) -> bool:
    return isinstance(value, dict) and all(map(is_number, value.values()))


def _is_spread(value: Any) -> bool:
    return _are_counts(value) and {"median", "p95"} <= value.keys()


def _is_mapping(value: Any) -> bool:
    return isinstance(value, dict)


_ALWAYS = (
    *("accuracy", "n", "ci95", "malformed", "truncated", "think_tokens", "answer_tokens"),
    *("wellformed", "lenient", "majority", "made"),
)
_PART: dict[str, Callable[[Any], bool]] = {"n": is_number, "accuracy": is_number, "ci95": _is_interval}
_FORMS: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("malformed", "truncated", "too_long", "timeout", "answer_unusable"), is_number),
    "malformed_reasons": _are_counts,
    **dict.fromkeys(("think_tokens", "answer_tokens"), _is_spread),
}
_SCORES: Row = {
    **_PART,
    **_FORMS,
    **dict.fromkeys(("images", "majority"), is_number),
    **dict.fromkeys(("wellformed", "lenient", "image_removed"), _PART),
    "sampled": {**_PART, **_FORMS, "k": is_number, "pass_at": _are_counts},
    "made": _is_mapping,
}
