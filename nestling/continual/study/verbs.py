"""Forms of English words, from the dictionary of lemminflect (MIT)."""

import functools

from nestling.continual.study.words import STOP


@functools.cache
def finite(word: str) -> tuple[str, str] | None:
    """The auxiliary and the bare form of a verb in a question.

    None for a word that cannot be a finite verb. Words with several readings count as verbs.

    >>> finite("holds"), finite("built"), finite("vinegar")
    (('does', 'hold'), ('did', 'build'), None)
    """
    from lemminflect import getAllLemmas, getInflection

    low = word.lower()
    found = () if low in STOP else getAllLemmas(low, upos="VERB").get("VERB", ())
    if not found or (low.endswith("ing") and low not in found):
        return None
    bare = found[0]
    if low in found:
        return "do", low
    if low in getInflection(bare, "VBZ"):
        return "does", bare
    return ("did", bare) if low in getInflection(bare, "VBD") else None


@functools.cache
def past(word: str) -> bool:
    """Whether a word is a past participle, and nothing else except perhaps a past tense.

    >>> past("born"), past("made"), past("red")
    (True, True, False)
    """
    from lemminflect import getAllLemmas, getInflection

    low = word.lower()
    lemmas = getAllLemmas(low, upos="VERB").get("VERB", ())
    return any(low in getInflection(bare, "VBN") and low != bare for bare in lemmas)


@functools.cache
def noun(word: str) -> bool:
    """Whether a word can be a noun.

    >>> noun("keys"), noun("hang")
    (True, False)
    """
    from lemminflect import getAllLemmas

    return bool(getAllLemmas(word.lower(), upos="NOUN"))


@functools.cache
def third(bare: str) -> str:
    """The third person singular of a verb.

    >>> third("hang")
    'hangs'
    """
    from lemminflect import getInflection

    return getInflection(bare, "VBZ")[0]


@functools.cache
def active(participle: str, helper: str) -> str:
    """The form in the active voice of a participle after is, are, was or were.

    >>> active("carried", "are"), active("built", "was")
    ('carries', 'built')
    """
    from lemminflect import getAllLemmas, getInflection

    bare = getAllLemmas(participle.lower(), upos="VERB")["VERB"][0]
    return getInflection(bare, "VBZ" if helper in ("is", "are") else "VBD")[0]


@functools.cache
def forms_of(word: str) -> tuple[str, ...]:
    """The other forms of a content word, for all words that it may be a form of.

    >>> forms_of("brushed"), forms_of("the")
    (('brush', 'brushes', 'brushing'), ())
    """
    from lemminflect import getAllInflections, getAllLemmas

    low = word.lower()
    if low in STOP:
        return ()
    found: dict[str, None] = {}
    for part, lemmas in getAllLemmas(low).items():
        if part in ("NOUN", "VERB"):
            for lemma in lemmas:
                for forms in getAllInflections(lemma, upos=part).values():
                    found |= dict.fromkeys(forms)
    return tuple(sorted(form for form in found if form != low))
