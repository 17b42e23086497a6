"""The outbox keeps every event, in order, through kills, torn lines and full disks."""

import errno
import os
import signal
import subprocess
import sys
import time

import pytest

from orchestrator.tracking.outbox import Outbox


def contents(outbox):
    return [(record.number, record.run, record.what, dict(record.data)) for record in outbox.records()]


def test_records_come_back_in_order_numbered_without_gaps(tmp_path):
    outbox = Outbox(tmp_path, write=True)
    outbox.append("sweep", "tags", {"tags": {"a": "1"}})
    outbox.append_points("7", [(100, {"loss": 0.5}), (200, {"loss": 0.25})])
    outbox.append("7", "status", {"status": "FINISHED"})
    assert contents(Outbox(tmp_path)) == [
        (1, "sweep", "tags", {"tags": {"a": "1"}}),
        (2, "7", "metrics", {"points": [[100, {"loss": 0.5}], [200, {"loss": 0.25}]]}),
        (3, "7", "status", {"status": "FINISHED"}),
    ]
    assert outbox.last == Outbox(tmp_path).last == 3


def test_numbers_and_identity_go_on_after_opening_again(tmp_path):
    first = Outbox(tmp_path, write=True)
    first.append("7", "tags", {"tags": {}})
    first.close()
    second = Outbox(tmp_path, write=True)
    second.append("7", "tags", {"tags": {}})
    assert second.id == first.id
    assert [record.number for record in second.records()] == [1, 2]


def test_reading_can_go_on_where_it_stopped(tmp_path):
    outbox = Outbox(tmp_path, write=True)
    for index in range(5):
        outbox.append("7", "tags", {"tags": {"i": str(index)}})
    third = list(outbox.records())[2]
    assert [record.number for record in outbox.records(third.end)] == [4, 5]


def test_there_must_be_an_outbox_to_read(tmp_path):
    with pytest.raises(FileNotFoundError):
        Outbox(tmp_path)


@pytest.mark.parametrize("tail", [b'{"n":3,"t":1,"run":"7","do":"ta', b"\0\0\0\0", b"\0\0\0\n", b"{}\n", b'{"n":3'])
def test_a_torn_tail_is_cut_off_and_writing_goes_on(tmp_path, tail):
    outbox = Outbox(tmp_path, write=True)
    outbox.append("7", "tags", {"tags": {"long": "x" * 200_000}})
    outbox.append("7", "tags", {"tags": {"b": "2"}})
    outbox.close()
    with outbox.path.open("ab") as file:
        file.write(tail)
    again = Outbox(tmp_path, write=True)
    again.append("7", "tags", {"tags": {"c": "3"}})
    assert [record.number for record in again.records()] == [1, 2, 3]
    assert list(again.records())[-1].data == {"tags": {"c": "3"}}


def test_a_line_that_is_still_being_written_is_not_read(tmp_path):
    outbox = Outbox(tmp_path, write=True)
    outbox.append("7", "tags", {"tags": {}})
    with outbox.path.open("ab") as file:
        file.write(b'{"n":2,"t":1,"run":"7","do":"tags"')
    assert [record.number for record in Outbox(tmp_path).records()] == [1]


def test_damage_in_the_middle_is_named(tmp_path):
    outbox = Outbox(tmp_path, write=True)
    for _ in range(3):
        outbox.append("7", "tags", {"tags": {}})
    outbox.close()
    lines = outbox.path.read_bytes().splitlines(keepends=True)
    lines[2] = b"garbage\n"
    outbox.path.write_bytes(b"".join(lines))
    with pytest.raises(ValueError, match=r"events.jsonl: the record that ends at byte \d+ is damaged: b'garbage"):
        list(Outbox(tmp_path).records())


def test_points_of_steps_that_are_trained_again_are_not_appended_again(tmp_path):
    first = Outbox(tmp_path, write=True)
    first.append_points("7", [(100, {"loss": 0.5}), (200, {"loss": 0.25, "fid": 9.0})])
    first.close()
    resumed = Outbox(tmp_path, write=True)
    resumed.append_points("7", [(100, {"loss": 0.5}), (200, {"loss": 0.26}), (300, {"loss": 0.2, "fid": 8.0})])
    resumed.append_points("8", [(100, {"loss": 0.5})])
    points = [(r.run, r.data["points"]) for r in resumed.records() if r.what == "metrics"]
    assert points == [
        ("7", [[100, {"loss": 0.5}], [200, {"loss": 0.25, "fid": 9.0}]]),
        ("7", [[300, {"loss": 0.2, "fid": 8.0}]]),
        ("8", [[100, {"loss": 0.5}]]),
    ]


def test_a_metric_that_starts_later_is_kept_from_its_first_step(tmp_path):
    outbox = Outbox(tmp_path, write=True)
    outbox.append_points("7", [(200, {"loss": 0.5})])
    outbox.append_points("7", [(100, {"fid": 9.0, "loss": 0.7})])
    assert [r.data["points"] for r in outbox.records()] == [[[200, {"loss": 0.5}]], [[100, {"fid": 9.0}]]]


def test_once_means_once_also_after_opening_again(tmp_path):
    first = Outbox(tmp_path, write=True)
    assert first.append_once("7", "image", "samples", 100, {"path": "a"})
    assert not first.append_once("7", "image", "samples", 100, {"path": "b"})
    first.append("7", "status", {"status": "KILLED"})
    first.close()
    again = Outbox(tmp_path, write=True)
    assert not again.append_once("7", "image", "samples", 100, {"path": "c"})
    assert again.append_once("7", "image", "samples", 200, {"path": "d"})
    assert again.append_once("7", "image", "noise", 100, {"path": "e"})
    assert [r.data["path"] for r in again.records() if r.what == "image"] == ["a", "d", "e"]
    assert (again.status("7"), again.status("8")) == ("KILLED", None)


@pytest.mark.parametrize("short", [False, True], ids=["nothing fits", "half fits"])
def test_a_full_disk_delays_events_and_loses_none(tmp_path, monkeypatch, short):
    outbox = Outbox(tmp_path, write=True)
    outbox.append("7", "tags", {"tags": {"a": "1"}})
    real = os.write

    def full(descriptor, data):
        if short:
            return real(descriptor, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    outbox.append("7", "tags", {"tags": {"b": "2"}})
    outbox.append("7", "tags", {"tags": {"c": "3"}})
    assert not outbox.flush()
    assert [record.number for record in outbox.records()] == [1]
    monkeypatch.undo()
    outbox.append("7", "tags", {"tags": {"d": "4"}})
    assert outbox.flush()
    assert [list(record.data["tags"]) for record in Outbox(tmp_path).records()] == [["a"], ["b"], ["c"], ["d"]]


def test_what_was_appended_outlives_the_process(tmp_path):
    code = (
        "import os, signal, sys; from pathlib import Path; from orchestrator.tracking.outbox import Outbox\n"
        "outbox = Outbox(Path(sys.argv[1]), write=True)\n"
        "for i in range(50): outbox.append('7', 'tags', {'tags': {'i': str(i)}})\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert [r.data["tags"]["i"] for r in Outbox(tmp_path).records()] == [str(i) for i in range(50)]


def test_appending_takes_less_than_a_millisecond(tmp_path):
    outbox = Outbox(tmp_path, write=True)
    points = [(step, {f"train/metric_{i}": 0.123456789 * i for i in range(6)}) for step in range(0, 1000, 100)]
    spent = []
    for trial in range(300):
        start = time.perf_counter()
        outbox.append_points(str(trial), points)
        spent.append(time.perf_counter() - start)
    assert sorted(spent)[len(spent) // 2] < 1e-3
