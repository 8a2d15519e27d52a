"""Dream-7B: a masked diffusion model with the body of Qwen2.5, predictions shifted by one.

Contents: FAMILY.

Convention: `transformers` has no class for it; its code comes with the weights and is copied on
export. Its loss and decoders keep the column of the mask id.

Reference: Ye et al. 2025, arXiv:2508.15487.
"""

from __future__ import annotations

from mdx.interop import decoder
from mdx.interop import family
from mdx.interop import hf_qwen


def _to_config(spec):
  return hf_qwen.QWEN2.to_config(spec) | dict(architectures=["DreamModel"], model_type="Dream")


FAMILY = family.Family(
    model_type="Dream", architectures=("DreamModel",), to_fields=hf_qwen.QWEN2.to_fields,
    to_config=_to_config, tensors=decoder.tensors,
    objective=lambda config: {"name": "diffusion", "mask_column": True, "shift": True},
    beside=decoder.BESIDE,
    # The example of its authors' README.
    decoding=lambda config: dict(name="confidence", confidence="entropy", gen_length=512, steps=512,
                                 temperature=0.2, top_p=0.95))
