"""Mode sample and `mdx.load`: prompts in, rows out, from any checkpoint."""

import dataclasses
import html
import json

import jax
import numpy as np
import pytest
import tiny

import mdx
from mdx import model as model_lib
from mdx import modes
from mdx import samplers
from mdx import types
from mdx.configs import sample as sample_config
from mdx.data import chat
from mdx.data import codecs
from mdx.data import tokenizer as tokenizer_lib
from mdx.modes import sample as sampling
from mdx.samplers import batching
from mdx.samplers import decoder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
  """Workdirs of trained models, by config."""
  root = tmp_path_factory.mktemp("runs")
  for name in ("diffusion", "ar", "mlm", "block_diffusion"):
    modes.run("train", tiny.config(name, sampler__num_samples=0, network__max_length=40),
                str(root / name))
  return root


def _config(checkpoint, **changes):
  small = {"sampler.gen_length": 8, "sampler.steps": 4, "num_samples": 1, "batch_size": 8,
           "init.checkpoint": str(checkpoint)}
  return tiny.changed(sample_config.get_config(),
                      small | {k.replace("__", "."): v for k, v in changes.items()})


def _sample(workdir, *args, **changes):
  modes.run("sample", _config(*args, **changes), str(workdir))
  return [json.loads(x) for x in (workdir / "samples.jsonl").read_text().splitlines()]


def _prompts(path, *lines):
  path.write_text("\n".join(json.dumps(x) for x in lines) + "\n")
  return str(path)


@pytest.mark.parametrize("name", tiny.mostly_slow(
    samplers.SAMPLERS, ["ancestral", "autoregressive", "confidence", "rcr"],
    ci=["unmasking", "mode_search", "speculative", "uniform"]))
def test_every_rule_writes_rows_in_the_order_of_the_prompts(name, runs, tmp_path):
  model = {"autoregressive": "ar", "speculative": "block_diffusion", "uniform": "uniform",
           "joint": "joint"}.get(name, "diffusion")
  if samplers.SAMPLERS[name].searches:
    model = "ar"
  if name == "joint":  # a head on the model of the other rules, trained here for this rule alone
    modes.run("train", tiny.config("joint", network__max_length=40, init__checkpoint=str(
        runs / "diffusion")), str(runs / "joint"))
  if name == "uniform":
    modes.run("train", tiny.config("duo", sampler__num_samples=0, network__max_length=40),
              str(runs / "uniform"))
  tokenizer = mdx.load(str(runs / model)).tokenizer
  file = _prompts(tmp_path / "prompts.jsonl", {"text": "It was the age"}, {"tokens": [1, 2]},
                  {"text": "of"})
  policy = dict(sampler__policy=tiny.policy(tmp_path / "policy")) if name == "unmasking" else {}
  rows = _sample(tmp_path / "run", runs / model, prompts=file, num_samples=2, sampler__name=name,
                 **policy)
  assert [len(row["prompt_tokens"]) for row in rows] == [14, 14, 2, 2, 2, 2]
  assert rows[2]["prompt_tokens"] == [1, 2]
  for row in rows:
    assert set(row) == {"prompt_tokens", "tokens", "text", "nfe", "seconds"}
    assert len(row["tokens"]) == 8 and tokenizer.mask_id not in row["tokens"]
    ids = row["tokens"]
    end = ids.index(tokenizer.eos_id) if tokenizer.eos_id in ids else 8
    assert row["text"] == tokenizer.decode(ids[:end]) and row["nfe"] >= 1 and row["seconds"] > 0
  html = (tmp_path / "run" / "samples.html").read_text()
  assert html.startswith(("<!DOCTYPE html>", "<!doctype html>"))
  assert not (tmp_path / "run" / "samples.partial.jsonl").exists()
  config = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
  assert config["sampler"]["name"] == name and config["num_samples"] == 2


@pytest.mark.slow
def test_a_classifier_is_fitted_to_the_model_kept_and_refused_by_another(runs, tmp_path):
  fields = dict(sampler__name="conditional_beam", sampler__attribute="length",
                sampler__attribute_length=6, sampler__steps=64, prompts="It")
  tokens = lambda rows: [row["tokens"] for row in rows]
  before = tokens(_sample(tmp_path / "run", runs / "ar", **fields))
  file = tmp_path / "run" / "classifier.npz"
  time = file.stat().st_mtime_ns
  assert tokens(_sample(tmp_path / "run", runs / "ar", **fields)) == before
  assert file.stat().st_mtime_ns == time
  modes.run("train", tiny.config("ar", sampler__num_samples=0, network__max_length=40, seed=5),
            str(tmp_path / "another"))
  with pytest.raises(ValueError, match="was fitted to another model than"):
    mdx.load(str(tmp_path / "another")).sampler(
        name="conditional_beam", gen_length=8, attribute="length", attribute_length=6,
        classifier=str(file))


@pytest.mark.slow
def test_masks_in_a_prompt_are_infilled_and_the_rest_stays(runs, tmp_path):
  model = mdx.load(str(runs / "diffusion"))
  mask_id = model.tokenizer.mask_id
  tokens = [3, mask_id, 5, mask_id, mask_id, 9]
  file = _prompts(tmp_path / "prompts.jsonl", {"tokens": tokens}, {"text": "It [MASK]as[MASK]"},
                  {"text": "plain"})
  rows = _sample(tmp_path / "run", runs / "diffusion", prompts=file)
  assert rows[0]["prompt_tokens"] == tokens and len(rows[0]["tokens"]) == 6
  assert [rows[0]["tokens"][i] for i in (0, 2, 5)] == [3, 5, 9]
  assert mask_id not in rows[0]["tokens"] + rows[1]["tokens"]
  text = model.tokenizer.decode(rows[1]["tokens"])
  assert len(rows[1]["tokens"]) == 7 and text.startswith("It ") and "as" in text
  assert len(rows[2]["tokens"]) == 8


@pytest.mark.slow
def test_a_row_depends_on_seed_and_index_alone(runs, tmp_path):
  model = mdx.load(str(runs / "diffusion"))
  prompts = ["It was", "the age of wisdom", "a", "best of times, it"]
  take = lambda **k: [x.tokens.tolist() for x in model.sample(prompts, gen_length=8, steps=4, **k)]
  together = take(batch_size=8)
  assert take(batch_size=1) == together != take(batch_size=8, seed=1)
  # Padded by another neighbour.
  swapped = model.sample(prompts[:2] + ["the worst of times, it was"] + prompts[3:], gen_length=8,
                         steps=4)
  assert [swapped[i].tokens.tolist() for i in (0, 1, 3)] == [together[i] for i in (0, 1, 3)]


@pytest.mark.slow
def test_without_prompts_samples_are_unconditional(runs):
  model = mdx.load(str(runs / "diffusion"))
  rows = model.sample(num_samples=3, gen_length=8, steps=4)
  assert len(rows) == 3 and all(len(x.prompt_tokens) == 0 and len(x.tokens) == 8 for x in rows)
  assert len({tuple(x.tokens) for x in rows}) > 1


@pytest.mark.slow
def test_an_interrupted_run_goes_on_with_the_missing_rows(runs, tmp_path, monkeypatch):
  changes = dict(prompts="It was", num_samples=24, viewer_rows=0)
  whole = _sample(tmp_path / "whole", runs / "diffusion", **changes)
  run, calls = model_lib.Model._run, []

  def stops_at_the_second(self, *args):
    calls.append(1)
    if len(calls) == 2:
      raise KeyboardInterrupt
    return run(self, *args)

  monkeypatch.setattr(model_lib.Model, "_run", stops_at_the_second)
  with pytest.raises(KeyboardInterrupt):
    _sample(tmp_path / "cut", runs / "diffusion", **changes)
  partial = tmp_path / "cut" / "samples.partial.jsonl"
  with open(partial, "a", encoding="utf-8") as file:
    file.write('{"row": 9, "tok')  # as if killed while writing
  calls.clear()
  with pytest.raises(KeyboardInterrupt):
    _sample(tmp_path / "cut", runs / "diffusion", **changes)
  assert len(partial.read_text().splitlines()) == 1 + 16  # two batches, and no torn line
  rows = _sample(tmp_path / "cut", runs / "diffusion", **changes)
  assert len(calls) == 2 + 1  # no batch was decoded twice
  assert [x["tokens"] for x in rows] == [x["tokens"] for x in whole]


def test_weights_are_chosen_by_params(runs):
  take = lambda which: mdx.load(str(runs / "diffusion"), params=which).params
  ema, raw = (jax.device_get(jax.tree.leaves(take(which))) for which in ("ema", "raw"))
  assert any(not np.array_equal(a, b) for a, b in zip(ema, raw))
  stored = tiny.stored(runs / "diffusion")[1]
  for found, item in ((ema, "ema"), (raw, "params")):
    for a, b in zip(found, jax.tree.leaves(stored[item])):
      np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_log_likelihoods_are_those_of_the_model(runs):
  model = mdx.load(str(runs / "ar"))
  texts = ["It was", "the age of wisdom"]
  found = model.log_likelihood(texts)
  request = lambda row: types.Request(tokens=row[None], noise_level=np.zeros(1, np.float32))
  for text, value in zip(texts, found):
    ids = model.tokenizer.encode(text)
    with jax.set_mesh(model.mesh):
      log_probs = jax.nn.log_softmax(model.objective.answer(model.params, request(ids)).logits)[0]
    np.testing.assert_allclose(value, np.take_along_axis(
        np.asarray(log_probs), ids[:, None], axis=1).sum(), rtol=1e-4)
  assert model.log_likelihood(texts[0]) == pytest.approx(found[:1], rel=1e-5)  # one text, no list
  with pytest.raises(ValueError, match="text 1 is empty"):
    model.log_likelihood([texts[0], ""])
  assert model.sample([]) == [] and len(repr(model)) < 200
  bound = mdx.load(str(runs / "diffusion")).log_likelihood(texts, num_samples=8)
  assert bound.shape == (2,) and np.all(bound < 0)


@pytest.mark.slow
def test_samples_are_judged_by_a_second_model(runs, tmp_path, capsys):
  for scorer, is_exact in (("ar", True), ("diffusion", False)):
    rows = _sample(tmp_path / scorer, runs / "diffusion", num_samples=3, viewer_rows=0,
                   quality__scorer=str(runs / scorer), quality__num_samples=2)
    found = json.loads((tmp_path / scorer / "results.json").read_text())
    shown = capsys.readouterr().out
    assert f"{found['unigram_entropy']:.3f} +-" in shown
    assert ("perplexity at most" in shown) != is_exact == found["scorer_is_exact"]
    texts, model = [row["text"] for row in rows], mdx.load(str(runs / scorer))
    num_tokens = sum(len(model.tokenizer.encode(text)) for text in texts)
    nats = -model.log_likelihood(texts, num_samples=2).sum() / num_tokens
    assert found["generative_perplexity"] == pytest.approx(np.exp(nats), rel=1e-5)
    assert found["num_rows"] == found["num_texts"] == 3


@pytest.mark.slow
def test_the_base_model_is_trained_once_where_no_checkpoint_is_given(tmp_path, capsys):
  cfg = _config("", prompts="It")
  with cfg.unlocked():
    cfg.init.base = tiny.config("diffusion")
  modes.run("sample", cfg, str(tmp_path))
  assert "training the base model" in capsys.readouterr().out
  modes.run("sample", cfg, str(tmp_path))
  assert "training the base model" not in capsys.readouterr().out


def test_a_wrong_rule_is_refused_before_the_base_model_is_trained(tmp_path, monkeypatch):
  monkeypatch.setattr("mdx.modes.train.run", lambda *args: pytest.fail("trained a base model"))
  for changes, message in ((dict(sampler__name="beams"), "unknown sampler name 'beams'"),
                           (dict(sampler__gen_length=10 ** 6), "of the model; shorten one")):
    cfg = _config("", **changes)
    with cfg.unlocked():
      cfg.init.base = tiny.config("diffusion")
    with pytest.raises(ValueError, match=message):
      modes.run("sample", cfg, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_show_and_animation_write_what_they_say(runs, tmp_path, capsys):
  _sample(tmp_path, runs / "diffusion", prompts="It", show=True, animation=True)
  assert "step 4/4" in capsys.readouterr().out
  assert (tmp_path / "samples.gif").read_bytes().startswith(b"GIF8")
  assert (tmp_path / "samples.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_exports_and_single_checkpoints_can_be_loaded(runs, tmp_path):
  cfg = tiny.config("diffusion", sampler__num_samples=0, network__max_length=40,
                    export__path=str(tmp_path / "exported"))
  modes.run("export", cfg, str(runs / "diffusion"))
  rows = [mdx.load(str(path)).sample("It", gen_length=8, steps=4)[0].tokens.tolist()
          for path in (runs / "diffusion", tmp_path / "exported",
                       runs / "diffusion" / "checkpoints" / "2")]
  assert rows[0] == rows[1] == rows[2]


@pytest.mark.parametrize("changes, message", [
    ({"prompts": "x" * 33}, "prompt 0 has 33 tokens.*more than the 40 of the model"),
    ({"prompts": "missing.jsonl"}, "cannot be read"),
    ({"sampler.name": "beams"}, "unknown sampler name 'beams'; choose from ancestral"),
    ({"sampler.name": "confidence", "sampler.block_length": 2, "sampler.steps": 6},
     "steps 6 is not divisible by the 4 blocks"),
    ({"sampler.name": "confidence", "sampler.block_length": 3}, "does not divide gen_length 8"),
    ({"sampler.cache": "block"}, "needs a block-causal or causal model"),
    ({"sampler.name": "confidence", "sampler.schedule": "fast"}, "choose from even"),
    ({"num_samples": 0}, "config.num_samples must be a whole number of at least 1"),
    ({"init.checkpoint": "nowhere"}, "nowhere does not exist"),
    ({"init.params": "best"}, "choose from ema, raw")])
def test_bad_input_is_one_line_before_anything_is_written(changes, message, runs, tmp_path):
  cfg = tiny.changed(_config(runs / "diffusion"), changes)
  with pytest.raises(ValueError, match=message) as error:
    modes.run("sample", cfg, str(tmp_path / "run"))
  assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


@pytest.mark.parametrize("line, message", [
    ('{"txt": "a"}', "line 1 has neither `text` nor `tokens`"), ("nonsense", "line 1 has neither"),
    ('{"tokens": ["a"]}', "`tokens` a list of ids"), ('{"tokens": [99999]}', "has the id 99999"),
    ("", "has no lines")])
def test_bad_prompt_files_are_named(line, message, runs, tmp_path):
  file = tmp_path / "prompts.jsonl"
  file.write_text(line + "\n")
  with pytest.raises(ValueError, match=message):
    modes.run("sample", _config(runs / "diffusion", prompts=str(file)), str(tmp_path / "run"))


@pytest.mark.slow
def test_models_that_cannot_do_it_say_so(runs, tmp_path):
  with pytest.raises(ValueError, match="decoded by sampler.name=autoregressive"):
    modes.run("sample", _config(runs / "ar", sampler__name="confidence"), str(tmp_path / "run"))
  with pytest.raises(ValueError, match="an autoregressive model cannot fill"):
    mdx.load(str(runs / "ar")).sample("a[MASK]b")
  with pytest.raises(ValueError, match="gives no likelihood"):
    mdx.load(str(runs / "mlm")).log_likelihood(["a"])
  assert mdx.load(str(runs / "mlm")).sample("a[MASK]b", steps=1)[0].tokens.shape == (3,)


def test_batches_pad_on_the_left_and_keep_infills_apart():
  prompts = [np.arange(n, dtype=np.int32) for n in (3, 20, 5)] + [np.array([1, 77, 2], np.int32)]
  one, infill = batching.batches(prompts, gen_length=4, batch_size=4, max_length=512,
                                 mask_id=77, pad_id=9)
  assert one.members == [0, 2, 1] and one.start == 64 and one.canvas.shape == (4, 68)
  np.testing.assert_array_equal(one.canvas[0, :61], 9)
  np.testing.assert_array_equal(one.canvas[0, 61:], [0, 1, 2, 77, 77, 77, 77])
  np.testing.assert_array_equal(one.segment_ids[0], [0] * 61 + [1] * 7)
  np.testing.assert_array_equal(one.positions[0], [0] * 61 + list(range(7)))
  assert not (one.canvas[3] == 77).any()  # fills the batch, needs no step
  np.testing.assert_array_equal(one.row_index[:3], [0, 2, 1])
  assert infill.members == [3] and infill.start == 0 and infill.canvas.shape == (4, 16)


def test_messages_are_prompts_of_a_model_with_a_chat_template(runs, tmp_path):
  talk = [{"role": "user", "content": "Thank you."}]
  file = _prompts(tmp_path / "prompts.jsonl", {"messages": talk}, {"text": "a"})
  assert sampling.read_prompts(file) == [talk, "a"]
  tokenizer = tokenizer_lib.build("asset:chat_bpe512.json", chat_template="asset:chat.jinja")
  model = mdx.load(str(runs / "diffusion"))
  ids = dataclasses.replace(model, tokenizer=tokenizer).prompt_ids(talk)
  np.testing.assert_array_equal(ids, chat.encode_prompt(tokenizer, talk))
  assert tokenizer.decode(ids).strip() == "Thank you."
  with pytest.raises(ValueError, match="prompts.jsonl line 1: message 0 has the role 'me'"):
    sampling.read_prompts(_prompts(tmp_path / "prompts.jsonl",
                                   {"messages": [{"role": "me", "content": "a"}]}))
  with pytest.raises(ValueError, match="'char' has no chat template"):
    model.prompt_ids(talk)


def test_prompts_are_lines_that_end_at_newlines_alone(tmp_path):
  path = tmp_path / "prompts.jsonl"
  path.write_text('\ufeff{"text": "a\u2028b\x85"}\r\n\n{"text": "c"}\n\n', encoding="utf-8",
                  newline="")
  assert sampling.read_prompts(str(path)) == ["a\u2028b\x85", "c"]


@pytest.mark.slow
def test_steps_are_told_while_rows_are_decoded_and_change_nothing(runs):
  model, steps = mdx.load(str(runs / "diffusion")), []
  fields = dict(gen_length=8, steps=4, num_samples=2, batch_size=3)
  plain = model.sample(["It was", "the"], **fields)
  told = model.sample(["It was", "the"], on_step=steps.append, **fields)
  assert [x.tokens.tolist() for x in told] == [x.tokens.tolist() for x in plain]
  assert {x.row for x in steps} == {0, 1, 2, 3}
  for row, sample in enumerate(plain):
    own = [x for x in steps if x.row == row]
    assert [x.nfe for x in own] == sorted({x.nfe for x in own}) and own[-1].nfe == sample.nfe
    assert own[-1].text == model.tokenizer.decode(sample.tokens)
    masked = [x.text.count(codecs.MASK_CHAR) for x in own]
    assert masked == sorted(masked, reverse=True) and masked[-1] == 0 and masked[0] > 0
  assert model.sample("It [MASK]as", steps=1, on_step=steps.append)[0].text == steps[-1].text


@pytest.mark.slow
def test_stop_strings_cut_texts_and_notebooks_show_them(runs):
  model = mdx.load(str(runs / "diffusion"))
  whole = model.sample("It was", gen_length=8, steps=4, record="canvas")
  stop = whole[0].text[3]
  cut = model.sample("It was", gen_length=8, steps=4, stop=["no such", stop])
  assert cut[0].text == whole[0].text.partition(stop)[0]
  assert cut[0].tokens.tolist() == whole[0].tokens.tolist()
  assert "<iframe" in whole._repr_html_() and "denoising" in whole._repr_html_()
  assert cut._repr_html_() == f"<pre>{html.escape(cut[0].text)}</pre>"


@pytest.mark.slow
def test_a_saved_model_is_the_model(runs, tmp_path):
  model = mdx.load(str(runs / "diffusion"))
  model.save(str(tmp_path / "saved"))
  again = mdx.load(str(tmp_path / "saved"))
  assert again.log_likelihood(["It was"]) == model.log_likelihood(["It was"])
  with pytest.raises(ValueError, match="saved"):
    model.save(str(tmp_path / "saved"))


@pytest.mark.slow
def test_a_session_compiles_few_programs(runs, monkeypatch):
  one, = jax.devices()[:1]
  monkeypatch.setattr(jax, "devices", lambda *_: [one])
  model = mdx.load(str(runs / "diffusion"))
  sample = lambda prompts, **fields: model.sample(prompts, gen_length=4, steps=2, **fields)
  for length in (1, 7, 30):
    sample(["a" * length])
  for number in (2, 3, 4, 5, 8):
    sample(["a"] * number)
  for temperature in (0.2, 1.5):
    sample(["a"], temperature=temperature, seed=length)
  assert len(model._compiled) == 4  # of 1, 2, 4 and 8 rows


@pytest.mark.parametrize("fields", tiny.first([
    dict(name="confidence", steps=4, temperature=0.7, top_p=0.8, guidance_scale=0.5,
         order_temperature=0.3),
    dict(name="token_editing", threshold=0.4, edit_threshold=0.3, temperature=0.9)], 1))
@pytest.mark.slow
def test_a_rule_told_its_values_decodes_as_one_compiled_with_them(fields, runs, monkeypatch):
  told = mdx.load(str(runs / "diffusion")).sample(["a", "bc"], gen_length=8, **fields)
  monkeypatch.setattr(decoder, "told_values", lambda sampler: {})
  for one, other in zip(told, mdx.load(str(runs / "diffusion")).sample(
      ["a", "bc"], gen_length=8, **fields)):
    np.testing.assert_array_equal(one.tokens, other.tokens)
    assert one.nfe == other.nfe
