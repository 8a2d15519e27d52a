"""Conversations: messages to token ids, of which the answers are targets.

Contents: encode, encode_prompt, prompt_text, check.

Convention: a special token comes from the template only; in a content its name is plain text.
The targets are the content of every assistant message and what the template writes after it up
to the first special token, which ends the answer.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from mdx.data import chat_template
from mdx.data import tokenizer as tokenizer_lib

_SECONDS, _CLOCK_SECONDS = 20, 120  # of the process that tries a template


def encode(tokenizer: tokenizer_lib.Tokenizer,
           conversation: list[dict[str, str]]) -> tuple[np.ndarray, np.ndarray]:
  """Renders and tokenizes a conversation.

  Returns:
    tokens int32 [n], and is_given bool [n], True where a token is no target.

  Raises:
    ValueError: the template fails or leaves out an answer, or there is no answer.
  """
  pieces = _render(tokenizer, conversation)
  answers = [i for i, m in enumerate(conversation) if m["role"] == "assistant"]
  found = [i for _, i in pieces if i in answers]
  if not answers:
    raise ValueError("a conversation has no assistant message, so there is nothing to train on; "
                     "leave it out.")
  if found != answers:
    raise ValueError("the chat template leaves out or repeats an assistant message; use one that "
                     "writes each once.")
  tokens, is_given, in_answer = [], [], False
  for text, index in pieces:
    if index is not None:
      ids = tokenizer.encode(text)
      in_answer = index in answers
      given = np.full(len(ids), not in_answer)
    else:
      ids = _encode_own(tokenizer, text)
      given = np.ones(len(ids), bool)
      ends = np.flatnonzero(np.isin(ids, list(tokenizer.special_texts.values())))
      if in_answer and ends.size:
        given[:ends[0] + 1] = False
    tokens.append(ids)
    is_given.append(given)
  return np.concatenate(tokens), np.concatenate(is_given)


def encode_prompt(tokenizer: tokenizer_lib.Tokenizer, conversation: list[dict[str, str]],
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


def prompt_text(tokenizer: tokenizer_lib.Tokenizer, conversation: list[dict[str, str]],
                add_generation_prompt: bool = True, is_begun: bool = False) -> str:
  """The text whose ids `encode_prompt` gives, for people."""
  pieces = _prompt(tokenizer, conversation, add_generation_prompt, is_begun)
  return "".join(text for text, _ in pieces)


def check(tokenizer: tokenizer_lib.Tokenizer, conversations: Sequence[list[dict[str, str]]],
          where: Sequence[str]) -> None:
  """Renders conversations in a process with bounds on memory and time.

  Args:
    tokenizer: has the template.
    conversations: what to render; a short one is added, so that none are needed.
    where: where each stands, for messages.

  Raises:
    ValueError: the template fails, or needs too much.
  """
  probe = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
  request = json.dumps({"template": _template(tokenizer), "variables": _variables(tokenizer),
                        "conversations": [probe, *conversations], "seconds": _SECONDS})
  try:
    done = subprocess.run([sys.executable, "-I", chat_template.__file__], input=request,
                          capture_output=True, text=True, timeout=_CLOCK_SECONDS, check=False)
  except subprocess.TimeoutExpired:
    done = None
  if done is None or done.returncode:
    raise ValueError("the chat template needs too much time or memory to render "
                     f"{len(conversations)} conversations; correct the template.")
  reply = json.loads(done.stdout)
  if reply is not None:
    index, message = reply
    raise ValueError(f"{where[index - 1] + ': ' if index else ''}{message}")


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
  return chat_template.render(_template(tokenizer), conversation, _variables(tokenizer, **options))


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
