"""report.html: what it says, that hostile text stays text, and how a browser shows it."""

import base64
import json
import re

import pytest

from mdx import modes
from mdx.configs import report as report_config
from mdx.report import page
from mdx.report import theme
import browser

HOSTILE = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"


@pytest.fixture(name="run")
def _run(tmp_path):
  """A workdir as a run of RL leaves it, with hostile texts."""
  return _workdir(tmp_path / "one")


def _workdir(path, seed=0, accuracy=0.75):
  path.mkdir()
  config = {"mode": "rl", "seed": seed, "objective": {"name": "mdpo", "kl": 0.1}, "note": HOSTILE}
  (path / "config.json").write_text(json.dumps({"hash": "x", "config": config}))
  lines = [{"step": s, "kind": "train", "grad_norm": 1 + s % 2, "same": 3.0, "loss": 2.0 / s}
           for s in range(1, 2001)]
  lines += [{"step": s, "kind": "eval", "accuracy": accuracy * s / 2000, "accuracy_stderr": 0.1,
             "flat": 0.5} for s in (0, 1000, 2000)]
  (path / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
  table = [{"model": m, "remasking": r, "nfe": n, "accuracy": a, "stderr": 0.02,
            "over_denoising": 0.05, "num_examples": 512}
           for m, a in (("base", 0.3), ("mdpo", accuracy)) for r in ("low_confidence", "rcr")
           for n in (2, 4)]
  (path / "results.json").write_text(json.dumps({
      "table": table, "updates": 2000, "rollouts": 16000, "seconds": {"rollout": 12.5},
      "reward": 0.5, "reward_stderr": 0.125, "matmul_flops": 4.1e12,
      "task": {"noun": "4x4 Sudokus", "rules": "Every digit once. " + HOSTILE}}))
  rows = [{"id": 0, "prompt": "1 + 1 = " + HOSTILE, "completion": HOSTILE, "score": 1.0}]
  (path / "generations.jsonl").write_text("".join(json.dumps(x) + "\n" for x in rows))
  (path / "trajectories.html").write_text("<p id='inside'>viewer</p>")
  (path / page.ENVIRONMENT).write_text(json.dumps(page.environment(3.5)))
  return path


def test_a_report_holds_results_curves_samples_viewer_times_versions_and_config(run):
  text = page.write(run).read_text()
  for wanted in ("75.0 ± 2.0 (5.0)", "2 steps", "Learning curves", "score 1",
                 "Denoising: trajectories", "time: rollout", "12.5 s", "objective.kl", "jax",
                 "wall time", "Every digit once.", "0.50 ± 0.12", "4.1 TFLOP"):
    assert wanted in text, wanted
  captions = re.findall(r"<figcaption>(.*?)</figcaption>", text)
  assert captions == ["right answers; bars are 2 standard errors",
                      "right in some step, wrong at the end", "right answers (held-out)",
                      "loss (training): mean of 21 points", "gradient norm (training): mean of 21 points"]
  # Self-contained: nothing is asked for from elsewhere.
  assert not re.findall(r"(?:src|href)=\"(?!data:|#)", text)
  # Every term leads to its meaning, which stands there once.
  led = set(re.findall(r'href="#(term-[^"]*)"', text))
  assert {"term-standard-error", "term-over-denoised", "term-rcr"} <= led
  assert sorted(led) == sorted(re.findall(r'<dt id="([^"]*)"', text))
  assert HOSTILE not in text and "<script>" not in text
  assert len(text) < 400_000  # two thousand points are thinned out


def test_the_title_says_what_happened(run):
  text = page.write(run).read_text().replace("\u00a0", " ")
  title = re.search(r"<h1>(.*?)</h1>", text)[1]
  assert title == "MDPO raised correct 4x4 Sudokus in 2 steps from 30 % to 75 %"
  assert "<p class=\"sentence\">2,000 updates on 16,000 rollouts, 512 held-out problems" in text


@pytest.mark.parametrize("ticks, labels", [
    ((-0.1325, -0.135, -0.1375), ["-0.1325", "-0.135", "-0.1375"]), ((2e-4, 5e-5), ["0.0002", "5e-05"]),
    ((0.00025, -0.00015), ["0.00025", "-1.5e-4"]), ((15000, 2.5e6, 0), ["15k", "2.5M", "0"])])
def test_tick_labels_are_short_and_differ(ticks, labels):
  assert [theme.short(value) for value in ticks] == labels
  assert max(map(len, labels)) <= 8


def test_pictures_follow_the_mode_and_label_their_axes(run):
  text = page.write(run).read_text()
  pictures = [base64.b64decode(x).decode() for x in
              re.findall(r"data:image/svg\+xml;base64,([^\"]*)", text)]
  assert len(pictures) == 5
  for svg in pictures:
    assert "prefers-color-scheme:dark" in svg and "var(--c0)" in svg
    assert not re.findall(r"(?:fill|stroke): #(?!ffffff|000000)", svg)
    assert re.search(r">(step|denoising steps)</text>", svg)
  assert ">right answers, %</text>" in pictures[0] and ">gradient norm</text>" in pictures[4]


@pytest.mark.slow
def test_a_report_of_an_unfinished_run_is_written_and_of_no_run_refused(tmp_path, run):
  (run / "results.json").unlink()
  (run / page.ENVIRONMENT).unlink()
  assert "not finished" in page.write(run).read_text()
  (tmp_path / "empty").mkdir()
  with pytest.raises(ValueError, match="holds no run") as error:
    page.write(tmp_path / "empty")
  assert "\n" not in str(error.value)


def test_several_runs_are_compared(tmp_path, run, capsys):
  other = _workdir(tmp_path / "two", seed=1, accuracy=0.5)
  config = report_config.get_config()
  config.workdirs = f"{run}, {other}"
  modes.run("report", config, str(tmp_path / "out"))
  assert "report.html" in capsys.readouterr().out
  text = (tmp_path / "out" / page.NAME).read_text()
  differing = re.search(r"Where the configs differ</h2>(.*?)<h2", text, re.S)[1]
  assert "seed" in differing and "objective" not in differing
  results = re.search(r">Results</h2>(.*?)<h2", text, re.S)[1]
  # Equal errors of 2 points: 25 points apart, with an error of sqrt(2) * 2.
  row = r"<td>trained, RCR, 4 steps: right answers</td>(.*?)</tr>"
  assert re.findall(r"<td[^>]*>(.*?)</td>", re.search(row, results)[1]) == [
      "75.0 ± 2.0 %", "50.0 ± 2.0 %", "\u221225.0 ± 2.8 %", "one"]
  assert "base, RCR" not in results and "updates" not in results  # these are equal
  assert "<h1>one is better in 4 of 4 figures</h1>" in text
  samples = re.search(r"Samples side by side</h2>(.*?)<h2", text, re.S)[1]
  assert samples.count("<pre>") == 3 and 'colspan="2"' in samples  # one prompt, two answers
  with pytest.raises(ValueError, match="twice"):
    page.compare([str(run), str(run)], tmp_path / "x.html")
  config.workdirs = " , "
  with pytest.raises(ValueError, match="workdirs is empty"):
    modes.run("report", config, str(tmp_path / "out"))


@browser.needed
@pytest.mark.slow
def test_a_browser_shows_it_runs_nothing_and_fits_a_phone(run, tmp_path):
  shown = browser.Page(tmp_path / "profile")
  try:
    file = page.write(run)
    shown.open(file)
    assert shown.run("window.hacked") is None
    assert shown.run("document.querySelectorAll('figure img').length") >= 2
    assert shown.run("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    assert shown.run("document.querySelector('iframe').sandbox.value") == "allow-scripts"
    bad, asked = shown.complaints()
    assert not bad and all(url.startswith(("data:", "about:srcdoc")) for url in asked)
    shown.resize(390)
    assert shown.run("document.documentElement.scrollWidth") <= 390
    shown.screenshot(tmp_path / "page.png")
  finally:
    shown.close()
