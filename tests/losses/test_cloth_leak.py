import pytest
import torch


def test_equals_the_loop_over_centred_gram_matrices(make, naive):
    inputs = make.inputs([0, 1, 2, 0, 1], seed=3)
    size = 5

    def centred(rows):
        gram = torch.tensor([[naive.cosine(a, b) for b in rows] for a in rows])
        keep = torch.eye(size) - 1 / size
        return keep @ gram @ keep

    expected = torch.trace(centred(inputs.id_embeds.tolist()) @ centred(inputs.cloth_text_embeds.tolist())) / 16
    assert make.term("cloth_leak")(inputs).item() == pytest.approx(expected.item(), abs=1e-6)


def test_identity_features_that_repeat_the_text_score_higher_than_ones_that_do_not(make):
    inputs = make.inputs(list(range(64)))
    text = inputs.cloth_text_embeds
    repeated = inputs._replace(id_embeds=torch.cat([text, torch.zeros_like(text[:, :1])], dim=1))
    term = make.term("cloth_leak")
    assert term(repeated) > 3 * term(inputs)
