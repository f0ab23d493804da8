"""How people word things: which synonym they take, how polite, how hurried and how careful they are."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from english import capitalised, closed, indefinite, plural
from lexicon import Record

T = TypeVar("T")

_GREETINGS = ("Hi!", "Hello team!", "Good morning.", "Hey all!", "Hi there.", "Dear colleagues!")
_OPENERS = ("hey,", "quick one:", "hi,", "sorry to bother,", "anyone?", "ok so", "help:", "urgent!!")
_CLOSERS = ("Thanks!", "Many thanks.", "Cheers, Jo", "Best, Amara", "Thank you very much.", "Kind regards, Piotr")
_AFTERTHOUGHTS = ("thx", "pls", "asap", "cheers", "thanks a lot", "any idea?")
_CONTEXTS = (
    "I'm new here, so forgive me if this is obvious.",
    "My manager keeps asking.",
    "I looked around but could not find it.",
    "We used to do this in a spreadsheet.",
    "It came up in today's stand-up.",
    "The auditors are here on Monday.",
    "Somebody from the Porto office sent me to you.",
    "This is the second time I write.",
    "We are three weeks behind already.",
    "Not sure whether I'm right here.",
    "I got different answers from two people.",
    "It worked differently at my last company.",
)  # fmt: skip
_CIRCUMSTANCES = (
    "from last Tuesday", "Priya mentioned", "for the Lyon office", "we talked about", "from the night shift",
    "on Kenji's list", "for the new team in Oslo", "with the red flag", "from this morning", "for the third quarter",
)  # fmt: skip
_TYPO_SHARE = 0.06
_SHORTEST_MISTYPED = 6


def generator(seed: int, *names: str) -> np.random.Generator:
    """The generator for what these names name: independent of all others and of the order in which they are made."""
    return np.random.default_rng((seed, *(zlib.crc32(name.encode()) for name in names)))


@dataclass(frozen=True)
class Speaker:
    """Somebody who asks. One who speaks for the training split never uses the last phrase of a list."""

    rng: np.random.Generator
    training: bool

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def pick(self, options: Sequence[T]) -> T:
        return options[int(self.rng.integers(len(options)))]

    def sample(self, options: Sequence[T], n: int) -> list[T]:
        """N different options, in random order; all of them where there are fewer."""
        return [options[i] for i in self.rng.permutation(len(options))[:n]]

    def say(self, phrases: Sequence[str]) -> str:
        return self.pick(phrases[:-1] if self.training else phrases)

    def call(self, thing: Record, official: float) -> str:
        """What the speaker calls a kind of record: by its official name in this share of cases."""
        return thing.name.lower() if self.chance(official) else self.say(thing.said)

    def definite(self, noun: str) -> str:
        """The noun as something both sides know, now and then with a circumstance."""
        determined = f"{self.pick(('the', 'the', 'that', 'this', 'our'))} {noun}"
        return f"{determined} {self.pick(_CIRCUMSTANCES)}" if self.chance(0.25) else determined

    def utter(self, core: str) -> str:
        """Sentences without capital and closing mark -> a chat line, a plain sentence or a mail."""
        style = self.rng.random()
        core = self._mistyped(core) if self.chance(_TYPO_SHARE) else core
        if style < 0.3:
            return self._chat(core)
        sentence = closed(capitalised(core))
        if style < 0.75:
            return sentence
        before = [self.pick(_GREETINGS)] if self.chance(0.5) else []
        context = [self.pick(_CONTEXTS)] if self.chance(0.6) else []
        after = [self.pick(_CLOSERS)] if self.chance(0.5) else []
        return " ".join([*before, *context, sentence, *after])

    def _chat(self, core: str) -> str:
        before = f"{self.pick(_OPENERS)} " if self.chance(0.4) else ""
        after = f" {self.pick(_AFTERTHOUGHTS)}" if self.chance(0.35) else ""
        return f"{before}{core.lower()}{after}"

    def _mistyped(self, core: str) -> str:
        words = core.split(" ")
        long = [i for i, word in enumerate(words) if len(word) >= _SHORTEST_MISTYPED and word.isalpha()]
        if long:
            at = self.pick(long)
            word = words[at]
            swap = int(self.rng.integers(1, len(word) - 2))
            words[at] = word[:swap] + word[swap + 1] + word[swap] + word[swap + 2 :]
        return " ".join(words)


def fill(phrase: str, noun: str, the: str | None = None) -> str:
    """Puts a noun into a phrase's slots; `the` is how it is referred to where the phrase says `{x}`."""
    return phrase.format(a=indefinite(noun), x=the or f"the {noun}", s=noun, xs=plural(noun))
