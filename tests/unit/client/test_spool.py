"""What is spooled is found again, whole or not at all, whatever happened to its process."""

import errno
import os
import subprocess
import sys

import pytest
import ziggurat
from ziggurat import _spool
from ziggurat._segment import RECORD_OVERHEAD, VERSION, header, scan
from ziggurat._spool import Spool

MIB = 2**20


def spool(directory, limit=MIB, image="lab/a", stream_id="s"):
    return Spool(str(directory), limit, image, stream_id)


def message(number):
    return f"message {number} ".encode() * (1 + number % 7)


def fill(found, first, last):
    for number in range(first, last + 1):
        assert found.append(number, message(number), durable=0)


def files(directory):
    return sorted(path for path in directory.iterdir() if path.suffix == ".spool")


def assert_holds(found, *numbers):
    held = [n for n in range(found.last + 2) if found.message_size(n) is not None]
    assert held == list(numbers)
    for number in numbers:
        assert found.read(number) == message(number)
        assert found.message_size(number) == len(message(number))


def test_order_and_release(tmp_path):
    found = spool(tmp_path, limit=4000)
    fill(found, 5, 44)
    assert len(files(tmp_path)) > 3
    assert found.size == sum(path.stat().st_size for path in files(tmp_path)) <= 4000
    assert_holds(found, *range(5, 45))
    found.release(20)
    assert found.message_size(21) is not None
    assert found.size < 4000
    found.release(44)
    assert (found.size, found.last, files(tmp_path)) == (0, 0, [])
    fill(found, 45, 46)
    assert_holds(found, 45, 46)
    found.close()


def test_the_next_process_finds_it(tmp_path):
    found = spool(tmp_path, limit=4000)
    fill(found, 1, 30)
    assert found.append(31, message(31), durable=17)
    found.close()
    found.close()
    assert not found.append(32, b"x", durable=0)
    again = spool(tmp_path)
    assert_holds(again, *range(1, 32))
    fill(again, 32, 33)
    assert_holds(again, *range(1, 34))
    again.close()


def test_the_bound_is_kept(tmp_path):
    found = spool(tmp_path, limit=1000)
    number = 1
    while found.has_room(100):
        assert found.append(number, b"x" * 100, durable=0)
        number += 1
    assert 1000 - found.size < 100 + RECORD_OVERHEAD
    assert found.size <= 1000
    found.close()


def test_without_a_bound_half_the_disk_is_taken(tmp_path):
    found = Spool(str(tmp_path), None, "a", "s")
    assert found.limit_bytes > 0
    found.close()


def test_what_was_in_memory_is_saved_before_it(tmp_path):
    found = spool(tmp_path)
    fill(found, 10, 12)
    found.save([(n, message(n)) for n in (7, 8, 9, 10, 13)], durable=6)
    assert_holds(found, *range(7, 14))
    found.close()
    again = spool(tmp_path)
    assert_holds(again, *range(7, 14))
    assert again.durable == 6
    again.close()


def test_a_torn_end_is_cut_off(tmp_path):
    """Whatever part of the last record a dying process had written."""
    found = spool(tmp_path)
    fill(found, 1, 3)
    end = found.size
    fill(found, 4, 4)
    found.close()
    (path,) = files(tmp_path)
    whole = path.read_bytes()
    for size in range(end, len(whole)):
        path.write_bytes(whole[:size])
        again = spool(tmp_path)
        assert_holds(again, 1, 2, 3)
        assert path.stat().st_size == end
        fill(again, 4, 4)
        assert_holds(again, 1, 2, 3, 4)
        again.release(4)
        again.close()


@pytest.mark.parametrize(
    "tail", [b"\0" * 500, "zeroed"], ids=["zeros after it", "the last record zeroed in part"]
)
def test_a_tail_that_the_disk_did_not_get(tmp_path, tail):
    found = spool(tmp_path)
    fill(found, 1, 4)
    found.close()
    (path,) = files(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-3] + b"\0" * 3 if tail == "zeroed" else whole + tail)
    again = spool(tmp_path)
    assert_holds(again, *range(1, 4 if tail == "zeroed" else 5))
    again.close()


@pytest.mark.parametrize("kept", [0, 10, 23, 40])
def test_a_torn_header_leaves_nothing(tmp_path, kept):
    path = tmp_path / f"{7:020d}.spool"
    path.write_bytes(header("{}", 0)[:kept])
    found = spool(tmp_path)
    assert (found.last, files(tmp_path)) == (0, [])
    found.close()


def test_damage_is_reported_with_its_place(tmp_path):
    found = spool(tmp_path)
    fill(found, 1, 9)
    found.close()
    (path,) = files(tmp_path)
    whole = bytearray(path.read_bytes())
    begin = scan(str(path)).begin
    whole[begin + RECORD_OVERHEAD] ^= 1
    path.write_bytes(whole)
    again = spool(tmp_path)
    with pytest.raises(ziggurat.DataLoss, match=path.name) as caught:
        again.read(1)
    assert caught.value.details["offset"] == str(begin)
    assert again.read(2) == message(2)
    again.close()
    whole[begin] ^= 1
    path.write_bytes(whole)
    with pytest.raises(ziggurat.DataLoss, match="damaged"):
        spool(tmp_path)
    path.unlink()
    spool(tmp_path).close()


def test_a_newer_format_is_refused(tmp_path):
    found = spool(tmp_path)
    fill(found, 1, 1)
    found.close()
    (path,) = files(tmp_path)
    whole = bytearray(path.read_bytes())
    whole[8] = VERSION + 1
    path.write_bytes(whole)
    with pytest.raises(ziggurat.FailedPrecondition, match="newer") as caught:
        spool(tmp_path)
    assert caught.value.reason == "UNSUPPORTED_VERSION"


def test_another_streams_messages_are_not_sent(tmp_path):
    found = spool(tmp_path)
    fill(found, 1, 1)
    found.close()
    for other in ({"image": "lab/b"}, {"stream_id": "t"}):
        with pytest.raises(ziggurat.FailedPrecondition, match="lab/a") as caught:
            spool(tmp_path, **other)
        assert caught.value.details == {"image": "lab/a", "stream_id": "s"}
    spool(tmp_path).close()


def test_a_directory_has_one_writer(tmp_path):
    found = spool(tmp_path)
    with pytest.raises(ziggurat.FailedPrecondition, match="another writer") as caught:
        spool(tmp_path)
    assert caught.value.reason == "SPOOL_IN_USE"
    found.close()
    spool(tmp_path).close()


def test_a_process_that_is_killed_holds_no_lock(tmp_path):
    code = (
        "import sys; from ziggurat._spool import Spool\n"
        "found = Spool(sys.argv[1], 2**20, 'lab/a', 's')\n"
        "found.append(1, b'message 1 ' * 2, 0); print('ready', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout.readline().strip() == b"ready"
        with pytest.raises(ziggurat.FailedPrecondition, match="another writer"):
            spool(tmp_path)
        process.kill()
    found = spool(tmp_path)
    assert_holds(found, 1)
    found.close()


def test_a_disk_that_refuses_leaves_no_half_record(tmp_path, monkeypatch):
    found = spool(tmp_path)
    fill(found, 1, 3)
    whole = _spool._write

    def fails(file, data):
        whole(file, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for write in (fails, lambda f, d: fails(f, d) if d.startswith(b"message") else whole(f, d)):
        monkeypatch.setattr(_spool, "_write", write)
        assert not found.append(4, message(4), durable=0)
        assert not found.has_room(1)
    monkeypatch.setattr(_spool, "_write", whole)
    monkeypatch.setattr(found, "_refused_until", 0.0)
    assert found.has_room(1)
    fill(found, 4, 5)
    assert_holds(found, 1, 2, 3, 4, 5)
    found.close()
    again = spool(tmp_path)
    assert_holds(again, 1, 2, 3, 4, 5)
    again.close()
