"""Curves of Dice and detection over lesion size, from sidecars to the report."""

import json

import numpy as np
import pytest

from strega_jax.evaluation.dose import dose_of, dose_response
from strega_jax.evaluation.report import write_report


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii"])
def test_the_dose_is_read_beside_the_image(tmp_path, suffix):
    image = tmp_path / f"sub-01_T1w{suffix}"
    assert dose_of(image) == {}
    sidecar = tmp_path / "sub-01_T1w.json"
    sidecar.write_text(json.dumps({"Synthesis": {"kind": "lesion", "volume_ml": 5, "contrast": -0.4}}))
    assert dose_of(image) == {"dose_ml": 5.0, "dose_contrast": -0.4}
    for other in ({"Synthesis": {"kind": "tumour"}}, {"MagneticFieldStrength": 3}, []):
        sidecar.write_text(json.dumps(other))
        assert dose_of(image) == {}


def test_each_contrast_has_a_curve_of_means_over_sizes(tmp_path):
    rng = np.random.default_rng(0)
    rows = [
        {"dice": float(rng.uniform()), "lesion_sensitivity": float(rng.integers(2)), "dose_ml": ml, "dose_contrast": c}
        for ml in (20.0, 1.0, 5.0) for c in (-0.2, -0.6) for _ in range(4)
    ]  # fmt: skip
    dice, detected = dose_response([*rows, {"dice": 0.3}])
    assert dice["response"] == "mean Dice"
    assert list(dice["curves"]) == ["contrast -0.6", "contrast -0.2"]
    curve = detected["curves"]["contrast -0.2"]
    assert curve["dose"] == [1.0, 5.0, 20.0]
    wanted = [r["lesion_sensitivity"] for r in rows if (r["dose_ml"], r["dose_contrast"]) == (5.0, -0.2)]
    assert curve["response"][1] == pytest.approx(np.mean(wanted))
    for size, mean in zip((1.0, 5.0, 20.0), dice["curves"]["contrast -0.6"]["response"], strict=True):
        own = [r["dice"] for r in rows if (r["dose_ml"], r["dose_contrast"]) == (size, -0.6)]
        assert mean == pytest.approx(np.mean(own))
    assert dose_response(rows[:4]) == []  # one size is no curve
    table = [{"case": "a", "cohort": "x", "method": "m", "dice": 0.5, "reference_ml": 1.0, "marked_ml": 1.0}]
    plots = [{"cohort": "x", "method": "m", **plot} for plot in (dice, detected)]
    write_report(tmp_path, {"title": "doses", "rows": table, "dose_response": plots})
    assert "share of lesions detected by lesion size, ml" in (tmp_path / "report.html").read_text()
