r"""Claims about MDPO (He et al. 2025, arXiv:2508.13148), on the task of configs/mdpo.py.

Against diffu-GRPO (Zhao et al. 2025, arXiv:2504.12216) at equal updates, rollouts and seconds, each
at its best learning rate of the same three; against supervised training for as long; and with RCR.
  python -m mdx.main --config=configs/claims/mdpo.py --workdir=runs/claims/mdpo

Measured on 2 cores of an AMD EPYC (shared with other work), seeds 0-2, 1024 held-out problems,
  150 updates;
accuracy in % (mean +- spread over seeds), two-sided paired t over the seeds:
  inconclusive: MDPO beats diffu-GRPO at equal updates (and rollouts), 4 steps:
    91.0 against 92.5, difference -1.6 +- 3.3, p = 0.493, times fewer updates 1.54, 0.00, 0.00 (to
    the best point)
  inconclusive: MDPO beats diffu-GRPO at equal seconds, 4 steps:
    88.8 against 92.5, difference -3.7 +- 2.7, p = 0.140
  inconclusive: MDPO beats diffu-GRPO after all updates, 2 steps, held-out:
    64.6 against 52.7, difference +11.9 +- 5.5, p = 0.065
  reproduced: MDPO beats its base, 2 steps:
    64.6 against 28.9, difference +35.7 +- 3.5, p = 0.003
  reproduced: MDPO beats supervised training for as long, 2 steps:
    64.6 against 28.3, difference +36.3 +- 4.0, p = 0.004
  inconclusive: MDPO + RCR beats MDPO, 2 steps:
    64.6 against 64.6, difference +0.0 +- 0.0, p = 1.000
  reproduced: MDPO + RCR beats base + RCR, 2 steps:
    64.6 against 28.9, difference +35.7 +- 3.5, p = 0.003
  inconclusive: MDPO beats diffu-GRPO after all updates, 4 steps, held-out:
    90.8 against 93.0, difference -2.2 +- 1.1, p = 0.068
  reproduced: MDPO beats its base, 4 steps:
    90.8 against 80.8, difference +10.1 +- 1.0, p = 0.003
  reproduced: MDPO beats supervised training for as long, 4 steps:
    90.8 against 80.3, difference +10.5 +- 1.2, p = 0.004
  inconclusive: MDPO + RCR beats MDPO, 4 steps:
    90.2 against 90.8, difference -0.7 +- 0.9, p = 0.331
  reproduced: MDPO + RCR beats base + RCR, 4 steps:
    90.2 against 80.9, difference +9.2 +- 0.9, p = 0.003
  inconclusive: MDPO beats diffu-GRPO after all updates, 8 steps, held-out:
    96.6 against 96.5, difference +0.2 +- 1.4, p = 0.834
  reproduced: MDPO beats its base, 8 steps:
    96.6 against 90.4, difference +6.2 +- 0.7, p = 0.005
  reproduced: MDPO beats supervised training for as long, 8 steps:
    96.6 against 90.2, difference +6.4 +- 1.2, p = 0.011
  inconclusive: MDPO + RCR beats MDPO, 8 steps:
    97.3 against 96.6, difference +0.7 +- 0.4, p = 0.093
  reproduced: MDPO + RCR beats base + RCR, 8 steps:
    97.3 against 92.2, difference +5.1 +- 1.1, p = 0.016
  inconclusive: MDPO beats diffu-GRPO after all updates, 16 steps, held-out:
    99.5 against 100.0, difference -0.4 +- 0.2, p = 0.069
  not reproduced: MDPO beats its base, 16 steps:
    99.5 against 100.0, difference -0.5 +- 0.1, p = 0.034
  not reproduced: MDPO beats supervised training for as long, 16 steps:
    99.5 against 100.0, difference -0.5 +- 0.1, p = 0.034
  inconclusive: MDPO + RCR beats MDPO, 16 steps:
    99.6 against 99.5, difference +0.1 +- 0.1, p = 0.423
  inconclusive: MDPO + RCR beats base + RCR, 16 steps:
    99.6 against 99.9, difference -0.3 +- 0.1, p = 0.063
Validation accuracy by learning rate (4 steps): diffu_grpo: 0.0001 90.2, 0.0002 92.5, 0.0004 91.5;
  mdpo: 0.0001 84.5, 0.0002 89.9, 0.0004 91.0.
"""

from ml_collections import config_dict

from mdx.configs import mdpo

_RATES = (1e-4, 2e-4, 4e-4)
_STEPS = (2, 4, 8, 16)


def get_config(arg=None):
  """Arms, grids and comparisons."""
  if arg:
    raise ValueError(f"configs/claims/mdpo.py takes no argument, got {arg!r}.")
  run = mdpo.get_config()
  run.update(updates=150, eval_steps=25, checkpoint_steps=150)
  table = lambda model, remasking, nfe: f"table:{model},{remasking},{nfe}"
  low, rcr = "low_confidence", "rcr"
  comparisons = [
      dict(name="MDPO beats diffu-GRPO at equal updates (and rollouts), 4 steps", left="mdpo",
           right="diffu_grpo", equal="updates", speedup=True),
      dict(name="MDPO beats diffu-GRPO at equal seconds, 4 steps", left="mdpo",
           right="diffu_grpo", equal="seconds")]
  for nfe in _STEPS:
    measure = table("trained", low, nfe)
    comparisons += [
        dict(name=f"MDPO beats diffu-GRPO after all updates, {nfe} steps, held-out", left="mdpo",
             right="diffu_grpo", measure=measure),
        dict(name=f"MDPO beats its base, {nfe} steps", left="mdpo", right="mdpo", measure=measure,
             right_measure=table("base", low, nfe)),
        dict(name=f"MDPO beats supervised training for as long, {nfe} steps", left="mdpo",
             right="supervised", measure=measure, right_measure=table("base", low, nfe)),
        dict(name=f"MDPO + RCR beats MDPO, {nfe} steps", left="mdpo", right="mdpo",
             measure=table("trained", rcr, nfe), right_measure=measure),
        dict(name=f"MDPO + RCR beats base + RCR, {nfe} steps", left="mdpo", right="mdpo",
             measure=table("trained", rcr, nfe), right_measure=table("base", rcr, nfe))]
  grid = dict(key="optimizer.learning_rate", values=_RATES)
  return config_dict.ConfigDict(dict(
      mode="claim",
      statement="MDPO improves a masked diffusion model with fewer updates than diffu-GRPO",
      seeds=(0, 1, 2),
      run=run,
      arms=dict(
          mdpo=dict(),
          diffu_grpo=dict(objective=dict(name="diffu_grpo", kl=0.04, clip=0.5)),
          # About as many more steps as MDPO's updates take seconds.
          supervised=dict(updates=0, init=dict(base=dict(steps=2000)))),
      grids=dict(mdpo=grid, diffu_grpo=grid),
      choose_by="last",  # accuracy on the validation split
      measures=tuple(table(m, r, n) for m in ("base", "trained") for r in (low, rcr)
                     for n in _STEPS) + ("last", "best"),
      comparisons=tuple(comparisons),
  ))
