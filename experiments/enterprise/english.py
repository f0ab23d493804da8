"""Just enough English morphology for the word lists."""

import re

_POST_MODIFIER = re.compile(r" (?:of|in|to|for|at|on|ordered|coming|we|with|from)\b")
_LETTERS_SPOKEN_WITH_A_VOWEL = "AEFHILMNORSX"
_SPOKEN_LIKE_YOU = ("user", "unit")
_QUESTION = re.compile(
    r"(?:what|which|how|who|whom|whose|where|why|can|could|is|may|do|does|am|will|when|any way)\b", re.IGNORECASE
)


def plural(noun: str) -> str:
    """Several of a noun phrase whose head is its last word, or the last before `of`, `in`, `for`, ..."""
    found = _POST_MODIFIER.search(noun)
    head, rest = (noun[: found.start()], noun[found.start() :]) if found else (noun, "")
    if head.endswith("y") and head[-2] not in "aeiouAEIOU":
        return f"{head[:-1]}ies{rest}"
    ending = "es" if head.endswith(("s", "x", "ch", "sh")) else "s"
    return f"{head}{ending}{rest}"


def indefinite(noun: str) -> str:
    """The noun phrase with `a` or `an`."""
    first = re.split(r"[ -]", noun, maxsplit=1)[0]
    if first[:2].isupper() or (len(first) == 1 and first.isupper()):
        return f"{'an' if first[0] in _LETTERS_SPOKEN_WITH_A_VOWEL else 'a'} {noun}"
    vowel = noun[0].lower() in "aeiou" and not noun.lower().startswith(_SPOKEN_LIKE_YOU)
    return f"{'an' if vowel or noun.startswith('e-') else 'a'} {noun}"


def closed(sentence: str) -> str:
    """The sentence with its closing mark."""
    if sentence.endswith(("?", "!", ".")):
        return sentence
    return f"{sentence}{'?' if _QUESTION.match(sentence) else '.'}"


def capitalised(sentence: str) -> str:
    """The sentence with a capital, the rest as it is."""
    return sentence[:1].upper() + sentence[1:]


def enumerated(clauses: list[str], last: str = "and") -> str:
    """`a, b and c`."""
    return clauses[0] if len(clauses) == 1 else f"{', '.join(clauses[:-1])} {last} {clauses[-1]}"
