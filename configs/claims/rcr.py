r"""Claims about running confidence remasking (He et al. 2025, arXiv:2508.13148).

RCR against low-confidence remasking at equal network calls, on base models of two tasks, with both
statistics that tokens may compete with.
  python -m mdx.main --config=configs/claims/rcr.py --workdir=runs/claims/rcr
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
