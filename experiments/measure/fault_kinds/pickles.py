"""Faults of pickles: code that must not run, zips that are odd, shapes that claim memory.

Payloads make a file in the folder of the fault. It is never to appear.
"""

import io
import struct
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from random import Random

import numpy as np

from .damage import flipped, write
from .fault import ERROR, FINE, USAGE, Case, Right, kind
from .place import CANARY, How, Place

NAME = "a.bin"
MADE = "a.safetensors"
REFUSED = (ERROR, USAGE)
EITHER = (FINE, ERROR, USAGE)
TOUCH = f"touch {CANARY}"
PYTHON = f"open('{CANARY}', 'w')"
MAGIC = 0x1950A86A20F9469CFC6C  # of torch.save's older format
SCALARS = np.arange(6, dtype=np.float32).tobytes()


def _text(value: str) -> bytes:
    stored = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(stored)) + stored


def _number(value: int) -> bytes:
    if 0 <= value < 256:
        return b"K" + bytes([value])
    stored = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return (
        b"\x8a" + bytes([len(stored)])
        if len(stored) < 256
        else b"\x8b" + struct.pack("<i", len(stored))
    ) + stored


def _numbers(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(_number, values)) + b"t"


def tensor(
    shape: tuple[int, ...] = (2, 3),
    strides: tuple[int, ...] = (3, 1),
    offset: int = 0,
    count: int = 6,
    storage: str = "FloatStorage",
    key: str = "0",
) -> bytes:
    """The opcodes of one tensor, as torch.save writes it."""
    place = b"(" + _text("storage") + f"ctorch\n{storage}\n".encode() + _text(key) + _text("cpu")
    reference = place + _number(count) + b"tQ"
    rebuilt = b"ctorch._utils\n_rebuild_tensor_v2\n(" + reference + _number(offset)
    more = b"\x89ccollections\nOrderedDict\n)R"
    return rebuilt + _numbers(shape) + _numbers(strides) + more + b"tR"


def state(*items: tuple[str, bytes], tail: bytes = b"") -> bytes:
    """The pickle of a state_dict: names and opcodes of their values."""
    return (
        b"\x80\x02}" + b"".join(_text(name) + value + b"s" for name, value in items) + tail + b"."
    )


def packed(content: bytes, scalars: bytes = SCALARS, how: int = zipfile.ZIP_STORED) -> bytes:
    """Pack a pickle as torch.save does since 1.6."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", how) as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/byteorder", b"little")
        archive.writestr("archive/data/0", scalars)
    return made.getvalue()


def legacy(content: bytes) -> bytes:
    """Pack a pickle as torch.save did before 1.6."""
    system = b"}" + _text("protocol_version") + _number(1001) + b"s"
    system += _text("little_endian") + b"\x88s" + _text("type_sizes") + b"}s"
    head = [b"\x80\x02" + each + b"." for each in (_number(MAGIC), _number(1001), system)]
    keys = b"\x80\x02]" + _text("0") + b"a."
    return b"".join(head) + content + keys + struct.pack("<q", 6) + SCALARS


SOUND = state(("w", tensor()))
CALLS = {  # opcodes that leave the value of a call on the stack
    "os.system by REDUCE": b"cos\nsystem\n(" + _text(TOUCH) + b"tR",
    "posix.system by STACK_GLOBAL": _text("posix")
    + _text("system")
    + b"\x93("
    + _text(TOUCH)
    + b"tR",
    "builtins.exec": b"cbuiltins\nexec\n(" + _text(PYTHON) + b"tR",
    "builtins.eval by INST": b"(" + _text(PYTHON) + b"ibuiltins\neval\n",
    "subprocess.Popen by NEWOBJ": b"csubprocess\nPopen\n(" + _text(f"touch {CANARY}") + b"t\x81",
    "os.system by OBJ": b"(cos\nsystem\n" + _text(TOUCH) + b"o",
    "pathlib's touch by two calls": b"cpathlib\nPath.touch\n(cpathlib\nPath\n("
    + _text(CANARY)
    + b"tRtR",
    "a module of torch that runs": b"ctorch.hub\nload\n(" + _text(CANARY) + b"tR",
    "getattr on OrderedDict": b"cbuiltins\ngetattr\n(ccollections\nOrderedDict\n"
    + _text("__init__")
    + b"tR",
    "runpy by BUILD": b"ccollections\nOrderedDict\n)R(crunpy\nrun_path\n" + _text(CANARY) + b"tb",
    "an extension code": b"\x82\x01",
    "a persistent call": b"(" + _text("storage") + b"cos\nsystem\n" + _text(TOUCH) + b"tQ",
}


def run_import(place: Place, content: bytes, right: Right, how: How | None = None) -> None:
    """Let `sdxs weights import` read a pickle; what it makes is whole and holds what it says."""
    write(place.folder / NAME, content)
    place.sdxs("weights", "import", NAME, right=right, how=how)


@kind("pickles that run code")
def hostile(draw: Random) -> Iterator[Case]:
    """Calls in a state_dict, in both formats of torch.save: nothing is executed."""
    for what, call in CALLS.items():
        pack = draw.choice((packed, legacy))
        where = draw.choice(("a value", "a key's value beside a tensor", "the tail"))
        if where == "a value":
            content = state(("w", call))
        elif where == "the tail":
            content = state(("w", tensor()), tail=call + b"0")
        else:
            content = state(("w", tensor()), ("more", call))
        yield (
            f"{what} in {where}, {pack.__name__}",
            partial(run_import, content=pack(content), right=Right(says=NAME, whole=(MADE,))),
        )


@kind("pickles that are odd")
def odd(draw: Random) -> Iterator[Case]:
    """Shapes, strides and storages that claim more than there is, and damage."""
    tensors = {
        "a shape of 10**12": tensor((10**12,), (1,)),
        "a shape of 10**400": tensor((10**400,), (1,)),
        "a negative shape": tensor((-2, 3)),
        "strides of 10**15": tensor(strides=(10**15, 1)),
        "negative strides": tensor(strides=(-3, 1)),
        "an offset of 10**15": tensor(offset=10**15),
        "a storage of 10**15 scalars": tensor(count=10**15),
        "a storage that is not there": tensor(key="7"),
        "a storage outside of the zip": tensor(key="../../../../etc/passwd"),
        "a storage of quantised bytes": tensor(storage="QUInt8Storage"),
        "10,000 dimensions": tensor((1,) * 10_000, (1,) * 10_000),
        "strides for fewer dimensions": tensor((2, 3), (1,)),
        "a huge view of one scalar": tensor((60_000, 60_000), (0, 0)),
        "a name that is no UTF-8": b"X\x02\0\0\0\xff\xfe",
    }
    for what, value in tensors.items():
        content = state(("w", value))
        yield what, partial(run_import, content=packed(content), right=Right(says=NAME))
    names = ("w\0", "../../up", "\ud800", "a" * 70_000, "")
    for name in names:
        content = packed(state((name, tensor())))
        what = f"a tensor named {name[:8]!r}"
        yield what, partial(run_import, content=content, right=Right(EITHER, whole=(MADE,)))
    size, views = 1 << 20, 500
    many = state(*((f"w{n}", tensor((size,), (1,), count=size)) for n in range(views)))
    yield (
        f"{views} views of one storage of 4 MB",
        partial(
            run_import,
            content=packed(many, bytes(4 * size)),
            right=Right(EITHER, whole=(MADE,), mb=400),
        ),
    )
    for pack in (packed, legacy):
        sound = pack(SOUND)
        for _ in range(2):
            share, bit = draw.random(), draw.randrange(8)
            yield (
                f"bit {bit} at {share:.1%} of a {pack.__name__} pickle is flipped",
                partial(
                    run_import,
                    content=flipped(sound, share, bit),
                    right=Right(EITHER, whole=(MADE,)),
                ),
            )
        share = draw.uniform(0.05, 0.95)
        yield (
            f"a {pack.__name__} pickle is cut off at {share:.1%}",
            partial(run_import, content=sound[: int(share * len(sound))], right=Right(says=NAME)),
        )


def _patched(at: Callable[[bytes], int], new: bytes) -> bytes:
    made = bytearray(packed(SOUND))
    for start in (0,):
        place = at(bytes(made)) + start
        made[place : place + len(new)] = new
    return bytes(made)


def _central(content: bytes) -> int:
    return content.find(b"PK\x01\x02")


@kind("zips that are odd")
def zips(draw: Random) -> Iterator[Case]:
    """Encrypted entries, flag bits, versions, methods, names, bombs: each is refused in a line."""
    fields = {  # of the first entry of the central directory: offset and value
        "an encrypted entry": (8, b"\x01\0"),
        "patched data": (8, b"\x20\0"),
        "strong encryption": (8, b"\x41\0"),
        "version 99": (6, b"\x63\0"),
        "method 99": (10, b"\x63\0"),
        "method 12": (10, b"\x0c\0"),
        "a size of 4 GB": (24, b"\xfe\xff\xff\xff"),
        "a compressed size of 4 GB": (20, b"\xfe\xff\xff\xff"),
        "another checksum": (16, b"\x01\x02\x03\x04"),
        "an offset behind the end": (42, b"\xff\xff\xff\x7f"),
        "a name of 60,000 bytes": (28, b"\x60\xea"),
    }
    for what, (offset, value) in fields.items():
        content = _patched(lambda b, o=offset: _central(b) + o, value)  # type: ignore[misc]
        yield what, partial(run_import, content=content, right=Right(says=NAME))
    flagged = _patched(lambda b: _central(b) + 8, b"\0\x08")
    unnamed = flagged.replace(b"archive/data.pkl", b"\xff\xfechive/data.pkl")
    yield "a name that is no UTF-8", partial(run_import, content=unnamed, right=Right(says=NAME))
    bomb = packed(SOUND + bytes(200 << 20), how=zipfile.ZIP_DEFLATED)
    right = Right(EITHER, whole=(MADE,), mb=400)
    yield "a pickle that unpacks to 200 MB", partial(run_import, content=bomb, right=right)
    bomb = packed(SOUND, bytes(400 << 20), how=zipfile.ZIP_DEFLATED)
    right = Right(EITHER, whole=(MADE,), mb=900)
    yield "a storage that unpacks to 400 MB", partial(run_import, content=bomb, right=right)
    yield "an empty zip", partial(run_import, content=_zip({}), right=Right(says=NAME))
    twice = _zip({"a/data.pkl": SOUND, "b/data.pkl": SOUND})
    yield "two pickles in a zip", partial(run_import, content=twice, right=Right(says=NAME))


def _zip(entries: dict[str, bytes]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return made.getvalue()


@kind("imports")
def imports(draw: Random) -> Iterator[Case]:
    """Sound pickles into places that cannot be, beside files that are there, twice at once."""
    sound = packed(SOUND)
    for to, codes in (
        ("absent/a.safetensors", REFUSED),
        ("folder", REFUSED),
        ("a.txt", EITHER),
        ("a.bin", (USAGE,)),
        (f"{'n' * 243}.safetensors", EITHER),
        (f"{'n' * 300}.safetensors", REFUSED),
        ("a\nb.safetensors", EITHER),
        ("/dev/full", REFUSED),
        ("/proc/a.safetensors", REFUSED),
    ):
        whole = (to,) if to.startswith("a") and "safetensors" in to and "/" not in to else ()
        yield (
            f"--to {to[:30]!r}",
            partial(_to, content=sound, to=to, right=Right(codes, whole=whole)),
        )
    yield "over a file that is there", partial(_over, content=sound)
    yield "a file that is not there", _absent
    yield "a folder", partial(_of_a_folder)
    yield "a folder that cannot be written", partial(_read_only, content=sound)
    yield "beside a link named as a partial file", partial(_linked, content=sound)
    for number in range(2):
        yield f"two imports of one pickle at once, {number + 1}", partial(_twice, content=sound)
    yield "six imports into one manifest at once", partial(_six, content=sound)
    limit = draw.randrange(1, 200)
    yield f"files of at most {limit} bytes", partial(_limited, content=sound, limit=limit)


def _to(place: Place, content: bytes, to: str, right: Right) -> None:
    (place.folder / "folder").mkdir()
    write(place.folder / NAME, content)
    place.sdxs("weights", "import", NAME, "--to", to, right=right)


def _over(place: Place, content: bytes) -> None:
    write(place.folder / MADE, "an earlier file")
    run_import(place, content, Right(REFUSED, says=MADE, kept=(MADE,)))


def _absent(place: Place) -> None:
    place.sdxs("weights", "import", "absent.bin", right=Right(REFUSED, says="absent.bin"))


def _of_a_folder(place: Place) -> None:
    (place.folder / "a.bin").mkdir()
    place.sdxs("weights", "import", "a.bin", right=Right(REFUSED, says="a.bin"))


def _read_only(place: Place, content: bytes) -> None:
    write(place.folder / "shut/a.bin", content)
    (place.folder / "shut").chmod(0o555)
    place.sdxs(
        *("weights", "import", "shut/a.bin"),
        right=Right(says="shut"),
        how=How(lacks={"mortal": True}),
    )
    (place.folder / "shut").chmod(0o755)


def _linked(place: Place, content: bytes) -> None:
    write(place.folder / "precious.txt", "precious")
    for name in (".a.partial.safetensors", "a.safetensors.part", ".a.safetensors.partial"):
        (place.folder / name).symlink_to("precious.txt")
    run_import(place, content, Right((FINE,), whole=(MADE,), kept=("precious.txt",)))


def _twice(place: Place, content: bytes) -> None:
    write(place.folder / NAME, content)
    commands = [place.start("weights", "import", NAME, "--force") for _ in range(2)]
    for ran in [each.wait() for each in commands]:
        place.judge(ran, Right((FINE,), whole=(MADE,)), {NAME: "", MADE: ""})


def _six(place: Place, content: bytes) -> None:
    names = [f"{letter}.bin" for letter in "abcdef"]
    for name in names:
        write(place.base / "weights" / name[0] / name, content)
    commands = [
        place.start("weights", "import", str(place.base / "weights" / name[0] / name))
        for name in names
    ]
    for ran in [each.wait() for each in commands]:
        place.judge(ran, Right((FINE,)), {})
    manifest = (place.base / "weights" / "manifest.json").read_text(encoding="utf-8")
    lost = [name for name in names if f"{name[0]}.safetensors" not in manifest]
    place.demand(not lost, f"the manifest lacks {', '.join(lost)}")


def _limited(place: Place, content: bytes, limit: int) -> None:
    write(place.folder / MADE, "an earlier file")
    write(place.folder / NAME, content)
    place.sdxs(
        *("weights", "import", NAME, "--force"),
        right=Right(kept=(MADE,)),
        how=How(lacks={"limits": {"FSIZE": limit}}),
    )
