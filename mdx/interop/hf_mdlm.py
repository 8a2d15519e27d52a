"""MDLM and BD3-LM: diffusion transformers whose conditioning on the time is folded away.

Contents: FAMILIES (mdlm, bd3lm), FOLDED.

Convention: the published models are trained without the time (`time_conditioning` false): it is 0
at every call, and so shift, scale and gate of each branch are constants. `mdx.interop.convert`
folds them into norms and matrices and writes `folded` into config.json; tensors keep their
published names, and a norm has a bias.

References: Sahoo et al. 2024, arXiv:2406.07524 (MDLM); Arriola et al. 2025, arXiv:2503.09573
(BD3-LM).
"""

from __future__ import annotations

from typing import Any, Mapping

from mdx.interop import family
from mdx.networks import transformer

FOLDED = "folded"
_SIZES = ("vocab_size", "model_length", "hidden_dim", "n_blocks", "n_heads")
_FIXED = dict(norm="layer", norm_bias=True, position="rope", mlp="gelu", mlp_bias=True,
              head_bias=True, tied=False)
_MLP_RATIO, _THETA, _EPS = 4, 10000.0, 1e-5  # in the published code


def _to_fields(config: Mapping[str, Any]) -> dict[str, Any]:
  family.read_options(config, sizes=_SIZES, defaults=dict(causal=False, time_conditioning=False),
                      allowed=dict(causal=(False,), time_conditioning=(False,)))
  if config.get(FOLDED) is not True:
    raise ValueError("its weights have a conditioning on the time, which is folded first: "
                     "python -m mdx.interop.convert DIRECTORY NEW_DIRECTORY.")
  return _FIXED | dict(
      num_layers=config["n_blocks"], width=config["hidden_dim"], num_heads=config["n_heads"],
      mlp_width=_MLP_RATIO * config["hidden_dim"], vocab_size=config["vocab_size"],
      max_length=config["model_length"], norm_eps=_EPS, rope_theta=_THETA)


def _to_config(model_type: str, architecture: str):
  def to_config(spec: transformer.Transformer) -> dict[str, Any]:
    family.check_fields(spec, model_type, _FIXED)
    wanted = dict(mlp_width=_MLP_RATIO * spec.width, norm_eps=_EPS, rope_theta=_THETA,
                  per_head=spec.width // spec.num_heads, kv_heads=spec.num_heads)
    found = dict(mlp_width=spec.hidden_width, norm_eps=spec.norm_eps, rope_theta=spec.rope_theta,
                 per_head=spec.per_head, kv_heads=spec.kv_heads)
    for name, value in wanted.items():
      if found[name] != value:
        raise ValueError(f"network.{name} = {found[name]!r} cannot be exported as {model_type!r}, "
                         f"whose models have {value!r}.")
    return dict(architectures=[architecture], model_type=model_type, vocab_size=spec.vocab_size,
                model_length=spec.max_length, hidden_dim=spec.width, n_blocks=spec.num_layers,
                n_heads=spec.num_heads, causal=False, time_conditioning=False) | {FOLDED: True}
  return to_config


def _tensors(spec: transformer.Transformer) -> dict[str, family.Tensor]:
  del spec
  block, last = "backbone.blocks.{layer}.", "backbone.output_layer."
  table = {"embed/embedding": family.Tensor("backbone.vocab_embed.embedding"),
           "lm_head/bias": family.Tensor(last + "linear.bias")}
  norms = {"layers/attention_norm": block + "norm1", "layers/mlp_norm": block + "norm2",
           "final_norm": last + "norm_final"}
  for path, name in norms.items():
    table |= {f"{path}/scale": family.Tensor(name + ".weight"),
              f"{path}/bias": family.Tensor(name + ".bias")}
  for i, name in enumerate("qkv"):
    table |= family.linear(f"layers/attention/{name}", block + "attn_qkv", part=(i, i + 1, 3))
  table |= family.linear("layers/attention/o", block + "attn_out")
  table |= family.linear("layers/mlp/up", block + "mlp.0", has_bias=True)
  table |= family.linear("layers/mlp/down", block + "mlp.2", has_bias=True)
  return table | family.linear("lm_head", last + "linear")


def _blocks(config: Mapping[str, Any]) -> dict[str, Any]:
  length = config.get("block_size", 1)
  if not isinstance(length, int) or isinstance(length, bool) or not 1 <= length <= 2**20:
    raise ValueError(f"block_size is {length!r:.40}; expected a positive integer.")
  return {"name": "block_diffusion",
          "attention": {"name": "block_causal", "block_length": length}}


FAMILIES = tuple(
    family.Family(model_type=model_type, architectures=(architecture,), to_fields=_to_fields,
                  to_config=_to_config(model_type, architecture), tensors=_tensors,
                  objective=objective)
    for model_type, architecture, objective in (
        ("mdlm", "MDLM", lambda config: {"name": "diffusion"}), ("bd3lm", "BD3LM", _blocks)))
