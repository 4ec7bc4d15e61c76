"""The prompts that a session goes through, one after the other, round and round."""

from collections import deque
from collections.abc import Sequence

MOST_TYPED = 1000  # of a session of any length


class PromptList:
    """A list with a place in it; texts as a user writes them, banks with their position."""

    def __init__(self, texts: Sequence[str]) -> None:
        """Raise ValueError without a prompt: there is always one on the screen."""
        if not texts:
            raise ValueError("a session needs at least one prompt")
        self.texts = list(texts)
        self.index = 0
        self._typed: deque[str] = deque()

    def turned(self, step: int) -> int:
        """Return the index `step` places on, round and round."""
        return (self.index + step) % len(self.texts)

    def use(self, text: str) -> None:
        """Go to a prompt; a new one becomes the next in the list.

        Of more than MOST_TYPED new ones the first are forgotten.
        """
        if text not in self.texts:
            self.texts.insert(self.index + 1, text)
            self._typed.append(text)
        while len(self._typed) > MOST_TYPED:
            if (oldest := self._typed.popleft()) in self.texts:
                self.texts.remove(oldest)
        self.index = self.texts.index(text)

    def rewrite(self, text: str) -> None:
        """Write the present prompt anew: it has travelled in its bank."""
        if (before := self.texts[self.index]) in self._typed:
            self._typed[self._typed.index(before)] = text
        self.texts[self.index] = text
