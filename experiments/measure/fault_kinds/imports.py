"""Faults of where an imported pickle goes: places, limits, several imports at once."""

from collections.abc import Iterator
from functools import partial
from random import Random

from .command import How
from .damage import write
from .fault import FINE, USAGE, Case, Right, kind
from .pickles import EITHER, MADE, NAME, REFUSED, SOUND, packed, run_import
from .place import Place


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
