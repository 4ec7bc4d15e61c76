"""The prompts that a session goes through, one after the other, round and round."""

from collections.abc import Sequence


class PromptList:
    """A list with a place in it; texts as a user writes them, banks with their position."""

    def __init__(self, texts: Sequence[str]) -> None:
        """Raise ValueError without a prompt: there is always one on the screen."""
        if not texts:
            raise ValueError("a session needs at least one prompt")
        self.texts = list(texts)
        self.index = 0

    def turned(self, step: int) -> int:
        """Return the index `step` places on, round and round."""
        return (self.index + step) % len(self.texts)

    def use(self, text: str) -> None:
        """Go to a prompt; a new one becomes the next in the list."""
        if text not in self.texts:
            self.texts.insert(self.index + 1, text)
        self.index = self.texts.index(text)

    def rewrite(self, text: str) -> None:
        """Write the present prompt anew: it has travelled in its bank."""
        self.texts[self.index] = text
