"""Decodes for the tests of samplers: models that cost nothing, programs that compile fast.

Contents: LEARNED (rules that need a model trained for them), QUICK, decode, on_joint, keys, Memory, proposal, build, model.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from mdx import samplers
from mdx import types
from mdx.networks import attention as attention_lib
from mdx.networks import transformer
from mdx.objectives.diffusion import masked as diffusion
from mdx.samplers import decoder
from mdx.samplers import loop
from mdx.utils import rng
from mdx.utils import tree

MASK_ID, EOS_ID, VOCAB = 0, 1, 7  # of Memory and of `model`
QUICK = {"xla_backend_optimization_level": 0}  # halves the compile time
LEARNED = ("joint", "uniform")
_COMPILED = {}


def keys(num_rows, seed=0):
  """Typed keys of rows."""
  return rng.per_example(rng.root(seed), jnp.arange(num_rows))


def decode(answer, sampler, canvas, *, row_index=None, seed=0, start=0, record="none",
           params=None, options=QUICK, is_shifted=False, **rows):
  """`loop.decode` in a jit that is kept; `rows`: positions, segment_ids.

  `answer` takes (params, request); it is kept by identity. The parameters of a learned rule are new.
  """
  canvas = jnp.asarray(canvas, jnp.int32)
  row_index = jnp.arange(len(canvas)) if row_index is None else jnp.asarray(row_index)
  rows = {k: jnp.asarray(v) for k, v in rows.items() if v is not None}
  name = (answer, repr(sampler), start, record, is_shifted)
  if name not in _COMPILED:
    _COMPILED[name] = jax.jit(
        lambda params, canvas, key, row_index, rows: loop.decode(
            functools.partial(answer, params), sampler, canvas, key=key, row_index=row_index,
            params={part: value.init(rng.root(7)) for part, value in sampler.parts().items()},
            start=start, record=record, is_shifted=is_shifted, **rows), compiler_options=options)
  return jax.device_get(_COMPILED[name](params, canvas, rng.root(seed), row_index, rows))


def on_joint(objective):
  """The `answer` of an objective on an oracle's network, which has no parameters."""
  return _On(objective)


@dataclasses.dataclass(frozen=True, eq=False)
class _On:
  objective: object

  def __call__(self, params, request):
    return self.objective.answer({"model": {}}, request)


@dataclasses.dataclass(frozen=True, eq=False)
class Memory:
  """A model of one layer: the logits of a place sum what every visible place remembers.

  What a place remembers is its token when it was last run, so a stale cache shows.

  Attributes:
    attention: which places are seen.
    scale: of the logits.
    rule: name of the decoding rule that suits it.
  """
  attention: object = attention_lib.Full()
  scale: float = 1.0
  rule: str = "ancestral"

  def reader(self):
    """For `samplers.check`."""
    return types.Reader(self.answer, self.attention, sampler=self.rule,
                        by_tokens=lambda params, request, clean: self.answer(
                            params, request._replace(tokens=clean)))

  def tables(self):
    """Logits of tokens given a token, [V, V], and a factor for each distance, [128]."""
    draw = np.random.default_rng(4)
    return draw.normal(size=(VOCAB, VOCAB)), draw.normal(size=128)

  def answer(self, params, request):
    """Logits of the targets, and the memory [1, B, S]."""
    del params
    tokens, slots = request.tokens, request.slots
    rows, length = tokens.shape
    positions = jnp.broadcast_to(jnp.arange(length)[None] if request.positions is None
                                 else request.positions, tokens.shape)
    if slots is None:
      slots, memory = jnp.broadcast_to(jnp.arange(length)[None], tokens.shape), tokens
    else:
      memory = request.cache[0][:, :, 0, 0].at[jnp.arange(rows)[:, None], slots].set(
          jnp.take_along_axis(tokens, slots, axis=1, mode="clip"), mode="drop")
    targets = request.targets
    place = slots if targets is None else jnp.take_along_axis(slots, targets, axis=1, mode="clip")
    place = jnp.minimum(place, length - 1)
    mask = attention_lib.visible(self.attention, positions, request.segment_ids, place)
    said, loud = (jnp.asarray(t, jnp.float32) for t in self.tables())
    distance = positions[:, None, :] - jnp.take_along_axis(positions, place, axis=1)[..., None]
    weight = loud[distance + 64] * (1.0 if mask is None else mask[:, 0])
    logits = self.scale * jnp.einsum("bws,bsv->bwv", weight, said[memory])
    logits = jnp.where(jnp.arange(VOCAB) == MASK_ID, 5.0, logits)
    return types.Answer(logits, cache=None if request.cache is None else (memory[:, :, None, None],))


def build(objective, also=(), **fields):
  """`samplers.build` with the ids of this module; fields of rules `also` may be set."""
  fields = samplers.select(fields, also)
  return samplers.build(fields, objective, mask_id=MASK_ID, eos_id=EOS_ID)


def proposal(confidence, is_open=None, logits=None, **fields):
  """A `decoder.Proposal` at the first W places of rows."""
  confidence = jnp.asarray(confidence, jnp.float32)
  rows, width = confidence.shape
  where = jnp.broadcast_to(jnp.arange(width, dtype=jnp.int32), confidence.shape)
  logits = jnp.zeros((rows, width, VOCAB)) if logits is None else jnp.asarray(logits, jnp.float32)
  is_open = np.ones(confidence.shape, bool) if is_open is None else is_open
  values = dict(index=where, positions=where, is_open=jnp.asarray(is_open),
                current=jnp.where(is_open, MASK_ID, 2), tokens=jnp.full_like(where, 3),
                confidence=confidence, probability=confidence, logits=logits)
  return decoder.Proposal(**values | fields)


@functools.cache
def model(attention=attention_lib.Full(), seed=0, shift=False, **fields):
  """A transformer of two layers with random parameters, and its objective."""
  spec = transformer.Transformer(**dict(
      num_layers=2, width=16, num_heads=2, mlp_width=24, vocab_size=VOCAB, vocab_multiple=1,
      max_length=64, scan_layers=False, tied=False) | fields)
  name = {"Full": "full", "BlockCausal": "block_causal", "Causal": "causal"}[
      type(attention).__name__]
  objective = diffusion.MaskedDiffusion(
      network=spec.network(), mask_id=MASK_ID, shift=shift,
      attention=dict(name=name, **dataclasses.asdict(attention)))
  draw = np.random.default_rng(seed)
  params = tree.map_with_path(
      lambda path, x: jnp.asarray(draw.normal(size=x.shape) / (
          x.shape[-2] ** 0.5 / 2 if path.endswith("kernel") else 1), jnp.float32),
      jax.eval_shape(objective.init, rng.root(0)))
  return objective, params
