"""Answer one question in this process; `children.run_question` starts it."""

import sys
from pathlib import Path

from .child import answer_request

if __name__ == "__main__":  # a backend's spawned process imports this module again
    answer_request(Path(sys.argv[1]), Path(sys.argv[2]))
