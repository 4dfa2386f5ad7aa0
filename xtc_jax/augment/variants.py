"""Data augmentation as TinyBERT and XTC do it (Jiao et al. 2020, algorithm 1; docs/method.md, section 7), without its model.

A word of the text is replaced, with a probability, by one of its candidates; where those come from is the caller's
affair (:data:`Candidates`). One difference on purpose: of a pair, each side varies while the other one stands as
it is in the source. The reference varies in place, so that its second half pairs every variant of the
second text with the *last variant* of the first.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from tokenizers import normalizers, pre_tokenizers

VARIANTS = {"cola": 30, "mrpc": 30, "rte": 30, "stsb": 30, "wnli": 30, "sst2": 20, "qnli": 20, "mnli": 10, "qqp": 10}
"""Rounds for every text of a GLUE task, as in the reference (where STS-B's key is misspelt, and its default of 30 applies)."""
_OWN_TASK = 30

_FUNCTION_WORDS = """
a an the this that these those such same other another each every either neither both all any some several few many
much more most less least enough no none nor not never only own
i me my mine myself we us our ours ourselves you your yours yourself yourselves he him his himself she her hers herself
it its itself they them their theirs themselves one oneself who whom whose which what whatever whoever whichever
somebody someone something anybody anyone anything nobody nothing everybody everyone everything
be am is are was were been being have has had having do does did doing done will would shall should can could may might
must ought need dare cannot
about above across after against along among amid around as at before behind below beneath beside besides between beyond
by despite down during except for from in inside into like near of off on onto out outside over past per since through
throughout till to toward towards under underneath until up upon via with within without
and or but so yet if unless although though because while whereas whether than then when whenever where wherever why how
here there again also too very just even still already ever once quite rather
aren couldn didn doesn don hadn hasn haven isn mightn mustn needn shan shouldn wasn weren won wouldn ain
t s d m ll re ve
arent cant couldnt didnt doesnt dont hadnt hasnt havent isnt shouldnt wasnt werent wont wouldnt aint im ive
"""
STOP_WORDS = frozenset(_FUNCTION_WORDS.split())
"""Words that are never replaced: articles, pronouns, auxiliaries, prepositions, conjunctions, negations, and what is left
of contractions when they are split at the apostrophe."""


@dataclass(frozen=True)
class Sentence:
    """A text as words.

    Attributes:
      words: the words and punctuation marks of BERT's basic tokenizer, in their own case and with their accents.
      eligible: positions of the words that may be replaced.
    """

    words: tuple[str, ...]
    eligible: tuple[int, ...]


Choices = Mapping[int, Sequence[str]]
"""The candidates at each position; no entry, or an empty one, leaves the word alone."""
Candidates = Callable[[Sequence[Sentence]], Sequence[Choices]]
"""Candidates for the eligible words of some sentences, in their order."""


def rounds_of(task: str) -> int:
    """Rounds for every text of a task: the reference's for GLUE, 30 for a task of the user's own.

    >>> rounds_of("sst2"), rounds_of("tickets")
    (20, 30)
    """
    return VARIANTS.get(task, _OWN_TASK)


def split_words(text: str) -> tuple[str, ...]:
    """The words of a text, as BERT's basic tokenizer splits it; joined by spaces they have the text's word pieces.

    >>> split_words("Don't  panic, Zoé!")
    ('Don', "'", 't', 'panic', ',', 'Zoé', '!')
    """
    normalizer = normalizers.BertNormalizer(clean_text=True, handle_chinese_chars=True, strip_accents=False, lowercase=False)
    words = pre_tokenizers.BertPreTokenizer().pre_tokenize_str(normalizer.normalize_str(text))
    return tuple(word for word, _ in words)


def make_sentence(text: str) -> Sentence:
    """Split a text; eligible are purely alphabetic words that are no stop words.

    >>> make_sentence("The lamp wasn't 7 watts .").eligible
    (1, 6)
    """
    words = split_words(text)
    return Sentence(words, tuple(i for i, word in enumerate(words) if word.isalpha() and word.lower() not in STOP_WORDS))


def vary(
    sentence: Sentence, choices: Choices, rounds: int, probability: float, rng: np.random.Generator
) -> list[tuple[str, ...]]:
    """Distinct variants of a sentence, at most one a round, none of them the sentence itself.

    In every round each eligible word that has candidates is replaced with ``probability`` by one of them, drawn
    uniformly; what was seen before is dropped.

    Args:
      sentence: the words of a text.
      choices: the candidates for each word.
      rounds: how many to try.
      probability: of replacing a word.
      rng: the only source of chance; takes ``2 * rounds * slots`` draws.

    Returns:
      The variants as words, in the order of their rounds.
    """
    slots = [i for i in sentence.eligible if choices.get(i)]
    if not slots:
        return []
    replaced = rng.random((rounds, len(slots))) < probability
    picked = rng.integers([len(choices[i]) for i in slots], size=(rounds, len(slots)))
    seen = {sentence.words: None}  # a dict, for its order
    for row in range(rounds):
        words = list(sentence.words)
        for slot in np.flatnonzero(replaced[row]):
            words[slots[slot]] = choices[slots[slot]][picked[row, slot]]
        seen[tuple(words)] = None
    return list(seen)[1:]


def augment_rows(
    texts: Sequence[tuple[str, ...]],
    rows: Sequence[int],
    candidates: Candidates,
    rounds: int,
    probability: float,
    seed: int,
) -> list[list[tuple[str, ...]]]:
    """Every example with its variants.

    Args:
      texts: one tuple of one or two texts per example.
      rows: their numbers in the source. An example's variants depend on its number, its texts, the seed and
        the candidates, on nothing else: not on the other examples, nor on who works on them.
      candidates: asked once, for the distinct sentences of all the examples.
      rounds, probability: see :func:`vary`, for each text.
      seed: of all chance.

    Returns:
      For each example the original, to the letter, then at most ``rounds`` variants per text, the words of the
      varied text joined by spaces. Of a pair the first text varies first; the other one is always the original.
    """
    sentences = [[make_sentence(text) for text in example] for example in texts]
    distinct = list(dict.fromkeys(sentence for example in sentences for sentence in example))
    choices = dict(zip(distinct, candidates(distinct), strict=True))
    augmented = []
    for row, example, example_sentences in zip(rows, texts, sentences, strict=True):
        rng = np.random.default_rng((seed, row))
        made = [example]
        for side, sentence in enumerate(example_sentences):
            variants = vary(sentence, choices[sentence], rounds, probability, rng)
            made += [(*example[:side], " ".join(words), *example[side + 1 :]) for words in variants]
        augmented.append(made)
    return augmented
