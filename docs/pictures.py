r"""Draws the pictures of docs/methods, with the code of mdx.

Contents: PICTURES, draw, main.

  python docs/pictures.py            # all of them
  python docs/pictures.py mlm rl     # some

Every picture is computed by the functions that training and sampling call, on a sentence of twelve
words or from closed forms; nothing is trained, so that a picture takes seconds. Files are
docs/assets/pictures/NAME.svg, the same bytes at every run of one version of matplotlib.
"""

from __future__ import annotations

import pathlib
import sys
from typing import Any, Callable, Sequence

import jax
import jax.numpy as jnp
import matplotlib
from matplotlib import figure
from matplotlib import patches
import numpy as np

from mdx import types
from mdx.corruption import guided
from mdx.corruption import schedule
from mdx.corruption import strategies
from mdx.corruption import temporal
from mdx.data.prepared import tagger
from mdx.networks import attention
from mdx.networks import presets
from mdx.networks import transformer
from mdx.networks import visibility
from mdx.objectives import preference
from mdx.objectives.causal import meap
from mdx.objectives.diffusion import masked
from mdx.objectives.diffusion import seq2seq
from mdx.objectives.embedding import contrastive
from mdx.objectives.policies import advantage
from mdx.objectives.tokens import mlm
from mdx.objectives.tokens import rts
from mdx.objectives.transfer import unlearning
from mdx.samplers import counts
from mdx.tasks.search import agent
from mdx.train import optimizer
from mdx.utils import rng

FOLDER = pathlib.Path(__file__).resolve().parent / "assets" / "pictures"
WORDS = "it was a dark and stormy night when the old bell rang".split()
MASK = len(WORDS)
PLAIN, HIDDEN, OTHER, GOOD = "#f4f5f7", "#b9c0cc", "#f5b26b", "#9cc3ee"
_STYLE = {"svg.hashsalt": "mdx", "svg.fonttype": "path", "font.size": 9, "axes.grid": True,
          "grid.alpha": 0.3, "axes.axisbelow": True}


def _network() -> types.Network:
  """A network of the vocabulary of the sentence, for objectives that only draw."""
  return types.Network(init=lambda key: {}, encode=None, head=None, vocab_size=MASK + 1)


def _prepared(objective: types.Objective, rows: int, seed: int = 0) -> dict[str, Any]:
  """Prepared rows of some copies of the sentence, drawn by an objective."""
  batch = {"tokens": jnp.tile(jnp.arange(MASK, dtype=jnp.int32), (rows, 1)),
           "example_index": jnp.arange(rows)}
  batch, _ = objective.prepare({}, batch, rng.root(seed), types.context(0))
  return {name: np.asarray(value) for name, value in batch.items()
          if name != "example_index" and not jnp.issubdtype(value.dtype, jax.dtypes.prng_key)}


def _axes(width: float, height: float, columns: int = 1):
  picture = figure.Figure(figsize=(width, height), constrained_layout=True)
  return picture, picture.subplots(1, columns)


def _cells(axes, texts: Sequence[Sequence[str]], colours: Sequence[Sequence[str]],
           labels: Sequence[str], outlined: Any = None) -> None:
  """Draws rows of cells: a text and a colour each; `outlined` ones are predicted."""
  for row, (line, fill) in enumerate(zip(texts, colours)):
    for column, (text, colour) in enumerate(zip(line, fill)):
      is_target = outlined is not None and bool(outlined[row][column])
      axes.add_patch(patches.Rectangle(
          (column + 0.04, row + 0.1), 0.92, 0.8, facecolor=colour, zorder=2,
          edgecolor="#1f5fae" if is_target else "none", linewidth=1.6))
      axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=8, zorder=3)
  axes.set(xlim=(0, max(map(len, texts))), ylim=(len(texts), 0), xticks=[],
           yticks=np.arange(len(texts)) + 0.5, yticklabels=labels)
  axes.tick_params(length=0)
  axes.grid(False)
  for side in axes.spines.values():
    side.set_visible(False)


def _tokens(rows: np.ndarray) -> tuple[list[list[str]], list[list[str]]]:
  """Texts and colours of rows of ids: masks grey, other tokens than the sentence's orange."""
  texts = [["" if x == MASK else WORDS[x] for x in row] for row in rows]
  colours = [[HIDDEN if x == MASK else PLAIN if x == i else OTHER for i, x in enumerate(row)]
             for row in rows]
  return texts, colours


def _sentence(height: float):
  return _axes(8.4, height)


def _mask_of(axes, value: attention.Attention, size: int, title: str, ticks: bool = False) -> None:
  """Draws what a query (row) sees (column)."""
  half = size // value.streams
  position = np.arange(size) % half
  to = lambda shape: attention.Coordinates(np.arange(size).reshape(shape),
                                           position.reshape(shape))
  seen = value.sees(to((-1, 1)), to((1, -1)), size)
  seen = np.ones((size, size), bool) if seen is None else np.broadcast_to(seen, (size, size))
  axes.imshow(seen, cmap="Blues", vmin=-0.2, vmax=1.6)
  axes.set(title=title, xticks=[], yticks=[], xlabel="key", ylabel="query" if ticks else "")
  axes.grid(False)


def masked_diffusion():
  """Noisy rows of one sentence, by time."""
  drawn = _prepared(masked.MaskedDiffusion(network=_network(), mask_id=MASK, time="lattice",
                                           schedule=dict(name="linear", eps=1e-3)), 5)
  noisy = drawn["noisy_tokens"]
  order = np.argsort((noisy == MASK).sum(axis=1))
  picture, axes = _sentence(2.0)
  texts, colours = _tokens(noisy[order])
  _cells(axes, texts, colours, [f"{(row == MASK).mean():.0%} masked" for row in noisy[order]],
         noisy[order] == MASK)
  return picture


def d3pm():
  """The weight of T steps beside that of continuous time."""
  picture, axes = _axes(5.6, 2.9)
  alpha = schedule.Linear(eps=1e-3)
  times = jnp.linspace(0.02, 1.0, 400)
  axes.plot(times, alpha.weight(times), "k", label="continuous time")
  for number, colour in ((4, "tab:orange"), (16, "tab:blue")):
    step = np.arange(1, number + 1)
    t, s = jnp.asarray(step / number), jnp.asarray((step - 1) / number)
    reveal = (alpha.alpha(s) - alpha.alpha(t)) / (1 - alpha.alpha(t))
    axes.stairs(number * np.asarray(reveal), np.arange(number + 1) / number, color=colour,
                label=f"T = {number}: T times the probability of a reveal")
  axes.set(xlabel="time t", ylabel="weight of a masked token", yscale="log", ylim=(0.8, 60))
  axes.legend(fontsize=8)
  return picture


def sedd():
  """Score entropy against the negative log-probability, by the sum of the scores."""
  picture, axes = _axes(5.6, 2.9)
  total = np.linspace(0.25, 3.0, 200)  # of the scaled scores
  for p, colour in ((0.9, "tab:green"), (0.5, "tab:blue"), (0.1, "tab:orange")):
    axes.plot(total, total - np.log(total * p) - 1, color=colour, label=f"score entropy, p = {p}")
    axes.axhline(-np.log(p), color=colour, ls="--", lw=0.8)
  axes.axvline(1.0, color="k", lw=0.8)
  axes.set(xlabel="sum of the scaled scores (1: normalised, RADD)", ylabel="nats a masked token",
           title="dashed: -log p")
  axes.legend(fontsize=8)
  return picture


def genmd4():
  """Schedules of tokens with different exponents."""
  picture, axes = _axes(5.6, 2.9)
  times = jnp.linspace(0.0, 1.0, 200)
  for power in (0.3, 0.6, 1.0, 2.0, 5.0):
    axes.plot(times, schedule.Polynomial(eps=0.0, power=power).alpha(times), label=f"w = {power}")
  axes.set(xlabel="time t", ylabel="probability that the token is clean",
           title="a schedule for each token: 1 - t^w")
  axes.legend(fontsize=8)
  return picture


def block_diffusion():
  """Attention of training on [noisy | clean] and of sampling."""
  picture, (left, right) = _axes(6.4, 3.2, 2)
  _mask_of(left, attention.TwoStream(block_length=4), 24, "training: [noisy | clean]", True)
  for axes, number in ((left, 24), (right, 12)):
    for edge in range(4, number, 4):
      axes.axhline(edge - 0.5, color="white", lw=0.6)
      axes.axvline(edge - 0.5, color="white", lw=0.6)
  left.axhline(11.5, color="k", lw=0.8)
  left.axvline(11.5, color="k", lw=0.8)
  _mask_of(right, attention.BlockCausal(block_length=4), 12, "sampling: block-causal")
  return picture


def mlm_variants():
  """Inputs of masked language models, by variant; predicted positions are outlined."""
  make = lambda **fields: mlm.MaskedLM(network=_network(), mask_id=MASK, **fields)
  variants = {"80 / 10 / 10": make(mask_rate=0.34),
              "spans": make(mask_rate=0.34, mask_draw="exact_count", span_max=4,
                            replace_together=True),
              "rate 40 %, [MASK] alone": make(mask_rate=0.4, replace_mask_rate=1.0,
                                              replace_random_rate=0.0)}
  drawn = [_prepared(one, 1, seed) for seed, one in enumerate(variants.values(), 3)]
  picture, axes = _sentence(1.5)
  texts, colours = _tokens(np.concatenate([one["noisy_tokens"] for one in drawn]))
  _cells(axes, texts, colours, list(variants),
         np.concatenate([one["is_target"] for one in drawn]))
  return picture


def electra():
  """The text, what the generator reads, what the model reads, and its labels."""
  reads = _prepared(mlm.MaskedLM(network=_network(), mask_id=MASK, mask_rate=0.34,
                                 replace_mask_rate=1.0, replace_random_rate=0.0), 1, 2)
  others = _prepared(rts.ReplacedTokens(network=_network(), mask_id=MASK), 1, 5)
  selected = reads["is_target"]
  sampled = np.where(selected, np.roll(others["noisy_tokens"], 3, axis=1), reads["tokens"])
  first = np.flatnonzero(selected[0])[0]
  sampled[0, first] = reads["tokens"][0, first]  # the generator found the original
  texts, colours = _tokens(np.concatenate([reads["tokens"], reads["noisy_tokens"], sampled]))
  replaced = sampled[0] != reads["tokens"][0]
  texts.append(["replaced" if x else "original" for x in replaced])
  colours.append([OTHER if x else PLAIN for x in replaced])
  picture, axes = _sentence(1.8)
  outlined = np.concatenate([np.zeros_like(selected), selected, np.zeros_like(selected),
                             np.ones_like(selected)])
  _cells(axes, texts, colours, ["text", "generator reads", "model reads", "labels"], outlined)
  return picture


def rts_slm():
  """Inputs of RTS and SLM; predicted positions are outlined."""
  found = _prepared(rts.ReplacedTokens(network=_network(), mask_id=MASK, mask_rate=0.34), 1, 4)
  swapped = _prepared(mlm.MaskedLM(network=_network(), mask_id=MASK, mask_rate=0.34,
                                   replace_mask_rate=0.0, replace_random_rate=1.0), 1, 4)
  picture, axes = _sentence(1.1)
  texts, colours = _tokens(np.concatenate([found["noisy_tokens"], swapped["noisy_tokens"]]))
  _cells(axes, texts, colours, ["RTS: replaced?", "SLM: which token?"],
         np.concatenate([np.ones_like(found["is_replaced"]), swapped["is_target"]]))
  return picture


def structural():
  """Which candidate is right, by task."""
  colour = {"A1": GOOD, "A2": "#c9def5", "B1": OTHER}
  rows = {"SSP: same paragraph": ["A1 span", "A1 another span", "B1 span"],
          "SP: its paragraph": ["A1 span", "A1 without the span", "B1"],
          "PSD: same document": ["A1", "A2", "B1"]}
  texts = [["premise", "right", "wrong"], *rows.values()]
  picture, axes = _axes(6.4, 1.8)
  _cells(axes, texts, [[PLAIN] * 3, *([colour[x[:2]] for x in row] for row in rows.values())],
         ["", *rows])
  axes.set_title("A1, A2: paragraphs of one document; B1: of another", fontsize=9)
  return picture


def ernie_gram():
  """Masks of tokens against masks of n-grams."""
  noisy = np.arange(MASK)[None].repeat(2, axis=0)
  noisy[:, [3, 4, 5, 8, 9, 10]] = MASK
  texts, colours = _tokens(noisy)
  texts[0], colours[0] = _tokens(np.arange(MASK)[None])[0][0], [PLAIN] * MASK
  for units in ([3, 4, 5], [8, 9, 10]):
    for unit in units:
      colours[0][unit] = GOOD
  closed = [*WORDS[:3], "", *WORDS[6:8], "", *WORDS[11:]]
  picture, axes = _sentence(1.5)
  _cells(axes, [*texts, closed], [*colours, [PLAIN if x else HIDDEN for x in closed]],
         ["two units", "a mask a token", "a mask a unit"],
         [[False] * MASK, noisy[1] == MASK, [not x for x in closed]])
  return picture


def bitimebert():
  """Dates and signals that the tagger finds."""
  text = "The treaty was signed on 4 May 1951 and renewed after March 1963 until 1970 ."
  dates = tagger.expressions(text)
  signals = tagger.signals(text, dates)
  is_in = lambda start, spans: any(a <= start < b for a, b, *_ in spans)
  starts, words = [], text.split()
  for word in words:
    starts.append(text.index(word, starts[-1] + 1 if starts else 0))
  colours = [GOOD if is_in(x, dates) else OTHER if is_in(x, signals) else PLAIN for x in starts]
  assert len(dates) == 3 and len(temporal.SIGNALS) == 3
  picture, axes = _axes(9.2, 0.9)
  _cells(axes, [words], [colours], [""])
  axes.set_title("blue: dates, masked whole; orange: signals before them", fontsize=9)
  return picture


def annealed_attention():
  """Attention that opens from causal to full."""
  picture, axes = _axes(8.4, 2.5, 4)
  size = 16
  later = np.triu(np.ones((size, size), bool), 1)
  draw = np.asarray(jax.random.uniform(rng.root(0), (size, size)))
  for one, share in zip(axes, (0.0, 0.25, 0.6, 1.0)):
    one.imshow(~later | (draw < share), cmap="Blues", vmin=-0.2, vmax=1.6)
    one.set(title=f"step {share:.0%} of anneal_steps", xticks=[], yticks=[], xlabel="key")
    one.title.set_fontsize(8)
    one.grid(False)
  axes[0].set_ylabel("query")
  return picture


def meap_rows():
  """The context that is read and the tokens that are predicted."""
  drawn = _prepared(meap.MEAP(network=_network(), mask_id=MASK, mask_rate=0.3), 1)
  texts, colours = _tokens(drawn["inputs"])
  texts.append([*WORDS[1:], ""])
  colours.append([PLAIN] * MASK)
  picture, axes = _sentence(1.1)
  _cells(axes, texts, colours, ["reads", "predicts"],
         [[False] * MASK, [True] * (MASK - 1) + [False]])
  return picture


def layer_rates():
  """Rates of the layers under layer_decay, of twelve layers."""
  picture, axes = _axes(5.6, 2.9)
  params = {"model": {"embed": {"embedding": jnp.zeros(1)}, "head": {"kernel": jnp.zeros(1)},
                      **{f"layers_{i}": {"w": jnp.zeros(1)} for i in range(12)}}}
  names = ["embed", *(f"layers_{i}" for i in range(12)), "head"]
  for decay in (0.9, 0.8, 0.65):
    factors = optimizer.layer_factors(params, decay)["model"]
    rates = [float(jax.tree.leaves(factors[name])[0]) for name in names]
    axes.plot(range(14), rates, marker="o", ms=3, label=f"layer_decay = {decay}")
  axes.set(xticks=range(14), ylabel="rate over that of the head", yscale="log",
           xticklabels=["embeddings", *map(str, range(1, 13)), "head"])
  axes.tick_params(axis="x", labelrotation=45)
  axes.legend(fontsize=8)
  return picture


def sft():
  """Answers alone are masked; what follows them, by data.fill."""
  prompt, answer, end = ["Spell", "sun", ":"], ["s", "u", "n"], "[EOS]"
  rows = {"pad": [*prompt, *answer, end, "[PAD]", "[PAD]", "[PAD]"],
          "eos": [*prompt, *answer, end, end, end, end]}
  fill = {"pad": [PLAIN] * 3 + [GOOD] * 4 + ["#e2e4e8"] * 3, "eos": [PLAIN] * 3 + [GOOD] * 7}
  texts = [list(row) for row in rows.values()]
  picture, axes = _axes(7.4, 1.1)
  outlined = [[colour == GOOD for colour in fill[name]] for name in rows]
  _cells(axes, texts, [fill[name] for name in rows], [f"fill={name}" for name in rows], outlined)
  return picture


def rl():
  """MDPO's advantage of every step of four rollouts."""
  reward = np.array([[[1, 1, 1], [0, 0, 1], [0, 1, 0], [0, 0, 0]]], np.float32)
  credit = np.asarray(advantage.step_advantage(reward, np.ones(reward.shape, bool)))[0]
  picture, axes = _axes(5.6, 2.9)
  image = axes.imshow(credit, cmap="RdBu_r", vmin=-1.6, vmax=1.6, aspect="auto")
  for (row, column), value in np.ndenumerate(credit):
    axes.text(column, row, f"r = {reward[0, row, column]:.0f}   A = {value:+.2f}", ha="center",
              va="center", color="white" if abs(value) > 1 else "black")
  axes.set(xlabel="denoising step", xticks=range(3), yticks=range(4),
           yticklabels=["right at once", "becomes right", "over-denoised", "never right"])
  axes.grid(False)
  picture.colorbar(image, label="advantage")
  return picture


def image_texts():
  """Draws of each strategy of masking a short text."""
  picture, axes = _axes(7.4, 2.6, len(strategies.STRATEGIES))
  for one, name in zip(axes, strategies.STRATEGIES):
    keys = rng.per_example(rng.stream(rng.root(0), name), jnp.arange(8))
    drawn = strategies.draw(keys, jnp.full(8, 9), 9, (name,))
    one.imshow(np.asarray(drawn), cmap="Blues", vmin=0, vmax=1.3, aspect="auto")
    one.set(title=name, xticks=(0, 4, 8), xticklabels=(1, 5, 9), yticks=())
    one.title.set_fontsize(8)
    one.grid(False)
  axes[0].set(ylabel="draws")
  axes[2].set(xlabel="position")
  return picture


def corrupted_targets():
  """How much of a target is left at each rate of corruption, of 60 rows of 12 tokens."""
  tokens = jnp.ones((60, 12), jnp.int32)
  objective = seq2seq.Seq2Seq(network=transformer.Transformer(
      num_layers=1, width=8, num_heads=2, vocab_size=40, context_width=8).network(), mask_id=0,
                              random_ids=tuple(range(1, 40)), max_length=12)
  batch, _ = objective.prepare(None, {"tokens": tokens, "example_index": jnp.arange(60)},
                               rng.root(0), types.context(0))
  kept = np.asarray(batch["noisy_tokens"] == tokens)
  picture, axes = _axes(7.4, 2.6)
  axes.imshow(kept[np.argsort(kept.sum(axis=1))].T, cmap="Blues", vmin=0, vmax=1.3, aspect="auto")
  axes.set(xlabel="rows, by the tokens that are left", ylabel="position", yticks=(0, 11),
           yticklabels=(1, 12))
  axes.grid(False)
  return picture


def preference_loss():
  """The loss of a pair by the difference of its scores."""
  picture, axes = _axes(5.6, 2.9)
  difference = np.linspace(-40, 40, 161, dtype=np.float32)
  scores = jnp.stack([jnp.asarray(difference), jnp.zeros(161)], axis=1)
  for beta in (0.05, 0.1, 0.5):
    losses, _ = preference.pair_losses(scores, jnp.ones(161, bool), beta)
    axes.plot(difference, losses, label=f"beta = {beta}")
  axes.set(xlabel="gain of the chosen answer minus that of the rejected one, nats",
           ylabel="loss of the pair", ylim=(0, 5))
  axes.legend(fontsize=8)
  return picture


def unlearning_losses():
  """Loss of a text to forget and its slope, by its gain against the reference."""
  picture, (left, right) = _axes(7.4, 2.9, 2)
  gain = jnp.linspace(-60, 10, 141)
  for name, beta in (("ascent", 0.1), ("npo", 0.05), ("npo", 0.1), ("npo", 0.5)):
    loss = lambda x: unlearning.LOSSES[name].of_rows(x, jnp.zeros_like(x), beta)
    label = name if name == "ascent" else f"npo, beta = {beta}"
    left.plot(gain, loss(gain), label=label)
    right.plot(gain, jax.grad(lambda x: loss(x).sum())(gain), label=label)
  left.set(xlabel="gain in log-likelihood, nats", ylabel="loss", ylim=(-60, 40))
  right.set(xlabel="gain in log-likelihood, nats", ylabel="slope", ylim=(0, 2.05))
  left.legend(fontsize=8)
  return picture


def embeddings():
  """Share of each negative in the gradient, by temperature; and the bottleneck of GEM."""
  picture, (left, right) = _axes(7.6, 3.1, 2)
  cosine = jnp.linspace(-0.5, 0.9, 57)
  scores = jnp.concatenate([jnp.array([0.8]), cosine])[None]
  for temperature in (0.04, 0.1, 0.2):
    nats = lambda x: contrastive.info_nce(x / temperature, jnp.zeros(1, int), jnp.bool_(True))[0]
    share = jax.grad(lambda x: nats(x).sum())(scores)[0, 1:]
    left.plot(cosine, share / share.sum(), label=f"T = {temperature}")
  left.set(xlabel="cosine of a text with a negative", ylabel="share of the gradient",
           title="negatives by temperature")
  left.legend(fontsize=8)
  roles = jnp.array([[visibility.TEXT] * 6 + [visibility.SPECIAL] * 2 + [visibility.SUFFIX] * 5])
  seen = attention.visible(visibility.Bottleneck(roles), jnp.arange(13)[None], None)[0, 0]
  right.imshow(seen, cmap="Blues", vmin=-0.2, vmax=1.6)
  ticks = ["text"] * 6 + ["special"] * 2 + ["suffix"] * 5
  right.set(title="GEM: what a query (row) sees", xticks=[], yticks=range(13), yticklabels=ticks,
            xlabel="key")
  right.tick_params(labelsize=7)
  right.grid(False)
  return picture


def decoding():
  """Tokens written by each step, by sampler.schedule."""
  picture, axes = _axes(5.6, 2.9)
  for name in ("even", "cosine", "pow2", "pow0.5", "doubling"):
    written = counts.count_table(name, 64, 16)[64].cumsum()
    axes.plot(np.arange(17), [0, *written], marker=".", label=name)
  axes.set(xlabel="denoising step", ylabel="tokens written, of 64",
           title="sampler.schedule of the rule `confidence`, 16 steps")
  axes.legend(fontsize=8)
  return picture


def search_agents():
  """Rewards of an answer that has the gold words, by the number of words beside them."""
  picture, axes = _axes(5.6, 2.9)
  more = np.arange(9)
  for name, one in agent.REWARDS.items():
    axes.plot(more, [one("gold word" + " x" * n, "gold word") for n in more], marker="o", ms=3,
              label=name)
  axes.set(xlabel="words beside the two gold ones", ylabel="reward of the answer",
           title="task.reward")
  axes.legend(fontsize=8)
  return picture


def lora():
  """Share of the block parameters that LoRA trains, by rank, at the size of LLaDA-8B."""
  spec = presets.preset("llada_8b")
  width, hidden = spec["width"], spec["mlp_width"]
  shapes = [(width, width)] * 4 + [(width, hidden)] * 2 + [(hidden, width)]
  ranks = np.array([1, 2, 4, 8, 16, 32, 64, 128])
  picture, axes = _axes(5.6, 2.9)
  for targets, label in ((shapes, "q k v o gate up down"), (shapes[:4], "q k v o")):
    share = ranks * sum(a + b for a, b in targets) / sum(a * b for a, b in shapes)
    axes.plot(ranks, 100 * share, marker="o", ms=3, label=f"targets {label}")
  axes.set(xscale="log", yscale="log", xlabel="rank", xticks=ranks, xticklabels=ranks,
           ylabel="trained, % of the blocks' matrices", title="size of LLaDA-8B")
  axes.minorticks_off()
  axes.legend(fontsize=8)
  return picture


def speech():
  """Spans of one recording whose masks are random, and guided by confidence either way."""
  frames, count = 48, 20
  confidence = 0.5 + 0.4 * np.sin(np.arange(frames) / 5) - 0.1 * (np.arange(frames) % 3 == 0)
  ways = {"random": (0.0, 1.0), "confident": (1.0, 0.1), "least confident": (-1.0, 0.1)}
  picture = figure.Figure(figsize=(8.4, 3.2), constrained_layout=True)
  above, below = picture.subplots(2, 1, sharex=True, height_ratios=(1, 1.3))
  above.plot(np.arange(frames) + 0.5, confidence, color="#1f5fae")
  above.set(ylabel="confidence", ylim=(0, 1))
  for row, (sign, temperature) in enumerate(ways.values()):
    keys = rng.per_example(rng.root(row), jnp.arange(1))
    chosen = np.asarray(guided.spans(
        keys, jnp.asarray(sign * confidence, jnp.float32)[None], jnp.array([count]), 4, temperature,
        jnp.ones((1, frames), bool)))[0]
    for i in range(frames):
      below.add_patch(patches.Rectangle((i + 0.06, row + 0.15), 0.88, 0.7, zorder=2,
                                        facecolor=HIDDEN if chosen[i] else PLAIN))
  below.set(xlim=(0, frames), ylim=(len(ways), 0), yticks=np.arange(len(ways)) + 0.5,
            yticklabels=list(ways), xlabel="state")
  below.grid(False)
  return picture


PICTURES: dict[str, Callable[[], figure.Figure]] = {  # the page of docs/methods -> its picture
    "ar_and_adaptation": annealed_attention, "bitimebert": bitimebert,
    "block_diffusion": block_diffusion, "d3pm": d3pm, "decoding": decoding, "electra": electra,
    "embeddings": embeddings, "ernie_gram_drbert": ernie_gram, "finetuning": layer_rates,
    "genmd4": genmd4, "images": image_texts,
    "lora_int8": lora, "masked_diffusion": masked_diffusion, "meap": meap_rows,
    "mlm": mlm_variants, "preference": preference_loss, "rl": rl, "rts_slm": rts_slm,
    "search_agents": search_agents, "sedd": sedd, "sft": sft, "speech": speech,
    "structural": structural,
    "unlearning_knowledge": unlearning_losses, "windows_refinement": corrupted_targets}


def draw(name: str, folder: pathlib.Path) -> pathlib.Path:
  """Writes one picture; returns its file."""
  with matplotlib.rc_context(_STYLE):
    path = folder / f"{name}.svg"
    PICTURES[name]().savefig(path, metadata={"Date": None})
  return path


def main(argv: Sequence[str]) -> None:
  """Draws the pictures that are named, or all."""
  if unknown := [name for name in argv if name not in PICTURES]:
    raise SystemExit(f"expected some of {', '.join(PICTURES)}, got {unknown[0]!r}.")
  FOLDER.mkdir(parents=True, exist_ok=True)
  for name in argv or PICTURES:
    path = draw(name, FOLDER)
    print(f"{path.name}: {path.stat().st_size:,d} bytes", flush=True)


if __name__ == "__main__":
  main(sys.argv[1:])
