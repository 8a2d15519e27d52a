"""The one transformer: encoders, autoregressive and diffusion models.

Contents: Transformer (hyper-parameters, builds a `types.Network`), NETWORKS.

Convention: pre-norm residual blocks; parameters of the blocks are stacked
along a leading axis of size `num_layers` (`nn.scan`), whether the loop over
layers is compiled as a loop or unrolled. The network knows nothing of noise:
visibility comes in as a value, time as an optional condition.

References: Vaswani et al. 2017, arXiv:1706.03762; Shazeer 2020,
arXiv:2002.05202 (gated MLP); Peebles & Xie 2023, arXiv:2212.09748 (adaLN-zero
time conditioning).
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mdx import sharding
from mdx import types
from mdx.networks import attention as attention_lib
from mdx.networks import backends
from mdx.networks import dense
from mdx.networks import positions as positions_lib

_NEVER = -1e30  # logit of a padding column: probability exactly 0
REMAT = {
    "none": None,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}
_ACTIVATIONS = {"swiglu": nn.silu, "geglu": nn.gelu, "gelu": nn.gelu, "relu": nn.relu}
_GATED = ("swiglu", "geglu")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Transformer:
  """Hyper-parameters of the transformer.

  Attributes:
    num_layers: number of blocks.
    width: residual width D.
    num_heads: query heads; divides `width` unless `head_dim` is given.
    num_kv_heads: key and value heads (grouped queries); 0 = `num_heads`.
    head_dim: width of a head; 0 = width / num_heads.
    mlp_width: hidden width of the MLP; 0 = 4 D, or 8/3 D rounded up to 64 if gated.
    mlp: "swiglu", "geglu", "gelu" (both with the tanh form) or "relu".
    norm: "rms" or "layer".
    norm_eps: epsilon of the norm.
    position: "rope", "learned" or "none".
    rope_theta: base of the rotary frequencies.
    max_length: longest row (rows of the learned position table).
    use_bias: biases in all linear maps but the head.
    tied: the head is the transposed embedding.
    head_bias: a bias per id in the head.
    time_conditioning: adaLN-zero modulation of the blocks by t.
    vocab_size: number of ids; 0 = the tokenizer's.
    vocab_multiple: the table is padded to a multiple of this.
    dtype: of activations and matmuls; parameters, norms and softmax are float32.
    scan_layers: compile one block and loop, instead of unrolling all.
    remat: "none", "dots" (keep matmul outputs) or "full" (recompute blocks).
    init_std: standard deviation of the embedding at initialisation.
    attention_backend: "xla" (anywhere), "cudnn" (GPU, bfloat16) or "splash" (TPU).
  """
  num_layers: int
  width: int
  num_heads: int
  num_kv_heads: int = 0
  head_dim: int = 0
  mlp_width: int = 0
  mlp: str = "swiglu"
  norm: str = "rms"
  norm_eps: float = 1e-5
  position: str = "rope"
  rope_theta: float = 10000.0
  max_length: int = 1024
  use_bias: bool = False
  tied: bool = True
  head_bias: bool = False
  time_conditioning: bool = False
  vocab_size: int = 0
  vocab_multiple: int = 8
  dtype: str = "float32"
  scan_layers: bool = True
  remat: str = "none"
  init_std: float = 0.02
  attention_backend: str = "xla"

  def __post_init__(self):
    for field, choices in (("mlp", _ACTIVATIONS), ("norm", ("rms", "layer")), ("remat", REMAT),
                           ("position", ("rope", "learned", "none")),
                           ("dtype", ("float32", "bfloat16")),
                           ("attention_backend", backends.BACKENDS)):
      if getattr(self, field) not in choices:
        raise ValueError(f"network.{field} is {getattr(self, field)!r}; choose from "
                         f"{', '.join(choices)}.")
    for field in ("num_layers", "width", "num_heads", "vocab_size", "max_length", "vocab_multiple"):
      if getattr(self, field) < 1:
        raise ValueError(f"network.{field} must be positive, got {getattr(self, field)}.")
    for field in ("num_kv_heads", "head_dim", "mlp_width", "init_std"):
      if getattr(self, field) < 0:
        raise ValueError(f"network.{field} must not be negative, got {getattr(self, field)}.")
    if not self.head_dim and self.width % self.num_heads:
      raise ValueError(f"network.num_heads {self.num_heads} does not divide width {self.width}; "
                       "use a divisor, or set network.head_dim.")
    if self.num_heads % self.kv_heads:
      raise ValueError(f"network.num_kv_heads {self.kv_heads} does not divide num_heads "
                       f"{self.num_heads}; use a divisor.")
    if self.position == "rope" and self.per_head % 2:
      raise ValueError(f"rotary positions need an even head width, got {self.per_head}.")

  @property
  def per_head(self) -> int:
    """Width of one head."""
    return self.head_dim or self.width // self.num_heads

  @property
  def kv_heads(self) -> int:
    """Number of key and value heads."""
    return self.num_kv_heads or self.num_heads

  @property
  def hidden_width(self) -> int:
    """Hidden width of the MLP."""
    default = -(-8 * self.width // 3 // 64) * 64 if self.mlp in _GATED else 4 * self.width
    return self.mlp_width or default

  @property
  def residual_scale(self) -> float:
    """Variance scale of a branch's last map at initialisation (Radford et al. 2019)."""
    return 0.5 / self.num_layers

  @property
  def padded_vocab(self) -> int:
    """Rows of the embedding table."""
    return math.ceil(self.vocab_size / self.vocab_multiple) * self.vocab_multiple

  def matmul_params(self) -> int:
    """Parameters of a block's matrices times layers, for counting FLOPs."""
    attention = self.width * self.per_head * 2 * (self.num_heads + self.kv_heads)
    mlp = (3 if self.mlp in _GATED else 2) * self.width * self.hidden_width
    return self.num_layers * (attention + mlp)

  def network(self) -> types.Network:
    """Returns the pure functions of this transformer.

    Raises:
      ValueError: an attention back end that this machine does not have.
    """
    backends.check(self.attention_backend, self.dtype)
    module, flat_module = _Module(self), _Module(self, is_unstacked=True)
    module_of = lambda params: module if "layers" in params else flat_module

    def init(key):
      return module.init(key, jnp.zeros((1, 1), jnp.int32), attention=attention_lib.Full(),
                         method="init_all")["params"]

    def encode(params, tokens, *, attention, positions=None, segment_ids=None, time=None, **memory):
      return module_of(params).apply({"params": params}, tokens, attention=attention,
                                     positions=positions, segment_ids=segment_ids, time=time,
                                     **memory)

    def head(params, hidden, name="lm"):
      if name != "lm":
        raise ValueError(f"the transformer has the head 'lm', not {name!r}.")
      return module_of(params).apply({"params": params}, hidden, method="logits")

    def unstack(params):
      if self.scan_layers:
        return params
      flat = {k: v for k, v in params.items() if k != "layers"}
      return flat | {f"layers_{i}": jax.tree.map(lambda x, i=i: x[i], params["layers"])
                     for i in range(self.num_layers)}

    return types.Network(init=init, encode=encode, head=head, vocab_size=self.vocab_size,
                         unstack=unstack)


NETWORKS = {"transformer": Transformer}


def _dense(spec: Transformer, features: int, name: str, *, use_bias=None,
           scale: float = 1.0) -> dense.Dense:
  init = nn.initializers.variance_scaling(scale, "fan_in", "truncated_normal")
  return dense.Dense(features, use_bias=spec.use_bias if use_bias is None else use_bias,
                     dtype=jnp.dtype(spec.dtype), name=name,
                     kernel_init=init if scale else nn.initializers.zeros)


def _norm(spec: Transformer, name: str):
  cls = nn.RMSNorm if spec.norm == "rms" else nn.LayerNorm
  return cls(epsilon=spec.norm_eps, dtype=jnp.float32, param_dtype=jnp.float32, name=name)


class _Attention(nn.Module):
  """Multi-head attention with grouped keys and values."""
  spec: Transformer

  @nn.compact
  def __call__(self, x, sight, which, rope, cache, slots):
    spec, head = self.spec, self.spec.per_head
    batch, length, _ = x.shape

    def project(name, heads):
      y = _dense(spec, heads * head, name)(x).reshape(batch, length, heads, head)
      return sharding.constrain(y, "batch", None, "tensor", None)

    query, key, value = (project("q", spec.num_heads), project("k", spec.kv_heads),
                         project("v", spec.kv_heads))
    if rope is not None:
      query, key = (positions_lib.rotate(y, *rope) for y in (query, key))
    if cache:
      key, value = (attention_lib.write(old, slots, new)
                    for old, new in zip(cache, (key, value)))
    mixed = backends.attend(spec.attention_backend, query, key, value, sight, which)
    mixed = mixed.reshape(batch, length, -1)
    return _dense(spec, spec.width, "o", scale=spec.residual_scale)(mixed), (key, value)


class _Mlp(nn.Module):
  """Two-layer perceptron, gated or plain."""
  spec: Transformer

  @nn.compact
  def __call__(self, x):
    spec = self.spec
    up = _dense(spec, spec.hidden_width, "up")(x)
    if spec.mlp in _GATED:
      gate = _dense(spec, spec.hidden_width, "gate")(x)
      hidden = _ACTIVATIONS[spec.mlp](gate) * up
    else:
      hidden = _ACTIVATIONS[spec.mlp](up)
    hidden = sharding.constrain(hidden, "batch", "sequence", "tensor")
    return _dense(spec, spec.width, "down", scale=spec.residual_scale)(hidden)


class _Block(nn.Module):
  """Pre-norm block; with `condition` its branches are modulated by time."""
  spec: Transformer

  @nn.compact
  def __call__(self, x, condition, sight, rope, which, cache, slots):
    spec, dtype = self.spec, jnp.dtype(self.spec.dtype)
    if condition is None:
      modulation = ((0.0, 0.0, 1.0),) * 2
    else:
      values = _dense(spec, 6 * spec.width, "modulation", use_bias=True, scale=0.0)(condition)
      values = jnp.split(values.astype(jnp.float32), 6, axis=-1)
      modulation = (values[:3], values[3:])

    def branch(name, layer, x, shift, scale, gate):
      y = _norm(spec, f"{name}_norm")(x)
      y, *rest = layer((y * (1 + scale) + shift).astype(dtype) if condition is not None
                       else y.astype(dtype))
      return x + (gate * y).astype(dtype) if condition is not None else x + y, *rest

    x, memory = branch(
        "attention", lambda y: _Attention(spec, name="attention")(
            y, sight, which, rope, cache, slots), x, *modulation[0])
    x, = branch("mlp", lambda y: (_Mlp(spec, name="mlp")(y),), x, *modulation[1])
    return sharding.constrain(x, "batch", "sequence", None), memory if cache is not None else None


class _TimeEmbedding(nn.Module):
  """Sinusoids of t in [0, 1] through two layers: [B] -> [B, 1, D]."""
  spec: Transformer

  @nn.compact
  def __call__(self, time):
    half = 128
    frequency = jnp.exp(-math.log(10000.0) * jnp.arange(half) / half)
    frequency = jnp.expand_dims(frequency, tuple(range(time.ndim)))
    angle = 1000.0 * time.astype(jnp.float32)[..., None] * frequency
    x = jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)
    x = _dense(self.spec, self.spec.width, "in", use_bias=True)(x)
    x = nn.silu(_dense(self.spec, self.spec.width, "out", use_bias=True)(nn.silu(x)))
    return x[:, None, :] if time.ndim == 1 else x


class _Module(nn.Module):
  """Embedding, blocks, final norm and head.

  Unstacked, every block has parameters (and a cache) of its own: in a compiled loop,
  XLA's CPU compiler copies each matrix out of a stack at every step.
  """
  spec: Transformer
  is_unstacked: bool = False

  def setup(self):
    spec = self.spec
    table = dict(param_dtype=jnp.float32, embedding_init=nn.initializers.normal(spec.init_std))
    self.embed = nn.Embed(spec.padded_vocab, spec.width, **table)
    if spec.position == "learned":
      self.position_embed = nn.Embed(spec.max_length, spec.width, **table)
    if spec.time_conditioning:
      self.time_embed = _TimeEmbedding(spec)
    block = _Block
    if spec.remat != "none":
      block = nn.remat(block, prevent_cse=not spec.scan_layers, policy=REMAT[spec.remat])
    if self.is_unstacked:
      self.layers = [block(spec) for _ in range(spec.num_layers)]
    else:
      self.layers = nn.scan(
          block, variable_axes={"params": 0}, split_rngs={"params": True},
          in_axes=(nn.broadcast,) * 3 + (0, 0, nn.broadcast), length=spec.num_layers,
          unroll=1 if spec.scan_layers else spec.num_layers)(spec)
    self.final_norm = _norm(spec, None)
    if not spec.tied:
      self.lm_head = _Head(spec)
    elif spec.head_bias:
      self.lm_head = _Head(spec, has_kernel=False)

  def __call__(self, tokens, *, attention, positions=None, segment_ids=None, time=None,
               cache=None, slots=None):
    spec = self.spec
    length = jax.tree.leaves(cache)[0].shape[-3] if cache else tokens.shape[1]
    if length > spec.max_length * attention.streams:
      raise ValueError(f"a row of {length // attention.streams} tokens exceeds network.max_length "
                       f"{spec.max_length}.")
    if positions is None:
      positions = jnp.arange(length)[None]
    if slots is not None:
      backends.check_slots(spec.attention_backend)
    sight, which = attention_lib.sight(
        attention, spec.num_layers, positions, segment_ids, slots,
        with_masks=backends.uses_masks(spec.attention_backend))
    positions = attention_lib.at_slots(positions, slots)
    x = self._look_up(self.embed, tokens, "tensor")
    if spec.position == "learned":
      x = x + self._look_up(self.position_embed, positions, None)
    x = sharding.constrain(x, "batch", "sequence", None)
    rope = (positions_lib.rope_tables(positions, spec.per_head, spec.rope_theta)
            if spec.position == "rope" else None)
    condition = self._condition(time)
    x, memory = self._run_layers(x, condition, sight, rope, which, cache, slots)
    hidden = self.final_norm(x).astype(jnp.dtype(spec.dtype))
    return hidden if cache is None else (hidden, memory)

  def _run_layers(self, x, *rest):
    if not self.is_unstacked:
      return self.layers(x, *rest)
    *shared, which, cache, slots = rest
    memory = []
    for i, layer in enumerate(self.layers):
      x, new = layer(x, *shared, None if which is None else which[i],
                     cache[i] if cache else cache, slots)
      memory.append(new)
    return x, tuple(memory)

  def _look_up(self, embed, index, rows_axis):
    # From a table whose width is cut (fsdp), XLA replicates the rows of the whole batch.
    table = embed.embedding.astype(jnp.dtype(self.spec.dtype))
    return jnp.take(sharding.constrain(table, rows_axis, None), index, axis=0)

  def _condition(self, time):
    if self.spec.time_conditioning and time is None:
      raise ValueError("network.time_conditioning needs an objective that passes `time`.")
    return self.time_embed(time) if self.spec.time_conditioning else None

  def logits(self, hidden):
    """Scores of all ids, float32 [..., V]; padding columns are -1e30."""
    spec = self.spec
    kernel = self.embed.embedding.T if spec.tied else self.lm_head.kernel
    scores = jnp.matmul(hidden, kernel.astype(hidden.dtype), preferred_element_type=jnp.float32)
    if spec.head_bias:
      scores = scores + jnp.expand_dims(self.lm_head.bias, tuple(range(scores.ndim - 1)))
    if spec.padded_vocab > spec.vocab_size:
      scores = jnp.where(jnp.arange(spec.padded_vocab) < spec.vocab_size, scores, _NEVER)
    return scores

  def init_all(self, tokens, *, attention) -> Any:
    """Touches every parameter once."""
    time = jnp.zeros(tokens.shape[:1]) if self.spec.time_conditioning else None
    return self.logits(self(tokens, attention=attention, time=time))


class _Head(nn.Module):
  """Holds the parameters of an untied head or of a bias."""
  spec: Transformer
  has_kernel: bool = True

  def setup(self):
    spec = self.spec
    if self.has_kernel:
      self.kernel = self.param("kernel", nn.initializers.lecun_normal(),
                                (spec.width, spec.padded_vocab), jnp.float32)
    if spec.head_bias:
      self.bias = self.param("bias", nn.initializers.zeros, (spec.padded_vocab,), jnp.float32)
