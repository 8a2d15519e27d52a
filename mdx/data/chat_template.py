"""Chat templates: conversations to text, by Jinja in a sandbox.

Contents: render, main. A template is foreign code. So it runs in jinja2's
ImmutableSandboxedEnvironment, and in a process with bounds on memory and processor time: this
file, run as a script, which imports neither mdx nor JAX; `chat` talks to it.

Convention: a template sees `messages` (role, content, and `tool_calls`, `name`, ... where they have
them), `bos_token`, `eos_token`, `pad_token`, `add_generation_prompt`, `tools` and `documents`
(None), `raise_exception`, `strftime_now`, the filter `tojson`, and the tags `break`, `continue` and
`generation`, as the templates of Hugging Face models expect.
"""

from __future__ import annotations

import datetime
import functools
import json
import re
import sys
import time
from typing import Any

import jinja2
from jinja2 import ext
from jinja2 import nodes
from jinja2 import sandbox

_MEMORY_BYTES = 2 * 2**30
_MAX_CHARS = 2**22
# Unicode's noncharacters, which no text has: they stand around each content.
_OPEN, _MIDDLE, _CLOSE = "\ufdd0", "\ufdd1", "\ufdd2"
_MARKED = re.compile(f"{_OPEN}([0-9]+){_MIDDLE}(.*?){_CLOSE}", re.S)
_MORE = ("reasoning_content", "reasoning", "thinking", "tool_calls")  # fields that may have text
# Thoughts before an answer, which many templates leave out of all turns but the last.
_THOUGHT = re.compile(r"(\s*<think>)(.*?)(</think>\s*)(.*)", re.S)


class _Generation(ext.Extension):
  """The tag `generation`, which marks answers; here they are found without it."""

  tags = {"generation"}

  def parse(self, parser):
    line = next(parser.stream).lineno
    body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
    return nodes.Scope(body, lineno=line)


def _tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
  return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators,
                    sort_keys=sort_keys)


@functools.lru_cache(maxsize=8)
def _compile(template: str) -> jinja2.Template:
  environment = sandbox.ImmutableSandboxedEnvironment(
      trim_blocks=True, lstrip_blocks=True,
      extensions=["jinja2.ext.loopcontrols", _Generation])
  environment.filters["tojson"] = _tojson

  def raise_exception(message):
    raise jinja2.TemplateError(message)

  environment.globals["raise_exception"] = raise_exception
  environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
  return environment.from_string(template)


def _text(template: str, messages: list, variables: dict) -> str:
  """The text of a conversation; ValueError for whatever goes wrong in the template."""
  try:
    parts, size = [], 0
    for part in _compile(template).generate(messages=messages, tools=None, documents=None,
                                            **variables):
      parts.append(part)
      size += len(part)
      if size > _MAX_CHARS:
        raise ValueError(f"it writes more than {_MAX_CHARS} characters")
    return "".join(parts)
  except Exception as e:  # a template may raise anything
    said = " ".join(str(e).split())[:200] or type(e).__name__
    raise ValueError(f"the chat template failed ({said}); correct the template, or the "
                     "messages.") from None


def render(template: str, messages: list[dict],
           variables: dict) -> list[tuple[str, int | None]]:
  """Renders a conversation.

  Args:
    template: the Jinja source.
    messages: {"role": ..., "content": ...} each; a content that is no text (None) is not sought.
    variables: what else the template may read, by name.

  Returns:
    (text, index of the message whose content it is, or None where the template wrote
    it), in order. Joined, the texts are the rendering. A content with `<think>` ... `</think>` is
    two texts, the thought and the answer.

  Raises:
    ValueError: a template that fails, or rewrites contents, so that it cannot be told what
      it wrote itself.
  """
  plain = _text(template, messages, variables)
  texts = [json.dumps(m, ensure_ascii=False) for m in messages]
  if any(mark in text for text in texts for mark in (_OPEN, _MIDDLE, _CLOSE)):
    raise ValueError("a message contains Unicode noncharacters (U+FDD0 to U+FDD2); remove them.")
  ways = [("content",)]
  if any(name in m for m in messages for name in _MORE):
    ways.insert(0, ("content", *_MORE))
  for names in ways:  # a template may compare or rewrite what is no content
    marked = [m | {name: _marked(i, m[name]) for name in names if name in m}
              for i, m in enumerate(messages)]
    try:
      found = _MARKED.split(_text(template, marked, variables))
    except ValueError:  # without marks it did not fail
      continue
    pieces = [(found[0], None)]
    for index, content, rest in zip(found[1::3], found[2::3], found[3::3]):
      pieces += [(content, int(index)), (rest, None)]
    if "".join(text for text, _ in pieces) == plain:
      return [piece for piece in pieces if piece[0] or piece[1] is not None]
  raise ValueError("the chat template rewrites the content of a message, so its answers cannot "
                   "be told from its own text; use a template that copies contents.")


def _marked(index: int, value: Any, is_argument: bool = False) -> Any:
  """A value of a message with its texts marked, of tool calls those of the arguments."""
  if isinstance(value, str):
    return _mark(index, value)
  if isinstance(value, list):
    return [_marked(index, x, is_argument) if is_argument or not isinstance(x, str) else x
            for x in value]
  if isinstance(value, dict):
    return {k: _marked(index, x, is_argument or k == "arguments")
            if is_argument or k == "arguments" or not isinstance(x, str) else x
            for k, x in value.items()}
  return value


def _mark(index: int, content: str) -> str:
  """Marks within the outer white space, which templates may trim."""
  if thought := _THOUGHT.fullmatch(content):
    begin, inner, end, answer = thought.groups()
    return f"{begin}{_mark(index, inner)}{end}{_mark(index, answer)}"
  inner = content.strip()
  before = content[:len(content) - len(content.lstrip())] if inner else ""
  return f"{before}{_OPEN}{index}{_MIDDLE}{inner}{_CLOSE}{content[len(before) + len(inner):]}"


def _limit(kind: str, bound: float) -> None:
  try:
    import resource  # pylint: disable=g-import-not-at-top  (not on every system)
    number = getattr(resource, kind)
    hard = resource.getrlimit(number)[1]
    bound = int(bound) if hard == resource.RLIM_INFINITY else min(int(bound), hard)
    resource.setrlimit(number, (bound, hard))
  except (ImportError, OSError, ValueError):
    pass


def main() -> None:
  """Reads {template, variables, messages, seconds} a line; writes pieces, or what is wrong.

  A line of the reply is {"pieces": as `render` returns} or {"error": message}.
  """
  sys.dont_write_bytecode = True
  for kind, bound in (("RLIMIT_AS", _MEMORY_BYTES), ("RLIMIT_FSIZE", 0), ("RLIMIT_CORE", 0)):
    _limit(kind, bound)
  for line in sys.stdin:
    request = json.loads(line)
    _limit("RLIMIT_CPU", time.process_time() + request["seconds"] + 1)
    try:
      reply = {"pieces": render(request["template"], request["messages"], request["variables"])}
    except ValueError as e:
      reply = {"error": str(e)}
    print(json.dumps(reply), flush=True)


if __name__ == "__main__":
  main()
