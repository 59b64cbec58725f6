"""The fields of a config for a command's --help: defaults, what they may hold, and what the source says of them."""

import ast
import dataclasses
import inspect
import io
import shlex
import textwrap
import tokenize
from collections.abc import Mapping
from typing import Any, get_type_hints

from strega_jax.config import Run
from strega_jax.fields import rule_of

WIDTH = 100  # characters of a line


def config_help(*sections: str) -> str:
    """Every field as the flag that sets it, with its default; of all sections of a config, or of some.

    Args:
        sections: names of fields of `Run` that are settings of their own.
    """
    run = Run()
    parts = [] if sections else [_fields(run, "--config.")]
    for name, settings in vars(run).items():
        if dataclasses.is_dataclass(settings) and (not sections or name in sections):
            about = textwrap.fill(f"{name}: {inspect.getdoc(type(settings))}", WIDTH)
            parts.append(f"{about}\n{_fields(settings, f'--config.{name}.')}")
    return "fields of the config, with their defaults; a config may set others:\n\n" + "\n\n".join(parts)


def field_comments(cls: type) -> dict[str, str]:
    """Field of a dataclass → the comment beside it or in the lines before it; fields without one are left out."""
    source = textwrap.dedent(inspect.getsource(cls))
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {token.start[0]: token for token in tokens if token.type == tokenize.COMMENT}
    found = {}
    for node in ast.parse(source).body[0].body:  # pyright: ignore[reportAttributeAccessIssue]
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            first = node.lineno
            while first - 1 in comments and not comments[first - 1].line[: comments[first - 1].start[1]].strip():
                first -= 1
            rows = [row for row in (*range(first, node.lineno), node.end_lineno) if row in comments]
            if rows:
                found[node.target.id] = " ".join(comments[row].string.lstrip("# ") for row in rows)
    return found


def _fields(settings: Any, prefix: str) -> str:
    comments, kinds = field_comments(type(settings)), get_type_hints(type(settings), include_extras=True)
    lines = []
    for name, value in vars(settings).items():
        if dataclasses.is_dataclass(value):
            continue
        rule = rule_of(kinds[name])
        lines.append(f"  {prefix}{name}{'.NAME=…' if isinstance(value, Mapping) else f'={shlex.quote(str(value))}'}")
        text = " ".join(part for part in (comments.get(name, ""), rule and f"({rule})") if part)
        if text:
            lines.append(textwrap.fill(text, WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6))
    return "\n".join(lines)
