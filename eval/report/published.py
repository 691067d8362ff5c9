"""What may leave this machine: pages, results and cards name data, models and files by no folder, and no secret."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

LEFT_OUT = "(left out)"
_SECRET = re.compile(r"(token|secret|password|passwd|api_?key|access_key|secret_key|private_key)$")
_WORDS = {f"{word}_token" for word in "bos eos pad unk sep cls mask image video audio".split()}  # of a vocabulary
_LEAST = 8  # characters of a secret or path that is looked for in other texts: a shorter one may be any word
_PATH = re.compile(r"(?:file:/*)?(?:/|~[\w.-]*/|\.\.?/)[^\n]*")
_PART = r"[^\s/'\"`<>|,;()\[\]{}]+"
# A path within a text: no closing tag, fraction or part of an address.
_IN_TEXT = re.compile(rf"(?:file:/+|(?<![\w./~<-])(?:~[\w.-]*)?/(?!/)|(?<![\w./~<:-])//+)(?:{_PART}/+)*({_PART})/?")
_REST = rf"(?:(?:/+{_PART})*/+({_PART})|/*(?![\w-]|\.\w))"  # of a path that begins as one that is known
_LOGIN = re.compile(r"(?<=://)[^/@\s]+@")


def published_run(stored: dict[str, Any], run: Path) -> dict[str, Any]:
    """What may be shown of a run's `recipe.json`."""
    shown: dict[str, Any] = published({**stored, "recipe": without_secrets(stored["recipe"])}, private(stored, run))
    return shown


def published(value: Any, known: Mapping[str, str] | None = None) -> Any:
    """`value`, of JSON, with the last part of each path in its place. `known` is for texts: see `cleaned`."""
    if isinstance(value, dict):
        return _with_keys({key: published(each, known) for key, each in value.items()}, known)
    if isinstance(value, list):
        return [published(each, known) for each in value]
    if not isinstance(value, str):
        return value
    return _last_part(value) if _PATH.fullmatch(value) else cleaned(value, known)


def _with_keys(values: dict[str, Any], known: Mapping[str, str] | None) -> dict[str, Any]:
    """Files of one name in two folders stay two."""
    shown: dict[str, Any] = {}
    for key, value in values.items():
        name = short = published(key, known)
        number = 1
        while name in shown:
            number += 1
            name = f"{short} ({number})"
        shown[name] = value
    return shown


def cleaned(text: str, known: Mapping[str, str] | None = None) -> str:
    """A message without the folders of the paths in it. `known`, from `private`, is found by its very words."""
    for word, shown in (known or {}).items():
        if word in text:
            text = _without(text, word, shown)
    return _LOGIN.sub("", _IN_TEXT.sub(lambda match: match[1], text))


def _without(text: str, word: str, shown: str) -> str:
    """`text` with the last part of each path that begins with the path `word`, and `shown` for `word` alone."""
    return re.sub(re.escape(word) + _REST, lambda match: match[1] or shown, text)


def private(stored: dict[str, Any], run: Path) -> dict[str, str]:
    """The paths, which may have blanks in them, and the secrets of a run, each with what is shown in its place."""
    texts = [*_texts(stored["recipe"]), *stored["rewards"], str(run), str(run.resolve())]
    paths = {text for text in texts if _PATH.fullmatch(text)}
    paths |= {text.rpartition(":")[0] for text in paths} - {""}  # the file of a function
    paths |= {str(parent) for path in paths for parent in PurePosixPath(path).parents}
    secrets = {*_texts(stored["recipe"])} - {*_texts(without_secrets(stored["recipe"]))}
    found = {path: _last_part(path) for path in paths} | dict.fromkeys(secrets, LEFT_OUT)
    return {word: found[word] for word in sorted(found, key=len, reverse=True) if len(word) >= _LEAST}


def without_secrets(recipe: Any) -> Any:
    """The same without the values of keys such as `hub_token` and `api_key`."""
    if isinstance(recipe, list):
        return [without_secrets(each) for each in recipe]
    if not isinstance(recipe, dict):
        return recipe
    return {key: LEFT_OUT if _is_secret(key, each) else without_secrets(each) for key, each in recipe.items()}


def _is_secret(key: str, value: Any) -> bool:
    name = key.lower().replace("-", "_")
    told = value not in (None, "") and not isinstance(value, bool | dict)
    return told and name not in _WORDS and bool(_SECRET.search(name))


def _last_part(path: str) -> str:
    return PurePosixPath(path).name or path


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _texts(each)
