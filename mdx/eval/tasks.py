"""Task accuracy of a decoder, and what it had right on the way.

Contents: FORMATS, Prompts, encode_prompts, completions, Answers, answers_of, score_steps,
Scored, scored_batches, Result, summarize, evaluate, described.

An example is *over-denoised* if the prediction of some denoising step is correct and the
final answer is not (He et al. 2025, arXiv:2508.13148); that is known where every prediction was
recorded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from mdx import types
from mdx.data import chat
from mdx.data import tokenizer as tokenizer_lib
from mdx.samplers import batching

FORMATS = ("text", "chat")
_TRIED = 64  # prompts that a chat template is tried on before it is trusted


class Prompts(NamedTuple):
  """Encoded prompts, padded on the left, or texts with blanks.

  Attributes:
    tokens: int32 [E, P].
    lengths: int32 [E], tokens that are not padding.
    blank_id: id of the blanks that are filled in; -1: an answer follows the prompt.
    is_cut: bool [E], prompts of which only the end is here; None: all are whole.
    component: int32 [E], the pair of a sampler's `mixture` that each problem is decoded by; None:
      drawn.
  """
  tokens: np.ndarray
  lengths: np.ndarray
  blank_id: int = -1
  is_cut: np.ndarray | None = None
  component: np.ndarray | None = None

  @property
  def start(self) -> int:
    """The index at which answers begin."""
    return self.tokens.shape[1] if self.blank_id < 0 else 0

  def select(self, chosen: np.ndarray) -> Prompts:
    """Some of them."""
    return Prompts(*(x if x is None or isinstance(x, int) else x[chosen] for x in self))

  def canvas(self, chosen: np.ndarray, gen_length: int, mask_id: int) -> dict[str, np.ndarray]:
    """Rows of some prompts: `canvas` [N, S]; positions and segments if any is padded; components.
    """
    tokens, lengths = self.tokens[chosen], self.lengths[chosen]
    width = tokens.shape[1]
    rows = {} if self.component is None else {"component": self.component[chosen]}
    if self.blank_id >= 0:
      return rows | {"canvas": np.where(tokens == self.blank_id, np.int32(mask_id), tokens)}
    masks = np.full((len(tokens), gen_length), mask_id, np.int32)
    rows |= {"canvas": np.concatenate([tokens, masks], axis=1)}
    if (self.lengths < width).any():
      positions, segments = batching.behind_padding(width - lengths, width + gen_length)
      rows |= {"segment_ids": segments, "positions": positions}
    return rows


def encode_prompts(texts: Sequence[str], tokenizer: tokenizer_lib.Tokenizer, *,
                   max_length: int = 0, blank: str = "", prompt_format: str = "text",
                   system: str = "", cuts: bool = False) -> Prompts:
  """Encodes prompts to the length of the longest.

  Args:
    texts: the prompts.
    tokenizer: the model's.
    max_length: most tokens of a prompt, 0 = any number.
    blank: what is filled in; "" if answers follow the prompts.
    prompt_format: "text", or "chat": each is a user's message in the model's chat template.
    system: the system's message of chats; "" = none.
    cuts: whether of a prompt that is too long the last `max_length` tokens are kept.

  Raises:
    ValueError: a prompt that is too long, or that the tokenizer cannot write (a model of
      another vocabulary); texts with blanks of different lengths.
  """
  if prompt_format == "chat" and blank:
    raise ValueError("texts to fill in where they stand are no chats; set prompt_format to text.")
  try:
    rows = (_encode_chats(texts, tokenizer, system) if prompt_format == "chat" else
            [tokenizer.encode(text) for text in texts])
    blank_ids = tokenizer.encode(blank)
  except ValueError as error:
    raise ValueError(f"the model's tokenizer {tokenizer.name!r:.60} cannot write the prompts of "
                     f"this task ({error}); use a checkpoint trained for it.") from None
  lengths = np.array([len(row) for row in rows], np.int32)
  is_long = lengths > (max_length or lengths.max())
  if is_long.any() and (blank or not cuts):
    raise ValueError(f"a prompt has {lengths.max()} tokens, more than {max_length}; raise the "
                     "limit or leave such problems out.")
  rows = [row[-max_length:] for row in rows]  # 0 = all
  lengths = np.array([len(row) for row in rows], np.int32)
  if blank and (len(blank_ids) != 1 or lengths.min() != lengths.max()):
    raise ValueError(f"texts to fill in need one length and a blank of one token, got "
                     f"{lengths.min()} to {lengths.max()} and {len(blank_ids)} tokens.")
  tokens = np.full((len(rows), lengths.max()), tokenizer.pad_id, np.int32)
  for row, ids in zip(tokens, rows):
    row[len(row) - len(ids):] = ids
  return Prompts(tokens, lengths, int(blank_ids[0]) if blank else -1,
                 is_long if is_long.any() else None)


def _encode_chats(texts, tokenizer, system):
  """Each text as what a user says, up to where the assistant answers."""
  before = [{"role": "system", "content": system}] if system else []
  chats = [before + [{"role": "user", "content": text}] for text in texts]
  tried = chats[:_TRIED]
  chat.check(tokenizer, tried, [f"prompt {i}" for i in range(len(tried))])
  return [chat.encode_prompt(tokenizer, messages) for messages in chats]


def completions(tokens: np.ndarray, tokenizer: tokenizer_lib.Tokenizer) -> list[str]:
  """Texts of answers int32 [N, G], each up to its first end of text."""
  ended = tokenizer.ends(tokens)
  ends = np.where(ended.any(axis=1), ended.argmax(axis=1), tokens.shape[1])
  return tokenizer.decode_rows(tokens, ends)


class Answers(NamedTuple):
  """Decoded examples, on the host.

  Attributes:
    tokens: int32 [N, G], the final answers.
    nfe: int32 [N], network calls.
    texts: N texts that are scored.
    predictions: int32 [N, T, G], of every step, or None where only commits were recorded.
  """
  tokens: np.ndarray
  nfe: np.ndarray
  texts: list[str]
  predictions: np.ndarray | None = None


def answers_of(record: Any, tokenizer: tokenizer_lib.Tokenizer) -> Answers:
  """The answers in a `samplers.trajectory.Trajectory` on the host."""
  if record.prediction is None:
    return Answers(record.tokens, record.nfe, completions(record.tokens, tokenizer))
  last = np.maximum(record.nfe - 1, 0)[:, None, None]
  tokens = np.take_along_axis(record.prediction, last, axis=1)[:, 0]
  return Answers(tokens, record.nfe, completions(tokens, tokenizer), record.prediction)


def score_steps(task: types.Task, examples: Sequence[dict[str, Any]],
                tokenizer: tokenizer_lib.Tokenizer, predictions: np.ndarray,
                nfe: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Verdicts and rewards of the prediction of every step.

  Equal predictions of one row are scored once: late steps often repeat one another.

  Args:
    task: the verifier.
    examples: one a row.
    tokenizer: makes texts of predictions.
    predictions: int32 [N, T, ..., G]; [N, T, m, G] of m predictions a step.
    nfe: int32 [N], steps of each row.

  Returns:
    reward float32 [N, T, ...] and correct bool [N, T, ...]; 0 and False beyond a row's steps.
  """
  shape = predictions.shape[:-1]
  spread = lambda x: np.broadcast_to(x.reshape(x.shape + (1,) * (len(shape) - x.ndim)), shape)
  taken = spread(np.arange(shape[1])[None] < nfe[:, None])
  number = spread(np.arange(shape[0], dtype=np.int32)[:, None])
  keyed = np.concatenate([number[taken][:, None], predictions[taken]], axis=1)
  unique, inverse = np.unique(keyed, axis=0, return_inverse=True)
  scored = task.score([examples[i] for i in unique[:, 0]], completions(unique[:, 1:], tokenizer))
  reward, correct = np.zeros(shape, np.float32), np.zeros(shape, bool)
  reward[taken] = np.asarray(scored["reward"], np.float32)[inverse.reshape(-1)]
  correct[taken] = np.asarray(scored["correct"], bool)[inverse.reshape(-1)]
  return reward, correct


class Scored(NamedTuple):
  """Some examples, decoded and scored: arrays [n].

  Attributes:
    index: int32, which examples.
    tokens: int32 [n, G], the final answers.
    reward: float32, of the final answers.
    correct: bool, whether they are right.
    best: bool, whether the prediction of any step is; None where they were not recorded.
    nfe: int32, network calls.
  """
  index: np.ndarray
  tokens: np.ndarray
  reward: np.ndarray
  correct: np.ndarray
  best: np.ndarray | None
  nfe: np.ndarray


def scored_batches(decode: Callable[[np.ndarray], Answers], task: types.Task,
                   examples: Sequence[dict[str, Any]], tokenizer: tokenizer_lib.Tokenizer,
                   batch_size: int, skip: Callable[[int], bool] = lambda index: False
                   ) -> Iterator[Scored]:
  """Decodes every example once and scores it, every step where all were recorded.

  Args:
    decode: indices int32 [batch_size] of examples -> their answers.
    task, examples, tokenizer: as in `score_steps`.
    batch_size: examples decoded together; the last batch repeats the last example.
    skip: examples that are known; their batch is left out when all are.
  """
  for first in range(0, len(examples), batch_size):
    index = np.minimum(np.arange(first, first + batch_size), len(examples) - 1)
    kept = min(batch_size, len(examples) - first)
    if all(skip(int(i)) for i in index[:kept]):
      continue
    found = decode(index)
    index, tokens, nfe = index[:kept], found.tokens[:kept], found.nfe[:kept]
    chosen = [examples[i] for i in index]
    if found.predictions is None:
      scored = task.score(chosen, found.texts[:kept])
      yield Scored(index, tokens, np.asarray(scored["reward"], np.float32),
                   np.asarray(scored["correct"], bool), None, nfe)
      continue
    reward, correct = score_steps(task, chosen, tokenizer, found.predictions[:kept], nfe)
    final = lambda x: np.take_along_axis(x, np.maximum(nfe - 1, 0)[:, None], axis=1)[:, 0]
    yield Scored(index, tokens, final(reward), final(correct), correct.any(axis=1), nfe)


class Result(NamedTuple):
  """Accuracy on a set of examples.

  Attributes:
    accuracy: share of correct final answers.
    stderr: its standard error.
    over_denoising: share of the examples that are over-denoised; None where it is not known.
    reward: mean reward of the final answers.
    nfe: mean network calls of an example.
    num_examples: how many.
    over_denoised: bool [num_examples], which, or None.
  """
  accuracy: float
  stderr: float
  over_denoising: float | None
  reward: float
  nfe: float
  num_examples: int
  over_denoised: np.ndarray | None


def summarize(correct: np.ndarray, best: np.ndarray | None, reward: np.ndarray,
              nfe: np.ndarray) -> Result:
  """The figures of a set of examples, of the fields of `Scored` [N] each."""
  accuracy = float(correct.mean())
  over = None if best is None else best & ~correct
  return Result(accuracy=accuracy, stderr=math.sqrt(accuracy * (1 - accuracy) / len(correct)),
                over_denoising=None if over is None else float(over.mean()),
                reward=float(reward.mean()), nfe=float(nfe.mean()), num_examples=len(correct),
                over_denoised=over)


def evaluate(decode: Callable[[np.ndarray], Answers], task: types.Task,
             examples: Sequence[dict[str, Any]], tokenizer: tokenizer_lib.Tokenizer,
             batch_size: int) -> Result:
  """The accuracy on some examples; arguments as of `scored_batches`."""
  parts = list(scored_batches(decode, task, examples, tokenizer, batch_size))
  joined = Scored(*(None if x[0] is None else np.concatenate(x) for x in zip(*parts)))
  return summarize(joined.correct, joined.best, joined.reward, joined.nfe)


def described(task: types.Task) -> dict[str, dict[str, str]]:
  """The entry `task` of results.json: names and rules of the problems; {} where not known."""
  if not isinstance(task, types.Shown):
    return {}
  return {"task": {"noun": task.noun, "rules": task.rules}}
