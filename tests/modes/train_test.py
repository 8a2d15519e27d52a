"""Runs as a user starts them: train, resume, evaluate, export."""

import functools
import json
import shutil

import jax
import numpy as np
import pytest
import tiny

from mdx import modes
from mdx import sharding
from mdx.build import setup as setup_lib
from mdx.data import pack
from mdx.objectives.tokens import mlm
from mdx.utils import readers
from mdx.utils import rng
from mdx.utils import tree


def _final(workdir):
  """Step, data state and hashes of everything in the newest checkpoint of a run."""
  step, items = tiny.stored(workdir)
  data = items.pop("data")
  assert set(items) == {"params", "ema", "opt_state"}
  return step, data, {k: tree.fingerprint(v) for k, v in items.items()}


@pytest.mark.slow
def test_results_have_the_promised_figures(tmp_path):
  results = modes.run("train", tiny.config("diffusion"), str(tmp_path))
  assert set(results) >= {"bits_per_char", "bits_per_char_stderr", "unigram_bits_per_char",
                          "bigram_bits_per_char", "tokens_per_second", "steps"}
  assert (tmp_path / "samples.txt").read_text().count("\n---\n") == 1
  assert json.loads((tmp_path / "config.json").read_text())["config"]["steps"] == 2


@pytest.mark.slow
def test_a_run_killed_and_resumed_is_bitwise_the_uninterrupted_run(tmp_path):
  cfg = tiny.config("diffusion", steps=6, checkpoint_steps=2, log_steps=1)
  modes.run("train", cfg, str(tmp_path / "whole"))
  modes.run("train", cfg, str(tmp_path / "killed"))
  # As if killed after step 4 was saved: what came later is not there.
  shutil.rmtree(tmp_path / "killed" / "checkpoints" / "6")
  (tmp_path / "killed" / "results.json").unlink()
  modes.run("train", cfg, str(tmp_path / "killed"))
  assert _final(tmp_path / "whole") == _final(tmp_path / "killed")
  lines = [[json.loads(x) for x in (tmp_path / run / "metrics.jsonl").read_text().splitlines()]
           for run in ("whole", "killed")]
  losses = [[(x["step"], x["loss"]) for x in run if x["kind"] == "train"] for run in lines]
  assert losses[0] == losses[1] and len(losses[0]) == 6


@pytest.mark.slow
def test_a_run_killed_before_its_results_has_no_line_twice(tmp_path):
  cfg = tiny.config("diffusion", steps=2, log_steps=1, sampler__num_samples=0)
  first = modes.run("train", cfg, str(tmp_path))
  lines = (tmp_path / "metrics.jsonl").read_text()
  (tmp_path / "results.json").unlink()
  again = modes.run("train", cfg, str(tmp_path))
  assert again["bits_per_char"] == first["bits_per_char"]
  assert (tmp_path / "metrics.jsonl").read_text() == lines


@pytest.mark.slow
def test_a_config_that_was_refused_late_does_not_claim_the_workdir(tmp_path, monkeypatch):
  with monkeypatch.context() as late, pytest.raises(ValueError, match="late"):
    late.setattr(setup_lib, "start_state", functools.partial(_refuse, "late"))
    modes.run("train", tiny.config("diffusion"), str(tmp_path))
  assert (tmp_path / "config.json").exists()
  modes.run("train", tiny.config("diffusion", seed=1, sampler__num_samples=0), str(tmp_path))
  stored = json.loads((tmp_path / "config.json").read_text())["config"]
  assert stored["seed"] == 1


def _refuse(message, *args):
  raise ValueError(message)


@pytest.mark.slow
def test_a_run_that_a_bad_record_has_stopped_goes_on_without_it(tmp_path, monkeypatch):
  monkeypatch.setattr(readers, "_CHECKED_JSONL_BYTES", 0)  # as of a large file
  monkeypatch.setattr(pack, "NUM_CHECKED", 4)
  documents = [f"It was the best of times, {i}." for i in range(60)]
  rows = [json.dumps({"text": text if i % 15 != 14 else None}) for i, text in enumerate(documents)]
  path = tmp_path / "a.jsonl"
  path.write_text("\n".join(rows) + "\n")
  cfg = tiny.config("diffusion", steps=12, checkpoint_steps=100, data__packing="pad",
                    data__num_threads=0, data__length=32)
  cfg.data.source = dict(name="jsonl", path=str(path), validation_path=str(tmp_path / "v.jsonl"))
  (tmp_path / "v.jsonl").write_text("\n".join(rows[:8]))
  with pytest.raises(ValueError, match="a.jsonl, line .*got None. Everything until step"):
    modes.run("train", cfg, str(tmp_path / "run"))
  assert len(list((tmp_path / "run" / "checkpoints").iterdir())) == 1
  cfg.data.on_error = "skip"
  with pytest.warns(UserWarning, match="data.on_error=skip: 1 bad record"):
    results = modes.run("train", cfg, str(tmp_path / "run"))
  assert results["steps"] == 12 and "unigram_bits_per_char" in results


@pytest.mark.slow
def test_a_damaged_metrics_file_does_not_fail_a_run_that_has_trained(tmp_path):
  cfg = tiny.config("diffusion", steps=2, log_steps=1)
  modes.run("train", cfg, str(tmp_path))
  (tmp_path / "results.json").unlink()
  lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
  damage = ['{"step": "x"}', "[" * 10**4, '{"step": 1, "kind": "eval", "bits_per_char": "x"}', "\0"]
  (tmp_path / "metrics.jsonl").write_text("\n".join([*damage, *lines]) + "\n")
  with pytest.warns(UserWarning, match="metrics.jsonl: 4 damaged"):
    assert modes.run("train", cfg, str(tmp_path))["steps"] == 2
  assert (tmp_path / "report.html").exists()
  for text, message in (("[1", "results.json is not JSON"), ("[]", "results.json: expected an obj"),
                        ("{}", "results.json: expected an object with steps")):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(ValueError, match=message):
      modes.run("train", cfg, str(tmp_path))


@pytest.mark.slow
def test_a_finished_run_is_not_run_again(tmp_path):
  cfg = tiny.config("mlm")
  first = modes.run("train", cfg, str(tmp_path))
  before = (tmp_path / "metrics.jsonl").read_text()
  assert modes.run("train", cfg, str(tmp_path)) == first
  assert (tmp_path / "metrics.jsonl").read_text() == before


@pytest.mark.slow
def test_export_can_be_evaluated_and_started_from(tmp_path):
  cfg = tiny.config("diffusion", steps=3)
  trained = modes.run("train", cfg, str(tmp_path / "run"))
  cfg.export.path = str(tmp_path / "exported")
  modes.run("export", cfg, str(tmp_path / "run"))
  cfg.init.checkpoint = str(tmp_path / "exported")
  evaluated = modes.run("eval", cfg, str(tmp_path / "eval"))
  for name in ("bits_per_char", "bits_per_char_stderr", "nats_per_token"):
    np.testing.assert_allclose(evaluated[name], trained[name], rtol=1e-6)
  cfg.init.params = "raw"
  cfg.optimizer.learning_rate = 1e-12
  started = modes.run("train", cfg, str(tmp_path / "again"))
  np.testing.assert_allclose(started["bits_per_char"], trained["bits_per_char"], rtol=1e-5)


@pytest.mark.slow
def test_raw_and_averaged_weights_are_evaluated_as_asked(tmp_path):
  cfg = tiny.config("diffusion", steps=4, ema_decay=0.9, optimizer__learning_rate=0.05,
                    eval__gradient_draws=3)
  trained = modes.run("train", cfg, str(tmp_path))
  cfg.init.checkpoint = str(tmp_path)
  cfg.init.params = "raw"
  raw = modes.run("eval", cfg, str(tmp_path / "raw"))
  assert abs(raw["bits_per_char"] - trained["bits_per_char"]) > 1e-4
  # The noise of the gradient is that of the weights that are trained.
  for name in ("gradient_variance", "gradient_square", "loss_variance"):
    np.testing.assert_allclose(raw[name], trained[name], rtol=1e-3)
  assert trained["gradient_variance"] > 0 and trained["loss_variance"] > 0


@pytest.mark.slow
def test_eight_two_and_four_devices_go_on_with_one_anothers_checkpoints(tmp_path, monkeypatch):
  cfg = tiny.config("diffusion", steps=6, checkpoint_steps=2, checkpoint__keep=3, log_steps=1,
                    sampler__num_samples=0, eval__baselines=False)
  make_mesh, losses, before = sharding.make_mesh, [], None
  for number, sizes in ((8, dict(data=8)), (2, dict(fsdp=2)), (4, dict(data=2, tensor=2))):
    workdir = tmp_path / str(number)
    if before:  # its last checkpoint but one, of 8 devices and then of 2, is the newest
      shutil.copytree(before, workdir)
      for step in range(2 * len(losses) + 2, 8, 2):
        shutil.rmtree(workdir / "checkpoints" / str(step))
      (workdir / "results.json").unlink()
    cfg.mesh = dict(replica=1, data=1, fsdp=1, tensor=1, sequence=1) | sizes
    monkeypatch.setattr(sharding, "make_mesh", functools.partial(
        make_mesh, devices=jax.devices()[:number]))
    modes.run("train", cfg, str(workdir))
    lines = [json.loads(x) for x in (workdir / "metrics.jsonl").read_text().splitlines()]
    losses.append([x["loss"] for x in lines if x["kind"] == "train"])
    before = workdir
  assert [len(x) for x in losses] == [6, 6, 6]
  for later in losses[1:]:
    np.testing.assert_allclose(later, losses[0], rtol=1e-5)


@pytest.mark.slow
def test_steps_of_a_warm_up_of_the_batch_are_those_of_a_run_with_that_batch(tmp_path):
  losses = []
  for name, fields in (("warm", dict(batch_size=8, batch_warmup=((0, 4), (2, 8)))),
                       ("small", dict(batch_size=4))):
    cfg = tiny.config("diffusion", steps=4, log_steps=1, sampler__num_samples=0,
                      eval__baselines=False, **fields)
    cfg.mesh.update(data=1)
    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(sharding, "make_mesh", functools.partial(
          sharding.make_mesh, devices=jax.devices()[:1]))
      modes.run("train", cfg, str(tmp_path / name))
    lines = [json.loads(x) for x in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
    losses.append([x["loss"] for x in lines if x["kind"] == "train"])
  assert len(losses[0]) == 4 and losses[0][:2] == losses[1][:2] and losses[0][2:] != losses[1][2:]


@pytest.mark.slow
def test_the_steps_of_profile_steps_and_no_others_are_in_a_trace(tmp_path):
  modes.run("train", tiny.config("diffusion", steps=6, profile_steps=(2, 4),
                          sampler__num_samples=0, eval__baselines=False), str(tmp_path))
  (file,) = (tmp_path / "profile").rglob("*.xplane.pb")
  planes = jax.profiler.ProfileData.from_file(str(file)).planes
  steps = [dict(event.stats).get("step_num") for plane in planes for line in plane.lines
           for event in line.events if event.name == "train"]
  assert sorted(steps) == [2, 3]


@pytest.mark.slow
def test_results_do_not_depend_on_the_number_of_devices(tmp_path):
  figures = []
  for name, sizes in (("one", dict(data=8)), ("two", dict(fsdp=2, tensor=2, sequence=2))):
    cfg = tiny.config("diffusion", steps=3, log_steps=1, optimizer__warmup_steps=1)
    cfg.mesh = dict(replica=1, data=1, fsdp=1, tensor=1, sequence=1) | sizes
    figures.append(modes.run("train", cfg, str(tmp_path / name)))
  for name in ("nats_per_token", "bits_per_char"):
    np.testing.assert_allclose(figures[0][name], figures[1][name], rtol=1e-5)
  assert (tmp_path / "one/samples.txt").read_text() == (tmp_path / "two/samples.txt").read_text()


@pytest.mark.parametrize("changes, message", [
    (dict(steps=0), "config.steps must be a whole number of at least 1"),
    (dict(batch_size=6), "batch_size 6 is not divisible by 8 batch shards"),
    (dict(microbatches=2), "use a multiple of 16"),
    (dict(network__num_heads=3), "num_heads 3 does not divide width 16; use a divisor"),
    (dict(network__vocab_size=10), "smaller than the"),
    (dict(network__nope=1), "has no field 'nope'"),
    (dict(network__max_length=8), "exceeds network.max_length 8"),
    (dict(objective__name="difusion"), "Did you mean 'diffusion'?"),
    (dict(objective__time="often"), "choose from independent, stratified, lattice"),
    (dict(mesh__data=3), "does not fit 8 devices"),
    (dict(mesh__tensor=4, mesh__data=2), "does not divide 2 key-value heads"),
    (dict(mesh__sequence=8, mesh__data=1, data__length=12), "does not divide length 12"),
    (dict(sharding__embed="fsdpp"), "choose from replica, data, fsdp, tensor, sequence"),
    (dict(data__packing="pad"), "needs whole documents"),
    (dict(tokenizer__path="byt"), "no tokenizer file 'byt'"),
    (dict(tokenizer__mask_id=3, tokenizer__path="char"), "mask_id"),
    (dict(init__checkpoint="/nowhere"), "does not exist"),
    (dict(init__params="best"), "choose from ema, raw"),
    (dict(ema_decay=1.0), "must lie in [0, 1)"),
    (dict(eval__gradient_draws=1), "gradient_draws must be 2 or more"),
    (dict(eval__estimator="exact"), "choose from stratified, monte_carlo"),
    (dict(optimizer__schedule="step"), "choose from constant, linear, cosine"),
    (dict(sampler__steps=0), "sampler.steps must be a whole number of at least 1"),
])
def test_bad_input_is_one_line_before_anything_is_written(changes, message, tmp_path):
  with pytest.raises(ValueError) as error:
    modes.run("train", tiny.config("diffusion", **changes), str(tmp_path / "run"))
  assert message in str(error.value) and "\n" not in str(error.value)
  assert not (tmp_path / "run").exists()


def test_rows_that_belong_together_must_fit_a_microbatch(tmp_path, monkeypatch):
  monkeypatch.setattr(mlm.MaskedLM, "rows_per_unit", 2)
  with pytest.raises(ValueError, match="1 rows a device, but mlm keeps 2 rows together"):
    modes.run("train", tiny.config("mlm"), str(tmp_path / "run"))


@pytest.mark.slow
def test_a_workdir_of_another_config_is_refused_but_a_new_mesh_is_not(tmp_path):
  modes.run("train", tiny.config("ar"), str(tmp_path))
  with pytest.raises(ValueError, match="another config .*seed: 0 -> 1.*use another --workdir"):
    modes.run("train", tiny.config("ar", seed=1), str(tmp_path))
  modes.run("train", tiny.config("ar", mesh__fsdp=2, log_steps=7), str(tmp_path))


def test_a_full_disk_is_told_before_the_first_compile(tmp_path, monkeypatch):
  monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 0))
  with pytest.raises(ValueError, match="0 MiB free, the checkpoints need .*free some space"):
    modes.run("train", tiny.config("ar"), str(tmp_path))


def test_an_unwritable_workdir_is_told(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(ValueError, match="cannot be written"):
    modes.run("train", tiny.config("ar"), str(tmp_path / "file" / "run"))


def test_export_refuses_a_missing_path_and_another_format(tmp_path):
  cfg = tiny.config("ar")
  with pytest.raises(ValueError, match="needs --config.export.path"):
    modes.run("export", cfg, str(tmp_path))
  cfg.export.format = "onnx"
  with pytest.raises(ValueError, match="choose from orbax"):
    modes.run("export", cfg, str(tmp_path))


@pytest.mark.slow
def test_bfloat16_trains_with_float32_parameters(tmp_path):
  modes.run("train", tiny.config("diffusion", dtype="bfloat16"), str(tmp_path))
  params = tiny.stored(tmp_path)[1]["params"]
  assert {x.dtype for x in jax.tree.leaves(params)} == {np.dtype("float32")}


@pytest.mark.slow
def test_a_base_is_trained_once_and_started_from_and_errors_come_before_it(tmp_path, capsys):
  base = tiny.config("ar", steps=3, sampler__num_samples=0)
  cfg = tiny.config("adapt", steps=1, init__base=base, init__params="raw", ema_decay=0.0,
                    sampler__num_samples=0, optimizer__learning_rate=1e-12)
  with pytest.raises(ValueError, match="optimizer.schedule is 'step'"):
    modes.run("train", tiny.changed(tiny.config("adapt", init__base=base), {"optimizer.schedule": "step"}),
                str(tmp_path))
  assert not list(tmp_path.iterdir())
  modes.run("train", cfg, str(tmp_path))
  assert "starting from the raw weights of" in capsys.readouterr().out
  ours, theirs = tiny.stored(tmp_path)[1]["params"], tiny.stored(tmp_path / "base")[1]["params"]
  for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-6)
  before = (tmp_path / "base" / "metrics.jsonl").read_text()
  modes.run("train", cfg, str(tmp_path))
  assert (tmp_path / "base" / "metrics.jsonl").read_text() == before
  with pytest.raises(ValueError, match="base holds a run of another config .*seed"):
    modes.run("train", tiny.changed(cfg, {"init.base.seed": 7}), str(tmp_path))


@pytest.mark.slow
def test_only_the_parameters_that_a_pattern_names_are_trained(tmp_path):
  cfg = tiny.config("diffusion", optimizer__trainable="model/.*kernel", sampler__num_samples=0)
  modes.run("train", cfg, str(tmp_path / "run"))
  _, items = tiny.stored(tmp_path / "run")
  run = setup_lib.setup(cfg, str(tmp_path / "other"))
  initial = tree.flatten(run.objective.init(rng.stream(rng.root(cfg.seed), "init")))
  moments = set(tree.flatten(items["opt_state"]))
  for path, value in tree.flatten(items["params"]).items():
    is_kernel = path.endswith("kernel")
    assert np.array_equal(value, initial[path]) != is_kernel, path
    assert any(name.endswith(path) for name in moments) == is_kernel, path


@pytest.mark.parametrize("pattern, message", [
    ("model/(", "is no pattern"), ("encoder/.*", "matches no parameter; paths are such as model/")])
def test_a_pattern_that_trains_nothing_is_refused(pattern, message, tmp_path):
  with pytest.raises(ValueError, match=message):
    modes.run("train", tiny.config("diffusion", optimizer__trainable=pattern), str(tmp_path / "run"))
  assert not (tmp_path / "run").exists()
