"""What came of each response: by the rewards' parser and verifier, and by a forgiving reading beside them."""

from collections.abc import Sequence
from typing import Any

from eval.lenient import lenient_answer
from rewards.accuracy import verdicts
from rewards.grading.verify import Outcome, Question, verify_all
from rewards.response import Malformed, parse

OK = "ok"
TOO_LONG = "too_long"  # an outcome of evaluation alone: the prompt left no room in the context, and was not asked
_UNREAD = (Outcome.MALFORMED, Outcome.TRUNCATED)  # no answer of theirs was verified


def graded(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """`lines` with `parse`, `outcome` and `lenient` made anew of their `text`, `truncated`, `gold`, `kind`, `choices`.

    `parse` is "ok" or why the strict grammar rejects the text (`rewards.response.Reason`), `outcome` the reward's (or
    `TOO_LONG`), and `lenient` what the verifier says of `lenient_answer`.
    """
    golds, kinds, choices = ([line[key] for line in lines] for key in ("gold", "kind", "choices"))
    texts = [line["text"] for line in lines]
    strict = verdicts(texts, golds, kinds, choices, [line["truncated"] for line in lines])
    second = [verdict.outcome in _UNREAD for verdict in strict]  # of the others, both readers take the same answer
    answers = [lenient_answer(text) if look else "" for text, look in zip(texts, second, strict=True)]
    asked = [Question(*each) for each in zip(answers, golds, kinds, choices, strict=True) if each[0]]
    lenient = iter(verify_all(asked))
    return [
        {
            **line,
            "parse": _form(line["text"]),
            "outcome": TOO_LONG if line.get("too_long") else verdict.outcome.value,
            "lenient": (next(lenient) if answer else Outcome.MALFORMED if look else verdict.outcome).value,
        }
        for line, verdict, answer, look in zip(lines, strict, answers, second, strict=True)
    ]


def _form(text: str) -> str:
    parsed = parse(text)
    return parsed.reason.value if isinstance(parsed, Malformed) else OK
