r"""Masked autoregression, MEAP (arXiv:2502.07490): next tokens from a context with masks.

  python -m mdx.main --config=configs/meap.py --workdir=runs/meap
Two minutes on 2 cores, on the packaged text. Fine-tuning on conversations, with the masked reading
as a row of its own or behind the example (`concatenated`; a network of twice the length):
  python -m mdx.main --config=configs/meap.py:sft --workdir=runs/meap_sft
  python -m mdx.main --config=configs/meap.py:sft,concatenated --workdir=runs/meap_sft2
"""

from mdx import config as config_lib
from mdx.configs import common
from mdx.configs import sft


def get_config(arg=None):
  """preset=NAME, or sft[,concatenated]."""
  values = config_lib.parse_arg(arg, preset="", sft=False, concatenated=False)
  if values["concatenated"] and not values["sft"] or values["sft"] and values["preset"]:
    raise ValueError("configs/meap.py takes preset=NAME, or sft, or sft,concatenated.")
  if values["sft"]:
    config = sft.get_config()
    config.objective = dict(
        name="meap_sft", form="concatenated" if values["concatenated"] else "copies",
        mask_rate=0.1,  # of the answer, or of the whole second reading
        min_answer=10)  # shorter answers have no second reading; 50 in the paper
    config.data.fill = "pad"
    return config
  config = common.get_config(f"preset={values['preset']}" if values["preset"] else None)
  config.objective = dict(
      name="meap",
      mask_rate=0.15,  # of the inputs; 0 is next-token prediction
      protect_last=0)  # tokens at the end of a row that are never masked
  return config
