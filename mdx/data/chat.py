"""Conversations: messages to token ids, of which the answers are targets.

Contents: encode, encode_prompt, prompt_text, check.

Convention: a special token comes from the template only; in a content its name is plain text.
The targets are the content of every assistant message and what the template writes after it up
to the first special token, which ends the answer.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mdx.data import chat_template
from mdx.data import tokenizer as tokenizer_lib

_SECONDS, _CLOCK_SECONDS = 20, 120  # of the process that runs a template, for a conversation
_SECONDS_EACH = 0.1  # more for each conversation that is tried
_MORE = ("tool_calls", "reasoning_content", "reasoning", "thinking")  # what an answer may have
Messages = Sequence[Mapping[str, Any]]


def encode(tokenizer: tokenizer_lib.Tokenizer, conversation: Messages
           ) -> tuple[np.ndarray, np.ndarray]:
  """Renders and tokenizes a conversation.

  Returns:
    tokens int32 [n], and is_given bool [n], True where a token is no target.

  Raises:
    ValueError: the template fails or leaves out an answer, or there is no answer.
  """
  pieces = _render(tokenizer, conversation)
  answers = [i for i, m in enumerate(conversation) if m["role"] == "assistant"]
  written = [i for i in answers if _has_text(conversation[i])]
  found = [i for _, i in pieces if i in written]
  if not answers:
    raise ValueError("a conversation has no assistant message, so there is nothing to train on; "
                     "leave it out.")
  wide = [i for i in answers if _is_wide(conversation[i])]
  if list(dict.fromkeys(found)) != written or any(
      found.count(i) > 1 for i in written if i not in wide):
    raise ValueError("the chat template leaves out or repeats an assistant message; use one that "
                     "writes each once.")
  begins = _begins(tokenizer, conversation, wide)
  tokens, is_given, in_answer, is_wide = [], [], False, False
  for text, index, is_begin in _cut(pieces, begins):
    is_wide, in_answer = is_wide or is_begin, in_answer or is_begin
    if index is not None:
      ids = tokenizer.encode(text)
      in_answer = index in answers
      is_wide &= in_answer
      given = np.full(len(ids), not in_answer)
    else:
      ids = _encode_own(tokenizer, text)
      given = np.ones(len(ids), bool)
      ends = np.flatnonzero(np.isin(ids, list(tokenizer.special_texts.values())))
      if in_answer and ends.size:
        given[:ends[0] + 1] = False
        in_answer &= not is_wide
        is_wide = False
      elif is_wide:
        given[:] = False
    tokens.append(ids)
    is_given.append(given)
  if not written and np.concatenate(is_given).all():
    raise ValueError("a conversation has no assistant message with a content, and where another "
                     "begins cannot be told, so there is nothing to train on; leave it out.")
  return np.concatenate(tokens), np.concatenate(is_given)


def _has_text(message) -> bool:
  return isinstance(message["content"], str)


def _is_wide(message) -> bool:
  """Whether the template writes more of an answer than its content."""
  return any(map(message.get, _MORE)) or "<think>" in (message["content"] or "")


def _begins(tokenizer, conversation, wide: Sequence[int]) -> dict[int, int]:
  """Where in the text of a conversation some answers begin: message -> character."""
  if not wide:
    return {}
  whole, found = "".join(text for text, _ in _render(tokenizer, conversation)), {}
  for i in wide:
    before = "".join(text for text, _ in _render(tokenizer, conversation[:i],
                                                 add_generation_prompt=True))
    if i and whole.startswith(before):
      found[i] = len(before)
  return found


def _cut(pieces, begins: Mapping[int, int]):
  """Pieces (text, index, whether an answer begins with it), cut where answers begin."""
  place, ahead = 0, sorted(begins.values())
  for text, index in pieces:
    inside = [at - place for at in ahead if place <= at < place + len(text)]
    ahead = ahead[len(inside):]
    if not inside:
      yield text, index, False
    elif index is not None:  # the answer begins with its content
      yield text, index, True
    else:
      parts = [text[a:b] for a, b in zip([0, *inside], [*inside, len(text)])]
      for number, part in enumerate(parts):
        if part:
          yield part, None, number > 0
    place += len(text)


def encode_prompt(tokenizer: tokenizer_lib.Tokenizer, conversation: Messages,
                  add_generation_prompt: bool = True, is_begun: bool = False) -> np.ndarray:
  """Token ids of a conversation, int32 [n].

  Args:
    tokenizer: has the template.
    conversation: the messages.
    add_generation_prompt: whether to go on to where the assistant answers.
    is_begun: whether the last message is the beginning of an answer: nothing is written behind it.
  """
  pieces = _prompt(tokenizer, conversation, add_generation_prompt, is_begun)
  return np.concatenate([_encode_own(tokenizer, text) if index is None else tokenizer.encode(text)
                         for text, index in pieces])


def prompt_text(tokenizer: tokenizer_lib.Tokenizer, conversation: Messages,
                add_generation_prompt: bool = True, is_begun: bool = False) -> str:
  """The text whose ids `encode_prompt` gives, for people."""
  pieces = _prompt(tokenizer, conversation, add_generation_prompt, is_begun)
  return "".join(text for text, _ in pieces)


def check(tokenizer: tokenizer_lib.Tokenizer, conversations: Sequence[Messages],
          where: Sequence[str]) -> None:
  """Renders conversations, before anything is done with them.

  Args:
    tokenizer: has the template.
    conversations: what to render; a short one is added, so that none are needed.
    where: where each stands, for messages.

  Raises:
    ValueError: the template fails, or needs too much.
  """
  probe = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
  ends = time.monotonic() + _CLOCK_SECONDS + _SECONDS_EACH * len(conversations)
  for place, conversation in zip(["", *where], [probe, *conversations]):
    try:
      _render(tokenizer, conversation)
    except ValueError as error:
      raise ValueError(f"{place + ': ' if place else ''}{error}") from None
    if time.monotonic() > ends:
      raise ValueError(_TOO_MUCH)


_TOO_MUCH = ("the chat template needs too much time or memory to render conversations; correct the "
             "template.")


class _Worker:
  """The process that renders, begun when it is first asked."""

  def __init__(self):
    self._process, self._owner, self._lock = None, 0, threading.Lock()
    atexit.register(self._end)

  def render(self, request: Mapping[str, Any]) -> list[tuple[str, int | None]]:
    """Pieces as of `chat_template.render`; ValueError if it fails or needs too much."""
    with self._lock:
      if self._process is None or self._owner != os.getpid():  # a fork has its own
        self._owner = os.getpid()
        self._process = subprocess.Popen(
            [sys.executable, "-I", chat_template.__file__], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, encoding="utf-8")
      timer = threading.Timer(_CLOCK_SECONDS, self._process.kill)
      timer.start()
      try:
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
      except OSError:
        line = ""
      finally:
        timer.cancel()
      if not line.endswith("\n"):
        self._end()
        raise ValueError(_TOO_MUCH)
    reply = json.loads(line)
    if "error" in reply:
      raise ValueError(reply["error"])
    return [tuple(piece) for piece in reply["pieces"]]

  def _end(self):
    if self._process is not None and self._owner == os.getpid():
      self._process.kill()
      self._process.communicate()
    self._process = None


_WORKER = _Worker()


def _template(tokenizer) -> str:
  if not tokenizer.chat_template:
    raise ValueError(f"tokenizer {tokenizer.name!r} has no chat template; set "
                     "config.tokenizer.chat_template to a Jinja file (asset:chat.jinja).")
  return tokenizer.chat_template


def _variables(tokenizer, add_generation_prompt: bool = False) -> dict[str, Any]:
  names = {i: text for text, i in tokenizer.special_texts.items()}
  return {"add_generation_prompt": add_generation_prompt,
          **{f"{k}_token": names.get(getattr(tokenizer, f"{k}_id"), "")
             for k in ("bos", "eos", "pad")}}


def _render(tokenizer, conversation, **options):
  return _WORKER.render({"template": _template(tokenizer), "messages": list(conversation),
                         "variables": _variables(tokenizer, **options), "seconds": _SECONDS})


def _prompt(tokenizer, conversation, add_generation_prompt, is_begun):
  """Pieces of a prompt."""
  pieces = _render(tokenizer, conversation, add_generation_prompt=add_generation_prompt)
  if not is_begun:
    return pieces
  last = [i for i, (_, message) in enumerate(pieces) if message == len(conversation) - 1]
  if not last:
    raise ValueError("the chat template leaves out the last message, the beginning of the answer; "
                     "use one that writes it.")
  return pieces[:last[-1] + 1]


def _encode_own(tokenizer, text: str) -> np.ndarray:
  """Ids of text that the template wrote, in which names of special tokens are those tokens."""
  specials = tokenizer.special_texts
  ids = [np.zeros(0, np.int32)]
  longest_first = sorted(specials, key=len, reverse=True)
  for part in re.split(f"({'|'.join(map(re.escape, longest_first))})", text):
    ids.append(np.array([specials[part]], np.int32) if part in specials else tokenizer.encode(part))
  ids = np.concatenate(ids)
  if (ids == tokenizer.mask_id).any():
    raise ValueError("the chat template writes the mask token, which stands for what is hidden; "
                     "correct the template.")
  return ids
