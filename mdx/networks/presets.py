"""Sizes by name, as the papers give them; a config copies one and overrides.

Contents: PRESETS, preset.

References: Sahoo et al. 2024, arXiv:2406.07524 (mdlm_small); Nie et al. 2025,
arXiv:2502.09992 (llada_8b); Devlin et al. 2019, arXiv:1810.04805 (bert_base).
"""

from __future__ import annotations

PRESETS = {
    "tiny": dict(num_layers=4, width=128, num_heads=4, mlp_width=384),
    "mini": dict(num_layers=6, width=256, num_heads=4, mlp_width=704),
    "bert_base": dict(num_layers=12, width=768, num_heads=12, mlp_width=3072, mlp="gelu",
                      norm="layer", position="learned", max_length=512, use_bias=True),
    "mdlm_small": dict(num_layers=12, width=768, num_heads=12, mlp_width=3072, mlp="gelu",
                       norm="layer", tied=False, head_bias=True, remat="dots"),
    "llada_8b": dict(num_layers=32, width=4096, num_heads=32, mlp_width=12288,
                     rope_theta=500000.0, max_length=4096, tied=False, remat="full"),
}


def preset(name: str) -> dict:
  """Returns a copy of a preset's network fields.

  Raises:
    ValueError: unknown name; the message lists the choices.
  """
  if name not in PRESETS:
    raise ValueError(f"unknown preset {name!r}; choose from {', '.join(sorted(PRESETS))}.")
  return dict(PRESETS[name])
