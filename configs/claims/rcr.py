r"""Claims about running confidence remasking (He et al. 2025, arXiv:2508.13148).

RCR against low-confidence remasking at equal network calls, on base models of two tasks, with both
statistics that tokens may compete with.
  python -m mdx.main --config=configs/claims/rcr.py --workdir=runs/claims/rcr

Measured on 2 cores of an AMD EPYC (shared with other work), seeds 0-2, 1024 held-out problems,
accuracy in % of RCR against low-confidence remasking, two-sided paired t over the seeds:
  sudoku (latest confidence)  2 steps 28.9 / 28.9   inconclusive, p = 1
                              3 steps 58.2 / 52.0   reproduced, p < .001
                              4 steps 80.9 / 80.8   inconclusive, p = .77
                              6 steps 77.1 / 70.0   reproduced, p < .001
                              8 steps 92.2 / 90.4   inconclusive, p = .10
                             16 steps 99.9 / 100.0  inconclusive, p = .18
  sudoku_max (highest)        3 steps 58.1 / 52.0   reproduced, p = .001
                              6 steps 73.0 / 70.0   inconclusive, p = .18
                              2, 4, 8, 16: 28.9, 81.0, 91.0, 100.0   inconclusive
  countdown                   2 to 16 steps: 5.1, 8.6, 10.6, 15.6, 21.0, 21.0 against
                              5.1, 8.6, 10.6, 15.5, 20.5, 20.8   inconclusive, p >= .09
So it helps where the steps do not divide the cells (3 and 6 of 16), at which plain decoding of
these grids is worst for its steps, and hardly elsewhere. 18 tests, not corrected for their number.
"""

from ml_collections import config_dict

from mdx.configs import mdpo

_STEPS = (2, 3, 4, 6, 8, 16)


def get_config(arg=None):
  """Arms and comparisons."""
  if arg:
    raise ValueError(f"configs/claims/rcr.py takes no argument, got {arg!r}.")
  run = mdpo.get_config()
  run.update(updates=0)
  run.eval.update(nfe=_STEPS, curve_nfe=4)
  countdown = mdpo.get_config("countdown")
  task = countdown.task.to_dict()
  base = dict(steps=1500, network=dict(width=128, mlp_width=384),
              tokenizer=dict(path=countdown.init.base.tokenizer.path),
              data=dict(length=countdown.init.base.data.length,
                        source=dict(name="task", task=task)))
  longer = dict(task=task, init=dict(base=base),
                rollout=dict(sampler=dict(gen_length=countdown.rollout.sampler.gen_length)))
  latest = dict(rollout=dict(sampler=dict(rcr_stat="latest")))
  highest = dict(rollout=dict(sampler=dict(rcr_stat="max")))
  measure = lambda remasking, nfe: f"table:base,{remasking},{nfe}"
  comparisons = tuple(
      dict(name=f"RCR beats low-confidence remasking, {arm}, {nfe} steps", left=arm, right=arm,
           measure=measure("rcr", nfe), right_measure=measure("low_confidence", nfe))
      for arm in ("sudoku", "sudoku_max", "countdown") for nfe in _STEPS)
  return config_dict.ConfigDict(dict(
      mode="claim",
      statement="RCR beats low-confidence remasking at equal network calls, without training",
      seeds=(0, 1, 2),
      run=run,
      arms=dict(sudoku=latest, sudoku_max=highest, countdown=longer),
      grids=dict(),
      choose_by="last",
      measures=tuple(measure(r, n) for r in ("low_confidence", "rcr") for n in _STEPS),
      comparisons=comparisons,
  ))
