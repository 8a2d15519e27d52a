"""Runs and claims that release 0.1 began go on.

`golden/release_0.1/runs.tar.xz` was made by release 0.1: `train`, the workdir of a run of four
steps that was stopped after two, whose losses without a stop are in `final.json`; and `claim`, half
of the runs of `claim.json`.
"""

import json
import pathlib
import tarfile

import pytest
import tiny

from mdx import modes

_RUNS = pathlib.Path(__file__).parents[1] / "golden" / "release_0.1" / "runs.tar.xz"
_SMALL = dict(eval_steps=0, log_steps=1, sampler__num_samples=0, network__num_layers=1,
              network__width=8, network__mlp_width=8)


@pytest.fixture(name="runs")
def _runs(tmp_path):
  with tarfile.open(_RUNS) as file:
    file.extractall(tmp_path, filter="data")
  return tmp_path


@pytest.mark.slow
def test_a_run_goes_on_where_it_was_stopped(runs, capsys):
  config = tiny.config("diffusion", steps=4, checkpoint_steps=2, **_SMALL)
  modes.run("train", config, str(runs / "train"))
  assert "resuming from step 2" in capsys.readouterr().out
  lines = [json.loads(x) for x in (runs / "train/metrics.jsonl").read_text().splitlines()]
  losses = [line["loss"] for line in lines if line["kind"] == "train"]
  assert losses == pytest.approx(json.loads((runs / "final.json").read_text())["losses"], rel=1e-5)


def test_a_run_of_another_config_is_still_refused(runs):
  config = tiny.config("diffusion", steps=4, checkpoint_steps=2, optimizer__learning_rate=1e-4,
                       **_SMALL)
  with pytest.raises(ValueError, match="holds a run of another config .optimizer.learning_rate"):
    modes.run("train", config, str(runs / "train"))


@pytest.mark.slow
def test_a_claim_runs_only_what_is_missing(runs, monkeypatch):
  claim = json.loads((runs / "claim.json").read_text())
  # As a config of today has it: with keys that came later.
  run = tiny.config("diffusion", steps=1, checkpoint_steps=1, **_SMALL).to_dict()
  made, train = [], modes.run

  def count(mode, config, workdir):
    if mode == "train":
      made.append(pathlib.Path(workdir).relative_to(runs / "claim"))
      pathlib.Path(workdir).mkdir(parents=True)
      return {"bits_per_char": 1.0 + len(made)}
    return train(mode, config, workdir)

  monkeypatch.setattr(modes, "run", count)
  results = train("claim", claim | {"run": run}, str(runs / "claim"))
  assert len(made) == 3 and not {"a/seed_0", "b/seed_0", "a/seed_1"} & set(map(str, made))
  assert len(results["comparisons"][0]["values"]) == 3
