"""Decode a film to its end: run as a file, with its path; prints the frames, and an error if any.

A process of its own: PyAV and OpenCV do not go together on macOS.
"""

import sys

import av


def main(path: str) -> None:
    """Print the number of frames, and on a second line what went wrong."""
    frames, wrong = 0, ""
    try:
        with av.open(path) as container:
            for _ in container.decode(video=0):
                frames += 1
    except Exception as error:  # whatever a reader says of it
        wrong = f"{type(error).__name__}: {error}"
    print(frames, wrong, sep="\n")


if __name__ == "__main__":
    main(sys.argv[1])
