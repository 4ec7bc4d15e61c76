"""A weights file is judged before any framework reads it, and every refusal is one clear line."""

import json
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from sdxs.common.checkpoint.tensors import (
    TensorInfo,
    check_layout,
    git_blob_sha1,
    read_header,
    sha256,
)
from sdxs.common.errors import SdxsWarning, WeightsError

LAYOUT = {"conv_in.weight": (4, 3, 3, 3), "conv_in.bias": (4,)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "unet" / "diffusion_pytorch_model.safetensors"


def save(path: Path, dtype: type = np.float32, **changes: np.ndarray | None) -> Path:
    """A file of LAYOUT; a change to None leaves the tensor out. `__` stands for a dot."""
    tensors: dict[str, np.ndarray | None] = {
        name: np.ones(shape, dtype) for name, shape in LAYOUT.items()
    }
    tensors |= {name.replace("__", "."): value for name, value in changes.items()}
    path.parent.mkdir(exist_ok=True)
    save_file({name: value for name, value in tensors.items() if value is not None}, path)
    return path


def save_raw(path: Path, dtype: str, item_bytes: int) -> Path:
    """A file of one tensor of a dtype that numpy does not have."""
    header = json.dumps(
        {"a": {"dtype": dtype, "shape": [2], "data_offsets": [0, 2 * item_bytes]}}
    ).encode()
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(2 * item_bytes))
    return path


def refusal(path: Path, layout: dict[str, tuple[int, ...]] = LAYOUT) -> str:
    with pytest.raises(WeightsError) as caught:
        check_layout(path, layout)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    return message


@pytest.mark.parametrize(("dtype", "name"), [(np.float32, "F32"), (np.float16, "F16")])
def test_a_sound_file_is_listed_and_passes(path: Path, dtype: type, name: str) -> None:
    save(path, dtype)
    assert read_header(path) == {key: TensorInfo(shape, name) for key, shape in LAYOUT.items()}
    check_layout(path, LAYOUT)


def test_bfloat16_passes_where_it_is_admitted(path: Path) -> None:
    save_raw(path, "BF16", 2)
    check_layout(path, {"a": (2,)})
    with pytest.raises(WeightsError, match="a has dtype BF16, expected F32 or F16"):
        check_layout(path, {"a": (2,)}, dtypes=("F32", "F16"))


def test_a_missing_file(path: Path) -> None:
    assert "file is missing; pull the checkpoint again" in refusal(path)


def test_a_pickle_beside_a_missing_file_is_named(path: Path) -> None:
    path.parent.mkdir()
    (path.parent / "diffusion_pytorch_model.bin").write_bytes(b"\x80\x02}.")
    assert (
        "the folder holds diffusion_pytorch_model.bin, a pickle, which is never loaded"
        in refusal(path)
    )


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 60, -4, -1])
def test_a_truncated_file(path: Path, length: int) -> None:
    content = save(path).read_bytes()
    path.write_bytes(content[:length])
    message = refusal(path)
    assert f"damaged or truncated ({len(content[:length]):,} bytes" in message
    assert "pull the checkpoint again" in message


def test_a_header_without_its_data(path: Path) -> None:
    content = save(path).read_bytes()
    (header,) = struct.unpack("<Q", content[:8])
    path.write_bytes(content[: 8 + header])
    assert "damaged or truncated" in refusal(path)


def test_bytes_after_the_last_tensor(path: Path) -> None:
    path.write_bytes(save(path).read_bytes() + b"more")
    assert "damaged or truncated" in refusal(path)


class Bomb:
    """Unpickling one would leave a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("protocol", [2, 5])
def test_a_bare_pickle_under_a_safetensors_name_is_refused_unopened(
    path: Path, protocol: int, tmp_path: Path
) -> None:
    path.parent.mkdir()
    path.write_bytes(pickle.dumps(Bomb(tmp_path / "mark"), protocol))
    assert "this is a pickle under a safetensors name" in refusal(path)
    assert not (tmp_path / "mark").exists()


def test_a_zipped_pickle_under_a_safetensors_name_is_refused_unopened(
    path: Path, tmp_path: Path
) -> None:
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Bomb(tmp_path / "mark")))
    assert "get the checkpoint as safetensors" in refusal(path)
    assert not (tmp_path / "mark").exists()


def test_a_file_that_may_not_be_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(path)

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    assert "cannot be read (Permission denied)" in refusal(path)


def test_a_folder_in_the_place_of_a_file(path: Path) -> None:
    path.mkdir(parents=True)
    assert "file is missing" in refusal(path)


def test_a_missing_tensor(path: Path) -> None:
    save(path, conv_in__bias=None)
    assert "1 of 2 tensors missing, first 'conv_in.bias'" in refusal(path)


def test_an_extra_tensor_is_left_out_with_a_warning(path: Path) -> None:
    save(path, conv_out__weight=np.ones(1, np.float32))
    with pytest.warns(SdxsWarning, match=r"1 tensors its config .* first 'conv_out\.weight'"):
        check_layout(path, LAYOUT)


@pytest.mark.parametrize("shape", [(3,), (5,), (4, 1), ()])
def test_a_wrong_shape(path: Path, shape: tuple[int, ...]) -> None:
    save(path, conv_in__bias=np.ones(shape, np.float32))
    assert f"conv_in.bias has shape {shape}, its config asks for (4,)" in refusal(path)


@pytest.mark.parametrize(
    ("dtype", "name"), [(np.int8, "I8"), (np.int64, "I64"), (np.float64, "F64"), (np.bool_, "BOOL")]
)
def test_a_wrong_dtype(path: Path, dtype: type, name: str) -> None:
    save(path, conv_in__bias=np.ones(4, dtype))
    assert f"conv_in.bias has dtype {name}, expected F32 or F16 or BF16" in refusal(path)


def test_an_eight_bit_float(path: Path) -> None:
    assert "a has dtype F8_E4M3" in refusal(save_raw(path, "F8_E4M3", 1), {"a": (2,)})


def test_prefix_and_buffers(path: Path) -> None:
    path.parent.mkdir()
    tensors = {f"text_model.{name}": np.ones(shape, np.float32) for name, shape in LAYOUT.items()}
    save_file(tensors | {"text_model.position_ids": np.arange(3)}, path)
    check_layout(path, LAYOUT, prefix="text_model.")
    with pytest.raises(WeightsError, match="2 of 2 tensors missing"):
        check_layout(path, LAYOUT)


def test_hashes(tmp_path: Path) -> None:
    file = tmp_path / "abc"
    file.write_bytes(b"abc\n")  # `sha256sum abc` and `git hash-object abc`
    assert sha256(file) == "edeaaff3f1774ad2888673770c6d64097e391bc362d7d6fb34982ddf0efd18cb"
    assert git_blob_sha1(file) == "8baef1b4abc478178b004d62031cf7fe6db6f903"
