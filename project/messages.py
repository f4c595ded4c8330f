"""One line for what is wrong with an argument: the key, the value, and what would be accepted.

jsonargparse explains a wrong value by the whole tree of types that it tried; the facts are in
there, and are picked out by their wording (held by tests/test_configuration.py).
"""

import difflib
import inspect
import re
import sys
from collections.abc import Iterable


class UsageError(Exception):
    """What was asked for is not possible; the text says why and what to do. Exit code 2."""


class RunError(Exception):
    """A run cannot go on; the text says why, what is kept and what to do. Exit code 1."""


class RunPruned(Exception):  # noqa: N818 - not an error
    """A trial of a sweep is ended early, since others do better; its run is no failure."""


def warn(text: str) -> None:
    """Print what a user should know although things go on."""
    print(f"warning: {text}", file=sys.stderr, flush=True)


def nearest(word: str, choices: Iterable[str]) -> str:
    """Return "; did you mean X?", or nothing when no choice is near."""
    near = difflib.get_close_matches(word, list(choices), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def short_message(text: str, options: list[str], classes: Iterable[str]) -> str:
    """Return one line for the page `text` of jsonargparse.

    Args:
        options: Every `--key` that stands on its own.
        classes: Bare names of classes that may be meant.
    """
    if broken := re.search(rf"{__package__}/\S+\.py, line \d+: .+", text):  # a class of one's own
        return broken[0]
    keys = re.findall(r'Parser key "([^"]+)"', text)
    key = "--" + ".".join(keys)
    if unknown := re.match(r"unrecognized arguments: ([^\s=]+)", text):
        return f"unknown option {unknown[1]}{nearest(unknown[1], options)}"
    if unknown := re.search(r"Option '([^']+)' is not accepted.*", text):
        return unknown_option(keys, unknown[1], class_at(text, unknown), options)
    if missing := re.search(r"arguments are required: (.*)", text):
        names = [".".join([*keys, name.strip()]) for name in missing[1].split(",")]
        return "not set: " + ", ".join(f"--{name}" for name in names)
    if other := re.search(r"Import path (\S+) does not correspond to a subclass of (\w+)", text):
        return f"{key}: {other[1]} is no {other[2]}, which is needed here"
    if partial := re.search(r"Expected an instantiatable class, but (\S+) is abstract", text):
        return f"{key}: {partial[1]} lacks a method that its base class asks for (@abstractmethod)"
    literal = r"Expected a typing.Literal\[(.*?)\](?s:.*?)(?:Got|Given) value: (.*)"
    if choice := re.search(literal, text):
        allowed = choice[1].replace("'", "")
        return f"{key}: {choice[2]!r} is not one of {allowed}"
    wanted = [t for t in re.findall(r"Expected an? <class '([^']+)'>", text) if t != "NoneType"]
    if wanted and (value := re.search(r"(?:Given|Got) value: (.*)", text)):
        return f"{key}: expected {wanted[0]}, got {value[1].split('. Got')[0]!r}"
    if name := re.search(r"Expected a dot import path string: (\S+)", text):
        return f"{key}: no class {name[1]!r}{nearest(name[1], classes)}"
    absent = r"class_path '((\w+)\.[^']+)':\s+(?:module '\S+' has no attribute|No module named '\2)"
    if path := re.search(absent, text):
        return f"{key}: no class {path[1]!r}{nearest(path[1].rpartition('.')[2], classes)}"
    return " ".join([key, *text.split()] if keys else text.split())[:300]


def said_by_a_class(text: str) -> str:
    """Return what the constructor of a class refused, out of jsonargparse's page around it."""
    found = re.search(r"Errors:\s+- (.*?)\n\s+- Expected", text, re.DOTALL)
    return found[1] if found else text


def class_at(text: str, place: re.Match[str]) -> str | None:
    """Return the import path of the class that refused the option found at `place`."""
    if beside := re.search(r"Namespace\(class_path='([^']+)'", place[0]):
        return beside[1]
    before = re.findall(r"class_path '([^']+)'", text[: place.start()])
    return before[-1] if before else None


def unknown_option(keys: list[str], name: str, path: str | None, options: list[str]) -> str:
    option = "--" + ".".join([*keys, name])
    if path is None:
        return f"unknown option {option}{nearest(option, options)}"
    from jsonargparse._util import import_object  # not needed to say anything else

    cls = import_object(path)
    choices = [choice for choice in inspect.signature(cls).parameters if choice != "self"]
    hint = nearest(name, choices) or f"; it takes {', '.join(choices) or 'none'}"
    if keys[-1:] == ["corpus"] and cls.__name__ != "TextCorpus":
        hint = "; for your own text add --data.corpus TextCorpus before it"
    return f"unknown option {option} of {cls.__name__}{hint}"
