"""The toy decoder of tests/decode as a model of transformers, and what its `generate` says."""

import warnings

import numpy as np

from tests.helpers.references import need_torch, need_transformers

torch = need_torch()
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of importing another library
    transformers = need_transformers()


class TableModel(transformers.PreTrainedModel, transformers.GenerationMixin):
    """The toy decoder in torch; `images` [batch] is the input that says which image it captions."""

    config_class = transformers.PretrainedConfig
    _supports_cache_class = False

    def __init__(self, decoder):
        super().__init__(transformers.PretrainedConfig(vocab_size=decoder.logits.shape[1]))
        self.decoder = decoder
        self.table = torch.nn.Parameter(torch.from_numpy(decoder.logits), requires_grad=False)

    def prepare_inputs_for_generation(self, input_ids, images=None, **_):
        return {"input_ids": input_ids, "images": images}

    def forward(self, input_ids, images, return_dict=True):
        state = images
        for token in input_ids.T:
            state = self.decoder.advance(state, token)
        logits = self.table[state % self.decoder.rows][:, None]
        return transformers.modeling_outputs.CausalLMOutput(logits=logits)


def generate(model, images, *, eos, pad, given, max_length, num_beams, **options):
    """(tokens [B, K, T], scores [B, K]) of `generate` for `images` images.

    `given` are start token and prompt, and T = max_length - len(given). Greedy scores are sums of
    normalised processed logits.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        output = model.generate(
            input_ids=torch.tensor([given] * images),
            images=torch.arange(images),
            generation_config=transformers.GenerationConfig(
                num_beams=num_beams,
                num_return_sequences=num_beams,
                max_length=max_length,
                do_sample=False,
                use_cache=False,
                bos_token_id=given[0],
                eos_token_id=eos,
                pad_token_id=pad,
                output_scores=True,
                return_dict_in_generate=True,
                **options,
            ),
        )
    tokens = output.sequences.numpy()[:, len(given) :].reshape(images, num_beams, -1)
    if num_beams > 1:
        scores = output.sequences_scores.numpy().reshape(images, num_beams)
    else:
        said = model.compute_transition_scores(
            output.sequences, output.scores, normalize_logits=True
        ).numpy()
        ended = np.cumsum(tokens[:, 0] == eos, axis=-1) - (tokens[:, 0] == eos)
        scores = np.where(ended > 0, 0, said).sum(axis=-1, keepdims=True)
    room = max_length - len(given) - tokens.shape[-1]
    return np.pad(tokens, ((0, 0), (0, 0), (0, room)), constant_values=pad), scores
