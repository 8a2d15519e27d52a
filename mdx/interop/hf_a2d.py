"""Causal models that the library dLLM turned into masked diffusion models.

Contents: FAMILIES (a2d-llama, a2d-qwen2, a2d-qwen3).

Convention: names and sizes are those of the causal family; attention sees both ways, predictions
are not shifted, and loss and decoder are LLaDA's, which keep the column of the mask id.

Reference: github.com/ZHZisZZ/dllm, whose sampler follows LLaDA's (Nie et al. 2025,
arXiv:2502.09992).
"""

from __future__ import annotations

from mdx.interop import family
from mdx.interop import hf_llada
from mdx.interop import hf_llama
from mdx.interop import hf_qwen

FAMILIES = tuple(
    family.alias(base, f"a2d-{base.model_type}", f"A2D{name}LMHeadModel",
                 objective=hf_llada.FAMILY.objective, decoding=hf_llada.FAMILY.decoding)
    for base, name in ((hf_llama.FAMILY, "Llama"), (hf_qwen.QWEN2, "Qwen2"),
                       (hf_qwen.QWEN3, "Qwen3")))
