"""Captions that no dataset should have and some do."""

from hypothesis import strategies as st

LOOK_ALIKES = ("<eos>", "[PAD]", "<unk>", "<bos>", "<pad>", "<|endoftext|>", "[CLS]", "</s>")

UGLY = (
    "",
    " \t\n\r\u2028\u00a0\u3000",
    "a dog" + "".join(map(chr, range(32))) + "\x7f\x80\x9f runs",
    "a\0dog\0",
    "half \ud83d an emoji \udc00\ud800x",
    "\udce9 from a file name",
    "word " * 10_000,
    "x" * 1_000_000,
    "\u202eכלב رجل\u202c \u200fdog\u200e",
    "a" + "\u0301" * 5_000 + " e\u0301 \u0301",
    "👩\u200d👩\u200d👧\ufe0f 🇩🇪 ❤️ dog 🐕",
    "İSTANBUL ß ﬁ Ǆ \u1e9e",
    "\ufeffa dog\ufffe\uffff\U0010ffff",
    " ".join(LOOK_ALIKES) + "<eos>dog<eos> < eos > \uff1ceos\uff1e <\u200deos>",
    '<script>alert("x")</script> &lt;bos&gt; $\\frac{1}{2}$ %s {0} \x1b[2J',
    "'; DROP TABLE captions; --",
)
TEXT = (
    st.text(max_size=200)
    | st.text(st.characters(categories=["Cc", "Cf", "Cs", "Co", "Cn", "Mn", "So", "Zs"]))
    | st.lists(st.sampled_from([*LOOK_ALIKES, "dog", "\0", "\ud800", "\u0301"])).map(" ".join)
    | st.sampled_from(UGLY)
)
