r"""Claim: larger beams find broken texts, conditional beams do not (arXiv:2311.08817).

Task `translation`: sources of 4 and 5 symbols with 3 translations each; of the answers to train on
3 % are empty and 3 % end early, so that a perfect model has the empty text as its mode (0.03
against 0.94 / 3^4 = 0.012). A small autoregressive model is trained on them; 128 held-out sources
are translated by beams, by beams conditioned on an end after the full stop (without a classifier),
and by exact mode search. Measured: share of whole translations.
  python -m mdx.main --config=configs/claims/search.py --workdir=runs/claims/search

Accuracy, mean of three seeds (spread), about 10 minutes of one core of an AMD EPYC beside other
work; all five comparisons reproduced (p <= .003):
  1 and 4 beams 1.00, 32 beams .10 (.02), exact mode .10 (.02) in 36 network calls
  conditional: 1 and 4 beams 1.00, 32 beams .997 (.005)
"""

from ml_collections import config_dict

from mdx.configs import eval as eval_config
from mdx.configs.claims import common
from mdx.data import tokenizer as tokenizer_lib

_WIDTHS = (1, 4, 32)


def get_config(arg=None):
  """Arms and comparisons."""
  if arg:
    raise ValueError(f"configs/claims/search.py takes no argument, got {arg!r}.")
  run = eval_config.get_config()
  sizes = common.translate(run, dict(min_length=4, max_length=5, empty_rate=0.03, cut_rate=0.03,
                                     num_test=128), steps=400)
  stop = tokenizer_lib.build(sizes.tokenizer).encode(".")
  rule = dict(gen_length=sizes.answer_length, steps=sizes.answer_length)
  run.sampler = dict(rule, name="beam", cache="block")
  run.batch_size = 128
  plain = {f"beam_{n}": dict(sampler=dict(beams=n)) for n in _WIDTHS}
  whole = dict(rule, name="conditional_beam", cache="block", attribute="complete",
               last_ids=tuple(int(i) for i in stop))
  whole = {f"whole_{n}": dict(sampler=dict(whole, beams=n))
           for n in _WIDTHS}
  better = lambda name, left, right: dict(name=name, left=left, right=right, measure="accuracy")
  return config_dict.ConfigDict(dict(
      mode="claim",
      statement="larger beams find broken texts, but not those that are conditioned on whole ones",
      seeds=(0, 1, 2),
      run=run,
      arms=plain | whole | {
          "mode": dict(sampler=dict(rule, name="mode_search", search_budget=400))},
      grids=dict(),
      choose_by="",
      measures=("accuracy", "nfe"),
      comparisons=(
          better("1 beam finds more whole translations than 32", "beam_1", "beam_32"),
          better("4 beams find more whole translations than 32", "beam_4", "beam_32"),
          better("32 conditional beams find more whole translations than 32 plain ones",
                 "whole_32", "beam_32"),
          dict(better("32 conditional beams are as good as 1, within 5 points", "whole_32",
                      "whole_1"), margin=0.05),
          better("conditional beams find more whole translations than the exact mode", "whole_32",
                 "mode"))))
