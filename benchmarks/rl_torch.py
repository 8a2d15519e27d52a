"""MDPO in PyTorch on a base model of mdx: the peer of `rl.py`.

Contents: Trainer.

The same weights, problems, verifier, rollouts and loss as `configs/mdpo.py:mdpo`; rows in batches
as large as is said: all of an iteration, as one would write it for speed, or one, as the published
trainer does, which decodes a rollout at a time and scores a step of it at a time.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from mdx.eval import tasks as task_eval


class _Model(nn.Module):
  """The transformer of the base model: learned positions, RMSNorm, gated MLP, tied head."""

  def __init__(self, params, heads: int):
    super().__init__()
    flat = lambda *path: nn.Parameter(torch.from_numpy(np.array(_at(params, path), np.float32)))
    self.heads = heads
    self.embed, self.position = flat("embed", "embedding"), flat("position_embed", "embedding")
    self.q, self.k, self.v, self.o = (flat("layers", "attention", n, "kernel") for n in "qkvo")
    self.up, self.gate, self.down = (flat("layers", "mlp", n, "kernel")
                                     for n in ("up", "gate", "down"))
    self.norms = nn.ParameterList([flat("layers", n, "scale")
                                   for n in ("attention_norm", "mlp_norm")])
    self.norm = flat("final_norm", "scale")

  def forward(self, tokens):
    """Log-probabilities of all but the mask token, float32 [N, S, V - 1]."""
    x = self.embed[tokens] + self.position[:tokens.shape[1]]
    split = lambda y: y.unflatten(-1, (self.heads, -1)).transpose(1, 2)
    normed = lambda x, scale: F.rms_norm(x, scale.shape, scale, 1e-5)
    for i in range(len(self.q)):
      h = normed(x, self.norms[0][i])
      mixed = F.scaled_dot_product_attention(*(split(h @ w[i]) for w in (self.q, self.k, self.v)))
      x = x + mixed.transpose(1, 2).flatten(2) @ self.o[i]
      h = normed(x, self.norms[1][i])
      x = x + (F.silu(h @ self.gate[i]) * (h @ self.up[i])) @ self.down[i]
    return (normed(x, self.norm) @ self.embed[:-1].T).log_softmax(-1)


def _at(tree, path):
  for name in path:
    tree = tree[name]
  return tree


class Trainer:
  """Iterations of MDPO: rollouts, verdicts, one update."""

  def __init__(self, model, task, config, *, rows_together: int):
    """Copies the weights.

    Args:
      model: of `mdx.load`.
      task: gives problems and verdicts.
      config: of configs/mdpo.py:mdpo.
      rows_together: rows of a pass; 0 = all of an iteration.
    """
    heads = model.config["network"]["num_heads"]
    self.policy, self.reference = (_Model(model.params["model"], heads) for _ in range(2))
    self.reference.requires_grad_(False)
    self._tokenizer, self._task, self._config = model.tokenizer, task, config
    self._rows = rows_together
    fields = config.optimizer
    self._optimizer = torch.optim.AdamW(
        self.policy.parameters(), lr=fields.learning_rate, betas=(fields.b1, fields.b2),
        weight_decay=fields.weight_decay, fused=True)
    self._examples = task.examples("train")
    prompts = task_eval.encode_prompts([task.prompt(e) for e in self._examples], model.tokenizer,
                                       blank=task.blank)
    canvas = np.where(prompts.tokens == prompts.blank_id, model.tokenizer.mask_id, prompts.tokens)
    self._canvases = torch.from_numpy(canvas.astype(np.int64))
    self._iteration = 0

  def run(self, iterations: int) -> float:
    """Runs some iterations; returns the mean reward of the last one's rollouts."""
    for _ in range(iterations):
      reward = self._iterate()
    return reward

  def _chunks(self, number: int) -> list[slice]:
    size = self._rows or number
    return [slice(i, i + size) for i in range(0, number, size)]

  def _iterate(self) -> float:
    rollout = self._config.rollout
    group = rollout.group_size
    first = self._iteration * rollout.num_prompts
    index = np.repeat(np.arange(first, first + rollout.num_prompts) % len(self._examples), group)
    self._iteration += 1
    parts = [self._decode(self._canvases[index[chunk]]) for chunk in self._chunks(len(index))]
    canvas, prediction, log_prob = (torch.cat(x) for x in zip(*parts))
    chosen, steps = [self._examples[i] for i in index], canvas.shape[1]
    reward, _ = task_eval.score_steps(self._task, chosen, self._tokenizer,
                                      prediction.numpy().astype(np.int32),
                                      np.full(len(index), steps, np.int32))
    self._update(canvas, prediction, log_prob, torch.from_numpy(reward))
    return float(reward[:, -1].mean())

  @torch.inference_mode()
  def _decode(self, canvas):
    """Canvases, predictions and their log-probabilities of every step, [N, T, S] each."""
    mask_id, steps = self._tokenizer.mask_id, self._config.rollout.sampler.steps
    free = (canvas == mask_id).sum(1)
    found = []
    for step in range(steps):
      is_masked = canvas == mask_id
      log_probs = self.policy(canvas)
      drawn = torch.distributions.Categorical(logits=log_probs).sample()
      prediction = torch.where(is_masked, drawn, canvas)
      log_prob = log_probs.gather(-1, drawn[..., None])[..., 0].where(is_masked, 0.0)
      found.append((canvas, prediction, log_prob))
      count = free // steps + (step < free % steps)
      rank = log_prob.where(is_masked, -torch.inf).argsort(1, descending=True).argsort(1)
      canvas = torch.where(is_masked & (rank < count[:, None]), prediction, canvas)
    return tuple(torch.stack(x, 1).clone() for x in zip(*found))

  def _update(self, canvas, prediction, log_prob, reward):
    """One step of AdamW on the steps of largest |advantage|."""
    fields, group = self._config.objective, self._config.rollout.group_size
    advantage = _advantage(reward.unflatten(0, (-1, group))).flatten(0, 1)
    chosen = advantage.abs().topk(min(fields.num_steps, advantage.shape[1]), 1).indices
    pick = lambda x: x.gather(1, chosen[..., None].expand(-1, -1, x.shape[2])).flatten(0, 1)
    free = (canvas[:, 0] == self._tokenizer.mask_id).sum(1).repeat_interleave(chosen.shape[1])
    canvas, prediction, log_prob = pick(canvas), pick(prediction), pick(log_prob)
    advantage = advantage.gather(1, chosen).flatten()
    live = advantage != 0
    rows = torch.arange(len(live)) if not self._rows else live.nonzero()[:, 0]
    total = live.sum().clamp(min=1)
    self._optimizer.zero_grad(set_to_none=True)
    for chunk in self._chunks(len(rows)):
      i = rows[chunk]
      is_masked = canvas[i] == self._tokenizer.mask_id
      new, old = (m(canvas[i]).gather(-1, prediction[i][..., None].clamp(
          max=self._tokenizer.mask_id - 1))[..., 0] for m in (self.policy, self.reference))
      count = is_masked.sum(1, keepdim=True)
      weight = log_prob[i].exp() * is_masked * live[i, None] / count
      ratio = (new - log_prob[i]).exp()
      gain = advantage[i, None]
      gain = torch.minimum(ratio * gain, ratio.clamp(1 - fields.clip, 1 + fields.clip) * gain)
      scale = free[i, None] / count
      loss = (weight * (-gain * scale + fields.kl * (old - new) ** 2 / 2)).sum() / total
      loss.backward()
    nn.utils.clip_grad_norm_(self.policy.parameters(), self._config.optimizer.clip_norm)
    self._optimizer.step()


def _advantage(reward):
  """MDPO's advantage of every step, of rewards float32 [P, G, T]."""
  steps = reward.shape[2]
  later = reward.flip(2).cumsum(2).flip(2) - reward
  tail = later / torch.arange(steps - 1, -1, -1).clamp(min=1)
  tail[..., -1] = reward[..., -1]
  credit = reward.diff(dim=2, prepend=torch.zeros_like(reward[..., :1])) + tail
  centred = credit - credit.mean(1, keepdim=True)
  return centred / (credit.std(1, keepdim=True) + 1e-4)
