"""A checkpoint as a library: sampling, likelihood and labels in three lines.

Contents: Model, Sample, Samples, Step (of `report.samples`), Fill, Prediction, load, of.

  model = mdx.load("runs/diffusion")
  print(model.sample(["It was a dark night"], steps=32, gen_length=64)[0].text)
  print(model.log_likelihood(["a text"]))
"""

from __future__ import annotations

import dataclasses
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy import special

from mdx import checkpoint as checkpoint_lib
from mdx import embedding
from mdx import sharding
from mdx import signals
from mdx import types
from mdx.build import identity
from mdx.build import load as load_lib
from mdx.build import workdir as workdir_lib
from mdx.data import chat
from mdx.data import pipeline
from mdx.eval import generative
from mdx.eval import inspection
from mdx.eval import likelihood
from mdx.eval import subsets
from mdx.eval.evaluators import scoring
from mdx.objectives.labels import finetune
from mdx.report import denoising
from mdx.report import samples
from mdx.samplers import batching
from mdx.samplers import decoder
from mdx.samplers import loop
from mdx.train import progress as progress_lib
from mdx.utils import compiled
from mdx.utils import files
from mdx.utils import processes
from mdx.utils import readers
from mdx.utils import rng
from mdx.utils import tree

MASK = "[MASK]"  # in the text of a prompt
Ids = Sequence[int] | np.ndarray
Sample = samples.Sample
Samples = samples.Samples
Step = samples.Step


class Fill(NamedTuple):
  """One token for a masked position: its id, its text and its probability in [0, 1]."""
  id: int
  text: str
  probability: float


class Prediction(NamedTuple):
  """Label of a text, of a pair of texts, or labels of words.

  Attributes:
    label: the most probable label; of a regression the score, of words a label each.
    probabilities: label -> probability in [0, 1]; {} of scores and of words.
  """
  label: str | float | list[str]
  probabilities: dict[str, float]


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Model(load_lib.Loaded):
  """A trained model with what decodes and scores it; see `build.load.Loaded` for its fields."""
  _compiled: dict = dataclasses.field(default_factory=dict, repr=False)
  _watched: list = dataclasses.field(default_factory=list, repr=False)  # by one decode at a time

  def __repr__(self) -> str:
    return (f"Model({self.config['objective']['name']}, {tree.count(self.params):,} parameters, "
            f"rows of {self.max_length} tokens, from {self.source})")

  def prompt_ids(self, prompt: str | Sequence[Any] | np.ndarray) -> np.ndarray:
    """Ids of a prompt: text, where "[MASK]" is a position to fill, ids, or chat messages.

    Around a text stand the ids that its tokenizer puts there, behind it only where it is filled in;
    ids and chats are read as they are.

    Raises:
      ValueError: an id the model does not have, or messages without a chat template.
    """
    if isinstance(prompt, str):
      pieces = [self.tokenizer.encode(piece) for piece in prompt.split(MASK)]
      between = np.array([self.tokenizer.mask_id], np.int32)
      parts = [part for piece in pieces for part in (between, piece)][1:]
      parts += [np.array(self._closing, np.int32)] if len(pieces) > 1 else []
      prefix = np.array(self.tokenizer.prefix_ids, np.int32)
      return np.concatenate([prefix, *parts]).astype(np.int32)
    if isinstance(prompt, Mapping):
      raise ValueError(f"a prompt is {prompt!r:.60}; expected a text, ids, or a list of messages.")
    if len(prompt) and isinstance(prompt[0], Mapping):
      messages = readers.messages(prompt, "prompt")["messages"]
      chat.check(self.tokenizer, [messages], ["prompt"])
      return chat.encode_prompt(self.tokenizer, messages)
    ids = np.asarray(prompt, np.int64).reshape(-1)
    if ids.size and (ids.min() < 0 or ids.max() >= self.tokenizer.vocab_size):
      raise ValueError(f"a prompt has the id {ids.max() if ids.min() >= 0 else ids.min()}; ids of "
                       f"this model lie in [0, {self.tokenizer.vocab_size}).")
    return ids.astype(np.int32)

  @property
  def reader(self) -> types.Reader:
    """How the model is asked for tokens; TypeError for one that writes none."""
    found = self.objective.reader()
    if found is None:
      raise TypeError(f"{type(self.objective).__name__} has no reader, for it writes no tokens")
    return found

  @property
  def is_causal(self) -> bool:
    """Whether it reads from left to right."""
    reader = self.objective.reader()
    return reader is not None and reader.sampler == "autoregressive"

  @property
  def begins_itself(self) -> bool:
    """Whether its rows begin with a first token of their own, which is not predicted.

    Without one (an empty prompt) they begin with the start token of the objective.
    """
    reader = self.objective.reader()
    return reader is not None and reader.start_id >= 0

  @property
  def _closing(self) -> tuple[int, ...]:
    """Ids behind a text that is complete, and behind an answer."""
    return () if self.is_causal else self.tokenizer.suffix_ids

  @property
  def max_row(self) -> int:
    """Most tokens of a prompt and its answer."""
    return self.max_length - len(self._closing) + self.begins_itself

  def _cut(self, prompts: Sequence[Any]) -> tuple[Sequence[Any], np.ndarray | None]:
    """`batching.cut_starts` of this model's prompts."""
    return batching.cut_starts(prompts, self.reader.start_id if self.begins_itself else -1)

  def sample(self, prompts: Sequence[Any] | str | None = None, *, num_samples: int = 1,
             seed: int = 0, batch_size: int = 8, record: str = "none",
             stop: str | Sequence[str] = (), on_step: Callable[[Step], None] | None = None,
             progress: bool = False, **fields: Any) -> Samples:
    """Decodes prompts.

    Args:
      prompts: texts, id sequences or chats; None = unconditional. One string is one prompt, and so
        is one list of messages.
      num_samples: rows of each prompt.
      seed: rows of the same index and seed are the same in every batch.
      batch_size: rows decoded together.
      record: "none", or "canvas" for a `trace` of each row, which notebooks play.
      stop: strings that end a text, which is cut before the first of them; `tokens` are not.
      on_step: is called with every row after every denoising step, as the device reports them.
      progress: whether a terminal shows how many rows are done.
      **fields: `name` and fields of a rule of `samplers`: gen_length, steps, temperature, ...

    Returns:
      Rows in the order of the prompts, `num_samples` each.

    Raises:
      ValueError: a prompt or field that cannot be; before anything is compiled.
    """
    is_one = isinstance(prompts, str) or (
        isinstance(prompts, Sequence) and prompts and isinstance(prompts[0], Mapping))
    prompts = [""] if prompts is None else [prompts] if is_one else prompts
    rows = [p for prompt in prompts for p in [self.prompt_ids(prompt)] * num_samples]
    decoded: dict[int, Sample] = {}
    with progress_lib.bar(len(rows), "sampling", enabled=progress) as told:
      for i, row in self.decode(rows, self.sampler(**fields), seed=seed, batch_size=batch_size,
                                record=record, on_step=on_step):
        decoded[i] = row._replace(text=samples.until(row.text, stop))
        told(len(decoded))
    return Samples([decoded[i] for i in range(len(rows))], lambda i: self.tokenizer.decode([i]),
                   self.tokenizer.mask_id)

  def check(self, rows: Sequence[np.ndarray], sampler: Any) -> None:
    """Raises ValueError if some rows of ids cannot be decoded."""
    for i, row in enumerate(rows):
      infill = bool((row == self.tokenizer.mask_id).any())
      length = len(row) + (0 if infill else sampler.gen_length)
      if length > (self.max_length if infill else self.max_row):
        raise ValueError(f"prompt {i} has {len(row)} tokens; with sampler.gen_length "
                         f"{sampler.gen_length} that is more than the {self.max_length} of the "
                         "model; shorten one of them.")
      if infill and self.reader.sampler == "autoregressive":
        raise ValueError(f"prompt {i} has masks, which an autoregressive model cannot fill from "
                         "both sides; use a diffusion or mlm checkpoint.")

  def decode(self, rows: Sequence[np.ndarray], sampler: Any, *, seed: int = 0,
             batch_size: int = 8, record: str = "none",
             skip: Callable[[int], bool] = lambda row: False,
             on_step: Callable[[Step], None] | None = None,
             numbers: Sequence[int] | None = None) -> Iterator[tuple[int, Sample]]:
    """Decodes rows of ids batch by batch; yields (index of the row, Sample).

    Args:
      rows: int32 [n] each.
      sampler: as `self.sampler` builds.
      seed, batch_size, record, on_step: as in `sample`.
      skip: rows that are done already; their batch is left out when all are.
      numbers: of the rows, in [0, 2^31), in place of their indices; with these a row is the same
        beside any others.
    """
    self.check(rows, sampler)
    if on_step and jax.process_count() > 1:
      raise ValueError("on_step is for one process; leave it out on a pod.")
    batch_size = sharding.padded_rows(min(len(rows), batch_size), batch_size, self.mesh)
    tokenizer = self.tokenizer
    params = self.decoding_params(sampler)
    prompts, before = self._cut(rows)
    for batch in batching.batches(prompts, gen_length=sampler.gen_length, batch_size=batch_size,
                                  max_length=self.max_length, mask_id=tokenizer.mask_id,
                                  pad_id=tokenizer.pad_id, closing=self._closing):
      if all(skip(i) for i in batch.members):
        continue
      watch = self._watch(batch, prompts, on_step) if on_step else None
      first = None if before is None else before[batch.row_index]
      if numbers is not None:
        batch = batch._replace(row_index=np.asarray(numbers, np.int32)[batch.row_index])
      result, seconds = self._run(params, batch, sampler, seed, record, first, watch)
      for row, (i, length) in enumerate(zip(batch.members, batch.lengths)):
        infill = batch.start == 0 and len(prompts[i]) == length
        yield i, self._sample(rows[i], batch, result, row, length if infill else 0,
                              seconds / len(batch.members))

  def _watch(self, batch: batching.Rows, prompts: Sequence[Any],
             on_step: Callable[[Step], None]) -> Callable[[Any, Any], None]:
    """A function of `canvas` and `nfe` that tells of every row that has gone on."""
    seen: dict[int, int] = {}

    def watch(canvas, nfe):
      for row, (i, length) in enumerate(zip(batch.members, batch.lengths)):
        if int(nfe[row]) > seen.get(i, 0):  # a report that comes late is left out
          seen[i] = int(nfe[row])
          infill = batch.start == 0 and len(prompts[i]) == length
          end = canvas.shape[1] - batch.num_closing
          tokens = canvas[row, -length:] if infill else canvas[row, batch.start:end]
          on_step(Step(i, seen[i], self.tokenizer.decode(tokens), tokens))

    return watch

  def _run(self, params: types.Params, batch: batching.Rows, sampler: Any, seed: int, record: str,
           before: np.ndarray | None, watch: Callable | None = None):
    """Decodes one batch; returns host arrays and the seconds it took."""
    rows = {"canvas": batch.canvas, "row_index": batch.row_index}
    if before is not None:
      rows["before"] = before
    if batch.positions is not None and batch.segment_ids is not None:
      rows |= {"positions": batch.positions, "segment_ids": batch.segment_ids}
    arrays, told = sharding.place_batch(rows, self.mesh), decoder.told_values(sampler)

    def run(params, key, arrays, told):
      rule = decoder.as_told(sampler, told)
      return loop.decode_rows(self.objective, rule, params, key, arrays, start=batch.start,
                              record=record, watch=None if watch is None else (
                                  lambda canvas, nfe: self._watched[-1](canvas, nfe)))

    with jax.set_mesh(self.mesh):
      name = (repr(decoder.as_told(sampler, dict.fromkeys(told))), batch.canvas.shape, batch.start,
              batch.positions is None, record, watch is None)
      key = rng.root(seed)
      if name not in self._compiled:
        self._compiled[name] = jax.jit(run).lower(params, key, arrays, told).compile()
      began = time.monotonic()
      self._watched[:] = [watch]
      result = jax.block_until_ready(self._compiled[name](params, key, arrays, told))
      jax.effects_barrier()  # all reports have come
      seconds = time.monotonic() - began
      return processes.fetch(result), seconds

  def _sample(self, prompt, batch, result: loop.Decoded, row: int, length: int,
              seconds: float) -> Sample:
    """The sample of a row; `length` is that of an infilled prompt, 0 of an answer."""
    infill, end = bool(length), result.tokens.shape[1] - batch.num_closing
    tokens = np.asarray(result.tokens[row, -length:] if infill else
                        result.tokens[row, batch.start:end])
    eos = np.flatnonzero(self.tokenizer.ends(tokens))
    text = self.tokenizer.decode(tokens if infill or not eos.size else tokens[:eos[0]])
    trace = None
    if result.trajectory is not None:
      trace = denoising.from_trajectory(
          result.trajectory, row, self.tokenizer.mask_id,
          prompt="" if infill else self.tokenizer.decode(prompt))
      end = trace.frames.shape[1] - batch.num_closing
      shown = slice(end - len(tokens), end)  # without padding
      is_given = None if trace.is_given is None else trace.is_given[shown]
      trace = trace._replace(frames=trace.frames[:, shown], confidence=trace.confidence[:, shown],
                             is_given=is_given)
    return Sample(prompt, tokens, text, int(result.nfe[row]), seconds, trace)

  def log_likelihood(self, texts: Sequence[str] | str, *, num_samples: int = 16,
                     seed: int = 0, progress: bool = False) -> np.ndarray:
    """Log-likelihood of texts in nats, float64 [N]; a lower bound for diffusion models.

    Args:
      texts: each at most as long as the model's rows. One string is one text.
      num_samples: draws of the bound; ignored by models whose likelihood is exact.
      seed: of the draws.
      progress: whether a terminal shows how many texts are done.

    Raises:
      ValueError: a text that is empty or too long, or a model without a likelihood.
    """
    rows = [self.tokenizer.encode(t) for t in ([texts] if isinstance(texts, str) else texts)]
    if 0 in map(len, rows):
      raise ValueError(f"text {list(map(len, rows)).index(0)} is empty; leave it out.")
    with progress_lib.bar(len(rows), "scoring", enabled=progress) as told:
      return self.score_pairs([(self._before_text, row) for row in rows], num_samples=num_samples,
                              seed=seed, said=told)

  @property
  def _before_text(self) -> Ids:
    """Prompt of a text all of whose tokens are scored; a causal model has its start token."""
    return () if self.is_causal else self.tokenizer.prefix_ids

  def score_pairs(self, pairs: Sequence[tuple[Ids, Ids]], **options: Any) -> np.ndarray:
    """log p(answer | prompt) in nats, float64 [N]; see `estimate_pairs` for the options."""
    return self.estimate_pairs(pairs, **options).log_prob

  def estimate_pairs(self, pairs: Sequence[tuple[Ids, Ids]], *, num_samples: int = 32,
                     seed: int = 0, batch_size: int = 64, estimator: str = "",
                     questions: Sequence[str | Ids] | None = None,
                     said: Callable[[int], None] = lambda done: None) -> subsets.Estimates:
    """log p(answer | prompt) in nats and its standard error; a lower bound for diffusion models.

    The default, "subsets", is exact for answers of at most 5 tokens (2^T - 1 <= `num_samples`), and
    for longer ones has the least variance of the estimators. Networks that are told the time add
    the draw of the time.

    Args:
      pairs: (ids of the prompt, ids of the answer); the prompt is neither corrupted nor scored, and
        nothing is put before it, unless it is empty and the model a causal one.
      num_samples: most times that an answer is read; ignored by models that are exact.
      seed: of the draws.
      batch_size: rows of about one length, scored together.
      estimator: "subsets", or one of `likelihood.ESTIMATORS`; "" is the first that fits the model.
      questions: of "subsets", a text or ids for each pair: pairs of one question and length have
        the same masks. None: the prompt, or the answer where there is none. The draws of other
        estimators depend on the place of a pair.
      said: is told how many are done.

    Raises:
      ValueError: an empty answer, a pair that is too long, a model without a likelihood, or an
        estimator that does not fit it.
    """
    self.check_likelihood()
    prompts, before = self._cut([prompt for prompt, _ in pairs])
    pairs = [(prompt, answer) for prompt, (_, answer) in zip(prompts, pairs)]
    sizes = [len(prompt) + len(answer) for prompt, answer in pairs]
    if max(sizes, default=0) > self.max_length:
      raise ValueError(f"a text has {max(sizes)} tokens, the model's rows at most "
                       f"{self.max_length}.")
    estimator = self.check_estimator(estimator)
    options: dict[str, Any] = dict(num_samples=num_samples, seed=seed, batch_size=batch_size,
                                   said=said)
    with jax.set_mesh(self.mesh):
      if estimator != subsets.ESTIMATOR:
        return self._estimate_by_place(pairs, before, sizes, estimator, **options)
      if estimator not in self._compiled:
        self._compiled[estimator] = jax.jit(subsets.make_subset_nll(self.objective))
      return subsets.conditional_nll(
          self._compiled[estimator], self.params, self.objective, pairs, questions=questions,
          max_length=self.max_length, pad_id=self.tokenizer.pad_id, mesh=self.mesh, **options)

  def _estimate_by_place(self, pairs, before, sizes, estimator, *, num_samples, seed, **options):
    """Estimates of one of `likelihood.ESTIMATORS`, or exact ones."""
    key = ("likelihood", estimator, num_samples, seed)
    if key not in self._compiled:
      self._compiled[key] = jax.jit(likelihood.make_nll_and_error(
          self.objective, estimator=estimator, num_samples=num_samples, seed=seed))
    return subsets.Estimates(*likelihood.estimate_by_place(
        self._compiled[key], self.params, pairs, before, sizes, max_length=self.max_length,
        pad_id=self.tokenizer.pad_id, mesh=self.mesh, **options))

  def check_estimator(self, name: str) -> str:
    """Returns the estimator of pairs that is asked for, or for "" the best; ValueError."""
    is_exact = likelihood.is_exact(self.objective)
    if name in ("", subsets.ESTIMATOR):
      if not is_exact and subsets.is_fit(self.objective):
        return subsets.ESTIMATOR
      if name and not is_exact:
        raise ValueError("estimator subsets chooses the masks, which "
                         f"{type(self.objective).__name__} draws itself; use stratified.")
      name = likelihood.ESTIMATORS[0]
    likelihood.check_estimator(name, self.objective)
    return name

  def score(self, texts: Sequence[str], *, max_length: int, batch_size: int = 8,
            num_samples: int = 16, seed: int = 0) -> generative.Scores:
    """Scores texts, all their tokens, as `eval.generative` wants it.

    Args:
      texts: of each at most `max_length` tokens are read, and what the model's rows can hold.
      max_length: see `texts`.
      batch_size: rows scored together.
      num_samples, seed: as in `log_likelihood`.

    Raises:
      ValueError: a model without a likelihood, or a character that its tokenizer lacks.
    """
    self.check_likelihood()
    limit = min(max_length, self.max_length - len(self._before_text))
    whole = [self.tokenizer.encode(text) for text in texts]
    rows = [row[:limit] for row in whole]
    count = np.array([len(row) for row in rows], np.float64)
    nll, has_tokens = np.zeros(len(rows)), np.flatnonzero(count)
    if has_tokens.size:
      nll[has_tokens] = -self.score_pairs([(self._before_text, rows[i]) for i in has_tokens],
                                          num_samples=num_samples, seed=seed,
                                          batch_size=batch_size)
    chars = np.array([self.tokenizer.chars_per_token[row].sum() for row in rows], np.float64)
    return generative.Scores(nll, count, chars, rows,
                             np.array([len(row) > limit for row in whole], bool))

  def logits(self, rows: Sequence[str | Ids], *, batch_size: int = 8,
             progress: bool = False) -> list[np.ndarray]:
    """Logits of rows, float32 [L, V] each, over the model's own ids; nothing is blocked.

    Position i has those of the token at i: of a model that reads from left to right given the
    tokens before it, of others given the whole row, in which the text "[MASK]" is a masked one.

    Args:
      rows: texts or ids, each at most as long as the model's rows.
      batch_size: rows of about one length read together.
      progress: whether a terminal shows how many rows are done.

    Raises:
      ValueError: a row that is empty or too long, or a model that writes no tokens.
    """
    return self._read("logits", [self._whole(row) for row in rows], batch_size, progress)

  def hidden_states(self, rows: Sequence[str | Ids], *, batch_size: int = 8,
                    progress: bool = False) -> list[np.ndarray]:
    """States that the logits are read from, float32 [L, D] each; arguments as of `logits`."""
    return self._read("hidden", [self._whole(row) for row in rows], batch_size, progress)

  def score_tokens(self, rows: Sequence[str | Ids], *, batch_size: int = 8,
                   progress: bool = False) -> list[np.ndarray]:
    """Log-probability of every token, float64 [L] each, in nats.

    Of a model that reads from left to right it is that given the tokens before it, of others that
    given all other tokens of the row: one at a time is masked. Tokens that nothing predicts (ids
    that the tokenizer puts around a text, a first token that begins the row) have nan. Arguments as
    of `logits`; `progress` counts the readings, one a token where they are masked.

    Reference: Salazar et al. 2020, arXiv:1910.14659.
    """
    encoded = [self._whole(row) for row in rows]
    around = [(len(self.tokenizer.prefix_ids), len(self._closing)) if isinstance(row, str)
              else (0, 0) for row in rows]
    scored = [range(max(before, int(self.begins_itself)), len(ids) - behind)
              for ids, (before, behind) in zip(encoded, around)]
    return inspection.score_tokens(
        lambda rows: self._read("log_probs", rows, batch_size, progress), encoded, scored,
        mask_id=None if self.is_causal else self.tokenizer.mask_id)

  def _whole(self, row: str | Ids) -> np.ndarray:
    """Ids of a row that is complete: behind a text stand those that its tokenizer puts there."""
    closing = self._closing if isinstance(row, str) and MASK not in row else ()
    return np.concatenate([self.prompt_ids(row), np.array(closing, np.int32)])

  def pseudo_log_likelihood(self, texts: Sequence[str] | str, *, batch_size: int = 8,
                            progress: bool = False) -> np.ndarray:
    """Sum of `score_tokens` of texts, float64 [N], in nats; to compare texts of about one length.

    The better of two sentences is the one with the larger value (BLiMP). It is no likelihood of a
    text but for a model that reads from left to right; see `log_likelihood`.
    """
    texts = [texts] if isinstance(texts, str) else texts
    return np.array([np.nansum(row) for row in self.score_tokens(
        texts, batch_size=batch_size, progress=progress)])

  def fill_mask(self, text: str, top_k: int = 5) -> list[list[Fill]]:
    """The most probable tokens of every "[MASK]" of a text, each mask given the others masked.

    Raises:
      ValueError: no mask in the text, or a model that reads from left to right.
    """
    ids = self.prompt_ids(text)
    masked = np.flatnonzero(ids == self.tokenizer.mask_id)
    if not masked.size or self.is_causal:
      raise ValueError(f"fill_mask needs a text with {MASK} and a model that reads both sides, got "
                       f"{text!r:.60}.")
    log_probs = self._read("log_probs", [ids], 1)[0][masked]
    return [[Fill(i, self.tokenizer.decode([i]), p) for i, p in best]
            for best in inspection.most_probable(log_probs, top_k, blocked=self.tokenizer.mask_id)]

  def predict(self, texts: Sequence[Any] | str, *, batch_size: int = 64,
              progress: bool = False) -> list[Prediction]:
    """Labels texts with a model that was fine-tuned on labels, as its evaluation does.

    Args:
      texts: as the model was trained: texts, pairs of two texts, or lists of words. One string is
        one text.
      batch_size: rows read together; a row is as long as those of training.
      progress: whether a terminal shows how many texts are done.

    Raises:
      ValueError: a model that was not fine-tuned on labels, or a text of another kind.
    """
    objective = self.objective
    if not isinstance(objective, finetune.Labelled) or not self.data:
      raise ValueError(f"predict needs a run of configs/finetune.py, and {self.source} is none; "
                       "train one, or use sample or fill_mask.")
    texts = [texts] if isinstance(texts, str) else list(texts)
    records = [self._unlabelled(objective, i, text) for i, text in enumerate(texts)]
    if not records:
      return []
    if "predict" not in self._compiled:
      self._compiled["predict"] = jax.jit(scoring.make_scorer(objective))
    size = sharding.padded_rows(min(len(records), batch_size), batch_size, self.mesh)
    with jax.set_mesh(self.mesh), progress_lib.bar(len(records), "labelling",
                                                   enabled=progress) as told:
      batches = pipeline.batches_of(self.data, records, self.tokenizer, batch_size=size)
      found, _ = scoring.predict(
          self._compiled["predict"], self.params, progress_lib.counted(batches, size, told),
          records, objective, mesh=self.mesh)
    if found.tags is not None:
      return [Prediction(tags, {}) for tags in found.tags]
    if not found.labels:
      return [Prediction(float(score), {}) for score in found.scores]
    probabilities = special.softmax(np.asarray(found.scores, np.float64), axis=1)
    return [Prediction(found.labels[int(row.argmax())], dict(zip(found.labels, row.tolist())))
            for row in probabilities]

  def _unlabelled(self, objective: finetune.Labelled, number: int, text: Any) -> dict[str, Any]:
    """A record of a text; its label stands for one and is not read."""
    label = next(iter(objective.labels), "0")
    if objective.kind == "words":
      if isinstance(text, str) or not len(text) or not all(isinstance(x, str) for x in text):
        raise ValueError(f"text {number} is {text!r:.60}; this model labels words: give a list of "
                         "them, such as text.split().")
      return {"words": list(text), "tags": [label] * len(text)}
    parts = [text] if isinstance(text, str) else list(text)
    wanted = len(self.data["source"].get("fields", parts))
    if len(parts) != wanted or not all(isinstance(part, str) for part in parts):
      raise ValueError(f"text {number} is {text!r:.60}; expected "
                       f"{'a text' if wanted == 1 else f'{wanted} texts'}, as in training.")
    return {"texts": parts, "label": label}

  def _read(self, wanted: str, rows: Sequence[np.ndarray], batch_size: int,
            progress: bool = False) -> list[np.ndarray]:
    key = ("read", wanted)
    if key not in self._compiled:
      read = inspection.make_read(self.objective, mask_id=self.tokenizer.mask_id,
                                  num_ids=self.tokenizer.vocab_size)
      self._compiled[key] = jax.jit(lambda *args: read(*args)[wanted])
    with jax.set_mesh(self.mesh), progress_lib.bar(len(rows), "reading",
                                                   enabled=progress) as told:
      return inspection.run(self._compiled[key], self.params, rows, max_length=self.max_length,
                            pad_id=self.tokenizer.pad_id, batch_size=batch_size, mesh=self.mesh,
                            told=told)

  def transcribe(self, recordings: Sequence[signals.Recording], *, rate: int = 0,
                 batch_size: int = 8, progress: bool = False) -> list[str]:
    """Transcripts of recordings, by the best path of a model of `configs/ctc.py`.

    Args:
      recordings: wav or flac files, pairs (samples float32 [n] in [-1, 1], rate a second), or
        frames float32 [n, channels] as training had them.
      rate: samples a second of the recordings of training, where the run does not say it
        (`data.source.rate`).
      batch_size: recordings read together.
      progress: whether a terminal shows how many are done.

    Raises:
      ValueError: another model; an empty, silent or clipped recording, one of another rate, or one
        that is longer than the rows of training.
    """
    return signals.transcribe(self, self._compiled, recordings, rate=rate, batch_size=batch_size,
                              progress=progress)

  def read_images(self, images: Sequence[signals.Image],
                  prompts: Sequence[Any] | str | None = None, *, encoder: Model | None = None,
                  seed: int = 0, batch_size: int = 8, record: str = "none",
                  progress: bool = False, **fields: Any) -> Samples:
    """Texts of images (a model of `configs/mdiff4str.py`), or answers (`configs/llava.py`).

    Args:
      images: files, or arrays uint8 [height, width] or [height, width, colors], of the size of
        training (which its `data.source.fit` may make them).
      prompts: of an answer: one each, or one for all.
      encoder: of the images of a `configs/llava.py`; None = the one that it was trained with.
      seed, batch_size, record, progress, **fields: as of `sample`; a row has as many tokens as
        those of training.

    Raises:
      ValueError: another model, an image of another size, or a field that cannot be.
    """
    return signals.read_images(self, self._compiled, images, prompts, encoder=encoder, seed=seed,
                               batch_size=batch_size, record=record, progress=progress,
                               fields=fields)

  def encode(self, texts: Sequence[Any] | str, *, kind: str = "", batch_size: int = 32,
             progress: bool = False, **options: Any) -> np.ndarray:
    """Embeddings of texts, recordings or images, float32 [N, D], in their order.

    Args:
      texts: one string is one text. What is too long for the model is cut. Of a model of frames or
        patches: recordings as of `transcribe`, or images as of `read_images`, whose embeddings are
        the means of their last states; the only option is `rate`, as of `transcribe`.
      kind: "query", "document", or another that the model has a prompt for; "" = its default.
      batch_size: rows of about one length read together.
      progress: whether a terminal shows how many rows are done.
      **options: over the model's own settings: `prompt` (a text before every text, a template with
        "{text}", several that are averaged, or kind -> prompt) and the fields of
        `eval.embedders.Settings`: pooling, attention, layer, normalize, dim, max_length, ...

    Raises:
      ValueError: an option that does not fit the model, or a text without tokens.
    """
    if self.objective.signal:
      if kind or set(options) - {"rate"}:
        raise ValueError(f"encode has no option {kind or next(iter(options))!r} of recordings and "
                         "images, whose embedding is the mean of the last states; leave it out.")
      return signals.encode(self, self._compiled, texts, batch_size=batch_size,
                            progress=progress, **options)
    return embedding.encode(self, self._compiled, texts, kind=kind, batch_size=batch_size,
                            progress=progress, **options)

  def with_adapter(self, adapter: str) -> Model:
    """This model with a PEFT adapter (its directory); both share the arrays of the base.

    So several adapters are held and switched at the memory of one model.

    Raises:
      ValueError: an adapter of another model, or a model that has one already.
    """
    return of(load_lib.with_adapter(self, adapter))

  def save(self, path: str) -> None:
    """Writes weights, config and tokenizer into a new directory, which `mdx.load` reads.

    Raises:
      ValueError: there is something already.
    """
    files.check_new(pathlib.Path(path))
    # What labels a text, or reads signals, is also how its rows are made.
    has_rows = isinstance(self.objective, finetune.Labelled) or bool(self.objective.signal)
    config = dict(self.config) | ({"data": dict(self.data)} if has_rows else {})
    checkpoint_lib.save_params(path, self.params, workdir_lib.meta(self.config, self.tokenizer))
    if jax.process_index() == 0:
      files.write_json(pathlib.Path(path) / "config.json",
                       {"hash": identity.run_hash(self.config), "config": config})
      self.tokenizer.save(path)

  def check_likelihood(self) -> None:
    """Raises ValueError if the model cannot score a text."""
    if not likelihood.is_likelihood(self.objective):
      raise ValueError(f"a model trained with {type(self.objective).__name__} gives no likelihood "
                       "of a text; use a diffusion or ar checkpoint.")


def load(path: str, **options: Any) -> Model:
  """Loads a model for sampling and scoring; see `build.load.load` for the options.

  Programs that it compiles are kept for later processes, see `utils.compiled`.

  Raises:
    ValueError: no such checkpoint, or one that cannot be read.
  """
  compiled.use_cache()
  return of(load_lib.load(path, **options))


def of(found: load_lib.Loaded) -> Model:
  """The model of what was loaded, or only described."""
  return Model(**{f.name: getattr(found, f.name) for f in dataclasses.fields(found)})
