r"""An adapter to the Language Model Evaluation Harness (needs the extra `eval`).

Contents: HarnessModel, main.

The harness's own command line, with a model `mdx` added:
  python -m mdx.lm_harness --model mdx --model_args checkpoint=runs/diffusion --tasks TASK

Model arguments: `checkpoint` (all that `mdx.load` takes), `params`, `dtype`, `adapter` (a PEFT
adapter's directory), `weights` (int8), `special_tokens` ("never": none around a text),
`num_samples` and `estimator` (of a likelihood bound, as of `Model.estimate_pairs`), `seed`, and the
fields of a rule of `samplers` with `name` for generation, where `gen_length=0` is what the request
asks for and `steps=0` one step a token.

Arguments of a request are read under all their names of the harness (`max_gen_toks`,
`max_new_tokens`, ...). `temperature`, `top_p` and `top_k` of a request that samples replace the
model's; others have no counterpart and are named in a warning. `--batch_size auto` is 8, or
`--max_batch_size` if that is less.
"""

from __future__ import annotations

import math
import sys
import warnings
from typing import Any, Sequence

import jax
import numpy as np

try:
  from lm_eval import utils as lm_utils
  from lm_eval.api import model as lm_model
  from lm_eval.api import registry
  from lm_eval.models import utils as lm_models
except ModuleNotFoundError as missing:
  if __name__ != "__main__" or missing.name != "lm_eval":
    raise
  sys.exit("mdx: lm-eval-harness is not installed; pip install -e '.[eval]'.")

from mdx import config as config_lib
from mdx import model as model_lib
from mdx import samplers
from mdx.data import chat
from mdx.data import hf_tokenizer
from mdx.eval import subsets
from mdx.report import samples
from mdx.train import progress as progress_lib
from mdx.utils import readers

_DEFAULT_GEN_TOKENS = 256  # of a request that does not say
_AUTO_BATCH = 8
_READ = ("do_sample", "until", "max_gen_toks", "temperature", "top_p", "top_k")  # of a request


@registry.register_model("mdx")
class HarnessModel(lm_model.TemplateLM):
  """A model of ours as one of the harness.

  The log-likelihood of a continuation is exact for autoregressive models, and otherwise a lower
  bound, with the context kept clean (Nie et al. 2025, arXiv:2502.09992): exact up to five tokens,
  and beyond by `num_samples` masks, the same for choices of one question that are equally long. A
  warning says how many questions have choices closer together than the error of the draws. A
  continuation is greedy if decoding the most confident position first, one at a time, gives it.
  """

  def __init__(self, checkpoint: str, *, params: str = "ema", dtype: str = "",
               batch_size: int | str = _AUTO_BATCH, max_batch_size: int | None = None,
               num_samples: int = 32, estimator: str = "", seed: int = 0, name: str = "",
               adapter: str = "", weights: str = "", special_tokens: str = "",
               gen_length: int = 0, steps: int = 0, **fields: Any):
    """Loads the model.

    Raises:
      ValueError: an argument that is none, or no such checkpoint.
    """
    super().__init__()
    fields.pop("device", None)  # the harness adds it
    known = samplers.defaults()
    unknown = sorted(set(fields) - set(known))
    if unknown:
      raise ValueError(f"unknown model argument {unknown[0]!r}; the decoding fields are "
                       f"{', '.join(sorted(known))}.{config_lib.did_you_mean(unknown[0], known)}")
    if str(batch_size).partition(":")[0] == "auto":
      batch_size = min(_AUTO_BATCH, int(max_batch_size or _AUTO_BATCH))
    if not str(batch_size).isdigit() or int(batch_size) < 1:
      raise ValueError(f"batch_size must be a positive number or auto, got {batch_size!r}.")
    self.model = model_lib.load(str(checkpoint), params=params, dtype=dtype,
                                init=dict(adapter=adapter, weights=weights,
                                          special_tokens=special_tokens))
    self._batch_size, self._seed = int(batch_size), seed
    self._bound = dict(num_samples=num_samples, estimator=estimator)
    self.model.check_estimator(estimator)
    self._gen_length, self._steps, self._chats = gen_length, steps, {}
    self._decoding = fields | {"name": name}
    self.model.sampler(**self._decoding)  # a wrong field is said now

  @property
  def tokenizer_name(self) -> str:
    """Of the harness's caches."""
    return self.model.tokenizer.name

  @property
  def eot_token_id(self) -> int:
    """The end-of-text id."""
    return self.model.tokenizer.eos_id

  def tok_encode(self, string, add_special_tokens=None, **kwargs) -> list[int]:
    """Ids of a text, behind those that its tokenizer puts before one, unless told not to."""
    del kwargs
    prefix = [] if add_special_tokens is False else list(self.model.tokenizer.prefix_ids)
    return prefix + self.model.tokenizer.encode(string).tolist()

  def chat_template(self, chat_template: bool | str = False) -> str:
    """The source of the template, for the harness's records."""
    return self.model.tokenizer.chat_template or "" if chat_template else ""

  def apply_chat_template(self, chat_history: list[dict[str, str]],
                          add_generation_prompt: bool = True) -> str:
    """The text of a conversation, whose ids are remembered.

    So a special token comes from the template only, and never from what a task quotes. Without a
    generation prompt, an assistant's last message is the beginning of the answer (`gen_prefix` of a
    task): the text stops behind it.
    """
    messages = readers.messages(chat_history, "a chat of the harness")["messages"]
    tokenizer = self.model.tokenizer
    if not self._chats:
      chat.check(tokenizer, [messages], ["the first chat"])
    is_begun = not add_generation_prompt and messages[-1]["role"] == "assistant"
    options = dict(add_generation_prompt=add_generation_prompt, is_begun=is_begun)
    text = chat.prompt_text(tokenizer, messages, **options)
    self._chats[text] = chat.encode_prompt(tokenizer, messages, **options).tolist()
    return text

  def _context(self, text: str) -> list[int]:
    """Ids of what a request gives: of a chat as its template has it."""
    known = self._chats.get(text)
    if known is None:
      return self.tok_encode(text) if text or not self.model.is_causal else self._start
    return known

  @property
  def _start(self) -> list[int]:
    """Ids of an empty context: the token that the harness's own model `hf` takes; [] for others."""
    if not self.model.begins_itself:
      return []
    start = hf_tokenizer.start_token(self.model.source)
    return [self.model.tokenizer.special_texts.get(start, self.model.reader.start_id)]

  def loglikelihood(self, requests, disable_tqdm: bool = False) -> list[tuple[float, bool]]:
    """(log p(continuation | context), whether it is greedy) of every request."""
    pairs = []
    for context, continuation in (request.args for request in requests):
      pairs.append(self._encode_pair(context, continuation)
                   if context and context not in self._chats else
                   (self._context(context), self.tok_encode(continuation, False)))
    return self._loglikelihood_tokens([(("", ""), *pair) for pair in pairs], disable_tqdm,
                                      questions=[_question(request) for request in requests])

  def _loglikelihood_tokens(self, requests, disable_tqdm: bool = False, *, questions=None,
                            **kwargs):
    del kwargs
    longest, most = self.model.max_length + self.model.begins_itself, self.model.max_length
    pairs = [(c[max(len(c) + len(x) - longest, 0):], x[-most:]) for _, c, x in requests]
    questions = [known or context or answer for known, (context, answer)
                 in zip(questions or [""] * len(pairs), pairs)]
    found = self._score(pairs, disable_tqdm, questions)
    _warn_of_ties(questions, *found)
    return list(zip(found.log_prob.tolist(), self._are_greedy(pairs)))

  def loglikelihood_rolling(self, requests, disable_tqdm: bool = False) -> list[float]:
    """Log-likelihoods of whole texts; long ones in windows that see one token before them."""
    pairs, owner = [], []
    for i, request in enumerate(requests):
      tokens = self.tok_encode(request.args[0], self.model.begins_itself)
      if self.model.begins_itself:  # the windows of the harness's own model `hf`
        pairs += map(lm_utils.make_disjoint_window, lm_utils.get_rolling_token_windows(
            tokens, self._start[0], self.model.max_length, context_len=1))
        owner += [i] * (len(pairs) - len(owner))
        continue
      first, rest = tokens[:self.model.max_length], tokens[self.model.max_length:]
      windows = [([], first)] if first else []
      width = self.model.max_length - 1
      for begin in range(0, len(rest), width):
        before = (first + rest)[len(first) + begin - 1]
        windows.append(([before], rest[begin:begin + width]))
      pairs += windows
      owner += [i] * len(windows)
    scores = self._score(pairs, disable_tqdm).log_prob
    return np.bincount(owner, weights=scores, minlength=len(requests)).tolist()

  def _score(self, pairs, disable_tqdm, questions=None) -> subsets.Estimates:
    progress = progress_lib.Progress(len(pairs), enabled=not disable_tqdm and
                                     jax.process_index() == 0, what="scoring")
    found = self.model.estimate_pairs(pairs, seed=self._seed, batch_size=self._batch_size,
                                      questions=questions, said=progress.update, **self._bound)
    progress.close()
    return found

  def _are_greedy(self, pairs) -> list[bool]:
    """Whether decoding a token at a time, greedily, gives the answers."""
    found, is_causal = [False] * len(pairs), self.model.is_causal
    # A power of two, so that few programs are compiled; steps with nothing to do are free.
    sizes = [1 << (len(answer) - 1).bit_length() for _, answer in pairs]
    for size in sorted(set(sizes)):
      members = [i for i, s in enumerate(sizes) if s == size]
      sampler = self.model.sampler(name="" if is_causal else "confidence", temperature=0.0,
                                   gen_length=size, steps=size)
      mask = self.model.tokenizer.mask_id
      rows = [np.array(list(pairs[i][0]) + ([] if is_causal else [mask] * len(pairs[i][1])),
                       np.int32) for i in members]
      if is_causal:  # decoded up to the power of two, which may not fit behind the context
        rows = [row[max(len(row) + size - self.model.max_row, 0):] for row in rows]
      for place, sample in self.model.decode(rows, sampler, batch_size=self._batch_size):
        answer = list(pairs[members[place]][1])
        tokens = sample.tokens.tolist()
        found[members[place]] = (tokens[:len(answer)] if is_causal else
                                 tokens[-len(answer):]) == answer
    return found

  def generate_until(self, requests, disable_tqdm: bool = False) -> list[str]:
    """Texts up to the first of the strings that a request stops at."""
    del disable_tqdm
    groups: dict[str, tuple[dict[str, Any], list[int]]] = {}
    texts, stops, unread = [""] * len(requests), [], set()
    for i, request in enumerate(requests):
      wanted = lm_models.normalize_gen_kwargs(dict(request.args[1]), _DEFAULT_GEN_TOKENS)
      stops.append(wanted["until"])
      unread |= set(wanted) - set(_READ)
      length = self._gen_length or wanted["max_gen_toks"]
      fields = dict(self._decoding, gen_length=length, steps=self._steps or length)
      fields.setdefault("temperature", 1.0 if wanted["do_sample"] else 0.0)
      if wanted["do_sample"]:
        fields |= {k: wanted[k] for k in ("temperature", "top_p", "top_k") if k in wanted}
      groups.setdefault(repr(fields), (fields, []))[1].append(i)
    if unread:
      warnings.warn(f"generation arguments without effect here: {', '.join(sorted(unread))}.",
                    stacklevel=2)
    for fields, members in groups.values():
      length = fields["gen_length"]
      room = self.model.max_length - length
      if room < 1:
        raise ValueError(f"answers of {length} tokens do not fit the model's "
                         f"{self.model.max_length}; set gen_length in --model_args.")
      rows = [np.array(self._context(requests[i].args[0])[-room:], np.int32) for i in members]
      for place, sample in self.model.decode(rows, self.model.sampler(**fields), seed=self._seed,
                                             batch_size=self._batch_size):
        texts[members[place]] = samples.until(sample.text, stops[members[place]])
    return texts


def _question(request) -> str:
  """Names what the request is a choice of, "" if it does not say; without a context apart."""
  known = request.doc_id is not None
  return f"{request.task_name}/{request.doc_id}/{bool(request.args[0])}" if known else ""


def _warn_of_ties(questions: Sequence[Any], log_prob: np.ndarray, stderr: np.ndarray) -> None:
  """Warns of questions whose two best choices differ by less than their standard error."""
  members: dict[str, list[int]] = {}
  for i, question in enumerate(questions):
    members.setdefault(str(question), []).append(i)
  asked = [m for m in members.values() if len(m) > 1]
  num_close = 0
  for choices in asked:
    first, second = sorted(choices, key=lambda i: -log_prob[i])[:2]
    error = math.hypot(stderr[first], stderr[second])
    num_close += bool(log_prob[first] - log_prob[second] < error)
  if num_close:
    warnings.warn(f"in {num_close} of {len(asked)} questions the two best choices differ by less "
                  "than the standard error of their likelihoods; raise num_samples in "
                  "--model_args.", stacklevel=3)


def main() -> None:
  """The harness's command, which knows the model `mdx` now."""
  from lm_eval import __main__ as command  # pylint: disable=g-import-not-at-top
  try:
    command.cli_evaluate()
  except ValueError as error:
    print(f"mdx: {' '.join(str(error).split())}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
  main()
