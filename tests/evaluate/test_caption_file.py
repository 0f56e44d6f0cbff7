"""A file of captions goes on where it was left, or says why it can't."""

import dataclasses
import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from capjax.evaluate import caption_file
from capjax.evaluate.caption_file import CaptionFile, CaptionFileError
from capjax.evaluate.captioning import Caption
from capjax.evaluate.lines import answer_row, json_line, printable, text_line
from capjax.evaluate.stream import Answer, Attended
from capjax.run.evaluate import metrics_line
from tests.helpers.effort import examples

MADE_BY = {"step": 3, "decoding": {"num_beams": 2, "sizes": (1, 2)}, "seed": 0}
ROWS = [{"image": f"{i}.jpg", "caption": f"é {i}\n\u2028"} for i in range(3)]
ERROR = {"image": "bad.jpg", "error": "bad.jpg: empty"}


def write(path, rows, *, resume=False, made_by=MADE_BY):
    file = CaptionFile(str(path), made_by, resume=resume)
    for row in rows:
        file.write(row)
    file.close()
    return file.done


def read(path):
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


def test_what_is_written_is_there_at_once_with_what_made_it(tmp_path):
    path = tmp_path / "new" / "captions.jsonl"
    file = CaptionFile(str(path), MADE_BY, resume=False)
    assert json.loads(Path(f"{path}.meta.json").read_text()) == json.loads(json.dumps(MADE_BY))
    for count, row in enumerate([*ROWS, ERROR], 1):
        file.write(row)
        assert read(path) == [*ROWS, ERROR][:count]
    assert file.done == set()
    file.close()


def test_a_file_with_captions_needs_resume(tmp_path):
    path = tmp_path / "captions.jsonl"
    path.touch()  # As mktemp leaves it.
    write(path, ROWS)
    with pytest.raises(CaptionFileError, match=r"captions\.jsonl has captions; .*--resume"):
        write(path, [])
    assert read(path) == ROWS
    assert write(tmp_path / "new.jsonl", ROWS, resume=True) == set()


def test_errors_are_forgotten_and_half_a_line_is_cut(tmp_path):
    path = tmp_path / "captions.jsonl"
    write(path, [ROWS[0], ERROR, ROWS[1]])
    with path.open("ab") as file:
        file.write(json_line(ROWS[2])[:-1])
    link = tmp_path / "link.jsonl"
    link.symlink_to(path)
    path.chmod(0o640)
    assert write(link, ROWS[2:], resume=True) == {"0.jpg", "1.jpg"}
    assert read(path) == ROWS
    assert link.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o640
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "captions.jsonl",
        "captions.jsonl.meta.json",
        "link.jsonl",
    ]


@settings(suppress_health_check=list(HealthCheck), max_examples=examples(40))
@given(cut=st.integers(0, 10**6), names=st.lists(st.text(max_size=5), min_size=1, max_size=6))
def test_cut_anywhere_it_ends_as_if_it_never_was(tmp_path, cut, names):
    path = tmp_path / "captions.jsonl"
    names = [*dict.fromkeys(names), os.fsdecode(b"caf\xe9")]
    rows = [{"image": name, "caption": f"of {name}"} for name in names]
    path.unlink(missing_ok=True)
    write(path, rows)
    whole = path.read_bytes()
    path.write_bytes(whole[: cut % len(whole)])
    file = CaptionFile(str(path), MADE_BY, resume=True)
    for row in rows:
        if row["image"] not in file.done:
            file.write(row)
    file.close()
    assert path.read_bytes() == whole


def test_what_something_else_made_is_refused_by_field(tmp_path):
    path = tmp_path / "captions.jsonl"
    write(path, ROWS)
    whole = path.read_bytes()
    other = {"step": 4, "decoding": {"num_beams": 2, "sizes": [1, 3]}, "code": {"jax": "1"}}
    with pytest.raises(CaptionFileError) as caught:
        write(path, [], resume=True, made_by=other)
    assert str(caught.value).splitlines()[1:] == [
        "  code.jax: '(absent)' in the file, '1' now",
        "  decoding.sizes: [1, 2] in the file, [1, 3] now",
        "  seed: 0 in the file, '(absent)' now",
        "  step: 3 in the file, 4 now",
    ]
    meta = Path(f"{path}.meta.json")
    for content in (b"{", b"[]", b"\xff", None):
        meta.write_bytes(content) if content else meta.unlink()
        with pytest.raises(CaptionFileError, match=r"meta\.json, with the settings of"):
            write(path, [], resume=True)
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b"\xff",
        b"\0\0",
        b'{"image": 1, "caption": ""}',
        b'{"image": "a"}',
    ],
)
def test_a_file_of_something_else_is_left_alone(tmp_path, line):
    path = tmp_path / "notes.txt"
    write(path, ROWS)
    with path.open("ab") as file:
        file.write(line + b"\n")
    whole = path.read_bytes()
    with pytest.raises(CaptionFileError, match=r"notes\.txt: line 4 is not a row of captions"):
        write(path, [], resume=True)
    assert path.read_bytes() == whole
    assert sorted(p.name for p in tmp_path.iterdir()) == ["notes.txt", "notes.txt.meta.json"]


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(CaptionFileError, match=f"{path} is not a file"):
            write(path, [], resume=True)


def test_one_process_writes_at_a_time(tmp_path):
    """Locks are of an opened file: a second one of this process stands for another's."""
    path = tmp_path / "captions.jsonl"
    write(path, ROWS, made_by={})
    file = CaptionFile(str(path), {}, resume=True)  # Which has replaced what was there.
    with pytest.raises(CaptionFileError, match="another process is writing it"):
        write(path, [], resume=True, made_by={})
    file.close()
    assert write(path, [], resume=True, made_by={}) == {row["image"] for row in ROWS}


def test_a_file_replaced_while_it_was_opened_is_anothers(tmp_path, monkeypatch):
    path = tmp_path / "captions.jsonl"
    write(path, ROWS)

    def replace_and_lock(_):
        os.replace(copy, path)
        return True

    copy = tmp_path / "copy"
    copy.write_bytes(path.read_bytes())
    monkeypatch.setattr(caption_file, "lock_open_file", replace_and_lock)
    with pytest.raises(CaptionFileError, match="another process is writing it"):
        write(path, [], resume=True)


def test_a_full_disk_is_told(tmp_path):
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full on this system")
    file = CaptionFile(str(tmp_path / "captions.jsonl"), MADE_BY, resume=False)
    file._file.close()
    file._file = open("/dev/full", "wb", buffering=0)  # noqa: SIM115
    with pytest.raises(CaptionFileError, match=r"captions\.jsonl: No space left .*--resume"):
        file.write(ROWS[0])
    file.close()


def test_numbers_that_json_lacks_are_null():
    row = {"log_probs": (-1.5, float("nan")), "log_prob": float("-inf")}
    assert json_line(row) == b'{"log_probs": [-1.5, null], "log_prob": null}\n'
    assert metrics_line({"loss": 1.23456, "own": float("inf")}) == '{"loss": 1.2346, "own": null}'


@given(st.text())
def test_a_line_is_a_line(text):
    for piece in (text, os.fsdecode(text.encode("utf-8", "replace") + b"\xff")):
        row = {"image": piece, "error": "x"}
        line = json_line(row)
        assert line.count(b"\n") == 1
        assert json.loads(line) == row
        caption = Caption(piece, -1.0, -1.0, True, ())
        answer = Answer(piece, caption)
        fields = {"caption", "log_prob", "score", "finished", "words", "log_probs"}
        assert answer_row(answer).keys() == {"image", *fields}
        line = text_line(answer).decode()
        assert len(line.splitlines()) == 1
        assert line.count("\t") == 1
        second = Attended(None, Caption(piece, -2.0, -1.5, False, ()))
        both = text_line(answer._replace(attended=second)).decode()
        name, text = line[:-1].split("\t")
        assert both == f"{line}{name}\tattended: {text}\n"
        row = answer_row(answer._replace(attended=second))
        figures = {"log_prob": -2.0, "score": -1.5, "finished": False, "words": (), "log_probs": ()}
        assert row == {**answer_row(answer), "attended": {"caption": piece, **figures}}
        several = answer._replace(caption=dataclasses.replace(caption, alternatives=(caption,)))
        assert text_line(several).decode() == line * 2
        assert answer_row(several)["alternatives"] == [
            {n: v for n, v in answer_row(answer).items() if n != "image"}
        ]


def test_ordinary_text_stays_as_it_is():
    assert printable("naïve 猫\u3000\u200d\u200f 😀 \\n") == "naïve 猫\u3000\u200d\u200f 😀 \\n"
    assert printable("a\tb\x1b[1m\n\u2028") == "a\\tb\\x1b[1m\\n\\u2028"
