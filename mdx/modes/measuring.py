"""Evaluation of an RL run: the table, learning curves, and pass@k.

Contents: Decoded, arm, quick_evaluator, evaluate, rules, Pool, pool, pass_at_k, win_rates.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mdx import types
from mdx.build import rl as rl_setup
from mdx.eval import repeated
from mdx.eval import tasks as task_eval
from mdx.eval import win_rates as rates
from mdx.modes import solving
from mdx.objectives.policies import policy as policy_lib
from mdx.rl import episodes as episodes_lib
from mdx.rl import rollout as rollout_lib
from mdx.samplers import trajectory
from mdx.train import progress as progress_lib
from mdx.utils import console
from mdx.utils import processes


class Decoded(NamedTuple):
  """Examples decoded by one model: the figures, the record of the first batch, and the pace.

  Attributes:
    result: accuracy and the like.
    record: on the host.
    pace: tokens decoded a second, of the fastest batch: the first one may have to compile.
    turns: transcripts of the first batch; None of answers of one turn.
  """
  result: task_eval.Result
  record: trajectory.Trajectory
  pace: float
  turns: list[list[episodes_lib.Turn]] | None = None


def arm(run: rl_setup.Setup, sampler: Any, prompts: task_eval.Prompts,
        examples) -> Callable[[types.Params], Decoded]:
  """Returns params -> the examples, decoded and scored."""
  size, shards = run.config["eval"]["batch_size"], run.placement.num_shards
  size = -(-min(size, len(examples)) // shards) * shards
  is_full = run.config["rollout"]["max_turns"] == 1 and not run.is_causal
  record = "full" if is_full else "commits"
  decoder = run.turns(run.decoder_of(sampler, prompts, name="eval", seed=0, record=record), prompts,
                      sampler, examples)

  def measure(params):
    records, paces, turns = [], [], []
    params = run.placement.weights(params)

    def decode(index):
      began = time.monotonic()
      record, rows = decoder(params, index, 0)
      record = processes.fetch(record)
      paces.append(float(record.is_free.sum()) / (time.monotonic() - began))
      if not records:
        records.append(record)
      found = task_eval.answers_of(record, run.model.tokenizer)
      if isinstance(decoder, episodes_lib.Episodes):
        turns.append(decoder.turns(record.tokens, processes.fetch(rows["segment_ids"])))
        found = found._replace(texts=["".join(turn.content for turn in row) for row in turns[-1]])
      return found

    result = task_eval.evaluate(decode, run.task, examples, run.model.tokenizer, size)
    return Decoded(result, records[0], max(paces), turns[0] if turns else None)

  return measure


def quick_evaluator(run: rl_setup.Setup) -> Callable:
  """Returns params -> accuracy on the validation split, for the learning curve."""
  if run.policy.trains_rule:
    return _rule_evaluator(run)
  config = run.config["eval"]
  first, *others = dict.fromkeys((config["curve_nfe"], *config.get("curve_also", ())))
  one = lambda nfe: arm(run, run.eval_sampler(run.curve_remasking, nfe), run.prompts("validation"),
                        run.examples("validation"))
  first, others = one(first), {nfe: one(nfe) for nfe in others}
  wins = _wins(run, "validation") if config.get("win_sizes", ()) else lambda params: {}

  def measure(params):
    result = first(params).result
    figures = {"accuracy": result.accuracy, "accuracy_stderr": result.stderr}
    if result.over_denoising is not None:
      figures["over_denoising"] = result.over_denoising
    return figures | {f"accuracy_{nfe}_steps": one(params).result.accuracy
                      for nfe, one in others.items()} | wins(params)

  return measure


def _rule_evaluator(run: rl_setup.Setup) -> Callable:
  """Returns params -> accuracy and network calls of the trained rule on the validation split."""
  measured = arm(run, run.sampler.deployed, run.prompts("validation"), run.examples("validation"))

  def measure(params):
    result = measured(params).result
    return {"accuracy": result.accuracy, "accuracy_stderr": result.stderr, "nfe": result.nfe}

  return measure


def rules(run: rl_setup.Setup, params: types.Params) -> list[dict[str, Any]]:
  """Evaluates the rules of decoding of `eval.rules` on the test split; rows as of mode decoding."""
  console.say("evaluating the held-out problems ...")
  examples, prompts = run.examples("test"), run.prompts("test")
  cells, rows = run.rules(), []
  progress = progress_lib.Progress(len(cells), enabled=jax.process_index() == 0, what="evaluating")
  for cell in cells:
    sampler = run.model.new_sampler(**cell.fields).deployed
    result, _, pace, _ = arm(run, sampler, prompts, examples)(params)
    rows.append({"rule": cell.rule, "knob": cell.knob, "value": cell.value, "nfe": result.nfe,
                 "accuracy": result.accuracy, "stderr": result.stderr,
                 "over_denoising": result.over_denoising, "tokens_per_second": pace,
                 "num_examples": result.num_examples})
    progress.update(len(rows))
  progress.close()
  return rows


def evaluate(run: rl_setup.Setup, models: Mapping[str, Any]):
  """Evaluates every model with every remasking and number of steps on the test split."""
  console.say("evaluating the held-out problems ...")
  config, examples, prompts = run.config["eval"], run.examples("test"), run.prompts("test")
  table, paces, traces, talks = [], {}, {}, {}
  progress = progress_lib.Progress(len(config["remasking"]) * len(config["nfe"]) * len(models),
                                   enabled=jax.process_index() == 0, what="evaluating")
  shown = {min(config["nfe"]), config["curve_nfe"]}
  for remasking in config["remasking"]:
    for nfe in config["nfe"]:
      decoded = arm(run, run.eval_sampler(remasking, nfe), prompts, examples)
      for name, params in models.items():
        result, record, pace, turns = decoded(params)
        paces[remasking, nfe] = max(pace, paces.get((remasking, nfe), 0.0))
        table.append({"model": name, "remasking": remasking, "nfe": nfe,
                      "accuracy": result.accuracy, "stderr": result.stderr,
                      "over_denoising": result.over_denoising,
                      "num_examples": result.num_examples})
        progress.update(len(table))
        if (nfe in shown and remasking == config["remasking"][0]
            and record.prediction is not None):
          traces.setdefault(nfe, {})[name] = solving.traces(run.task, examples, record,
                                                            run.model.tokenizer, name)
        if turns is not None and jax.process_index() == 0:
          talks[name] = solving.transcripts(run.task, examples, turns, name)
  if talks:  # before and after, problem by problem
    solving.write_transcripts(run.workdir, talks)
  progress.close()
  order = {key: i for i, key in enumerate((m, r) for m in models for r in config["remasking"])}
  speeds = [{"remasking": r, "nfe": n, "tokens_per_second": x} for (r, n), x in paces.items()]
  table.sort(key=lambda row: (order[row["model"], row["remasking"]], row["nfe"]))
  return table, speeds, traces


class Pool(NamedTuple):
  """Several answers of a model to each of E problems, drawn as in the rollouts.

  Attributes:
    reward: float32 [E, n], the verifier's.
    correct: bool [E, n].
    log_prob: float32 [E, n], of the answers under the distributions that they were drawn from.
    nfe: mean number of network calls.
    kl: nats of an answer from the base model, of an autoregressive model; None otherwise.
  """
  reward: np.ndarray
  correct: np.ndarray
  log_prob: np.ndarray
  nfe: float
  kl: float | None


def pool(run: rl_setup.Setup, split: str, name: str = "pass_at_k"
         ) -> Callable[[types.Params], Pool]:
  """Returns params -> answers to the first `pass_examples` problems of a split.

  The divergence of an answer is the sum over its tokens, up to an end of text, of the divergence
  of their distributions given the tokens before, which is exact for an autoregressive model.
  Draws of another `name` are independent of these.
  """
  config = run.config["eval"]
  number, examples = config["pass_samples"], run.examples(split)[:config["pass_examples"] or None]
  prompts = run.prompts(split).select(np.arange(len(examples)))
  decoder = run.turns(run.decoder_of(run.sampler, prompts, name=name), prompts, run.sampler,
                      examples)
  shards = run.placement.num_shards
  total = len(examples) * number
  size = -(-min(config["batch_size"], total) // shards) * shards
  has_kl = run.is_causal and run.config["rollout"]["max_turns"] == 1
  divergence = jax.jit(functools.partial(_divergence, run.policy))

  def draw(params):
    found, weights = [], run.placement.weights(params)
    for first in range(0, total, size):
      index = np.minimum(np.arange(first, first + size), total - 1)
      record, rows = decoder(weights, (index // number).astype(np.int32), 0, row_index=index)
      batch = rollout_lib.make_batch(record, rows, decoder.start)
      kl = divergence(params, run.model.params, batch) if has_kl else record.log_prob[:, 0]
      record, kl = processes.fetch(record), np.asarray(processes.fetch(kl))
      texts = episodes_lib.texts_of(decoder, record.tokens, rows, run.model.tokenizer)
      scored = run.task.score([examples[i // number] for i in index], texts)
      found.append((scored["reward"], scored["correct"], record.log_prob.sum(axis=1), record.nfe,
                    kl))
    reward, correct, log_prob, nfe, kl = (
        np.concatenate(x)[:total].reshape(len(examples), number) for x in zip(*found))
    return Pool(reward.astype(np.float32), correct.astype(bool), log_prob, float(nfe.mean()),
                float(kl.mean()) if has_kl else None)

  return draw


def _divergence(policy, params, reference, batch):
  """Divergence of the policy from the reference along each answer, nats, float32 [N]."""
  length = batch["is_free"].shape[1]
  canvas = batch | {"noisy_tokens": batch["tokens"][:, None]}
  own, other = (jax.nn.log_softmax(policy.logits(p, canvas, length)) for p in (params, reference))
  each = (jnp.exp(own) * (own - other)).sum(axis=-1)
  is_end = policy.ends(batch["tokens"][:, -length:])
  return jnp.where(policy_lib.until_end(is_end) & batch["is_free"], each, 0.0).sum(axis=1)


def pass_at_k(run: rl_setup.Setup, models: Mapping[str, Any]) -> list[dict[str, Any]]:
  """pass@k and best of k of every model, of answers drawn as in the rollouts."""
  if not (sizes := run.config["eval"].get("pass_k", ())):
    return []
  draw, found = pool(run, "test"), []
  for name, params in models.items():
    drawn = draw(params)
    answers = repeated.Repeated(drawn.correct, drawn.log_prob)
    found += [{"model": name, "nfe": drawn.nfe, "temperature": run.sampler.temperature, **row}
              for row in repeated.figures(answers, sizes)]
  return found


def win_rates(run: rl_setup.Setup, models: Mapping[str, Any]) -> dict[str, float]:
  """Win rates of the trained model over its base on test problems, `kl` if known; {} if not asked.
  """
  if not run.config["eval"].get("win_sizes", ()) or len(models) < 2:
    return {}
  return _wins(run, "test")([x for name, x in models.items() if name != "base"][0])


def _wins(run, split) -> Callable[[types.Params], dict[str, float]]:
  """Params -> win rates over the base model, whose answers have draws of their own."""
  draw, base = pool(run, split), pool(run, split, "base")(run.model.params).reward

  def measure(params):
    drawn = draw(params)
    figures = rates.figures(drawn.reward, base, run.config["eval"]["win_sizes"])
    return figures | ({} if drawn.kl is None else {"kl": drawn.kl})

  return measure
