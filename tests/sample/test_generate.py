"""Generation equals transformers' own, in every family; batches, seeds, stops and edits do what they say."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from midstream.errors import RequestError
from midstream.model.anatomy import find
from midstream.model.forward import new_cache
from midstream.sample.choose import Choice
from midstream.sample.generate import Options, generate
from midstream.stream.capture import capture_sites
from midstream.stream.change import Add, Scale
from midstream.stream.edit import Edit
from tests.tiny import tiny
from tests.walk import REQUIRED

PROMPT = list(range(20, 27))
OTHERS = [list(range(40, 47)), [3, 4, 5], list(range(60, 67))]


class Letters:
    """A tokenizer whose token is one byte."""

    def token_bytes(self, token):
        return bytes([token])


def model(model_type, context=128):
    # a tied random model only repeats its last token
    module = tiny(model_type, tie_word_embeddings=False)
    anatomy = find(module, module.config)
    return SimpleNamespace(
        module=module, anatomy=anatomy, device=torch.device("cpu"), dtype=torch.float32, context=context,
        tokenizer=Letters(),
    )  # fmt: skip


def tokens(reader, prompts, **options):
    found = {index: [] for index in range(len(prompts))}
    for step in generate(reader, prompts, Options(**options)):
        assert step.position == len(prompts[step.text]) + len(found[step.text])
        found[step.text].append(step.token)
    return list(found.values())


def theirs(module, prompt, n, **options):
    with torch.no_grad():
        ids = module.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long), max_new_tokens=n,
            do_sample=False, eos_token_id=None, pad_token_id=0, **options,
        )  # fmt: skip
    return ids[0, len(prompt) :].tolist()


@pytest.mark.parametrize("model_type", REQUIRED)
def test_greedy_tokens_are_those_of_transformers(model_type):
    reader = model(model_type)
    prompts = [PROMPT, *OTHERS]
    expected = [theirs(reader.module, prompt, 15) for prompt in prompts]
    assert len({token for text in expected for token in text}) > 3
    assert tokens(reader, prompts, tokens=15) == expected
    assert tokens(reader, prompts, tokens=15, cached=False) == expected


def test_a_batch_gives_what_each_prompt_gives_alone():
    reader = model("llama")
    prompts = [PROMPT, *OTHERS]
    together = tokens(reader, prompts, tokens=12)
    assert together == [theirs(reader.module, prompt, 12) for prompt in prompts]


def test_the_repetition_penalty_is_that_of_transformers():
    reader = model("llama")
    expected = theirs(reader.module, PROMPT, 20, repetition_penalty=1.7)
    assert expected != theirs(reader.module, PROMPT, 20)
    assert tokens(reader, [PROMPT], tokens=20, choice=Choice(repetition_penalty=1.7)) == [expected]


def test_seeds_give_the_same_tokens_again():
    reader, choice = model("llama"), Choice(temperature=1.0, top_p=0.95)
    first = tokens(reader, [PROMPT, PROMPT], tokens=20, choice=choice, seed=5)
    assert first == tokens(reader, [PROMPT, PROMPT], tokens=20, choice=choice, seed=5)
    assert first[0] == tokens(reader, [PROMPT], tokens=20, choice=choice, seed=5)[0], "alone as in a batch"
    assert first[0] != first[1]
    assert first[0] != tokens(reader, [PROMPT], tokens=20, choice=choice, seed=6)[0]


def test_the_log_probability_is_the_models_own():
    reader = model("gemma2")
    steps = list(generate(reader, [PROMPT], Options(tokens=8, choice=Choice(temperature=2.0))))
    ids = PROMPT + [step.token for step in steps]
    with torch.no_grad():
        p = reader.module(torch.tensor([ids])).logits[0].log_softmax(-1)
    for step in steps:
        assert abs(step.logprob - float(p[step.position - 1, step.token])) < 1e-4


def test_it_ends_for_the_reason_it_gives():
    reader = model("llama")
    expected = theirs(reader.module, PROMPT, 20)
    last = list(generate(reader, [PROMPT], Options(tokens=5)))[-1]
    assert (last.position, last.ended) == (len(PROMPT) + 4, "length")
    end = expected[3]
    steps = list(generate(reader, [PROMPT], Options(tokens=20, ends=(end,))))
    assert [step.token for step in steps] == expected[: expected.index(end) + 1]
    assert steps[-1].ended == "end"
    stop = bytes(expected[2:4]).decode("latin-1")
    if stop.isascii():
        steps = list(generate(reader, [PROMPT], Options(tokens=20, stop=(stop,))))
        assert [step.token for step in steps] == expected[:4]
        assert steps[-1].ended == "stop"
    short = model("llama", context=10)
    steps = list(generate(short, [PROMPT], Options(tokens=20)))
    assert [step.token for step in steps] == expected[:3]
    assert steps[-1].ended == "context"


def test_one_text_ends_and_the_others_go_on():
    reader = model("llama")
    alone = [theirs(reader.module, prompt, 10) for prompt in (PROMPT, OTHERS[0])]
    end = alone[0][2]
    assert end not in alone[1]
    assert tokens(reader, [PROMPT, OTHERS[0]], tokens=10, ends=(end,)) == [
        alone[0][: alone[0].index(end) + 1],
        alone[1],
    ]


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("positions", [(2,), (-1,), "new", None])
def test_edits_are_made_at_their_own_positions(cached, positions):
    reader = model("llama")
    what = Add(torch.randn(32, generator=torch.Generator().manual_seed(1)), 2.0)
    edit = Edit("resid_post", (2,), positions, what)
    got = tokens(reader, [PROMPT], tokens=12, edits=(edit,), cached=cached)[0]
    ids = PROMPT + got
    at = {(2,): (2,), (-1,): (len(PROMPT) - 1,), "new": tuple(range(len(PROMPT), len(ids))), None: None}[positions]
    final = [(reader.anatomy.layers, "resid_post")]
    h = capture_sites(reader, torch.tensor([ids]), final, edits=[Edit("resid_post", (2,), at, what)])[final[0]]
    with torch.no_grad():
        best = reader.module.lm_head(reader.module.model.norm(h))[0].argmax(-1).tolist()
    assert best[len(PROMPT) - 1 : -1] == got
    assert got != theirs(reader.module, PROMPT, 12)


def test_the_stream_of_each_choice_is_handed_out():
    reader = model("llama")
    places = ((1, "resid_post"), (3, "mlp_out"))
    steps = list(generate(reader, [PROMPT], Options(tokens=6, wanted=places)))
    ids = PROMPT + [step.token for step in steps]
    whole = capture_sites(reader, torch.tensor([ids]), list(places))
    for step in steps:
        for place in places:
            torch.testing.assert_close(step.stream[place], whole[place][0, step.position - 1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("prompts", "options", "words"),
    [
        ([[]], {}, "prompt 1 is empty"),
        ([PROMPT, list(range(20)) * 7], {}, "prompt 2 has 140 tokens and fills the model's context of 128"),
        ([PROMPT], {"tokens": 0}, "expected a whole number of 1 or more"),
        ([PROMPT], {"seed": 2**70}, "the seed is"),
        ([PROMPT], {"stop": ("",)}, "texts of one character or more"),
        ([PROMPT], {"edits": (Edit("resid_post", (1,), None, Scale(2.0), (0,)),)}, "edit 1 names texts"),
        ([PROMPT], {"edits": (Edit("resid_post", (1,), None, Add(torch.ones(1, 7, 32))),)}, "name the positions"),
        ([PROMPT], {"edits": (Edit("resid_post", (9,), None, Scale(2.0)),)}, "unknown layer 9"),
        ([PROMPT], {"edits": (Edit("resid_post", (1,), (50,), Scale(2.0)),)}, "names position 50"),
        ([PROMPT], {"edits": (Edit("resid_post", (1,), (), Scale(2.0)),)}, "names no position"),
    ],
)
def test_what_cannot_be_generated_is_refused_before_it_runs(prompts, options, words):
    reader = model("llama")
    with pytest.raises(RequestError, match=words):
        next(generate(reader, prompts, Options(**options)))


def test_nothing_is_chosen_from_what_is_no_number():
    reader = model("llama")
    with torch.no_grad():
        reader.module.model.norm.weight[3] = torch.nan
    with pytest.raises(RequestError, match="output at position 6 holds NaN"):
        next(generate(reader, [PROMPT], Options(tokens=3)))


def test_an_interrupted_generation_leaves_the_model_as_it_was():
    reader = model("llama")
    edits = (Edit("resid_post", (1,), None, Scale(2.0)),)
    steps = generate(reader, [PROMPT], Options(tokens=20, edits=edits))
    kept = [next(steps).token for _ in range(3)]
    steps.close()
    assert len(kept) == 3
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in reader.module.modules()) == 0
    assert tokens(reader, [PROMPT], tokens=5) == [theirs(reader.module, PROMPT, 5)]
    assert new_cache(reader.module, reader.anatomy) is not None
