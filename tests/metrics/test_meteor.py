"""METEOR's process: shared, ended, and where there is none."""

import os
import subprocess
import sys
import threading

import pytest
from pycocoevalcap.meteor.meteor import Meteor

from capjax.metrics import coco, meteor
from tests.metrics.test_coco import HYPOTHESES, REFERENCES


@pytest.mark.slow(reason="starts Java")
def test_meteor_where_java_is_found(capfd) -> None:
    if obstacle := meteor.why_not():
        pytest.skip(obstacle)
    values = coco.score(REFERENCES, HYPOTHESES)
    # Measured with pycocoevalcap's PTBTokenizer and Meteor on the same captions.
    assert values["METEOR"] == pytest.approx(33.37858835758323, abs=1e-9)
    assert capfd.readouterr() == ("", "")


def test_without_java_meteor_is_left_out_and_says_why(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    meteor.why_not.cache_clear()
    try:
        assert "java" in meteor.why_not()
        assert "METEOR" not in coco.score(REFERENCES, HYPOTHESES)
        with pytest.raises(RuntimeError, match=r"needs a `java`.*meteor=False"):
            coco.score(REFERENCES, HYPOTHESES, meteor=True)
    finally:
        meteor.why_not.cache_clear()


class FakeMeteor(Meteor):
    """pycocoevalcap's wrapper around a process of ours."""

    code = ""

    def __init__(self) -> None:
        assert "-Duser.language.format=en" in os.environ["JAVA_TOOL_OPTIONS"]
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        self.meteor_p = subprocess.Popen([sys.executable, "-c", self.code], **pipes)
        self.lock = threading.Lock()
        FakeMeteor.process = self.meteor_p


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise SystemExit('no memory')", "no memory"),  # dies at once
        ("input(); print('no number')", "nothing"),  # answers nonsense, and dies
        ("import time; time.sleep(600)", "nothing"),  # never answers
    ],
)
def test_a_failing_meteor_is_killed_and_says_so(monkeypatch, caplog, code, said) -> None:
    monkeypatch.setattr(FakeMeteor, "code", code)
    monkeypatch.setattr(meteor, "Meteor", FakeMeteor)
    monkeypatch.setattr(meteor, "why_not", lambda: None)
    monkeypatch.setattr(meteor, "_SECONDS", 1.0)
    with pytest.raises(RuntimeError, match=f"{said}.*meteor=False"):
        coco.score(REFERENCES, HYPOTHESES, meteor=True)
    assert FakeMeteor.process.returncode is not None
    assert FakeMeteor.process.stdout.closed
    assert FakeMeteor.process.stderr.closed
    if said == "no memory":  # The other scores are kept where METEOR was not asked for.
        others = coco.score(REFERENCES, HYPOTHESES)
        assert others == coco.score(REFERENCES, HYPOTHESES, meteor=False)
        assert "METEOR's Java process failed (no memory)" in caplog.text


ANSWERS = """
for line in iter(input, ""):
    numbers = line.count("|||") + 1 if line.startswith("EVAL") else 1
    print("0.5\\n" * numbers, end="", flush=True)
"""


@pytest.fixture(name="processes")
def make_processes(monkeypatch):
    """Those that are started, which answer 0.5."""
    made = []

    class Answering(FakeMeteor):
        code = ANSWERS

        def __init__(self) -> None:
            super().__init__()
            made.append(self.meteor_p)

    monkeypatch.setattr(meteor, "Meteor", Answering)
    monkeypatch.setattr(meteor, "why_not", lambda: None)
    return made


def test_evaluations_share_a_process_that_ends_with_them(processes) -> None:
    with meteor.started():
        assert len(processes) == 1
        for _ in range(2):
            with meteor.started():
                assert coco.score(REFERENCES, HYPOTHESES)["METEOR"] == 50.0
        assert processes[0].poll() is None
    assert len(processes) == 1
    assert processes[0].returncode is not None
    assert coco.score(REFERENCES, HYPOTHESES)["METEOR"] == 50.0
    assert len(processes) == 2
    assert processes[1].returncode is not None


def test_a_process_ends_where_captioning_fails(processes) -> None:
    with pytest.raises(KeyboardInterrupt), meteor.started():
        raise KeyboardInterrupt
    assert processes[0].returncode is not None


def test_after_a_process_that_failed_another_is_started(processes) -> None:
    with meteor.started():
        processes[0].kill()
        assert "METEOR" not in coco.score(REFERENCES, HYPOTHESES)
        assert coco.score(REFERENCES, HYPOTHESES)["METEOR"] == 50.0
    assert all(process.returncode is not None for process in processes)


def test_none_is_started_unless_it_is_wanted(processes) -> None:
    with meteor.started(False):
        assert not processes


def test_after_an_interruption_another_is_started(monkeypatch, processes) -> None:
    with meteor.started():
        with monkeypatch.context() as patch:
            patch.setattr(meteor.Meteor, "_stat", interrupt)
            with pytest.raises(KeyboardInterrupt):
                coco.score(REFERENCES, HYPOTHESES)
        assert processes[0].returncode is not None
        assert coco.score(REFERENCES, HYPOTHESES)["METEOR"] == 50.0


def interrupt(*_) -> None:
    """As by control-C while the process is asked."""
    raise KeyboardInterrupt
