import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from intermodal.core.errors import IntermodalError
from intermodal.core.files import atomic_file, atomic_folder, read_json, write_text


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path):
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(ValueError), atomic_file(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        raise ValueError
    assert (tmp_path / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_failed_folder_leaves_the_old_one(tmp_path):
    with atomic_folder(tmp_path / "f") as folder:
        (folder / "x").write_text("1")
    with pytest.raises(ValueError), atomic_folder(tmp_path / "f") as folder:
        (folder / "x").write_text("2")
        raise ValueError
    assert (tmp_path / "f" / "x").read_text() == "1"
    assert names(tmp_path) == ["f"]


def test_a_full_disk_is_one_sentence_and_loses_nothing(tmp_path):
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(IntermodalError, match="disk is full"), atomic_file(tmp_path / "a.txt"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert (tmp_path / "a.txt").read_text() == "old"


def test_killed_while_writing_leaves_old_or_new(tmp_path):
    """A child rewrites a folder without pause and is killed: what stands is one whole version."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom intermodal.core.files import atomic_folder\n"
        "path = Path(sys.argv[1])\n"
        "for i in range(10**9):\n"
        "    with atomic_folder(path) as f:\n"
        "        [(f / n).write_text(str(i) * 5000) for n in ('a', 'b')]\n"
        "    print(i, flush=True)\n"
    )
    for _ in range(3):
        child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "f")], stdout=subprocess.PIPE)
        for _ in range(5):
            child.stdout.readline()
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        child.stdout.close()
        found = tmp_path / "f"
        if not found.exists():  # killed between the two renames: the old version stands beside it
            found = next(tmp_path.glob(".f.*.old"))
        assert (found / "a").read_text() == (found / "b").read_text() != ""


def test_read_json_names_the_file(tmp_path):
    with pytest.raises(IntermodalError, match=r"no settings at .*x\.json"):
        read_json(tmp_path / "x.json", "settings")
    (tmp_path / "x.json").write_text('{"a": ')
    with pytest.raises(IntermodalError, match="not valid JSON"):
        read_json(tmp_path / "x.json", "settings")


def test_a_folder_where_a_file_should_be_is_one_sentence(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    for target in (tmp_path / "folder", tmp_path / "file" / "below"):
        with pytest.raises(IntermodalError, match="cannot be written"), atomic_file(target) as temporary:
            temporary.write_text("new")
    assert (tmp_path / "file").read_text() == "x"
