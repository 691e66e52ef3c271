"""Checks of what is read from a sweep folder: whoever can write to the bucket may have written anything there."""

import functools
import json
import re
from collections.abc import Mapping
from dataclasses import fields
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

MOST_DEPTH = 20
MOST_NUMBER = 2**53
MOST_DIGITS = 18
MOST_EPOCHS = 1_000_000
# A confusion matrix of 1,000 classes takes 7 MB.
MOST_ROW_BYTES = 256 << 20
MOST_PASSPORT_BYTES = 1 << 30
MOST_JSON_BYTES = 64 << 20
MOST_EPOCHS_BYTES = 256 << 20
SHA256 = re.compile(r"[0-9a-f]{64}")
SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def bounded_json(data: bytes, most_bytes: int = MOST_JSON_BYTES) -> Any:
    """Return a JSON value of bounded size and depth whose numbers are finite; raises ValueError."""
    if len(data) > most_bytes:
        raise ValueError(f"{len(data)} bytes, more than the {most_bytes} that such a file may have")
    try:
        found = json.loads(data, parse_constant=refuse_constant, parse_int=bounded_integer, parse_float=finite_number)
    except RecursionError:
        raise ValueError(f"nested more than {MOST_DEPTH} levels deep") from None
    check_depth(found)
    return found


def refuse_constant(text: str) -> float:
    """Raise ValueError: NaN and Infinity are no JSON."""
    raise ValueError(f"{text} is not a JSON number")


def bounded_integer(text: str) -> int:
    """Return an integer of at most MOST_DIGITS digits."""
    if len(text) > MOST_DIGITS:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def finite_number(text: str) -> float:
    """Return a number that is not too large for a float."""
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"the number {text[:20]} is too large")
    return number


def check_depth(value: Any) -> None:
    """Raise ValueError if lists and objects are nested more than MOST_DEPTH levels deep."""
    level = [value]
    for _ in range(MOST_DEPTH + 1):
        level = [item for parent in level if isinstance(parent, list | dict)
                 for item in (parent.values() if isinstance(parent, dict) else parent) if isinstance(item, list | dict)]
        if not level:
            return
    raise ValueError(f"nested more than {MOST_DEPTH} levels deep")


def check_unicode(data: bytes, value: Any) -> None:
    """Raise ValueError if a JSON text that was read from `data` holds a lone surrogate, which is no character."""
    if SURROGATE.search(data):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("a text in it is not Unicode (a lone surrogate)") from None


def check_types(kind: type, values: Mapping[str, Any]) -> None:
    """Raise ValueError, naming the key, for a value whose type is not that of the dataclass field of its name."""
    for name, hint in hints_of(kind).items():
        if name in values and not fits(values[name], hint):
            raise ValueError(f"{name} is {brief(values[name])}, which is not {in_words(hint)}")


@functools.cache
def hints_of(kind: type) -> dict[str, Any]:
    """Return field -> type of a dataclass."""
    hints = get_type_hints(kind)
    return {spec.name: hints[spec.name] for spec in fields(kind)}


def fits(value: Any, kind: Any) -> bool:
    """Return whether a JSON value has this type; a bool is no number, and a number lies within +-MOST_NUMBER."""
    origin, parts = get_origin(kind), get_args(kind)
    if kind in (Any, object):
        return True
    if origin in (Union, UnionType):
        return any(fits(value, part) for part in parts)
    if origin is Literal:
        return isinstance(value, str) and value in parts
    if origin is list:
        if not isinstance(value, list):
            return False
        # A confusion matrix holds a million numbers: these lines look at them without a loop in Python.
        if parts == (int,):
            return set(map(type, value)) <= {int} and max(map(abs, value), default=0) <= MOST_NUMBER
        return all(fits(item, parts[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(fits(item, parts[1]) for item in value.values())
    if kind is float:
        return isinstance(value, float) or fits(value, int)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MOST_NUMBER
    return isinstance(value, kind)


def in_words(kind: Any) -> str:
    """Return what a value of this type is, for a message."""
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false", NoneType: "null"}
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(map(in_words, get_args(kind)))
    if get_origin(kind) is Literal:
        return f"one of {', '.join(get_args(kind))}"
    if get_origin(kind) is list:
        return f"a list of {in_words(get_args(kind)[0])}"
    return names.get(kind, "an object")


def brief(value: Any) -> str:
    """Return a value for a message, at most about 40 characters long."""
    if isinstance(value, list | dict):
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)}"
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


def in_range(name: str, value: Any, least: int, most: int = MOST_NUMBER) -> int:
    """Return a whole number of a JSON object; raises ValueError that names it if it is none, or out of range."""
    if not fits(value, int) or not least <= value <= most:
        raise ValueError(f"{name} is {brief(value)}, which is not a whole number from {least} to {most}")
    return int(value)


def plain_name(name: str, value: Any, pattern: re.Pattern[str]) -> str:
    """Return a file name that matches a pattern; raises ValueError for any other: it could lead out of the folder."""
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise ValueError(f"{name} is {brief(value)}, which is not the name of such a file")
    return value
