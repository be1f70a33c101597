import errno
import hashlib
import os
import pathlib
import stat

import pooch
import pytest

from minitok import files

ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1


def test_writing_shows_the_file_at_the_end_only(tmp_path):
    target = tmp_path / "new" / "folder" / "x.bin"
    with files.writing(target) as temporary:
        temporary.write_bytes(b"whole")
        assert temporary.parent == target.parent
        assert not target.exists()
    assert target.read_bytes() == b"whole"
    assert os.listdir(target.parent) == ["x.bin"]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
@pytest.mark.parametrize("old", [None, b"old"])
def test_writing_leaves_nothing_half_written(tmp_path, error, old):
    target = tmp_path / "x.bin"
    if old:
        target.write_bytes(old)

    def half():
        with files.writing(target) as temporary:
            temporary.write_bytes(b"half")
            raise error

    with pytest.raises(type(error)):
        half()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == ({"x.bin": old} if old else {})


def test_writing_over_a_folder_fails_and_leaves_nothing(tmp_path):
    (tmp_path / "taken" / "inside").mkdir(parents=True)
    with pytest.raises(OSError, match="taken"):
        files.write(tmp_path / "taken", "x")
    assert os.listdir(tmp_path) == ["taken"]


def test_a_mount_that_refuses_permissions_takes_the_file(tmp_path, monkeypatch):
    def refused(self, mode):
        raise PermissionError("Operation not permitted")

    monkeypatch.setattr(pathlib.Path, "chmod", refused)
    files.write(tmp_path / "x", "x")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_what_is_written_can_be_read_by_all(tmp_path):
    files.write(tmp_path / "x", "x")
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o644


@pytest.mark.parametrize(
    ("content", "expected"),
    [("a\nb", b"a\nb"), ("\u00e9\u732b", b"\xc3\xa9\xe7\x8c\xab"), (b"\x00\xff", b"\x00\xff"), ("", b"")],
)
def test_write_takes_text_and_bytes(tmp_path, content, expected):
    files.write(tmp_path / "x", "something longer that was there before")
    files.write(str(tmp_path / "x"), content)
    assert (tmp_path / "x").read_bytes() == expected


def test_hashes(tmp_path):
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    assert files.sha256(path) == ABC
    files.check_sha256(path, ABC)
    path.write_bytes(bytes(3_000_000))
    assert files.sha256(str(path)) == hashlib.sha256(bytes(3_000_000)).hexdigest()
    with pytest.raises(ValueError, match=f"abc has SHA-256 [0-9a-f]{{64}}, expected {ABC}"):
        files.check_sha256(path, ABC)


def test_the_cache_folder_is_made_where_one_says_once_something_is_to_be_written(tmp_path, monkeypatch):
    monkeypatch.setenv("MINITOK_CACHE", str(tmp_path / "a" / "b"))
    assert files.cache_folder() == tmp_path / "a" / "b"
    assert list(tmp_path.iterdir()) == []
    with files.filling_cache() as folder:
        assert folder == tmp_path / "a" / "b"
        assert list(folder.iterdir()) == []


@pytest.mark.parametrize(("number", "expected"), [(errno.ENOSPC, PermissionError), (errno.EIO, OSError)])
def test_a_full_disk_is_told_as_such(tmp_path, monkeypatch, number, expected):
    monkeypatch.setenv("MINITOK_CACHE", str(tmp_path))
    with pytest.raises(OSError, match="here") as caught, files.filling_cache():
        raise OSError(number, "no room here")
    assert type(caught.value) is expected
    if number == errno.ENOSPC:
        assert (
            str(caught.value)
            == f"the cache folder {tmp_path} cannot be written (no room here): set MINITOK_CACHE to another"
        )


@pytest.mark.parametrize("said", [None, ""])
def test_the_cache_folder_is_the_systems_where_one_says_nothing(tmp_path, monkeypatch, said):
    monkeypatch.delenv("MINITOK_CACHE", raising=False)
    if said is not None:
        monkeypatch.setenv("MINITOK_CACHE", said)
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / project)
    assert files.cache_folder() == tmp_path / "minitok"


@pytest.mark.parametrize("below", [(), ("deeper",)])
def test_a_cache_folder_that_cannot_be_names_the_way_out(tmp_path, monkeypatch, below):
    (tmp_path / "file").write_text("in the way")
    folder = (tmp_path / "file").joinpath(*below)
    monkeypatch.setenv("MINITOK_CACHE", str(folder))
    assert files.cache_folder() == folder
    with pytest.raises(PermissionError, match=r"cannot be written \(.+\): set MINITOK_CACHE") as caught:
        files.filling_cache().__enter__()
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("clone", [True, False])
def test_shipped_files_lie_in_the_clone_or_in_the_package(tmp_path, monkeypatch, clone):
    monkeypatch.setattr(files, "ROOT", tmp_path)
    monkeypatch.setattr(files, "PACKAGE", tmp_path / "minitok")
    if clone:
        files.write(tmp_path / "data" / "papers.toml", "")
    assert files.in_checkout() is clone
    folder = pathlib.Path("data") if clone else pathlib.Path("minitok", "_shipped")
    assert files.shipped("checkpoints", "a.json") == tmp_path / folder / "checkpoints" / "a.json"


@pytest.mark.parametrize("given", ["~/in home", "~", "plain", "a/~/b"])
def test_a_path_begins_at_home_where_a_shell_would_say_so(given, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    home = {"~/in home": tmp_path / "in home", "~": tmp_path}
    assert files.expanded(given) == home.get(given, pathlib.Path(given))
    monkeypatch.setenv("MINITOK_CACHE", given)
    monkeypatch.chdir(tmp_path)
    assert files.named("MINITOK_CACHE") == files.cache_folder() == files.expanded(given)
    assert not (tmp_path / "~").exists()


def test_a_name_that_begins_with_a_tilde_is_a_name_where_nobody_is_called_so():
    assert files.expanded("~pic.png") == pathlib.Path("~pic.png")


def test_without_a_home_the_way_out_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MINITOK_CACHE", raising=False)
    monkeypatch.setattr(pooch, "os_cache", lambda project: pathlib.Path("~/.cache", project))
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as it is without HOME and without a user name
    with pytest.raises(PermissionError, match="set MINITOK_CACHE to a folder"):
        files.cache_folder()
    assert os.listdir(tmp_path) == []


def test_what_cannot_be_written_is_known_before(tmp_path):
    (tmp_path / "file").touch()
    for name in ("new", "file", "new folder/of/new"):
        assert files.check_target(tmp_path / name) == tmp_path / name
    wrong = {".": "is a folder: name a file in it", "file/x": "cannot be written: Not a directory"}
    for name, told in {**wrong, "x" * 400: "cannot be written: File name too long"}.items():
        with pytest.raises(ValueError, match=told):
            files.check_target(tmp_path / name)
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.skipif(not pathlib.Path(os.devnull).is_char_device(), reason="Windows has no such file")
def test_a_device_is_not_replaced():
    with pytest.raises(ValueError, match="is no file that can be replaced"):
        files.check_target(os.devnull)
