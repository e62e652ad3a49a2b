"""Several resolutions at once: files that share their weights, all of them or none."""

import pytest

from paro_trt.errors import ArgumentError, ModelError
from paro_trt.models.apply import ParoTransformer
from paro_trt.onnx_export import export_resolutions
from paro_trt.onnx_file.describe import describe_onnx
from paro_trt.runtime.onnxruntime_session import OrtSession
from paro_trt.runtime.velocity import session_velocity
from tests.support.tiny import variants_of

TINY = variants_of("ltx_video")[0]


def plans():
    return [TINY.plan(odd=odd, qk_bits=16, pv_bits=16) for odd in (False, True)]


@pytest.mark.long
def test_every_file_computes_what_its_plan_does(tmp_path, fresh_seed):
    loaded = TINY.loaded(fresh_seed)
    reports = export_resolutions(loaded, plans(), tmp_path / "ltx.onnx")
    names = ["ltx-2x8x8.onnx", "ltx-3x7x5.onnx", "ltx.onnx.data"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    weights = sum(p.numel() * p.element_size() for p in loaded.model.parameters())
    data = (tmp_path / "ltx.onnx.data").stat().st_size
    assert data < 1.5 * weights
    for report, plan, odd in zip(reports, plans(), (False, True), strict=True):
        assert report.external_bytes == data
        assert describe_onnx(report.path)["metadata"]["paro.plan_hash"] == plan.content_hash()
        inputs = TINY.inputs(2, fresh_seed, odd=odd)
        expected = ParoTransformer(loaded.model, loaded.family, plan).velocity(*inputs)
        with OrtSession(report.path, threads=1) as session:
            actual = session_velocity(session)(*inputs)
        assert float((actual - expected).abs().max()) < 4e-5 * float(expected.abs().max())


def test_two_plans_of_one_resolution_are_refused(tmp_path):
    with pytest.raises(ArgumentError, match="one of each resolution"):
        export_resolutions(TINY.loaded(), [plans()[0]] * 2, tmp_path / "ltx.onnx")


def test_a_last_plan_that_does_not_fit_is_refused_before_any_work(tmp_path):
    other = variants_of("flux")[0].plan()
    said = []
    with pytest.raises(ModelError, match="the plan's model"):
        export_resolutions(
            TINY.loaded(), [plans()[0], other], tmp_path / "ltx.onnx", progress=said.append
        )
    assert said == list(tmp_path.iterdir()) == []
