from __future__ import annotations

import pytest
from rich.console import Console

from hf_elmix.cli.main import main

GAINS = (0.03, 0.041, 0.035, 0.038, 0.026, 0.03, 0.033, 0.029)


def scores(method: str, seed: int) -> float:
    return 0.7 + (GAINS[seed] if method == "0-0.5" else 0.0)


def test_the_report_says_the_verdict_first_and_shows_the_path(stub, tmp_path, capsys):
    found = stub(scores).compare(tmp_path / "runs", "0-0.5", max_seeds=8)
    page = found.report(tmp_path / "report").read_text().replace("\u00a0", " ")
    advice, sentence = found.sentences[:2]
    assert advice.startswith("Use F = 0-0.5 (ramp): it is better than CE by about 3.")
    assert sentence.startswith("F = 0-0.5 (ramp) is better than CE (+3.")
    assert page.index(advice) < page.index(sentence) < page.index("Mean difference from CE after every seed")
    assert (tmp_path / "report" / "figures" / "looks.svg").exists()
    # The command makes the same report, and says the same.
    capsys.readouterr()
    assert main(["report", str(tmp_path / "runs")]) == 0
    assert capsys.readouterr().out.startswith(advice)
    assert (tmp_path / "runs" / "report" / "data" / "looks.csv").exists()


def test_the_test_scores_are_in_the_report_at_the_end(stub, tmp_path):
    run = stub(scores)
    unseen = []
    found = run.compare(
        tmp_path, "0-0.5", max_seeds=8, show=lambda part, _: unseen.append(part.report(tmp_path / "r").read_text())
    )
    assert all("test score" not in page for page in unseen)
    page = found.report(tmp_path / "r").read_text().replace("\u00a0", " ")
    said = "On the 1,043 test rows, which played no part in them: CE 60.00, F = 0-0.5 (ramp) 63."
    assert said in page
    assert page.count("test score") == 1
    first = {"method": "ce", "score": pytest.approx(60.0), "difference": 0, "seeds": 4, "rows": 1043}
    assert found.to_dict()["test"][0] == first


def test_runs_that_predict_one_class_are_named_in_the_verdict(stub, tmp_path, capsys):
    found = stub(scores, one_class={("ce", 0), ("0-0.5", 0), ("ce", 1)}).compare(tmp_path, "0-0.5", max_seeds=3)
    said = "3 of 6 runs predict one class only (CE 2, F = 0-0.5 (ramp) 1), as if they had learned nothing"
    assert found.sentences[2].startswith(said)
    assert found.to_dict()["runs_one_class"] == {"ce": 2, "0-0.5": 1}
    capsys.readouterr()
    assert main(["report", str(tmp_path)]) == 0
    assert said in capsys.readouterr().out


def test_runs_that_a_constant_prediction_beats_are_named_and_not_recommended(stub, tmp_path, capsys):
    """CE scores 70 and more, the mixed loss 73.5 and more (see `scores`)."""
    level = 0.01 + max(scores(method, seed) for method in ("ce", "0-0.5") for seed in range(8))
    found = stub(scores, constant=level).compare(tmp_path, "0-0.5", max_seeds=8)
    count = found.seeds
    assert found.verdict == {"0-0.5": "better"}
    advice = (
        "Use none of these models yet: F = 0-0.5 (ramp) is better than CE, but always predicting one class is at "
        "least as accurate."
    )
    said = (
        f"{2 * count} of {2 * count} runs are no more accurate than always predicting one class, which gives "
        f"{100 * level:.1f} % (CE {count}, F = 0-0.5 (ramp) {count}), as if they had learned nothing: do not rely"
    )
    assert found.sentences[0] == advice
    assert found.sentences[2].startswith(said)
    assert found.to_dict()["runs_trivial"] == {"ce": count, "0-0.5": count}
    capsys.readouterr()
    assert main(["report", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert advice in out
    assert said in out


def test_a_damaged_file_of_rules_is_one_line(stub, tmp_path, capsys):
    stub(scores).compare(tmp_path, "0-0.5", max_seeds=2)
    (tmp_path / "comparison.json").write_text('{"baseline": "ce"}')
    capsys.readouterr()
    assert main(["report", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "comparison.json is damaged ('methods'). Delete it: `elmix compare` writes it again." in line


def test_a_terminal_and_a_notebook_show_sentences_and_a_table(stub, tmp_path):
    found = stub(scores).compare(tmp_path, "0-0.5", max_seeds=8)
    console = Console(width=120)
    with console.capture() as capture:
        console.print(found)
    text = capture.get()
    assert text.startswith("Use F = 0-0.5 (ramp): it is better than CE by about")
    assert "│ F = 0-0.5 (ramp) │ better   │ +3." in text
    assert "test score" in text
    shown = found._repr_mimebundle_(include=[], exclude=[])
    assert "is better than CE" in shown["text/html"]
    assert found.to_frame().columns.to_list()[:3] == ["method", "seed", "seeds"]
