"""The kinds of edges, apart from what draws them: naming them must not import OpenCV."""

from typing import Literal

EdgeKind = Literal["canny", "soft"]
