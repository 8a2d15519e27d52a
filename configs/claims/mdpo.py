r"""Claims about MDPO (He et al. 2025, arXiv:2508.13148), on the task of configs/mdpo.py.

Against diffu-GRPO (Zhao et al. 2025, arXiv:2504.12216) at equal updates, rollouts and seconds, each
at its best learning rate of the same three; against supervised training for as long; and with RCR.
  python -m mdx.main --config=configs/claims/mdpo.py --workdir=runs/claims/mdpo
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
