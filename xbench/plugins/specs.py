"""Spec strings: one grammar for plug-ins, their parameters and wrappers, everywhere.

    spec  := name [ "(" [ arg { "," arg } ] ")" ]
    arg   := value | key "=" value
    value := number | true | false | "text" | spec

A name may hold what paths hold (``folder(../my/pictures)``, ``timm/resnet50@weights.safetensors``); one with blanks is "quoted".

Examples: ``grad_cam``, ``rise(n=2000)``, ``inverted(grad_cam)``, ``grid(photos, seed=1)``,
``insertion(steps=exact(10))``, ``gradcam/GradCAM``.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TypeAlias, Union

from xbench.errors import XbenchError

Value: TypeAlias = Union[bool, int, float, str, "Spec"]

_NAME = r"(?:[A-Za-z_~]|\.{0,2}/)[\w./:@+~-]*"
_TOKEN = re.compile(
    rf"""\s*(?:
      (?P<number>[-+]?(?:\d+\.\d*|\.\d+|\d+)(?:[eE][-+]?\d+)?(?![\w.]))
    | (?P<name>{_NAME})
    | (?P<text>"(?:[^"\\]|\\.)*")
    | (?P<mark>[(),=])
    )""",
    re.VERBOSE,
)
_MARK = re.compile(r'"(?:[^"\\]|\\.)*"|[(),]')


@dataclass(frozen=True)
class Spec:
    """A parsed spec string; ``str()`` gives its canonical form, which parses back to an equal Spec."""

    name: str
    args: tuple[Value, ...] = ()
    kwargs: tuple[tuple[str, Value], ...] = ()

    def __str__(self) -> str:
        inside = [_format(a) for a in self.args] + [f"{k}={_format(v)}" for k, v in self.kwargs]
        return f"{self.name}({', '.join(inside)})" if inside else self.name


def _format(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value if re.fullmatch(_NAME, value) and value not in ("true", "false") else json.dumps(value)
    return str(value)


def parse(text: str) -> Spec:
    """Parse a spec string.

    >>> parse("smooth( grad_cam,n=10 )")
    Spec(name='smooth', args=(Spec(name='grad_cam', args=(), kwargs=()),), kwargs=(('n', 10),))
    >>> print(parse("smooth( grad_cam,n=10 )"))
    smooth(grad_cam, n=10)

    Raises:
        XbenchError: the text does not follow the grammar; the message shows where.
    """
    parser = _Parser(text)
    spec = parser.spec()
    parser.expect_end()
    return spec


def split(text: str) -> list[str]:
    """Split a comma-separated list of specs at its outer commas.

    >>> split("grad_cam, insertion(steps=exact(10), substrate=zero)")
    ['grad_cam', 'insertion(steps=exact(10), substrate=zero)']
    """
    parts, depth, start = [], 0, 0
    for mark in _MARK.finditer(text):  # a quoted text is one mark, whatever it holds
        depth += (mark[0] == "(") - (mark[0] == ")")
        if mark[0] == "," and depth == 0:
            parts.append(text[start : mark.start()])
            start = mark.end()
    return [part.strip() for part in [*parts, text[start:]] if part.strip()]


class _Parser:
    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0

    def fail(self, wanted: str) -> XbenchError:
        return XbenchError(
            f"cannot read spec {self.text!r}: expected {wanted} at {self.text[self.at :]!r}; write it like name(key=value)"
        )

    def peek(self) -> re.Match[str] | None:
        return _TOKEN.match(self.text, self.at)

    def take(self, kind: str, wanted: str, only: str = "") -> str:
        token = self.peek()
        if token is None or token.lastgroup != kind or (only and token[kind] not in only):
            raise self.fail(wanted)
        self.at = token.end()
        return token[kind]

    def next_is(self, mark: str) -> bool:
        token = self.peek()
        return token is not None and token["mark"] == mark

    def expect_end(self) -> None:
        if self.text[self.at :].strip():
            raise self.fail("the end")

    def spec(self) -> Spec:
        name = self.take("name", "a name")
        args: list[Value] = []
        kwargs: list[tuple[str, Value]] = []
        if self.next_is("("):
            self.take("mark", "'('")
            while not self.next_is(")"):
                value = self.value()
                if self.next_is("="):
                    if not isinstance(value, Spec) or value.args or value.kwargs:
                        raise self.fail("a parameter name before '='")
                    if value.name in dict(kwargs):
                        raise XbenchError(f"spec {self.text!r} gives {value.name} twice; keep one")
                    self.take("mark", "'='")
                    kwargs.append((value.name, self.value()))
                elif kwargs:
                    raise self.fail("'=' (positional arguments come first)")
                else:
                    args.append(value)
                if not self.next_is(")"):
                    self.take("mark", "',' or ')'", ",")
            self.take("mark", "')'", ")")
        return Spec(name, tuple(args), tuple(kwargs))

    def value(self) -> Value:
        token = self.peek()
        if token is not None and token.lastgroup == "number":
            self.at = token.end()
            return int(token["number"]) if re.fullmatch(r"[-+]?\d+", token["number"]) else float(token["number"])
        if token is not None and token.lastgroup == "text":
            self.at = token.end()
            return str(json.loads(token["text"]))
        spec = self.spec()
        if not spec.args and not spec.kwargs and spec.name in ("true", "false"):
            return spec.name == "true"
        return spec
