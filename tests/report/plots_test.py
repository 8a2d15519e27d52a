"""Learning curves are valid pictures, whatever a run has logged."""

import matplotlib.image
import pytest

from mdx.report import plots

import tiny


def _train(*steps, loss=2.0):
  return [{"step": s, "kind": "train", "loss": loss} for s in steps]


def _eval(*steps, name="bits_per_char", **fields):
  return [{"step": s, "kind": "eval", name: 3.0} | fields for s in steps]


LINES = {
    "a_run": _train(10, 20, 30) + _eval(20, 30, bits_per_char_stderr=0.1),
    "one_point": _train(1) + _eval(1),
    "no_evaluation": _train(10, 20),
    "no_training": _eval(0),
    "nothing": [],
    "lost_numbers": _train(10, loss=None) + _train(20) + _eval(20, bits_per_char=None)
                    + _eval(30, bits_per_char_stderr=None),
    "nats": _train(10) + _eval(10, name="nats_per_token", nats_per_token_stderr=0.2),
    "other_kinds": _train(10) + [{"step": 10, "kind": "rl", "reward": 1.0}],
}


@pytest.mark.parametrize("lines", tiny.first(LINES.values(), 2), ids=LINES)
def test_a_learning_curve_is_a_png_of_its_size(tmp_path, lines):
  path = tmp_path / "curve.png"
  plots.learning_curve(lines, path, title="a title",
                       baselines={"unigram": 4.2, "bigram": 3.5} if lines else None)
  assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
  image = matplotlib.image.imread(path)
  assert image.shape[:2] == (480, 1200) and image.std() > 0.01


def _drawn(monkeypatch, tmp_path, lines, **options):
  from matplotlib import figure
  figures = []

  def keep(self, path, **options):
    del options
    path.touch()
    figures.append(self)

  monkeypatch.setattr(figure.Figure, "savefig", keep)
  plots.learning_curve(lines, tmp_path / "curve.png", **options)
  monkeypatch.undo()
  return figures[0].axes


def test_the_curve_shows_the_numbers_of_the_log(monkeypatch, tmp_path):
  loss, held_out = _drawn(monkeypatch, tmp_path, LINES["a_run"], baselines={"unigram": 4.2})
  assert loss.lines[0].get_xydata().tolist() == [[10, 2], [20, 2], [30, 2]]
  assert held_out.lines[0].get_xydata().tolist() == [[20, 3], [30, 3]]
  low_high = [segment[:, 1].tolist() for segment in held_out.collections[0].get_segments()]
  assert low_high == [[2.8, 3.2]] * 2  # two standard errors
  assert held_out.get_ylabel() == "bits per char"
  assert any(set(line.get_ydata()) == {4.2} for line in held_out.lines)


def test_losses_that_were_not_finite_are_left_out(monkeypatch, tmp_path):
  loss, held_out = _drawn(monkeypatch, tmp_path, LINES["lost_numbers"])
  assert loss.lines[0].get_xydata().tolist() == [[20, 2]]
  assert held_out.lines[0].get_xydata().tolist() == [[30, 3]]


def test_the_unit_is_nats_where_no_bits_were_logged(monkeypatch, tmp_path):
  _, held_out = _drawn(monkeypatch, tmp_path, LINES["nats"])
  assert held_out.get_ylabel() == "nats per token"
  assert held_out.lines[0].get_xydata().tolist() == [[10, 3]]


def test_a_new_evaluation_of_a_step_replaces_the_old_one(monkeypatch, tmp_path):
  again = _eval(20) + [dict(_eval(20)[0], bits_per_char=2.5)]
  _, held_out = _drawn(monkeypatch, tmp_path, _train(10, 20) + again)
  assert held_out.lines[0].get_xydata().tolist() == [[20, 2.5]]
