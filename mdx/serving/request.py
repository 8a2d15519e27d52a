"""Bodies of requests and replies, as the API of OpenAI has them.

Contents: Rejected, Server, Wanted, read, settled, choice, usage, is_complete, error.

Convention: a key that would change the answer and has no counterpart is refused by name, unless its
value changes nothing. Decoding fields of `mdx.samplers`, and `name` of a rule, are keys too.
"""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mdx import config as config_lib
from mdx import model as model_lib
from mdx import samplers
from mdx.report import samples

_MOST_CHOICES = 128
# Keys without a counterpart -> the values that change nothing.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "best_of": (1,), "echo": (False,), "frequency_penalty": (0,), "logit_bias": ({},),
    "logprobs": (False,), "presence_penalty": (0,), "response_format": ({"type": "text"},),
    "stream_options": ({"include_usage": False},), "suffix": ("",), "tool_choice": ("none",),
    "tools": ([],), "top_logprobs": (), "user": ()}
_OWN = ("model", "max_tokens", "max_completion_tokens", "stop", "seed", "n", "stream", "name")
_GIVEN = ("gen_length",)  # by max_tokens
_OF_SERVER = ("policy", "classifier")  # names of files, which no request chooses


class Rejected(ValueError):
  """A request that cannot be: one line, and the key that it is about."""

  def __init__(self, message: str, param: str | None = None, code: str | None = None):
    super().__init__(message)
    self.param, self.code = param, code


@dataclasses.dataclass(frozen=True, kw_only=True)
class Server:
  """The model of a server, and the settings of requests that do not say them.

  Attributes:
    model: a `model.Model`.
    name: of the model.
    max_tokens: of an answer, where a request does not say.
    fields: decoding fields and `name` of a rule, where a request does not say.
  """
  model: Any
  name: str
  max_tokens: int = 128
  fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    known = [*samplers.defaults(), "name"]
    for key in set(self.fields) - set(known) | set(self.fields) & set(_GIVEN):
      raise ValueError(f"unknown decoding field {key!r}; choose from "
                       f"{', '.join(sorted(set(known) - set(_GIVEN)))}."
                       f"{config_lib.did_you_mean(key, known)}")
    if self.max_tokens < 1:
      raise ValueError(f"max_tokens is {self.max_tokens}; expected at least 1.")
    self.sampler(dict(self.fields), min(self.max_tokens, self.model.max_row))  # a wrong one is said

  def sampler(self, fields: Mapping[str, Any], length: int) -> Any:
    """The rule of some fields for answers of a length; a step a token where nothing is said."""
    fields = dict(fields, gen_length=length)
    if fields.get("name") or not self.model.decoding:
      fields.setdefault("steps", length)
    return self.model.sampler(**fields)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wanted:
  """A request that was read.

  Attributes:
    prompts: int32 [n] each.
    sampler: the decoding rule.
    stop: strings that end an answer.
    seed: of the draws.
    num_choices: answers of each prompt.
    is_streamed: whether the answer comes in parts.
  """
  prompts: Sequence[np.ndarray]
  sampler: Any
  stop: tuple[str, ...]
  seed: int
  num_choices: int
  is_streamed: bool

  @property
  def rows(self) -> list[np.ndarray]:
    """Every prompt as often as it is answered."""
    return [prompt for prompt in self.prompts for _ in range(self.num_choices)]


def read(body: Any, server: Server, *, is_chat: bool) -> Wanted:
  """Reads the body of a request.

  Raises:
    Rejected: it cannot be answered.
  """
  if not isinstance(body, Mapping):
    raise Rejected(f"the body is {body!r:.40}; expected a JSON object.")
  fields = _fields(body, "messages" if is_chat else "prompt")
  if body.get("model") not in (None, "", server.name):
    raise Rejected(f"model {body['model']!r:.80} is not served here; use {server.name!r}.", "model",
                   "model_not_found")
  prompts = _prompts(body, server.model, is_chat)
  num_choices = _whole(body, "n", 1, 1, _MOST_CHOICES)
  asked = "max_completion_tokens" if body.get("max_completion_tokens") is not None else "max_tokens"
  longest = max(map(len, prompts))
  room = max(server.model.max_row - longest, 1)
  length = _whole(body, asked, min(server.max_tokens, room), 1, server.model.max_row)
  seed = _whole(body, "seed", secrets.randbits(31), -2**63, 2**63 - 1)
  stop = body.get("stop")
  stop = () if stop is None else (stop,) if isinstance(stop, str) else stop
  if not isinstance(stop, (list, tuple)) or not all(isinstance(s, str) and s for s in stop):
    raise Rejected(f"stop is {body['stop']!r:.60}; expected a text or a list of them.", "stop")
  if not isinstance(body.get("stream") or False, bool):
    raise Rejected(f"stream is {body['stream']!r:.40}; expected true or false.", "stream")
  try:
    sampler = server.sampler({**server.fields, **fields}, length)
    server.model.check(prompts, sampler)
  except (ValueError, TypeError) as error:
    raise Rejected(f"{error}") from None
  return Wanted(prompts=prompts, sampler=sampler, stop=tuple(stop), seed=seed,
                num_choices=num_choices, is_streamed=bool(body.get("stream")))


def _fields(body, prompt_key):
  """The decoding fields of a body, whose other keys are checked."""
  known = set(samplers.defaults()) - {*_GIVEN, *_OF_SERVER}
  for key, value in body.items():
    if key in _NEUTRAL:
      if value is not None and key != "user" and not any(
          value == v and isinstance(value, bool) == isinstance(v, bool) for v in _NEUTRAL[key]):
        raise Rejected(f"{key} = {value!r:.60} is not supported; leave it out.", key)
    elif key not in known and key not in (*_OWN, prompt_key):
      keys = sorted(known | {*_OWN, prompt_key})
      raise Rejected(f"unknown key {key!r:.60}; expected one of {', '.join(keys)}."
                     f"{config_lib.did_you_mean(key, keys)}", key)
  return {k: v for k, v in body.items() if (k in known or k == "name") and v is not None}


def _whole(body, key, default, least, most):
  value = body.get(key)
  value = default if value is None else value
  if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
    raise Rejected(f"{key} is {value!r:.40}; expected a whole number from {least} to {most}.", key)
  return value


def _prompts(body, model, is_chat):
  key = "messages" if is_chat else "prompt"
  value = body.get(key)
  if is_chat:
    given = [_messages(value)]
  elif isinstance(value, str):
    given = [value]
  elif isinstance(value, list) and value:
    given = [value] if isinstance(value[0], int) else value
  else:
    raise Rejected(f"prompt is {value!r:.60}; expected a text, ids, or a list of them.", key)
  for one in () if is_chat else given:
    if not isinstance(one, str) and not (isinstance(one, list) and all(
        isinstance(i, int) and not isinstance(i, bool) and abs(i) < 2**31 for i in one)):
      raise Rejected(f"a prompt is {one!r:.60}; expected a text or ids.", key)
  try:
    return [model.prompt_ids(one) for one in given]
  except ValueError as error:
    raise Rejected(str(error), key) from None


def _messages(value):
  """Messages whose contents are texts; of a list of parts the texts are joined."""
  if not isinstance(value, list) or not value or not all(isinstance(m, dict) for m in value):
    raise Rejected(f"messages is {value!r:.60}; expected a list of messages.", "messages")
  found = []
  for message in value:
    message = {k: v for k, v in message.items() if (k, v) != ("type", "text")}
    parts = message.get("content")
    if isinstance(parts, list):
      if not all(isinstance(p, dict) and isinstance(p.get("text"), str) for p in parts):
        raise Rejected(f"a content is {parts!r:.60}; expected text.", "messages")
      message["content"] = "".join(part["text"] for part in parts)
    found.append(message)
  return found


def settled(tokens: np.ndarray, model: Any, stop: Sequence[str]) -> str:
  """The text of an unfinished answer that later steps of a rule which never revises leave alone.

  Args:
    tokens: int32 [gen_length], with masks.
    model: gives the tokenizer.
    stop: strings that end it; what may become one of them is left out, and so is half a letter.
  """
  tokenizer = model.tokenizer
  open_ = np.flatnonzero((tokens == tokenizer.mask_id) | tokenizer.ends(tokens))
  text = tokenizer.decode(tokens[:open_[0]] if open_.size else tokens)
  cut = samples.until(text, stop)
  if cut != text:
    return cut
  held = max((i for s in stop for i in range(1, len(s)) if text.endswith(s[:i])), default=0)
  return text[:len(text) - held].rstrip("\ufffd")


def is_complete(sample: model_lib.Sample, text: str, model: Any) -> bool:
  """Whether an answer ended before its length was used up: with an end token or a stop string."""
  return text != sample.text or bool(model.tokenizer.ends(sample.tokens).any())


def choice(index: int, sample: model_lib.Sample, wanted: Wanted, model: Any, *, is_chat: bool
           ) -> dict[str, Any]:
  """An answer in a reply that is not streamed."""
  text = samples.until(sample.text, wanted.stop)
  said = {"message": {"role": "assistant", "content": text}} if is_chat else {"text": text}
  return {"index": index, **said, "logprobs": None,
          "finish_reason": "stop" if is_complete(sample, text, model) else "length"}


def usage(wanted: Wanted, found: Sequence[model_lib.Sample], model: Any) -> dict[str, int]:
  """Numbers of tokens; of an answer those up to its end token."""
  prompt = sum(map(len, wanted.prompts))
  count = 0
  for sample in found:
    ends = np.flatnonzero(model.tokenizer.ends(sample.tokens))
    count += int(ends[0]) + 1 if ends.size else len(sample.tokens)
  return {"prompt_tokens": prompt, "completion_tokens": count, "total_tokens": prompt + count}


def error(problem: Exception) -> dict[str, Any]:
  """The body that says an error in one line."""
  said = dict(message=" ".join(str(problem).split()) or type(problem).__name__,
              type="server_error", param=None, code=None)
  if isinstance(problem, Rejected):
    said |= dict(type="invalid_request_error", param=problem.param, code=problem.code)
  return {"error": said}
