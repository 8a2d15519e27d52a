"""Chat templates: conversations to text, by Jinja in a sandbox.

Contents: render, check_pieces, main. A template is foreign code. So it runs in jinja2's
ImmutableSandboxedEnvironment, and before anything else it renders what is to be trained on in
a process with bounds on memory and processor time: this file, run as a script, which imports
neither mdx nor JAX.

Convention: a template sees `messages` (role and content), `bos_token`, `eos_token`,
`pad_token`, `add_generation_prompt`, `tools` and `documents` (None), `raise_exception`, and the
tags `break`, `continue` and `generation`, as the templates of Hugging Face models expect.
"""

from __future__ import annotations

import functools
import json
import re
import sys

import jinja2
from jinja2 import ext
from jinja2 import nodes
from jinja2 import sandbox

_MEMORY_BYTES = 2 * 2**30
_MAX_CHARS = 2**22
# Unicode's noncharacters, which no text has: they stand around each content.
_OPEN, _MIDDLE, _CLOSE = "\ufdd0", "\ufdd1", "\ufdd2"
_MARKED = re.compile(f"{_OPEN}([0-9]+){_MIDDLE}(.*?){_CLOSE}", re.S)


class _Generation(ext.Extension):
  """The tag `generation`, which marks answers; here they are found without it."""

  tags = {"generation"}

  def parse(self, parser):
    line = next(parser.stream).lineno
    body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
    return nodes.Scope(body, lineno=line)


@functools.lru_cache(maxsize=8)
def _compile(template: str) -> jinja2.Template:
  environment = sandbox.ImmutableSandboxedEnvironment(
      trim_blocks=True, lstrip_blocks=True,
      extensions=["jinja2.ext.loopcontrols", _Generation])
  environment.filters["tojson"] = lambda x, indent=None: json.dumps(
      x, ensure_ascii=False, indent=indent)

  def raise_exception(message):
    raise jinja2.TemplateError(message)

  environment.globals["raise_exception"] = raise_exception
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


def render(template: str, messages: list[dict[str, str]],
           variables: dict) -> list[tuple[str, int | None]]:
  """Renders a conversation.

  Args:
    template: the Jinja source.
    messages: {"role": ..., "content": ...} each.
    variables: what else the template may read, by name.

  Returns:
    (text, index of the message whose content it is, or None where the template wrote
    it), in order. Joined, the texts are the rendering.

  Raises:
    ValueError: a template that fails, or rewrites contents, so that it cannot be told what
      it wrote itself.
  """
  plain = _text(template, messages, variables)
  if any(mark in m["content"] for m in messages for mark in (_OPEN, _MIDDLE, _CLOSE)):
    raise ValueError("a message contains Unicode noncharacters (U+FDD0 to U+FDD2); remove them.")
  marked = [m | {"content": _mark(i, m["content"])} for i, m in enumerate(messages)]
  found = _MARKED.split(_text(template, marked, variables))
  pieces = [(found[0], None)]
  for index, content, rest in zip(found[1::3], found[2::3], found[3::3]):
    pieces += [(content, int(index)), (rest, None)]
  if "".join(text for text, _ in pieces) != plain:
    raise ValueError("the chat template rewrites the content of a message, so its answers cannot "
                     "be told from its own text; use a template that copies contents.")
  return [piece for piece in pieces if piece[0] or piece[1] is not None]


def _mark(index: int, content: str) -> str:
  """Marks within the outer white space, which templates may trim."""
  inner = content.strip()
  before = content[:len(content) - len(content.lstrip())] if inner else ""
  return f"{before}{_OPEN}{index}{_MIDDLE}{inner}{_CLOSE}{content[len(before) + len(inner):]}"


def _limit_resources(seconds: int) -> None:
  try:
    import resource
    for kind, bound in ((resource.RLIMIT_AS, _MEMORY_BYTES), (resource.RLIMIT_CPU, seconds),
                        (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0)):
      hard = resource.getrlimit(kind)[1]
      bound = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
      resource.setrlimit(kind, (bound, bound))
  except (ImportError, OSError, ValueError):
    pass


def main() -> None:
  """Reads {template, variables, conversations, seconds} from standard input; writes what is wrong.

  The reply is [index of the conversation, message], or null.
  """
  sys.dont_write_bytecode = True
  request = json.load(sys.stdin)
  _limit_resources(request["seconds"])
  for i, messages in enumerate(request["conversations"]):
    try:
      render(request["template"], messages, request["variables"])
    except ValueError as e:
      json.dump([i, str(e)], sys.stdout)
      return
  json.dump(None, sys.stdout)


if __name__ == "__main__":
  main()
