"""The one transformer: encoders, autoregressive and diffusion models.

Contents: Transformer (hyper-parameters, builds a `types.Network`), NETWORKS.

Convention: parameters of the blocks are stacked along a leading axis of size `num_layers`
(`nn.scan`), whether the loop over layers is compiled as a loop or unrolled. The network knows
nothing of noise: visibility comes in as a value, time as an optional condition.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from mdx import config as config_lib
from mdx import types
from mdx.networks import adaptation
from mdx.networks import attention as attention_lib
from mdx.networks import axes
from mdx.networks import backends
from mdx.networks import disentangled as disentangled_lib
from mdx.networks import experts as experts_lib
from mdx.networks import layers
from mdx.networks import module as module_lib
from mdx.networks import positions as positions_lib
from mdx.networks.adaptation import sites


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
    conv_kernel: positions of the depthwise convolution of conformer blocks: half an MLP, attention,
      the convolution, the other half and a norm (Gulati et al. 2020, arXiv:2005.08100; a norm of
      the network's kind stands for batch norm). Odd; 0 = blocks of attention and an MLP.
      Adaptations of the MLP change the second half.
    experts: a mixture of experts in place of the MLP, a table of fields of
      `networks.experts.Experts`; None or {} = the MLP.
    mlp: "swiglu", "geglu", "geglu_erf" or "reglu" (gated), "gelu", "gelu_erf", "relu" or "swish";
      with "_erf" the exact form of GELU, else that with tanh.
    norm: "rms" or "layer".
    norm_eps: epsilon of the norms.
    norm_bias: whether norms of kind "layer" have a bias.
    post_norm: norms follow the residual sums, and there is no final one (BERT).
    first_norm: whether the first block has a norm before attention (not in ModernBERT).
    qk_norm: an RMS norm of each query and key head (Qwen3).
    embed_norm: a norm of the embeddings.
    embed_width: width of the embeddings, projected to `width`; 0 = `width` (ELECTRA).
    token_types: kinds of tokens that have an embedding of their own; 0 = none (BERT).
    position: "rope", "learned" or "none".
    disentangled: scores by relative positions, a table of fields of
      `networks.disentangled.Disentangled` (DeBERTa); None or {} = none.
    rope_theta: base of the rotary frequencies.
    rope_scaling: ("linear", factor), ("llama3", factor, low, high, original length), ("yarn",
      factor, original length, fast, slow, attention factor) or ("longrope", original length,
      attention factor, and two factors for each of the rotary frequencies, first all of documents
      up to the original length, then those of longer ones): slower rotary frequencies for longer
      documents; () = none.
    rotary_share: share of the entries of a head that are rotated, the first ones.
    local_rope_theta: base of the frequencies in layers with a `local_radius`; 0 = `rope_theta`.
    local_radius: distance that layers see on both sides, beside what attention says; 0 = all.
    global_every: of every so many layers the first has no `local_radius`; 0 = none is so.
    global_first: so many first layers have no `local_radius` (Qwen2).
    max_length: longest row (rows of the learned position table).
    position_offset: rows of that table before position 0, never read (RoBERTa).
    use_bias: biases in all linear maps but the head.
    qkv_bias: biases of queries, keys and values, without others (Qwen2).
    o_bias: a bias of attention's output.
    mlp_bias: biases of the MLP.
    head: "lm" (a score for every id), "rtd" (one, that a token was replaced; ELECTRA) or "none".
    head_transform: a linear map, the activation and a norm before the head (BERT).
    transform_bias: a bias of that linear map, without others.
    tied: the head is the transposed embedding.
    head_bias: a bias per id in the head.
    head_chunk: positions of a device that have logits at a time in losses of tokens, which are
      computed again in the backward pass: memory for time, with large vocabularies; 0 = all.
    attention_chunk: queries that have scores at a time in self-attention of back end xla, which are
      computed again in the backward pass: memory linear in the length; 0 = all.
    time_conditioning: adaLN-zero modulation of the blocks by t.
    context_width: width of the states that the blocks read by cross-attention between attention and
      MLP, whose output begins at zero; 0 = no cross-attention.
    vocab_size: number of ids; 0 = the tokenizer's.
    vocab_multiple: the table is padded to a multiple of this.
    dtype: of activations and matmuls; parameters, norms and softmax are float32.
    scan_layers: compile one block and loop, instead of unrolling all.
    remat: "none", "dots" (keep matmul outputs), "attention" (keep those of attention only) or
      "full" (recompute blocks).
    init_std: standard deviation of the embedding at initialisation.
    attention_backend: "xla" (anywhere), "cudnn" (GPU, bfloat16) or "splash" (TPU).
    dropout: share of the entries of the embeddings, and of what attention and MLP add, that is
      dropped in training.
    attention_dropout: share of the attention probabilities that is; back end xla alone has it.
    attention_softcap: scores of self-attention are cap * tanh(scores / cap) (Gemma 2); 0 = none.
    logit_softcap: likewise the logits of the head; 0 = none.
    drophead: share of whole heads that is (Zhou et al. 2020, arXiv:2004.13342).
    adaptations: changes of the blocks, `networks.adaptation` values or tables of them,
      dict(name=..., **fields) each.
  """
  num_layers: int
  width: int
  num_heads: int
  num_kv_heads: int = 0
  head_dim: int = 0
  mlp_width: int = 0
  conv_kernel: int = 0
  experts: Any = None
  mlp: str = "swiglu"
  norm: str = "rms"
  norm_eps: float = 1e-5
  norm_bias: bool = True
  post_norm: bool = False
  first_norm: bool = True
  qk_norm: bool = False
  embed_norm: bool = False
  embed_width: int = 0
  token_types: int = 0
  position: str = "rope"
  disentangled: Any = None
  rope_theta: float = 10000.0
  rope_scaling: tuple[Any, ...] = ()
  rotary_share: float = 1.0
  local_rope_theta: float = 0.0
  local_radius: int = 0
  global_every: int = 0
  global_first: int = 0
  max_length: int = 1024
  position_offset: int = 0
  use_bias: bool = False
  qkv_bias: bool = False
  o_bias: bool = False
  mlp_bias: bool = False
  head: str = "lm"
  head_transform: bool = False
  transform_bias: bool = False
  tied: bool = True
  head_bias: bool = False
  head_chunk: int = 0
  attention_chunk: int = 0
  time_conditioning: bool = False
  context_width: int = 0
  vocab_size: int = 0
  vocab_multiple: int = 8
  dtype: str = "float32"
  scan_layers: bool = True
  remat: str = "none"
  init_std: float = 0.02
  attention_backend: str = "xla"
  dropout: float = 0.0
  attention_dropout: float = 0.0
  drophead: float = 0.0
  attention_softcap: float = 0.0
  logit_softcap: float = 0.0
  adaptations: tuple[Any, ...] = ()

  def __post_init__(self):
    config_lib.check(
        self, "network", choices=dict(
            mlp=layers.ACTIVATIONS, norm=("rms", "layer"), remat=layers.REMAT,
            position=("rope", "learned", "none"), dtype=("float32", "bfloat16"),
            head=("lm", "rtd", "none"), attention_backend=backends.BACKENDS),
        at_least=dict.fromkeys(("num_layers", "width", "num_heads", "vocab_size", "max_length",
                                "vocab_multiple"), 1)
        | dict.fromkeys(("num_kv_heads", "head_dim", "mlp_width", "init_std", "embed_width",
                         "token_types", "position_offset", "local_radius", "global_every",
                         "global_first", "local_rope_theta", "head_chunk", "conv_kernel",
                         "context_width", "attention_softcap", "logit_softcap",
                         "attention_chunk"), 0),
        between=dict.fromkeys(("dropout", "attention_dropout", "drophead"), "[0, 1)")
        | {"rotary_share": "(0, 1]", "num_layers": "[1, 10000]", "num_heads": "[1, 100000]",
           "width": "[1, 10000000]"})
    if not self.head_dim and self.width % self.num_heads:
      raise ValueError(f"network.num_heads {self.num_heads} does not divide width {self.width}; "
                       "use a divisor, or set network.head_dim.")
    if self.num_heads % self.kv_heads:
      raise ValueError(f"network.num_kv_heads {self.kv_heads} does not divide num_heads "
                       f"{self.num_heads}; use a divisor.")
    if self.position == "rope" and (self.rotated % 2 or not self.rotated):
      raise ValueError(f"rotary positions need an even head width, got {self.rotated}.")
    object.__setattr__(self, "experts", experts_lib.built(self.experts))
    object.__setattr__(self, "disentangled", disentangled_lib.built(self.disentangled))
    object.__setattr__(self, "rope_scaling", tuple(self.rope_scaling))
    object.__setattr__(self, "adaptations", adaptation.build(self.adaptations))
    positions_lib.check_scaling(self.rope_scaling, self.rotated)
    for is_wrong, message in (
        (self.attention_chunk and (self.attention_dropout or self.attention_backend != "xla"),
         "attention_chunk is of the attention_backend xla without attention_dropout, which draws "
         "for whole rows; use 0."),
        (self.attention_dropout and self.attention_backend != "xla", "attention_dropout needs the "
         f"attention_backend xla, {self.attention_backend} has none; use xla, or drophead."),
        (any(sites.at(self.adaptations, name) for name in ("memory", "input"))
         and self.attention_backend != "xla", "adaptations "
         f"of memory need the attention_backend xla, not {self.attention_backend}."),
        (sites.at(self.adaptations, "input") and self.position == "learned", "position is learned, "
         "and a prompt would take the fixed positions of the first tokens; use prefix_tuning."),
        (sites.at(self.adaptations, "input") and self.disentangled, "disentangled attention knows "
         "no distance to a prompt; use another adaptation."),
        (sites.at(self.adaptations, "input") and self.rope_scaling[:1] == ("longrope",),
         "rope_scaling longrope rotates by the length of a document, which a prompt does not know; "
         "use prefix_tuning."),
        (sites.at(self.adaptations, "input") and self.context_width, "context_width is of networks "
         "that read a context, which a prompt does not; use prefix_tuning."),
        (self.attention_softcap and self.attention_backend == "cudnn", "attention_softcap is not "
         "in the attention_backend cudnn; use xla or splash."),
        (self.disentangled and self.attention_backend != "xla", "disentangled attention needs the "
         f"attention_backend xla, not {self.attention_backend}."),
        (self.disentangled and self.position == "rope", "disentangled attention takes position "
         "none or learned, not rope."),
        (self.disentangled and self.kv_heads != self.num_heads, "disentangled attention needs "
         f"num_kv_heads {self.num_heads} like num_heads, got {self.kv_heads}."),
        (self.experts and (self.use_bias or self.mlp_bias), "experts have no biases; leave out "
         "use_bias and mlp_bias, or the experts."),
        (self.experts and self.experts.first_dense >= self.num_layers, "experts.first_dense leaves "
         f"none of the {self.num_layers} layers with experts; lower it."),
        (self.experts and self.experts.first_dense and self.adaptations, "adaptations change all "
         "layers alike, and the first ones here have another MLP; leave out the adaptations."),
        (self.experts and any(sites.at(self.adaptations, name) for name in ("gate", "up", "down")),
         "experts take no adaptations of gate, up and down; target q, k, v, o (lora.targets)."),
        (self.conv_kernel and self.conv_kernel % 2 == 0, f"conv_kernel {self.conv_kernel} is even; "
         "use an odd number, or 0 for none."),
        (self.conv_kernel and (self.post_norm or self.time_conditioning or self.experts),
         "conv_kernel is of pre-norm blocks with an MLP; leave out post_norm, time_conditioning "
         "and experts."),
        (self.post_norm and self.time_conditioning, "post_norm and time_conditioning exclude each "
         "other; modulation by time is of pre-norm blocks."),
        (self.post_norm and not self.first_norm, "first_norm=False is of pre-norm blocks; leave "
         "out post_norm."),
        (self.global_every and not self.local_radius, "global_every needs a local_radius."),
        (self.global_first and not self.local_radius, "global_first needs a local_radius."),
        (self.head == "lm" and self.tied and self.embed_columns != self.width
         and not self.head_transform, f"embed_width {self.embed_width} is not width {self.width}, "
         "so a tied head needs network.head_transform.")):
      if is_wrong:
        raise ValueError(f"network.{message}")
    sites.check(self)

  @property
  def has_noise(self) -> bool:
    """Returns whether a reading in training is told any noise."""
    return bool(self.dropout or self.attention_dropout or self.drophead
                or any(one.has_noise for one in self.adaptations))

  @property
  def is_balanced(self) -> bool:
    """Returns whether training adds a loss of the experts' router."""
    return self.experts is not None and self.experts.is_balanced

  @property
  def stacks(self) -> tuple[tuple[str, Transformer, int], ...]:
    """Groups of equal blocks from the bottom to the top: name, hyper-parameters, number."""
    first = self.experts.first_dense if self.experts else 0
    dense = (("first_layers", dataclasses.replace(self, experts=None), first),) if first else ()
    return *dense, ("layers", self, self.num_layers - first)

  @property
  def is_gated(self) -> bool:
    """Returns whether the MLP has a gate."""
    return self.mlp in layers.GATED

  @property
  def per_head(self) -> int:
    """Width of one head."""
    return self.head_dim or self.width // self.num_heads

  @property
  def rotated(self) -> int:
    """Entries of a head that are rotated."""
    return int(self.rotary_share * self.per_head)

  @property
  def kv_heads(self) -> int:
    """Number of key and value heads."""
    return self.num_kv_heads or self.num_heads

  @property
  def hidden_width(self) -> int:
    """Hidden width of the MLP."""
    default = -(-8 * self.width // 3 // 64) * 64 if self.is_gated else 4 * self.width
    return self.mlp_width or default

  @property
  def embed_columns(self) -> int:
    """Width of the embeddings."""
    return self.embed_width or self.width

  @property
  def head_width(self) -> int:
    """Columns of the head's input."""
    return self.embed_columns if self.head_transform else self.width

  @property
  def residual_scale(self) -> float:
    """Variance scale of a branch's last map at initialisation (Radford et al. 2019)."""
    return 0.5 / self.num_layers

  @property
  def padded_vocab(self) -> int:
    """Rows of the embedding table."""
    return math.ceil(self.vocab_size / self.vocab_multiple) * self.vocab_multiple

  def matmul_params(self) -> int:
    """Parameters of the matrices that a token meets in all blocks, for counting FLOPs."""
    attention = self.width * self.per_head * 2 * (self.num_heads + self.kv_heads)
    if self.context_width:  # queries and output; keys and values are of the context's positions
      attention += self.width * self.per_head * 2 * self.num_heads
    of_width = (3 if self.is_gated else 2) * self.width
    mlp, own = of_width * self.hidden_width, self.experts
    if own is None:
      conv = 3 * self.width ** 2 + mlp if self.conv_kernel else 0
      return self.num_layers * (attention + mlp + conv)
    mixed = of_width * (own.per_token * own.width + own.shared_width) + self.width * own.number
    return self.num_layers * attention + own.first_dense * mlp + (
        self.num_layers - own.first_dense) * mixed

  def scaled(self, width: float = 1.0, depth: float = 1.0, **fields: Any) -> Transformer:
    """A transformer of shares of the width and depth, with embeddings of the same shape.

    Args:
      width: share of the heads, and with them of the width, and of the MLP; at least one head.
      depth: share of the layers; at least one.
      **fields: other fields that change.

    Raises:
      ValueError: shares that are not positive, or fields that exclude each other.
    """
    if not (width > 0 and depth > 0):
      raise ValueError(f"shares of a network's width and depth must be positive, got {width} and "
                       f"{depth}.")
    num_heads = max(1, round(width * self.num_heads))
    num_kv_heads = max(1, round(width * self.kv_heads))
    columns = num_heads * self.width // self.num_heads
    return dataclasses.replace(self, **dict(
        num_layers=max(1, round(depth * self.num_layers)), width=columns,
        num_heads=num_heads, num_kv_heads=num_kv_heads, head_dim=self.per_head,
        mlp_width=max(1, round(self.hidden_width * columns / self.width)),
        experts=self.experts and self.experts.scaled(columns / self.width, depth),
        embed_width=self.embed_columns) | fields)

  def network(self) -> types.Network:
    """Returns the pure functions of this transformer.

    Raises:
      ValueError: an attention back end that this machine does not have.
    """
    backends.check(self.attention_backend, self.dtype)
    backends.check_experts(self.experts.backend if self.experts else "xla")
    adapted, kept = sites.leaves(self), sites.reading_kernels(self.adaptations)
    module, flat_module = (module_lib.Module(self, is_unstacked) for is_unstacked in (False, True))
    module_of = lambda params: module if "layers" in params else flat_module
    # The one token that shapes the parameters is too short a row for a kernel.
    shaped = module_lib.Module(dataclasses.replace(
        self, attention_backend="xla",
        experts=self.experts and dataclasses.replace(self.experts, backend="xla")))

    # Compiled as one program, also where it is called alone: op by op it takes seconds.
    @functools.partial(jax.jit, inline=True)
    def init(key):
      return sites.started(shaped.init(key, jnp.zeros((1, 1), jnp.int32), method="init_all",
                                       attention=attention_lib.Full())["params"], self.adaptations)

    def encode(params, inputs, **options):
      return module_of(params).apply({"params": params}, inputs, **options)

    def head(params, hidden, name="lm"):
      if name != self.head:
        raise ValueError(f"this transformer has the head {self.head!r}, not {name!r}.")
      return module_of(params).apply({"params": params}, hidden, method="logits")

    def embed(params, tokens):
      return module_of(params).apply({"params": params}, tokens, method="embedded")

    def unstack(params):
      if self.scan_layers:
        return params
      blocks = [jax.tree.map(lambda x, i=i: x[i], params[name])
                for name, _, number in self.stacks for i in range(number)]
      flat = {k: v for k, v in params.items() if k not in dict.fromkeys(s[0] for s in self.stacks)}
      return flat | {f"layers_{i}": block for i, block in enumerate(blocks)}

    return types.Network(init=init, encode=encode, head=head, vocab_size=self.vocab_size,
                         width=self.width, num_layers=self.num_layers, unstack=unstack,
                         part=types.Part(init, functools.partial(axes.axes, adapted=adapted),
                                         functools.partial(axes.decays, adapted=adapted),
                                         is_rounded=functools.partial(axes.is_rounded, kept=kept),
                                         upkeep=sites.upkeep(self.adaptations), adds=axes.is_cross),
                         vary=lambda *shares, **fields: self.scaled(*shares, **fields).network(),
                         reads_time=self.time_conditioning, embed=embed,
                         head_chunk=self.head_chunk, context_width=self.context_width)


NETWORKS = {"transformer": Transformer}
