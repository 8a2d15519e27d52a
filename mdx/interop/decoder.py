"""Options and tensor names of LLaMA and of the families that copied its names.

Contents: read, rope, write, tensors, mlp, causal.

Convention: rotary angles are said three ways in config.json: `rope_theta` and `rope_scaling`, or
`rope_parameters` with both. All are read, and all are written.
"""

from __future__ import annotations

import math
from typing import Any, Mapping

from mdx.interop import family
from mdx.networks import transformer

_SIZES = ("hidden_size", "num_attention_heads", "num_hidden_layers", "intermediate_size",
          "vocab_size")
DEFAULTS = dict(num_key_value_heads=None, head_dim=None, hidden_act="silu", rms_norm_eps=1e-6,
                max_position_embeddings=2048, rope_theta=10000.0, tie_word_embeddings=False,
                attention_bias=False, mlp_bias=False, use_sliding_window=False)
_GATES = {"silu": "swiglu", "swish": "swiglu", "gelu": "geglu_erf", "gelu_pytorch_tanh": "geglu",
          "gelu_new": "geglu", "gelu_fast": "geglu", "relu": "reglu"}
ALLOWED = dict(hidden_act=tuple(_GATES), attention_bias=(False,), mlp_bias=(False,),
               use_sliding_window=(False, None), tie_word_embeddings=(True, False))
FIXED = dict(norm="rms", position="rope")
# Kind of rotary scaling -> its numbers in config.json, as `rope_scaling` has them in order.
_LENGTH = "original_max_position_embeddings"
_SCALINGS = {"linear": ("factor",),
             "llama3": ("factor", "low_freq_factor", "high_freq_factor", _LENGTH),
             "yarn": ("factor", _LENGTH, "beta_fast", "beta_slow", "attention_factor")}
_FACTORS = ("short_factor", "long_factor")  # of longrope, lists
# Buffers of old conversions: the rotary frequencies.
BESIDE = (r".*\.rotary_emb\.inv_freq",)


def read(config: Mapping[str, Any], *, defaults: Mapping[str, Any] | None = None,
         allowed: Mapping[str, tuple] | None = None) -> dict[str, Any]:
  """Fields of the transformer, from config.json.

  Args:
    config: its content.
    defaults: what the family takes where it is silent, over `DEFAULTS`.
    allowed: option -> values that are computed, over `ALLOWED`.

  Raises:
    ValueError: an option that the transformer does not have.
  """
  options = family.read_options(config, sizes=_SIZES, defaults=DEFAULTS | dict(defaults or {}),
                                allowed=ALLOWED | dict(allowed or {}))
  kinds = options.get("layer_types") or ["full_attention"]
  if set(kinds) != {"full_attention"}:
    raise ValueError(f"layer_types has {sorted(set(kinds))}; expected full_attention alone.")
  heads, width = config["num_attention_heads"], config["hidden_size"]
  theta, scaling = rope(options)
  biases = bool(options["attention_bias"]), bool(options["mlp_bias"])
  only = {} if all(biases) else {k: v for k, v in zip(
      ("qkv_bias", "o_bias", "mlp_bias"), (biases[0], biases[0], biases[1])) if v}
  return FIXED | only | dict(
      mlp=_GATES[options["hidden_act"]], num_layers=config["num_hidden_layers"], width=width,
      num_heads=heads,
      num_kv_heads=options["num_key_value_heads"] or heads,
      head_dim=options["head_dim"] or width // heads, mlp_width=config["intermediate_size"],
      vocab_size=config["vocab_size"], norm_eps=options["rms_norm_eps"], rope_theta=theta,
      rope_scaling=scaling, max_length=options["max_position_embeddings"],
      use_bias=all(biases),
      tied=options["tie_word_embeddings"])


def rope(options: Mapping[str, Any]) -> tuple[float, tuple[Any, ...]]:
  """Base of the rotary frequencies and their scaling, of a config.json with its defaults.

  Raises:
    ValueError: a scaling that `positions.rope_tables` does not have.
  """
  given: dict[str, Any] = {}
  for name in ("rope_scaling", "rope_parameters"):
    value = options.get(name) or {}
    if not isinstance(value, dict):
      raise ValueError(f"{name} is {value!r:.60}; expected an object.")
    given |= value
  theta = given.get("rope_theta", options["rope_theta"])
  if not family.is_positive(theta):
    raise ValueError(f"rope_theta is {theta!r:.40}; expected a positive number.")
  kind = given.get("rope_type", given.get("type", "default"))
  if kind in ("default", "dynamic"):  # which changes nothing up to the length of the model
    return float(theta), ()
  if options.get(_LENGTH) is not None:  # which counts before that of the object
    given[_LENGTH] = options[_LENGTH]
  if kind in ("longrope", "su"):
    return float(theta), _longrope(given, options)
  if kind == "yarn":
    given = _yarn(given, options)
  numbers = [given.get(name) for name in _SCALINGS.get(str(kind), ())]
  if not numbers or not all(map(family.is_positive, numbers)):
    raise ValueError(f"rope_scaling {given!r:.200} is not supported; expected rope_type default, "
                     f"longrope or {' or '.join(_SCALINGS)}, with its numbers.")
  return float(theta), (kind, *map(float, numbers))


def _yarn(given: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
  """The numbers of YaRN with its defaults, the attention factor among them."""
  if given.get("truncate", True) is not True:
    raise ValueError("rope_scaling has truncate = False, which is not supported; expected True.")
  found = {"beta_fast": 32, "beta_slow": 1, _LENGTH: options["max_position_embeddings"]}
  found |= {key: value for key, value in given.items() if value is not None}
  if family.is_positive(found.get("factor")) and "attention_factor" not in found:
    wide, all_dim = (found.get(name) or 0 for name in ("mscale", "mscale_all_dim"))
    of = lambda scale: 0.1 * scale * math.log(found["factor"]) + 1 if found["factor"] > 1 else 1.0
    found["attention_factor"] = of(wide) / of(all_dim) if wide and all_dim else of(1)
  return found


def _longrope(given: Mapping[str, Any], options: Mapping[str, Any]) -> tuple[Any, ...]:
  """The scaling of LongRoPE with its default attention factor."""
  lists = [given.get(name) for name in _FACTORS]
  length = given.get(_LENGTH) or options["max_position_embeddings"]
  factor, scale = given.get("factor"), given.get("attention_factor")
  single = [length, *(x for x in (factor, scale) if x is not None)]
  if not (all(isinstance(x, list) and all(map(family.is_positive, x)) for x in lists)
          and len(lists[0]) == len(lists[1]) > 0 and all(map(family.is_positive, single))):
    raise ValueError(f"rope_scaling {given!r:.200} is not supported; expected of rope_type "
                     "longrope short_factor and long_factor, lists of equal length, and positive "
                     "numbers.")
  factor = factor or options["max_position_embeddings"] / length
  scale = scale or (math.sqrt(1 + math.log(factor) / math.log(length))
                    if factor > 1 and length > 1 else 1.0)
  return "longrope", float(length), float(scale), *(float(x) for own in lists for x in own)


def write(spec: transformer.Transformer, model_type: str, architecture: str,
          **allowed: Any) -> dict[str, Any]:
  """Entries of config.json; `allowed` as `family.check_fields` takes them, over `FIXED`."""
  gates = {ours: theirs for theirs, ours in reversed(_GATES.items())}
  mlp = spec.mlp if spec.mlp in gates else "swiglu"
  family.check_fields(spec, model_type, FIXED | dict(rope_scaling=None, mlp=mlp) | allowed)
  rope: dict[str, Any] = {"rope_type": "default"}
  if spec.rope_scaling:
    kind, *numbers = spec.rope_scaling
    rope = {"rope_type": kind, **dict(zip(_SCALINGS.get(kind, (_LENGTH, "attention_factor")),
                                          numbers))}
    if kind == "longrope":
      factors, half = numbers[2:], len(numbers) // 2 - 1
      rope |= dict(zip(_FACTORS, (factors[:half], factors[half:])))
    if _LENGTH in rope:
      rope[_LENGTH] = int(rope[_LENGTH])
  return dict(
      architectures=[architecture], model_type=model_type, hidden_size=spec.width,
      num_attention_heads=spec.num_heads, num_key_value_heads=spec.kv_heads,
      head_dim=spec.per_head, num_hidden_layers=spec.num_layers,
      intermediate_size=spec.hidden_width, hidden_act=gates[spec.mlp],
      vocab_size=spec.vocab_size, rms_norm_eps=spec.norm_eps,
      max_position_embeddings=spec.max_length,
      rope_theta=spec.rope_theta, rope_scaling=rope if spec.rope_scaling else None,
      rope_parameters=rope | {"rope_theta": spec.rope_theta}, tie_word_embeddings=spec.tied,
      attention_bias=spec.use_bias or spec.o_bias, mlp_bias=spec.use_bias or spec.mlp_bias,
      attention_dropout=0.0,
      initializer_range=spec.init_std, use_sliding_window=False)


def tensors(spec: transformer.Transformer) -> dict[str, family.Tensor]:
  """Parameter path -> tensor."""
  block, qkv = "model.layers.{layer}.", spec.use_bias or spec.qkv_bias
  table = {
      "embed/embedding": family.Tensor("model.embed_tokens.weight",
                                       also=("lm_head.weight",) if spec.tied else ()),
      "layers/attention_norm/scale": family.Tensor(block + "input_layernorm.weight"),
      "layers/mlp_norm/scale": family.Tensor(block + "post_attention_layernorm.weight"),
      "final_norm/scale": family.Tensor("model.norm.weight")}
  for name in "qkvo":
    table |= family.linear(f"layers/attention/{name}", f"{block}self_attn.{name}_proj",
                           has_bias=qkv if name != "o" else spec.use_bias or spec.o_bias)
  table |= mlp(spec, block)
  for name in "qk" if spec.qk_norm else "":
    table[f"layers/attention/{name}_norm/scale"] = family.Tensor(
        f"{block}self_attn.{name}_norm.weight")
  return table | ({} if spec.tied else family.linear("lm_head", "lm_head"))


def mlp(spec: transformer.Transformer, block: str) -> dict[str, family.Tensor]:
  """Parameter path -> tensor of the MLP or the experts of blocks whose names begin so."""
  names, has_bias = ("gate", "up", "down"), spec.use_bias or spec.mlp_bias
  plain = lambda path, above, **fields: {
      k: v for name in names for k, v in family.linear(
          f"{path}/{name}", f"{block}{above}.{name}_proj", has_bias=has_bias, **fields).items()}
  if spec.experts is None:
    return plain("layers/mlp", "mlp")
  begin = dict(begin=spec.experts.first_dense)
  table = family.linear("layers/mlp/router", block + "mlp.gate", **begin)
  for name in names:
    table |= family.linear(f"layers/mlp/experts_{name}",
                           f"{block}mlp.experts.{{expert}}.{name}_proj", **begin)
  if spec.experts.has_bias:
    table["layers/mlp/router/bias"] = family.Tensor(block + "mlp.gate.expert_bias", **begin)
  table |= plain("layers/mlp/shared", "mlp.shared_experts", **begin) if (
      spec.experts.shared_width) else {}
  return table | (plain("first_layers/mlp", "mlp") if spec.experts.first_dense else {})


def causal(config: Mapping[str, Any]) -> dict[str, Any]:
  """Objective of a causal model: it reads after its first token, or its last if it has no first."""
  ids = (family.first_id(config.get(name)) for name in ("bos_token_id", "eos_token_id"))
  start = next((i for i in ids if isinstance(i, int) and i >= 0), None)
  return {"name": "ar"} if start is None else {"name": "ar", "start_id": start}
