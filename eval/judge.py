"""What came of each response: by the rewards' parser and verifier, and by a forgiving reading beside them."""

from collections.abc import Sequence
from typing import Any

from rewards.accuracy import verdicts
from rewards.response import Malformed, lenient_answer, parse
from rewards.verify import Outcome, Question, verify_all

OK = "ok"


def judged(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """`lines` with `parse`, `outcome` and `lenient` made anew of their `text`, `truncated`, `gold`, `kind`, `choices`.

    `parse` is "ok" or why the strict grammar rejects the text (`rewards.response.Reason`), `outcome` the reward's, and
    `lenient` what the verifier says of `lenient_answer`.
    """
    golds, kinds, choices = ([line[key] for line in lines] for key in ("gold", "kind", "choices"))
    texts = [line["text"] for line in lines]
    strict = verdicts(texts, golds, kinds, choices, [line["truncated"] for line in lines])
    answers = [lenient_answer(text) for text in texts]
    asked = [Question(*each) for each in zip(answers, golds, kinds, choices, strict=True) if each[0]]
    lenient = iter(verify_all(asked))
    return [
        {
            **line,
            "parse": _form(line["text"]),
            "outcome": verdict.outcome.value,
            "lenient": (next(lenient) if answer else Outcome.MALFORMED).value,
        }
        for line, verdict, answer in zip(lines, strict, answers, strict=True)
    ]


def _form(text: str) -> str:
    parsed = parse(text)
    return parsed.reason.value if isinstance(parsed, Malformed) else OK
