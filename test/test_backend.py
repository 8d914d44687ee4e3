"""The protocol's checks: interface, inputs, golden sample. The tiny bundle's golden sample comes from plain numpy."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from bev_perception.inference.backend import BACKENDS, open_backend
from bev_perception.inference.interface import check_interface, validate_inputs
from bev_perception.inference.proof import TOLERANCES, Tolerance, compare_outputs, self_test
from bev_perception.model_spec import BundleError, TensorSpec

pytest.importorskip("onnx")
import tiny_bundle

EXACT = Tolerance(score=1e-5, box=1e-4, state=1e-5, unmatched=0.0)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return tiny_bundle.write_bundle(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def golden():
    outputs = tiny_bundle.reference(tiny_bundle.make_inputs())
    return {name: array.copy() for name, array in outputs.items()}


def compare(found, golden, tolerance=EXACT):
    return compare_outputs(found, golden, tiny_bundle.SPEC, tolerance, "test")


def test_unknown_names_are_refused_with_those_that_there_are(bundle):
    with pytest.raises(ValueError, match="unknown inference backend 'tflite'") as refused:
        open_backend(bundle, "tflite")
    assert len(BACKENDS) >= 2 and all(f"'{name}'" in str(refused.value) for name in BACKENDS)


def test_unknown_option_is_an_error(bundle):
    with pytest.raises(TypeError, match="n_threads"):
        open_backend(bundle, n_threads=2)


def test_altered_onnx_is_refused_even_after_the_bundle_was_loaded(tmp_path):
    loaded = tiny_bundle.write_bundle(tmp_path)
    data = bytearray(loaded.onnx_path.read_bytes())
    data[-1] ^= 1
    loaded.onnx_path.write_bytes(data)
    with pytest.raises(BundleError, match="was altered or belongs to another bundle"):
        loaded.model()


def test_interface_differences_are_all_named():
    expected = tiny_bundle.SPEC.outputs()
    check_interface(expected[::-1], expected, "model")  # any order
    wrong = [
        TensorSpec("scores", (10,), "float32"),
        TensorSpec("labels", (20,), "int32"),
        TensorSpec("heat", (1,), "float32"),
        *expected[3:],
    ]
    with pytest.raises(BundleError) as error:
        check_interface(wrong, expected, "model")
    for part in (
        "`scores` is float32 [10]",
        "float32 [20]",
        "`labels` is int32",
        "unexpected `heat`",
        "`cells` is missing",
    ):
        assert part in str(error.value)


def test_valid_inputs_pass_and_every_fault_is_named():
    inputs = tiny_bundle.make_inputs()
    validate_inputs(inputs, tiny_bundle.SPEC)
    inputs["images"] = inputs["images"].astype(np.float32)
    inputs["prev_bev"] = inputs["prev_bev"][:, :-1]
    inputs["prev_dt"] = 0.5
    inputs["lidar"] = np.zeros(3)
    del inputs["radar_bev"]
    with pytest.raises(ValueError) as error:
        validate_inputs(inputs, tiny_bundle.SPEC)
    for part in (
        "`images` is float32 [2, 8, 16, 3], expected uint8",
        "`prev_bev` is float32 [6, 15, 12], expected float32 [6, 16, 12]",
        "`prev_dt` is a float",
        "unexpected `lidar`",
        "`radar_bev` is missing",
    ):
        assert part in str(error.value)


def test_equal_outputs_have_no_difference(golden):
    figures = compare(golden, golden)
    assert figures["scores"] == figures["boxes"] == figures["bev"] == figures["candidates_lost"] == 0
    assert figures["candidates"] >= 15  # the sample says something: most of the 20 rows must be found


@pytest.mark.parametrize("name", ["scores", "boxes", "bev"])
def test_a_value_beyond_the_tolerance_is_named_with_its_size(golden, name):
    found = {key: array.copy() for key, array in golden.items()}
    found[name].flat[-1] -= np.float32(0.01)  # the last score may fall without changing the order
    # Boxes and state are compared relative to magnitudes that are close to 1 here.
    with pytest.raises(BundleError, match=rf"`{name}` differs from the golden sample by 0\.0[01].*, allowed "):
        compare(found, golden)
    compare(found, golden, Tolerance(0.02, 0.02, 0.02, 0.0))


@pytest.mark.parametrize("name", ["labels", "cells"])
def test_a_wrong_label_or_cell_is_an_error(golden, name):
    found = {key: array.copy() for key, array in golden.items()}
    found[name][3] = (found[name][3] + 1) % 10
    with pytest.raises(BundleError, match=r"`labels` and `cells`: 1 of .*row 3"):
        compare(found, golden)
    compare(found, golden, dataclasses.replace(EXACT, unmatched=0.5))


def test_a_box_of_another_row_is_an_error(golden):
    found = {key: array.copy() for key, array in golden.items()}
    found["boxes"][[2, 3]] = found["boxes"][[3, 2]]
    with pytest.raises(BundleError, match="`boxes` differs"):
        compare(found, golden)


def test_candidates_of_equal_score_may_swap_but_only_as_whole_rows(golden):
    golden["scores"][5] = golden["scores"][4]
    found = {key: array.copy() for key, array in golden.items()}
    for name in ("labels", "cells", "boxes"):
        found[name][[4, 5]] = found[name][[5, 4]]
    compare(found, golden)
    found["boxes"][[4, 5]] = found["boxes"][[5, 4]]
    with pytest.raises(BundleError, match="`boxes` differs"):
        compare(found, golden)


def test_candidates_of_clearly_different_score_must_not_swap(golden):
    found = {key: array.copy() for key, array in golden.items()}
    for name in ("labels", "cells", "boxes"):
        found[name][[0, 9]] = found[name][[9, 0]]
    with pytest.raises(BundleError, match="`scores` differs"):
        compare(found, golden)


def test_rows_that_tie_with_the_last_may_be_others(golden):
    golden["scores"][-3:] = golden["scores"][-1]
    found = {key: array.copy() for key, array in golden.items()}
    taken = set(golden["cells"].tolist())
    found["cells"][-1] = next(cell for cell in range(192) if cell not in taken)
    found["boxes"][-1] = 9.0
    compare(found, golden)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinity_never_pass(golden, value):
    found = {key: array.copy() for key, array in golden.items()}
    found["bev"][0, 0, 0] = value
    with pytest.raises(BundleError, match="`bev` holds NaN or infinity"):
        compare(found, golden, Tolerance(9.0, 9.0, 9.0, 1.0))


def test_the_state_may_be_absent_from_the_golden_sample_but_nothing_else(golden):
    found = dict(golden)
    del golden["bev"]
    assert "bev" not in compare(found, golden)
    del golden["boxes"]
    with pytest.raises(BundleError, match=r"lacks `out\.boxes`"):
        compare(found, golden)


def test_self_test_passes_on_the_bundle_and_gives_figures(bundle):
    backend = open_backend(bundle, threads=1)
    assert self_test(backend, bundle, EXACT)["candidates"] >= 15
    assert self_test(backend, bundle) == self_test(backend, bundle, TOLERANCES["fp32"])
    backend.close()


def test_self_test_refuses_another_model(bundle, tmp_path):
    other = tiny_bundle.write_bundle(tmp_path, tiny_bundle.make_model(seed=8))  # other weights, the same golden sample
    backend = open_backend(other, threads=1)
    with pytest.raises(BundleError, match="self-test of onnxruntime on 'tiny': `scores` differs"):
        self_test(backend, other)


def test_a_damaged_golden_file_is_a_bundle_error(tmp_path):
    loaded = tiny_bundle.write_bundle(tmp_path)
    with np.load(tmp_path / "golden.npz") as data:
        arrays = {name: data[name] for name in data.files if name != "in.radar_bev"}
    backend = open_backend(loaded, threads=1)
    np.savez(tmp_path / "golden.npz", **arrays)
    with pytest.raises(BundleError, match=r"golden\.npz.*in\.radar_bev"):
        self_test(backend, loaded)
    (tmp_path / "golden.npz").write_bytes(b"not a zip file")
    with pytest.raises(BundleError, match=r"golden\.npz"):
        self_test(backend, loaded)
