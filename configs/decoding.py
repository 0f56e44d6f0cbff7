"""The decoding section of a config, with one comment per field."""

from ml_collections import ConfigDict


def decoding_settings() -> ConfigDict:
    """Decoding settings, with the meaning they have in transformers.generate."""
    decoding = ConfigDict()
    # "beam": the likeliest caption that beam search finds. "sample": a random caption. "consensus":
    # the caption that agrees best with other candidates.
    decoding.method = "beam"
    # Captions of each image, the best first: of samples the likeliest.
    decoding.num_captions = 1
    # Beams per image; 1 is greedy, and what samples need.
    decoding.num_beams = 5
    # A hypothesis's log-probability is divided by its length to this power; 1 is the mean.
    decoding.length_penalty = 1.0
    # Length in it: "power", the tokens n; "gnmt", (5 + n) / 6.
    decoding.length_normalization = "power"
    # "true": stop at num_beams finished hypotheses; "false": when no better one is likely;
    # "never": when no better one is possible.
    decoding.early_stopping = "false"
    # Groups of beams that differ from each other; must divide num_beams, and 1 is usual search.
    decoding.num_beam_groups = 1
    # What a token costs for each beam of an earlier group that takes it, too.
    decoding.diversity_penalty = 0.0
    # Words or phrases that must occur, in any order: ("dog", "red ball"); for "beam".
    decoding.must_include = ()
    # A sample's logits are divided by this; 0 is greedy.
    decoding.temperature = 1.0
    # Samples draw from this many of the likeliest tokens; 0 is all.
    decoding.top_k = 0
    # Samples draw from the likeliest tokens that have this probability together; 1 is all.
    decoding.top_p = 1.0
    # Samples draw from tokens with at least this share of the likeliest one's probability; 0: all.
    decoding.min_p = 0.0
    # Samples draw from the most typical tokens that have this probability together; 1 is all.
    decoding.typical_p = 1.0
    # Seed of the samples.
    decoding.seed = 0
    # Candidates of "consensus": "sample", or "beam" for the num_beams hypotheses.
    decoding.candidates = "sample"
    # Samples of each image among which "consensus" chooses.
    decoding.num_samples = 20
    # Rewards whose sum tells how well candidates agree: "cider_d", "bleu4" and registered ones.
    decoding.rewards = ("cider_d",)
    # Weight of each.
    decoding.reward_weights = (1.0,)
    # Words that every caption begins with: "a photo of".
    decoding.prompt = ""
    # Above 1 words that occurred become less likely; 1 changes nothing.
    decoding.repetition_penalty = 1.0
    # No sequence of so many tokens occurs twice; 0 allows all.
    decoding.no_repeat_ngram_size = 0
    # Fewest tokens before the end token, with start token and prompt.
    decoding.min_length = 0
    # Fewest tokens before the end token, without start token and prompt.
    decoding.min_new_tokens = 0
    # Words and phrases that may not occur: ("man", "in front of").
    decoding.bad_words = ()
    # Words of one token that may not occur.
    decoding.suppress = ()
    # Words of one token that no caption begins with, after the prompt.
    decoding.suppress_first = ()
    # Word of one token that every caption begins with; "" is none.
    decoding.forced_first = ""
    # Word of one token at the length limit; "" is none.
    decoding.forced_last = ""
    # Words of one token that no caption ends with, unless the length limit cuts it: ("a", "with").
    decoding.bad_endings = ()
    # The only captions that there may be, with the prompt; () is any.
    decoding.allowed = ()
    # Longest caption in tokens with its start and end tokens; for a transformer at most one more
    # than dataset.max_length.
    decoding.max_length = 25
    return decoding
