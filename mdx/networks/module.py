"""The modules of the transformer: embeddings, blocks, final norm and heads.

Contents: Module.

Convention: parameter names are those of `networks.axes`.

References: Devlin et al. 2019, arXiv:1810.04805 (token types, the transform before the head);
Clark et al. 2020, arXiv:2003.10555 (embeddings of another width, replaced token detection).
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mdx import sharding
from mdx import types
from mdx.networks import attention as attention_lib
from mdx.networks import backends
from mdx.networks import dense
from mdx.networks import disentangled as disentangled_lib
from mdx.networks import experts as experts_lib
from mdx.networks import heads
from mdx.networks import layers as layers_lib
from mdx.networks import noise as noise_lib
from mdx.networks import positions as positions_lib
from mdx.networks.adaptation import sites


class Module(nn.Module):
  """Embedding, blocks, final norm and head.

  Unstacked, every block has parameters (and a cache) of its own: in a compiled loop,
  XLA's CPU compiler copies each matrix out of a stack at every step.
  """
  spec: Any
  is_unstacked: bool = False

  def setup(self):
    spec = self.spec
    table = dict(param_dtype=jnp.float32, embedding_init=nn.initializers.normal(spec.init_std))
    embed = lambda rows: nn.Embed(rows, spec.embed_columns, **table)
    self.embed = embed(spec.padded_vocab)
    if spec.position == "learned":
      self.position_embed = embed(spec.max_length + spec.position_offset)
    if spec.token_types:
      self.token_type_embed = embed(spec.token_types)
    if spec.disentangled:
      self.relative_embed = nn.Embed(2 * spec.disentangled.span, spec.width, **table)
      if spec.disentangled.is_normed:
        self.relative_norm = layers_lib.norm(spec, None)
    if spec.embed_norm:
      self.embed_norm = layers_lib.norm(spec, None)
    if spec.embed_columns != spec.width:
      self.embed_projection = layers_lib.linear(spec, spec.width, None, use_bias=True)
    if spec.time_conditioning:
      self.time_embed = layers_lib.TimeEmbedding(spec)
    self.prompted = sites.at(spec.adaptations, "input")
    if self.prompted:
      self.prompt = dense.Own(self.prompted, sites.of_spec(spec)["input"])
    block = layers_lib.Block
    if spec.remat != "none":
      block = nn.remat(block, prevent_cse=not spec.scan_layers, policy=layers_lib.REMAT[spec.remat])
    if self.is_unstacked:
      self.layers = [block(own) for _, own, number in spec.stacks for _ in range(number)]
    else:
      for name, own, number in spec.stacks:
        setattr(self, name, nn.scan(
            block, variable_axes={"params": 0}, split_rngs={"params": True},
            in_axes=(nn.broadcast,) * 4 + (0, 0) + (nn.broadcast,) * 3, length=number,
            unroll=1 if spec.scan_layers else number)(own))
    if not spec.post_norm:
      self.final_norm = layers_lib.norm(spec, None)
    if spec.head == "rtd":
      self.head_dense = layers_lib.linear(spec, spec.width, None)
      self.rtd_head = layers_lib.linear(spec, 1, None)
      return
    if spec.head == "none":
      return
    if spec.head_transform:
      self.head_dense = layers_lib.linear(spec, spec.head_width, None,
                                          use_bias=spec.use_bias or spec.transform_bias)
      self.head_norm = layers_lib.norm(spec, None)
    if not spec.tied or spec.head_bias:
      self.lm_head = _Head(spec)

  def __call__(self, inputs, *, attention, time=None, cache=None, slots=None, noise=None,
               keep_layers=False, keep_attention=False):
    spec, positions, context = self.spec, inputs.positions, self._context(inputs)
    x = inputs.tokens if inputs.states is None else inputs.states
    length = jax.tree.leaves(cache)[0].shape[-3] if cache else (
        x.shape[1] + (0 if inputs.prefix is None else inputs.prefix.shape[1]))
    if length > spec.max_length * attention.streams:
      raise ValueError(f"a row of {length // attention.streams} tokens exceeds network.max_length "
                       f"{spec.max_length}.")
    if positions is None:
      positions = jnp.arange(length)[None]
    if spec.disentangled:
      self._check_whole("disentangled counts distances by index", attention, cache)
    if spec.conv_kernel:
      self._check_whole("conv_kernel reads neighbours by index", attention, cache)
      rules = {type(rule) for rule in attention.of_layers(spec.num_layers)}
      if rules - {attention_lib.Full, attention_lib.Local}:
        raise ValueError("network.conv_kernel reads positions on both sides, which this attention "
                         "hides; use attention full or local, or conv_kernel=0.")
    if slots is not None:
      backends.check_slots(spec.attention_backend)
    visible = attention_lib.narrowed(attention.of_layers(spec.num_layers), spec.local_radius,
                                     spec.global_every, spec.global_first)
    sight, which = attention_lib.sight(
        visible, positions, inputs.segment_ids, slots,
        with_masks=backends.uses_masks(spec.attention_backend))
    positions = attention_lib.at_slots(positions, slots)
    noise = noise if spec.has_noise else None
    if inputs.states is None:
      x = noise_lib.dropout(self._embed(inputs, positions), noise, spec.dropout, "embed")
    tables = self._ropes(positions) + (
        (self._distances(length),) if spec.disentangled else ())
    number = None if noise is None else jnp.arange(spec.num_layers)
    of_layers = layers_lib.OfLayer(which, *self._kinds(visible), number,
                                   self._read_prompt(visible, time))
    kept = ({"states": ()} if keep_layers else {}) | ({"attention": ()} if keep_attention else {})
    if is_balanced := spec.is_balanced and experts_lib.is_collecting():
      kept["load"] = ()
    x, (memory, layers, load, probs) = self._run_layers(
        x, self._condition(time), context, sight, tables, of_layers, cache, slots, noise, kept)
    if is_balanced:
      experts_lib.add(spec.experts, load)
    last = x if spec.post_norm else self.final_norm(x).astype(jnp.dtype(spec.dtype))
    return types.Hidden(last, layers, memory, probs)

  def _context(self, inputs):
    """The states that cross-attention reads, and which of them are real; None: it has none."""
    width, context = self.spec.context_width, inputs.context
    if context is None and not width:
      return None
    if context is None:
      raise ValueError("this network reads a context (network.context_width), and inputs.context "
                       "is missing; give the states that it was trained with.")
    if not width:
      raise ValueError("inputs.context is given, and this network has no cross-attention; leave it "
                       "out.")
    if context.shape[-1] != width:
      raise ValueError(f"inputs.context has states of width {context.shape[-1]}, and "
                       f"network.context_width is {width}; make them equal.")
    return context, inputs.context_mask

  @staticmethod
  def _check_whole(what, attention, cache):
    name = what.partition(" ")[0]
    if cache is not None:
      raise ValueError(f"network.{name} is of encoders, which read whole rows, and has no "
                       "cache; use sampler.cache=none.")
    if attention.streams > 1:
      raise ValueError(f"network.{what}, and this objective puts "
                       f"{attention.streams} streams into a row; use another network or objective.")

  def _distances(self, length):
    """The table of relative positions at the distances of a row, [2 L - 1, D]."""
    own, table = self.spec.disentangled, self.relative_embed.embedding
    table = sharding.constrain(table, None, None)[disentangled_lib.table_index(length, own)]
    table = self.relative_norm(table) if own.is_normed else table
    return table.astype(jnp.dtype(self.spec.dtype))

  def _embed(self, inputs, positions):
    spec, dtype = self.spec, jnp.dtype(self.spec.dtype)
    x, token_types = self._look_up(self.embed, inputs.tokens, "tensor"), inputs.token_types
    if inputs.added is not None:
      x = x + inputs.added.astype(dtype)
    if inputs.prefix is not None:
      x = jnp.concatenate([inputs.prefix.astype(dtype), x], axis=1)
    if spec.position == "learned":
      x = x + self._look_up(self.position_embed, positions + spec.position_offset, None)
    if spec.token_types:
      kinds = jnp.zeros_like(inputs.tokens) if token_types is None else token_types
      kinds = jnp.pad(kinds, ((0, 0), (x.shape[1] - kinds.shape[1], 0)))
      x = x + self._look_up(self.token_type_embed, kinds, None)
    elif token_types is not None:
      raise ValueError("this network has no token types; set network.token_types.")
    if spec.embed_norm:
      x = self.embed_norm(x).astype(dtype)
    if spec.embed_columns != spec.width:
      x = self.embed_projection(x)
    return sharding.constrain(x, "batch", "sequence", None)

  def _ropes(self, positions):
    spec = self.spec
    thetas = (spec.rope_theta, spec.local_rope_theta) if self._has_two_ropes else (spec.rope_theta,)
    return tuple(positions_lib.rope_tables(positions, spec.rotated, theta, spec.rope_scaling)
                 for theta in thetas if spec.position == "rope")

  @property
  def _has_two_ropes(self) -> bool:
    spec = self.spec
    return bool(spec.local_radius and spec.local_rope_theta not in (0.0, spec.rope_theta))

  def _kinds(self, visible):
    """Marks of the layers that are local, and of the bare first one: bool [layers], or None."""
    local = np.array([isinstance(value, attention_lib.Narrowed) for value in visible])
    first = np.arange(len(visible)) == 0
    return local if self._has_two_ropes else None, None if self.spec.first_norm else first

  def _run_layers(self, x, *rest):
    stacks = self.spec.stacks
    if not self.is_unstacked and len(stacks) == 1:
      return self.layers(x, *rest)
    *shared, of_layers, cache, slots, noise, kept = rest
    found, begin = [], 0
    for i, (name, _, number) in enumerate(stacks):
      for j in range(number) if self.is_unstacked else (slice(number),):
        layer = self.layers[begin + j] if self.is_unstacked else getattr(self, name)
        place = begin + j if self.is_unstacked else slice(begin, begin + number)
        of_layer = jax.tree.map(lambda kinds, place=place: kinds[place], of_layers)
        memory = cache[place if self.is_unstacked else i] if cache else cache
        x, own = layer(x, *shared, of_layer, memory, slots, noise, kept)
        found.append(own)
      begin += number
    memory, layers, load, probs = zip(*found)
    load = [one for one in load if one is not None]
    join = (lambda *xs: jnp.stack(xs)) if self.is_unstacked else (lambda *xs: jnp.concatenate(xs))
    return x, (None if cache is None else memory, join(*layers) if "states" in kept else None,
               jax.tree.map(join, *load) if load else None,
               join(*probs) if "attention" in kept else None)

  def _read_prompt(self, visible, time):
    """Keys and values of the prompt, at positions -P .. -1, in all layers; None: it has none."""
    if not self.prompted:
      return None
    spec, num_layers = self.spec, self.spec.num_layers
    states = jnp.concatenate([one.prompt(leaves) for one, leaves in self.prompt()])
    rules = [value.inner if isinstance(value, attention_lib.Narrowed) else value
             for value in visible]
    is_causal = all(isinstance(rule, attention_lib.Causal) for rule in rules)
    kind = attention_lib.Causal() if is_causal else attention_lib.Full()
    positions = jnp.arange(-len(states), 0)[None]
    sight, which = attention_lib.sight(kind.of_layers(num_layers), positions + len(states), None,
                                       None, with_masks=True)
    x = jnp.broadcast_to(states, (1 if time is None else len(time), *states.shape))
    of_layers = layers_lib.OfLayer(which, *self._kinds(visible))
    _, (memory, *_) = self._run_layers(
        x.astype(jnp.dtype(spec.dtype)), self._condition(time), None, sight, self._ropes(positions),
        of_layers, (), None, None, {})
    return memory if not self.is_unstacked else jax.tree.map(lambda *y: jnp.stack(y), *memory)

  def _look_up(self, embed, index, rows_axis):
    # From a table whose width is cut (fsdp), XLA replicates the rows of the whole batch.
    table = embed.embedding.astype(jnp.dtype(self.spec.dtype))
    return jnp.take(sharding.constrain(table, rows_axis, None), index, axis=0)

  def embedded(self, tokens):
    """Rows of the embedding table, [..., E]."""
    return self._look_up(self.embed, tokens, "tensor")

  def _condition(self, time):
    if self.spec.time_conditioning and time is None:
      raise ValueError("network.time_conditioning needs an objective that passes `time`.")
    return self.time_embed(time) if self.spec.time_conditioning else None

  def logits(self, hidden):
    """Scores of all ids, float32 [..., V] (padding columns are -1e30); of "rtd" one, [...]."""
    spec = self.spec
    if spec.head == "none":
      return hidden
    if spec.head == "rtd":
      hidden = layers_lib.ACTIVATIONS[spec.mlp](self.head_dense(hidden))
      return self.rtd_head(hidden)[..., 0].astype(jnp.float32)
    if spec.head_transform:
      hidden = self.head_norm(layers_lib.ACTIVATIONS[spec.mlp](self.head_dense(hidden)))
      hidden = hidden.astype(jnp.dtype(spec.dtype))
    kernel = self.embed.embedding.T if spec.tied else self.lm_head.kernel
    scores = jnp.matmul(hidden, kernel.astype(hidden.dtype), preferred_element_type=jnp.float32)
    if spec.head_bias:
      scores = scores + jnp.expand_dims(self.lm_head.bias, tuple(range(scores.ndim - 1)))
    if spec.padded_vocab > spec.vocab_size:
      scores = jnp.where(jnp.arange(spec.padded_vocab) < spec.vocab_size, scores, heads.NEVER)
    return scores

  def init_all(self, tokens, *, attention) -> Any:
    """Touches every parameter once."""
    time = jnp.zeros(tokens.shape[:1]) if self.spec.time_conditioning else None
    width = self.spec.context_width
    context = jnp.zeros((*tokens.shape, width)) if width else None
    inputs = types.Inputs(tokens, context=context)
    return self.logits(self(inputs, attention=attention, time=time).last)


class _Head(nn.Module):
  """Holds the parameters of an untied head, and of a bias."""
  spec: Any

  def setup(self):
    spec = self.spec
    if not spec.tied:
      self.kernel = self.param("kernel", nn.initializers.lecun_normal(),
                               (spec.head_width, spec.padded_vocab), jnp.float32)
    if spec.head_bias:
      self.bias = self.param("bias", nn.initializers.zeros, (spec.padded_vocab,), jnp.float32)
