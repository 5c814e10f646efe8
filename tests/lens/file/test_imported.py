"""Lenses of other tools: read by their own formula, checked, and never run."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile

import pytest
import torch
from lens_sample import sample

from midstream.errors import RequestError
from midstream.lens.file.artifact import load, save
from midstream.lens.file.find import find
from midstream.lens.file.shift import check_layers
from midstream.lens.file.torch_file import open_tensors
from midstream.lens.fit.jacobian import exact_jacobian
from midstream.lens.lens import Lens, Transport
from midstream.model.load import PROBE
from midstream.readout.reader import output_reader
from midstream.stream.capture import capture

D, L = 32, 30


def noise(*shape, seed=0, size=0.1):
    return size * torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def tuned_folder(place, *, layers=L, width=D, bias=True, **config):
    """A folder as tuned_lens.TunedLens.save writes it."""
    place.mkdir(exist_ok=True)
    state = torch.nn.ModuleList([torch.nn.Linear(width, width, bias=bias) for _ in range(layers)]).state_dict()
    for number, (name, value) in enumerate(state.items()):
        state[name] = noise(*value.shape, seed=number)
    torch.save(state, place / "params.pt")
    own = {"base_model_name_or_path": "random/llama", "d_model": width, "num_hidden_layers": layers}
    (place / "config.json").write_text(json.dumps({**own, "bias": bias, "lens_type": "linear_tuned_lens", **config}))
    return state


def jacobian_file(place, *, layers=range(L - 1), width=D, **more):
    """A file as jlens.JacobianLens.save writes it."""
    maps = {layer: (torch.eye(width) + noise(width, width, seed=layer)).half() for layer in layers}
    content = {"J": maps, "n_prompts": 100, "source_layers": list(layers), "d_model": width, **more}
    torch.save(content, place)
    return maps


@pytest.fixture
def stream(tiny):
    ids = torch.tensor([tiny.tokenizer.encode(PROBE).ids])
    return {layer: h[0] for layer, h in capture(tiny, ids, layers=range(L + 1)).items()}


@pytest.mark.parametrize("bias", [True, False])
def test_a_tuned_lens_is_h_plus_its_translator(bias, tiny, tmp_path, stream):
    state = tuned_folder(tmp_path / "lens", bias=bias)
    lens = find(tiny, tmp_path / "lens")
    assert (lens.name, lens.kind, lens.offset, lens.reader) == ("tuned (imported)", "tuned", 1, "output")
    for layer in (0, 17, L - 1):
        h = stream[layer]
        expected = h + h @ state[f"{layer}.weight"].T + (state[f"{layer}.bias"] if bias else 0)
        assert torch.allclose(lens.transport(layer, h), expected, atol=1e-4)
    assert torch.equal(lens.transport(L, stream[L]), stream[L])
    assert lens.about["imported"]["from"] == "tuned-lens"
    assert lens.about["imported"]["model"] == "random/llama"
    assert torch.equal(find(tiny, tmp_path / "lens" / "params.pt").transports[3].weight, lens.transports[3].weight)


def test_a_jacobian_lens_is_one_layer_further(tiny, tmp_path, stream):
    maps = jacobian_file(tmp_path / "lens.pt")
    lens = find(tiny, tmp_path / "lens.pt")
    for key in (0, 17, L - 2):
        h = stream[key + 1]
        assert torch.allclose(lens.transport(key + 1, h), h @ maps[key].float().T, atol=1e-4)
    assert lens.layers == tuple(range(1, L + 1))
    assert lens.about["imported"]["prompts"] == 100


def test_an_imported_lens_can_be_kept_as_a_lens_file(tiny, tmp_path):
    jacobian_file(tmp_path / "lens.pt", layers=(3, 10))
    lens = find(tiny, tmp_path / "lens.pt")
    assert lens.layers == (4, 11, 30)
    save(lens, tmp_path / "kept.safetensors")
    kept = load(tmp_path / "kept.safetensors", tiny)
    assert kept.about["imported"] == lens.about["imported"]
    assert torch.equal(kept.transports[4].weight, lens.transports[4].weight)


def best_maps(model, stream):
    """Maps that take every layer of the probe text to the last one exactly, so that any other reads worse."""
    return {layer: torch.linalg.lstsq(stream[layer], stream[L]).solution.T.contiguous() for layer in range(L)}


def test_the_right_layers_raise_no_warning_and_shifted_ones_name_the_shift(tiny, stream):
    maps = best_maps(tiny, stream)
    right = Lens("right", "output", 1, {layer: Transport(weight) for layer, weight in maps.items()})
    check, note = check_layers(right, tiny)
    assert note == ""
    assert all(check[shift]["as it is"] < check[shift]["shifted"] for shift in ("-1", "1"))
    for shift, word in ((1, "further"), (-1, "back")):
        moved = {layer - shift: Transport(weight) for layer, weight in maps.items() if 0 <= layer - shift < L}
        check, note = check_layers(Lens("moved", "output", 1, moved), tiny)
        assert word not in note
        assert "one layer " + {"further": "back", "back": "further"}[word] in note
        assert check[str(-shift)]["shifted"] < check[str(-shift)]["as it is"]


def test_the_check_is_the_mean_kl_on_the_probe_text(tiny, stream):
    lens = sample(tiny)
    check, _ = check_layers(lens, tiny)
    reader = output_reader(tiny.anatomy)
    final = torch.log_softmax(reader.prepare(stream[L][4:]).double() @ reader.weight.double().T, 1)
    kl = []
    for layer in (0, 4, 8, 12, 17, 21, 25):  # eight evenly spread ones, of which the last has no map after it
        x = reader.prepare(lens.transports[layer + 1](stream[layer][4:]))
        log = torch.log_softmax(x.double() @ reader.weight.double().T, 1)
        kl.append(float((final.exp() * (final - log)).sum(1).mean()))
    assert check["1"]["shifted"] == pytest.approx(sum(kl) / len(kl), abs=1e-3)


def test_a_jacobian_lens_is_held_against_the_derivative(tiny):
    ids = torch.tensor(tiny.tokenizer.encode(PROBE * 3).ids)
    maps = exact_jacobian(tiny, ids)  # [L, d, d], of the very text that the check takes the derivative on
    moves = {layer: Transport(maps[layer]) for layer in range(1, L)}
    check, note = check_layers(Lens("right", "output", 1, moves, kind="jacobian"), tiny)
    assert note == ""
    for shift in ("-1", "1"):
        assert check[shift]["as it is"] == pytest.approx(0, abs=1e-4)
        assert check[shift]["worse"] == check[shift]["layers"] == 28
    for shift, word in ((1, "further"), (-1, "back")):
        moved = {layer + shift: move for layer, move in moves.items() if 0 < layer + shift < L}
        _, note = check_layers(Lens("moved", "output", 1, moved, kind="jacobian"), tiny)
        assert f"one layer {word}" in note


class Program:
    """A pickle that makes a file when it is opened."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def zipped(place, content, *, compression=zipfile.ZIP_STORED, extra=()):
    with zipfile.ZipFile(place, "w", compression) as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/version", "3\n")
        for name, data in extra:
            archive.writestr(name, data)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_program_is_refused_and_not_run(protocol, tiny, tmp_path):
    harm, place = tmp_path / "harm", tmp_path / "lens.pt"
    raw = pickle.dumps({"J": {0: Program(harm)}}, protocol)
    zipped(place, raw)
    with pytest.raises(RequestError, match=r"program that was not run"):
        find(tiny, place)
    place.write_bytes(raw)  # without the zip
    with pytest.raises(RequestError, match=r"since PyTorch 1\.6"):
        find(tiny, place)
    torch.save({"J": {0: Program(harm)}}, place)
    with pytest.raises(RequestError, match=r"asks for '(posix|nt)\.mkdir'"):
        find(tiny, place)
    assert not harm.exists()
    pickle.loads(raw)
    assert harm.exists(), "the program does something when it is run"


def test_memory_is_not_taken_for_what_a_file_only_states(tiny, tmp_path):
    place = tmp_path / "lens.pt"
    zipped(place, pickle.dumps({"J": bytearray(10)}, 2))
    with pytest.raises(RequestError, match="program that was not run"):
        find(tiny, place)
    zipped(place, b"\x80\x02}." + b"\x00" * 20_000_000, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(RequestError, match="packed"):
        find(tiny, place)
    zipped(place, pickle.dumps({"J": {}}, 2), extra=[("archive/DATA.PKL", pickle.dumps({"J": Program(place)}, 2))])
    with pytest.raises(RequestError, match="several"):
        find(tiny, place)
    wide = torch.zeros(1).expand(1 << 40, 1 << 20)  # one number on disk
    torch.save({"J": {0: wide}}, place)
    with pytest.raises(RequestError, match="shape"):
        find(tiny, place)


def test_a_key_that_takes_for_ever_to_hash_is_refused(tmp_path):
    twice = b"".join(b"h" + bytes([number]) + b"\x86q" + bytes([number + 1]) for number in range(60))
    for hidden in (b"", b"}0"):  # with a dictionary put on top and taken off again
        program = b"\x80\x02})q\x00" + twice.replace(b"\x86q", b"\x86" + hidden + b"q") + b"K\x01s."
        zipped(tmp_path / "lens.pt", program)
        with pytest.raises(RequestError, match="an entry twice"):
            open_tensors(tmp_path / "lens.pt")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([1, 2], "holds a list"),
        ({"x": 1}, "entry 'x'"),
        ({"J": []}, "no dictionary of maps"),
        ({"J": {}}, "no dictionary of maps"),
        ({"J": {"0": torch.eye(D)}}, "no dictionary of maps"),
        ({"J": {0: 1.0}}, "no tensor of numbers"),
        ({"J": {0: torch.eye(D, dtype=torch.int64)}}, "no tensor of numbers"),
        ({"J": {0: torch.eye(D) * float("nan")}}, "NaN"),
        ({"J": {0: torch.eye(16)}}, r"shape \[16, 16\].*needs \[32, 32\]"),
        ({"J": {L: torch.eye(D)}}, "has 30 blocks"),
        ({"J": {-1: torch.eye(D)}}, "has 30 blocks"),
    ],
)
def test_what_is_no_jacobian_lens_of_this_model_is_refused(content, said, tiny, tmp_path):
    torch.save(content, tmp_path / "lens.pt")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(RequestError, match=said):
        find(tiny, tmp_path / "lens.pt")


def test_what_is_no_tuned_lens_of_this_model_is_refused(tiny, tmp_path):
    for place, changes, said in (
        ("a", {"layers": 12}, "maps for 12 layers.*has 30 blocks.*random/llama"),
        ("b", {"width": 16}, r"shape \[16, 16\]"),
        ("c", {"lens_type": "other"}, "says it is a 'other'"),
    ):
        tuned_folder(tmp_path / place, **changes)
        with pytest.raises(RequestError, match=said):
            find(tiny, tmp_path / place)
    tuned_folder(tmp_path / "d")
    for text in ("[]", "{", "[" * 100_000):
        (tmp_path / "d" / "config.json").write_text(text)
        with pytest.raises(RequestError, match=r"config\.json"):
            find(tiny, tmp_path / "d")
    (tmp_path / "d" / "config.json").unlink()
    (tmp_path / "d" / "config.json").symlink_to("/dev/zero")
    with pytest.raises(RequestError, match="no ordinary file"):
        find(tiny, tmp_path / "d")
    (tmp_path / "d" / "config.json").unlink()
    with pytest.raises(RequestError, match=r"config\.json"):
        find(tiny, tmp_path / "d")


def test_a_damaged_checkpoint_is_a_sentence(tmp_path):
    place = tmp_path / "lens.pt"
    jacobian_file(place, layers=(0, 1), width=4)
    raw = place.read_bytes()
    draw = torch.Generator().manual_seed(0)
    for _ in range(150):
        broken = bytearray(raw)
        at = int(torch.randint(len(raw), (1,), generator=draw))
        broken[at] ^= 1 << int(torch.randint(8, (1,), generator=draw))
        place.write_bytes(broken if at % 3 else broken[:at])
        try:
            open_tensors(place)
        except RequestError as error:
            assert str(place) in str(error)  # noqa: PT017
    place.write_bytes(b"")
    with pytest.raises(RequestError):
        open_tensors(place)
    buffer = io.BytesIO()
    torch.save({"J": {0: torch.eye(4)}}, buffer, _use_new_zipfile_serialization=False)
    place.write_bytes(buffer.getvalue())
    with pytest.raises(RequestError, match=r"since PyTorch 1\.6"):
        open_tensors(place)
