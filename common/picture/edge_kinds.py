"""The kinds of edges, in a module that does not import OpenCV."""

from typing import Literal

EdgeKind = Literal["canny", "soft"]
