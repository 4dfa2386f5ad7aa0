"""The quick start as a user runs it, on reviews in plain words that were written for this test. Six minutes for each seed."""

import pytest

import xtc_jax
from xtc_jax import pipeline
from xtc_jax.recipe import make_recipe, read_config_file

GOOD = """\
A wonderful film with a great cast
I loved every minute of it
The story is touching and beautifully told
One of the best movies I have seen this year
Funny, clever and full of heart
The acting is superb and the music is lovely
A charming comedy that made me smile
It is a thrilling and exciting adventure
The director has made a brilliant film
I enjoyed it very much and would watch it again
A powerful drama with strong performances
This movie is a delight from start to finish
The jokes are fresh and very funny
A moving portrait of a remarkable woman
It is smart, entertaining and well acted
The ending is perfect
My children adored it and so did I
An honest and beautiful film
The pictures are gorgeous and the plot is gripping
A warm and satisfying movie for the whole family""".splitlines()
BAD = """\
A terrible film with a weak cast
I hated every minute of it
The story is dull and badly told
One of the worst movies I have seen this year
It is boring, stupid and far too long
The acting is awful and the music is annoying
A lifeless comedy without a single laugh
The plot makes no sense at all
The director has made a complete mess
I was bored and wanted to leave
A tedious drama with wooden performances
This movie is a waste of time
The jokes are stale and not funny
It is a lazy and pointless sequel
The film is predictable, slow and empty
The ending is a disappointment
The dialogue is ridiculous and the characters are flat
An ugly and unpleasant film
It fails as a thriller and it fails as a drama
A dreadful mess that nobody should watch""".splitlines()


@pytest.mark.minutes
@pytest.mark.slow
@pytest.mark.pinned
@pytest.mark.parametrize("seed", [42, 43, 44])
def test_the_student_is_small_beats_a_bag_of_words_and_understands_plain_reviews(tmp_path, seed):
    recipe = make_recipe(read_config_file("quickstart", (f"--config.seed={seed}",)))
    packed = pipeline.run(recipe, tmp_path / "work", print)["packed"]
    assert packed["ratio"] >= 55
    assert packed["metrics"]["accuracy"] >= 0.81  # TF-IDF with logistic regression has 0.782
    model = xtc_jax.load(packed["path"])
    right = [model(text).label == label for texts, label in ((GOOD, "positive"), (BAD, "negative")) for text in texts]
    assert len(right) == 40
    assert sum(right) >= 38
