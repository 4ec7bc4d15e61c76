"""Read and write text in a PNG file: iTXt and tEXt chunks (W3C PNG, 11.3.3).

The picture is neither decoded nor changed.
"""

import struct
import zlib
from contextlib import suppress
from pathlib import Path

from ..errors import SourceError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MOST_TEXT = 1 << 20


def with_text(png: bytes, keyword: str, text: str, plain: bool = False) -> bytes:
    """Return the PNG with `text` under `keyword`, inserted after its header.

    keyword: Latin-1, up to 79 characters. plain: as a tEXt chunk if the text is Latin-1, for
    programs that read no iTXt; `read_text` reads iTXt alone.
    """
    key = keyword.encode("latin-1")
    # not compressed, no language
    kind, content = b"iTXt", key + b"\0\0\0\0\0" + text.encode("utf-8", "replace")
    if plain:
        with suppress(UnicodeEncodeError):
            kind, content = b"tEXt", key + b"\0" + text.encode("latin-1")
    header = len(SIGNATURE) + 8 + struct.unpack(">I", png[8:12])[0] + 4
    return png[:header] + _chunk(kind, content) + png[header:]


def without_text(png: bytes) -> bytes:
    """Return a sound PNG as it would be without its texts; other files as they are."""
    if not png.startswith(SIGNATURE):
        return png
    kept, place = [SIGNATURE], len(SIGNATURE)
    while place < len(png):
        length, kind = struct.unpack(">I4s", png[place : place + 8])
        if kind not in (b"iTXt", b"tEXt", b"zTXt"):
            kept.append(png[place : place + 12 + length])
        place += 12 + length
    return b"".join(kept)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def read_text(path: Path, keyword: str) -> str | None:
    """Return the text under `keyword`, or None. Raises SourceError unless it is a sound PNG."""
    try:
        png = path.read_bytes()
    except OSError as error:
        raise SourceError(
            f"{path}: cannot be read ({error.strerror or error}); name a PNG that sdxs wrote"
        ) from None
    if not png.startswith(SIGNATURE):
        raise SourceError(f"{path}: is no PNG; name a picture that sdxs wrote")
    place, wanted = len(SIGNATURE), keyword.encode("latin-1") + b"\0"
    try:
        while place < len(png):
            length, kind = struct.unpack(">I4s", png[place : place + 8])
            content = png[place + 8 : place + 8 + length]
            if kind == b"iTXt" and content.startswith(wanted) and length < _MOST_TEXT:
                (stored,) = struct.unpack(">I", png[place + 8 + length : place + 12 + length])
                if stored != zlib.crc32(kind + content):
                    raise SourceError(
                        f"{path}: its text is damaged, and the picture may still be sound; take "
                        "another copy of it"
                    )
                compressed = content[len(wanted)]
                text = content[len(wanted) + 2 :].split(b"\0", 2)[2]
                if compressed:
                    inflate = zlib.decompressobj()
                    text = inflate.decompress(text, _MOST_TEXT)
                return text.decode("utf-8")
            place += 12 + length
    except (struct.error, IndexError, UnicodeDecodeError, zlib.error):
        raise SourceError(
            f"{path}: the PNG is damaged or truncated; take another copy of it"
        ) from None
    return None
